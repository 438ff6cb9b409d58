"""What a model thinks is neither call nor answer, and thinking is the same for every method."""

import json
import time
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mentorlib.core import END, Call, InputError, Reference, Trajectory, parse_turn, raw_calls, split_thoughts
from mentorlib.data.suites import generate
from mentorlib.lab.batch.parameters import parameters_of, read_notebook
from mentorlib.rewards.corrected import final_answer
from mentorlib.rollout.chat import adds_empty_thought, encode_chat, opened_thought, prompt_ids, render
from mentorlib.rollout.conversation import Conversation
from mentorlib.rollout.engine import Sampled
from mentorlib.rollout.loop import run_rollouts
from mentorlib.rollout.model import load_model
from mentorlib.rollout.replies import turn_text
from mentorlib.rollout.templates import fix_arguments
from mentorlib.runs.run import Run
from mentorlib.task import SYSTEM
from mentorlib.trainer.sft import train_sft

RAW = '{"name": "add", "arguments": {"a": 1, "b": 2}}'
CALL = f"<tool_call>{RAW}</tool_call>"
TEXT = json.dumps({"name": "upper_text", "arguments": {"text": "a <think> b </think>"}})


@pytest.mark.parametrize(
    ("text", "said", "thought", "calls"),
    [
        (f"<think>{CALL}?</think>\\boxed{{3}}", "\\boxed{3}", f"{CALL}?", 0),
        (f"<think>First.</think>\n\n{CALL}", "", "First.", 1),
        ("<think>\n\n</think>\n\nYes.", "Yes.", "", 0),
        (f"<think>A <tool_call> tag.</think>{CALL}", "", "A <tool_call> tag.", 1),
        (f"Is it {CALL}?\n</think>\nNo: \\boxed{{3}}", "No: \\boxed{3}", f"Is it {CALL}?", 0),  # opened in the prompt
        (f"<think>{CALL} \\boxed{{3}}", "", f"{CALL} \\boxed{{3}}", 0),  # never closed
        (f"<think>a</think>b<think>{CALL}</think>c", "b\nc", f"a\n\n{CALL}", 0),
        (f"<think>a</think>{CALL}</think>", "</think>", "a", 1),  # the second closing tag closes nothing
        (f"<think>a <think> b</think>{CALL}", "", "a <think> b", 1),
        (f"<tool_call>{TEXT}</tool_call>", "", "", 1),  # tags in an argument are text
        ("\\box<think></think>ed{3}", "\\box\ned{3}", "", 0),  # nothing is made of both sides of a thought
        (f"<tool_call>{TEXT}</tool_call><think>{CALL}</think>", "", CALL, 1),
    ],
)
def test_what_is_said_and_what_is_thought(text, said, thought, calls):
    message = parse_turn(text + END)
    assert message["content"] == said and message.get("reasoning_content", "") == thought
    assert len(message.get("tool_calls", [])) == calls
    trajectory = Trajectory.from_response(text + END)
    assert final_answer(trajectory) == ("3" if said.endswith("\\boxed{3}") else None)
    task = generate("calculator", 1, split="eval")[0][0]
    conversation = Conversation(task, 3)
    assert len(conversation.add_turn(text)) == calls
    answered = "answered" if said.endswith("\\boxed{3}") else "gave_up"
    assert conversation.stop == (None if calls else answered) and conversation.messages == trajectory.messages


@given(
    st.text(alphabet="<>/abthinktool_cl{}", max_size=200)
    | st.lists(st.sampled_from([CALL, "<think>", "</think>", "a"])).map("".join)
)
def test_nothing_is_lost_and_nothing_thought_is_said(text):
    said, thought = split_thoughts(text)
    assert len(said) + len(thought) <= len(text) + 2 * text.count("think>")
    if "think>" not in text:
        assert (said, thought) == (text, "")
    assert len(raw_calls(said)) <= len(raw_calls(text))


def test_hostile_tags_take_linear_time():
    began = time.monotonic()
    for piece in ("<think>", "</think>", "<tool_call>", CALL + "<think></think>", "<think>" + CALL):
        parse_turn(piece * 50_000 + "</tool_call>")
    assert time.monotonic() - began < 20


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """nano in a folder, with Qwen3's own chat template."""
    folder = tmp_path_factory.mktemp("thinker")
    model, tokenizer = load_model("nano")
    model.save_pretrained(folder)
    tokenizer.chat_template = template("qwen3")
    tokenizer.save_pretrained(folder)
    return str(folder)


def template(name):
    return files("trl").joinpath(f"chat_templates/{name}.jinja").read_text()


PAIRS = generate("calculator", 4, seed=1)


