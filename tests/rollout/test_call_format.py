"""The chat templates of all families that TRL ships: calls rendered by each are read, or another template is made."""

import contextlib
import itertools
import json
import random
import re
from pathlib import Path

import pytest
import trl
from fuzzed import fuzzed_output
from transformers import AutoTokenizer
from trl.chat_template_utils import get_training_chat_template

from mentorlib.core import Call, InputError
from mentorlib.rollout.call_format import PROBE_SCHEMAS, PROBES, find_call_format
from mentorlib.rollout.chat import render, tool_turn, turn_ends
from mentorlib.rollout.hermes import hermes_template, turn_markers
from mentorlib.rollout.model import NANO
from mentorlib.rollout.templates import choose_template, fix_dates

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
OWN = {  # families whose own templates render tools and calls
    "Hermes": "qwen2_5 qwen3 qwen3_instruct_2507 qwen3_vl",
    "Qwen 3.5": "qwen3_5_nothink qwen3_5_think qwen3_6 qwen3_8",
    "GLM 4": "glm4moe",
    "Llama 3": "llama3_1 llama3_2",
    "gpt-oss": "gptoss",
    "LFM2": "lfm2_2_5 lfm2_2_5_v2 lfm2_2_5_vl lfm2_v2",
    "Gemma 4": "diffusion_gemma gemma4 gemma4_v2 gemma4_v3 gemma4_v4 gemma4_v5",
}
FORMAT = {name: format for format, names in OWN.items() for name in names.split()}
# Templates of models that see: their messages are lists of parts.
REFUSED = {"idefics3", "llava_next", "smolvlm"}
# Their tool results name the tool.
NAMED = {"gptoss", "diffusion_gemma", "gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5"}
FAMILIES = sorted(file.stem for file in TEMPLATES.glob("*.jinja") if not file.stem.endswith("_training"))
MISTRAL = """{{ bos_token }}{% for m in messages %}{% if m.role == "user" %}{% if tools %}[AVAILABLE_TOOLS]\
{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}[INST]{{ m.content }}[/INST]{% elif m.tool_calls %}[TOOL_CALLS][\
{% for c in m.tool_calls %}{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, \
"id": "000000001"}{% if not loop.last %}, {% endif %}{% endfor %}]</s>{% elif m.role == "tool" %}[TOOL_RESULTS]\
{{ m.content }}[/TOOL_RESULTS]{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"""

BARE = """{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.tool_calls %}{"name": {{ m.tool_calls[0].function.name | tojson }}, "arguments": \
{{ m.tool_calls[0].function.arguments | tojson }}}{% else %}{{ m.content }}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.fixture
def tokenizer():
    tokenizer = AutoTokenizer.from_pretrained(str(NANO))
    tokenizer.bos_token = "<s>"
    return tokenizer


def use_training(tokenizer) -> None:
    """The training variant of the template where TRL has one, as load_model takes it."""
    with contextlib.suppress(ValueError):
        tokenizer.chat_template = get_training_chat_template(tokenizer) or tokenizer.chat_template


def use(tokenizer, name: str) -> None:
    """A family's own template."""
    tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
    if name.startswith("phi3"):
        tokenizer.eos_token = "<|endoftext|>"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_familys_calls_are_read_or_another_template_is_made(tokenizer, name):
    use(tokenizer, name)
    if name in FORMAT:
        use_training(tokenizer)
        assert find_call_format(tokenizer).name == FORMAT[name]
        return
    with pytest.raises(InputError):
        find_call_format(tokenizer)
    if name in REFUSED:
        with pytest.raises(InputError, match="its chat template"):
            turn_markers(tokenizer)
        return
    tokenizer.chat_template = hermes_template(turn_markers(tokenizer))
    assert find_call_format(tokenizer).name == "Hermes"
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How large?"},
        {"role": "assistant", "content": "", "tool_calls": [call.message for call in PROBES]},
        {"role": "tool", "content": "12"},
        {"role": "tool", "content": "noon"},
        {"role": "assistant", "content": "Done."},
    ]
    texts = [tokenizer.apply_chat_template(chat[:n], tools=PROBE_SCHEMAS, tokenize=False) for n in (2, 3, 5, 6)]
    assert all(b.startswith(a) for a, b in itertools.pairwise(texts))  # prefix-preserving
    for part in ("Be brief.", "How large?", "What get_time does.", "<tool_response>\n12\n", "Done."):
        assert texts[-1].count(part) == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_a_models_own_template_is_kept_replaced_or_refused(tokenizer, name, capsys):
    """As load_model does, with the special tokens of the family; nemotron's opens a thought that its turns lack."""
    use(tokenizer, name)
    own = tokenizer.chat_template
    special = set(
        re.findall(r"<\|[^|<>\s']{1,40}\|>|<(?:start|end)_of_turn>|<\|[a-z_]+>|<[a-z_]+\|>|<｜[^｜]{1,40}｜>", own)
    )
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(special)})
    if name in REFUSED or name.startswith(("nemotron", "muse")):
        with pytest.raises(InputError, match=rf"model '{name}': its chat template .*give template=FILE"):
            choose_template(tokenizer, name)
        return
    choose_template(tokenizer, name)
    said = capsys.readouterr().out
    if name in FORMAT:
        assert not said and find_call_format(tokenizer).name == FORMAT[name]
    else:
        assert said.count("\n") == 1 and "replaced by one in Hermes's format" in said
    assert turn_ends(tokenizer)
    following = tool_turn(tokenizer, ["first", "second"], ["get_area", "get_time"])
    assert (following.index("first") < following.index("second") and "get_area" not in following) or name in NAMED
    kept = tokenizer.chat_template
    choose_template(tokenizer, name)  # of the saved model folder: nothing more to do
    assert not capsys.readouterr().out and tokenizer.chat_template == kept