def test_targets_and_prompts_think_alike(thinker, tmp_path):
    _, tokenizer = load_model(thinker)
    task, reference = PAIRS[0]
    assert adds_empty_thought(tokenizer) and "<think>" not in render(tokenizer, task.prompt(), [], opening=True)
    with pytest.raises(
        InputError, match=r'they would teach empty thoughts.*template_arguments=\{"enable_thinking": false'
    ):
        train_sft(Run("refused", root=tmp_path), *load_model(thinker), PAIRS, steps=1, batch_size=2)

    model, tokenizer = load_model(thinker, template_arguments={"enable_thinking": False})
    assert not adds_empty_thought(tokenizer)
    prompt = prompt_ids(tokenizer, task.prompt(), list(task.toolbox.schemas))
    ids, mask = encode_chat(tokenizer, task.prompt(), reference.messages, list(task.toolbox.schemas))
    assert ids[: len(prompt)] == prompt and tokenizer.decode(prompt).endswith("<think>\n\n</think>\n\n")
    assert "think>" not in tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m])
    assert tokenizer.decode(ids).count("<think>\n\n</think>") == tokenizer.decode(ids).count("<|im_start|>assistant")
    train_sft(Run("sft", root=tmp_path), model, tokenizer, PAIRS, steps=1, batch_size=2)

    tokenizer.save_pretrained(tmp_path / "model")  # as save_model does: the trained student is prompted alike
    model.save_pretrained(tmp_path / "model")
    _, again = load_model(str(tmp_path / "model"))
    assert prompt_ids(again, task.prompt(), list(task.toolbox.schemas)) == prompt
    _, other = load_model(str(tmp_path / "model"), template_arguments={"enable_thinking": True})
    assert "think>" not in render(other, task.prompt(), [], opening=True)


def test_references_that_think_are_learnt_with_their_thoughts(thinker, tmp_path):
    model, tokenizer = load_model(thinker)
    task, reference = PAIRS[0]
    messages = [m | {"reasoning_content": "Let me see."} if m["role"] == "assistant" else m for m in reference.messages]
    ids, mask = encode_chat(tokenizer, task.prompt(), messages, [])
    written = tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m])
    _, off = load_model(thinker, template_arguments={"enable_thinking": False})
    assert "Let me see" not in off.decode(encode_chat(off, task.prompt(), messages, [])[0])
    assert written.count("<think>\nLet me see.\n</think>") == len(reference.calls) + 1
    pairs = [(task, Reference(task.id, messages, reference.calls, reference.answer))] * 2
    train_sft(Run("thinks", root=tmp_path), model, tokenizer, pairs, steps=1, batch_size=2)
    few = [pairs[0], *PAIRS]  # one that thinks among several that do not
    with pytest.raises(InputError, match=r"\d+ of the references' \d+ turns hold no thought"):
        train_sft(Run("few", root=tmp_path), model, tokenizer, few, steps=1, batch_size=2)


class Says:
    """An engine whose every row says one text and ends."""

    context = 4096

    def __init__(self, tokenizer, text):
        self.tokenizer, self.text = tokenizer, text

    def run(self, prompts, on_turns, **_):
        ids = [*self.tokenizer.encode(self.text, add_special_tokens=False), self.tokenizer.eos_token_id]
        for row in range(len(prompts)):
            on_turns([(row, ids)])
        return [Sampled(ids, [1] * len(ids), [-1.0] * len(ids)) for _ in prompts]


def test_a_thought_that_the_template_opens_begins_with_the_turn(thinker, sandbox):
    _, tokenizer = load_model(thinker)
    tokenizer.chat_template = template("qwen3_5_think_training")
    assert opened_thought(tokenizer) == "<think>\n"
    (row,) = run_rollouts(Says(tokenizer, f"{CALL} \\boxed{{3}}"), [PAIRS[0][0]], sandbox)
    assert row.stop == "gave_up" and row.calls == [] and row.messages[0]["reasoning_content"].startswith("<tool_call>")
    (row,) = run_rollouts(Says(tokenizer, f"{CALL}</think>\\boxed{{3}}"), [PAIRS[0][0]], sandbox)
    assert row.stop == "answered" and row.calls == [] and final_answer(row) == "3"


@pytest.mark.parametrize("arguments", [{"enable_thinkin": False}, {"messages": []}, {"a b": 1}])
def test_arguments_that_no_template_reads_are_refused(thinker, arguments):
    with pytest.raises(InputError, match="the chat template takes no"):
        load_model(thinker, template_arguments=arguments)
    with pytest.raises(InputError, match="the chat template takes no"):
        load_model("nano", template_arguments={"enable_thinking": False})


@pytest.mark.parametrize("notebook", ["01_build_data", "02_train"])
def test_the_notebooks_system_message_is_the_librarys(notebook):
    file = Path(__file__).parents[2] / "notebooks" / f"{notebook}.ipynb"
    (system,) = (p for p in parameters_of(read_notebook(file)) if p.name == "system")
    assert system.default == SYSTEM


def test_fixed_arguments_are_replaced_not_piled_up():
    once = fix_arguments("{{ enable_thinking }} {{ x }}", {"enable_thinking": True, "x": "a %} -%}\n'\"{#"})
    assert fix_arguments(once, {"enable_thinking": False}).count("set ") == 1


def test_a_template_that_drops_earlier_thoughts_is_replaced_or_refused(thinker, tmp_path):
    _, tokenizer = load_model(thinker)
    assert "{%- generation %}" in tokenizer.chat_template  # TRL's training variant
    dropping = template("qwen3_training").replace(
        "message.reasoning_content is string", "loop.last and message.reasoning_content is string"
    )
    model, tokenizer = load_model("nano")
    tokenizer.chat_template = dropping
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="its chat template changes earlier turns"):
        load_model(str(tmp_path))


def test_a_servers_calls_are_not_part_of_a_thought_it_left_open():
    message = {
        "content": "<think>hm",
        "tool_calls": [{"function": {"name": "add", "arguments": '{"text": "</think>"}'}}],
    }
    parsed = parse_turn(turn_text(message))
    assert parsed["reasoning_content"] == "hm" and parsed["tool_calls"] == [Call("add", {"text": "</think>"}).message]
    assert len(raw_calls(split_thoughts(turn_text(message))[0])) == 1