def test_a_chatml_template_without_tools_becomes_the_shipped_students(tokenizer):
    shipped = tokenizer.chat_template
    chat = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "so", "tool_calls": [call.message for call in PROBES]},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "a"},
    ]
    plain = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    plain += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    for system in ([], [{"role": "system", "content": "s"}]):
        for opening in (False, True):
            texts = []
            for template in (shipped, plain):
                tokenizer.chat_template = template
                if template == plain:
                    tokenizer.chat_template = hermes_template(turn_markers(tokenizer))
                arguments = {"tools": PROBE_SCHEMAS, "tokenize": False, "add_generation_prompt": opening}
                texts.append(tokenizer.apply_chat_template([*system, *chat], **arguments))
            assert texts[0] == texts[1]


def read(tokenizer, text):
    format = find_call_format(tokenizer)
    return format.read_turn(tokenizer, PROBE_SCHEMAS, text)


def test_turns_of_other_families_become_the_same_message(tokenizer):
    area, time = (call.message for call in PROBES)
    turns = {
        "llama3_2": ('{"name": "get_area", "parameters": {"width": 2.5, "unit": "sq m"}}<|eot_id|>', [area]),
        "lfm2_2_5": ("<|tool_call_start|>[get_area(width=2.5, unit='sq m'), get_time()]<|tool_call_end|><|im_end|>",
                     [area, time]),
        "qwen3_5_nothink": (
            "So:\n<tool_call>\n<function=get_area>\n<parameter=width>\n2.5\n</parameter>\n<parameter=unit>\nsq m\n"
            "</parameter>\n</function>\n</tool_call><|im_end|>",
            [area],
        ),
        "gemma4": ('<|tool_call>call:get_area{unit:<|"|>sq m<|"|>,width:2.5}<tool_call|><turn|>', [area]),
    }  # fmt: skip
    for name, (text, calls) in turns.items():
        use(tokenizer, name)
        message, raw = read(tokenizer, text)
        assert message["tool_calls"] == calls, name
        assert [json.loads(call)["name"] for call in raw] == [call["function"]["name"] for call in calls]
        assert message["content"] == ("So:" if name.startswith("qwen") else "")


LLAMA_CALL = '{"name": "get_area", "parameters": {"width": 2.5, "unit": "sq m"}}'


@pytest.mark.parametrize("end", ["<|eot_id|>", "<|eom_id|>", "<|endoftext|>"])
@pytest.mark.parametrize(
    "call", [LLAMA_CALL, "<|python_tag|>" + LLAMA_CALL, LLAMA_CALL.replace("{", '{"type": "function", ', 1)]
)
def test_a_call_is_read_whatever_token_ends_its_turn(tokenizer, call, end):
    """Llama 3.1's generation config has three end tokens, its template one."""
    use(tokenizer, "llama3_1")
    special = ["<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|python_tag|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    format = find_call_format(tokenizer)
    text = format.turn_text(tokenizer, tokenizer.encode(call + end, add_special_tokens=False))
    message, raw = format.read_turn(tokenizer, PROBE_SCHEMAS, text)
    assert message["tool_calls"] == [PROBES[0].message] and len(raw) == 1
    answer = format.turn_text(tokenizer, tokenizer.encode("\\boxed{3}" + end, add_special_tokens=False))
    assert format.read_turn(tokenizer, PROBE_SCHEMAS, answer)[0]["content"] == "\\boxed{3}"


@pytest.mark.parametrize("name", ["llama3_2", "qwen2_5", "gemma4"])
def test_a_number_that_is_written_as_a_text_stays_one_where_calls_are_json(tokenizer, name):
    use(tokenizer, name)
    text = {
        "llama3_2": '{"name": "get_area", "parameters": {"width": "2.5"}}<|eot_id|>',
        "qwen2_5": '<tool_call>\n{"name": "get_area", "arguments": {"width": "2.5"}}\n</tool_call>',
        "gemma4": '<|tool_call>call:get_area{width:<|"|>2.5<|"|>}<tool_call|><turn|>',
    }[name]
    message, _ = read(tokenizer, text)
    assert message["tool_calls"] == [Call("get_area", {"width": "2.5"}).message]


def test_results_have_the_numbers_of_their_calls(tokenizer):
    """In a template that writes ids, a rollout's second turn of results is what SFT teaches."""
    tokenizer.chat_template = MISTRAL.replace('"000000001"', '"{{ c.id }}"').replace(
        "[TOOL_RESULTS]{{ m.content }}", "[TOOL_RESULTS]{{ m.tool_call_id }} {{ m.content }}"
    )
    question = [{"role": "user", "content": "q"}]
    turn = [{"role": "assistant", "content": "", "tool_calls": [call.message for call in PROBES]}]
    turn += [{"role": "tool", "content": "12"}, {"role": "tool", "content": "noon"}]
    whole = render(tokenizer, [*question, *turn, *turn], [], opening=True)
    first = tool_turn(tokenizer, ["12", "noon"], ["get_area", "get_time"])
    second = tool_turn(tokenizer, ["12", "noon"], ["get_area", "get_time"], first=3)
    assert first != second and whole.endswith(second) and first in whole and "call00004" in second


def test_a_template_shows_one_date_on_all_days(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|eot_id|>"]})
    use(tokenizer, "llama3_2")
    choose_template(tokenizer, "llama")
    assert "Today Date: 26 Jul 2024" in render(tokenizer, [{"role": "user", "content": "q"}], [], opening=True)
    assert fix_dates("{{ strftime_now('%Y-%m-%d') }}") == "{{ '2024-07-26' }}"
    for name in FAMILIES:
        assert "strftime_now(" not in fix_dates((TEMPLATES / f"{name}.jinja").read_text())


def test_a_start_token_that_opens_every_turn_is_written_once(tokenizer):
    """SmolLM2's: <|im_start|> is both."""
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    tokenizer.chat_template = hermes_template(turn_markers(tokenizer))
    text = render(tokenizer, [{"role": "user", "content": "q"}], [], opening=False)
    assert text == "<|im_start|>user\nq<|im_end|>\n"


def test_an_end_token_of_another_kind_is_no_part_of_a_message(tokenizer):
    use(tokenizer, "glm4moe")
    special = {"additional_special_tokens": ["<|user|>", "<|observation|>", "<|endoftext|>"]}
    tokenizer.add_special_tokens(special)
    format = find_call_format(tokenizer)
    call = "<tool_call>get_time\n</tool_call>"
    for text in (call, f"Let me see.\n{call}"):
        ids = tokenizer.encode(text + "<|observation|>", add_special_tokens=False)
        message, raw = format.read_turn(tokenizer, PROBE_SCHEMAS, format.turn_text(tokenizer, ids))
        assert message["content"] == text.removesuffix(call).strip() and len(raw) == 1


def test_mistrals_list_of_calls_is_read(tokenizer):
    tokenizer.chat_template = MISTRAL
    assert find_call_format(tokenizer).name == "Mistral"
    message, _ = read(tokenizer, '[TOOL_CALLS][{"name": "get_time", "arguments": {}, "id": "abcdefghi"}]</s>')
    assert message["tool_calls"] == [Call("get_time", {}).message]
    assert read(tokenizer, "It is \\boxed{3}.</s>")[0]["content"] == "It is \\boxed{3}."


def test_doubled_braces_are_not_taught(tokenizer, capsys):
    """Qwen2.5-Coder's template asks for calls as {{"name": …}}."""
    use(tokenizer, "qwen2_5")
    asked = '{\\"name\\": <function-name>, \\"arguments\\": <args-json-object>}'
    assert asked in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace(asked, "{" + asked + "}")
    choose_template(tokenizer, "coder")
    assert "asks for calls in doubled braces" in capsys.readouterr().out and "{{\\" not in tokenizer.chat_template
    assert find_call_format(tokenizer).name == "Hermes"


def test_a_tokenizers_own_response_template_reads_bare_calls(tokenizer):
    """As docs/teacher.md gives Qwen2.5-Coder, which writes calls without tags."""
    tokenizer.chat_template = BARE
    calls = {"open_pattern": r'\{\s*"name":\s*"(?P<name>[^"]+)",\s*"arguments":\s*', "content": "json"}
    calls |= {"close_pattern": r"\}\s*<\|im_end\|>\s*"}
    calls |= {"transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}}
    text = {"close_pattern": r"<\|im_end\|>\s*", "content": "text"}
    tokenizer.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "<|im_start|>assistant\n",
        "fields": {"tool_calls": {**calls, "repeats": True}, "content": text},
    }
    assert find_call_format(tokenizer).name == "its own"
    message, _ = read(tokenizer, '{ "name": "get_time", "arguments": {}}<|im_end|>')
    assert message["tool_calls"] == [Call("get_time", {}).message]
    assert read(tokenizer, "It is \\boxed{3}.<|im_end|>")[0]["content"] == "It is \\boxed{3}."


@pytest.mark.parametrize("name", FORMAT)
def test_a_broken_call_is_malformed_and_an_answer_is_none(tokenizer, name):
    use(tokenizer, name)
    use_training(tokenizer)
    format = find_call_format(tokenizer)
    thought = "</think>" if format.opening.endswith("<think>\n") else ""
    message, raw = read(tokenizer, f"{thought}{format.marker}get_area and then nothing")
    assert not raw and "<tool_call>" in message["content"] and "tool_calls" not in message
    end = {"gptoss": ("<|channel|>final<|message|>", "<|return|>"), "llama3_1": ("", "<|eot_id|>")}
    before, after = end.get(name, ("", "<|eot_id|>" if name == "llama3_2" else ""))
    message, raw = read(tokenizer, f"{thought}{before}The answer is \\boxed{{5}}.{after}")
    assert not raw and message["content"].startswith("The answer is \\boxed{5}.")


@pytest.mark.parametrize("name", ["qwen3_5_think", "glm4moe"])
def test_a_box_in_the_thought_of_a_broken_turn_is_no_answer(tokenizer, name):
    use(tokenizer, name)
    use_training(tokenizer)
    format = find_call_format(tokenizer)
    opened = "" if format.opening.endswith("<think>\n") else "<think>\n"
    message, raw = read(
        tokenizer, f"{opened}I guess \\boxed{{5}}.\n</think>\n\n{format.marker}get_area\n<arg_key>width"
    )
    assert not raw and "<tool_call>" in message["content"] and "boxed" not in message["content"]
    assert "boxed" in message["reasoning_content"]


@pytest.mark.parametrize("name", ["llama3_2", "lfm2_2_5", "qwen3_5_think", "gptoss", "gemma4", "glm4moe"])
def test_no_text_raises(tokenizer, name):
    use(tokenizer, name)
    use_training(tokenizer)
    format = find_call_format(tokenizer)
    numbers = random.Random(0)
    for _ in range(150):
        text = fuzzed_output(numbers)[:5_000]
        text = text.replace("<tool_call>", numbers.choice(["<tool_call>", format.marker]))
        message, raw = format.read_turn(tokenizer, PROBE_SCHEMAS, text)
        assert message["role"] == "assistant" and isinstance(message["content"], str)
        assert all(isinstance(json.loads(call), dict) for call in raw)
