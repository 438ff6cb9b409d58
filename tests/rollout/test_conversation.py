"""What a closed turn leads to: calls to run, or a stop."""

from dataclasses import replace

import pytest

from mentorlib.core import Execution
from mentorlib.data.suites import generate
from mentorlib.rollout.conversation import Conversation, run_calls
from mentorlib.sandbox.toolbox import Toolbox
from mentorlib.task import Task

RAW = '{"name": "add", "arguments": {"a": 1, "b": 2}}'
CALL = f"<tool_call>{RAW}</tool_call>"


@pytest.fixture(scope="module")
def task():
    return generate("calculator", 1, split="eval")[0][0]


@pytest.mark.parametrize(
    ("text", "settings", "stop", "calls"),
    [
        (CALL, {}, None, [RAW]),
        (CALL * 2, {}, None, [RAW, RAW]),
        (CALL, {"max_turns": 1}, "turn_limit", []),
        (CALL, {"cut": True}, "length", []),
        (CALL, {"metric": "calls"}, "answered", []),
        ("<tool_call>{", {}, "malformed", []),
        ("It is \\boxed{3}.", {}, "answered", []),
        ("I do not know.", {}, "gave_up", []),
    ],
)
def test_a_turn_gives_calls_or_a_stop(task, text, settings, stop, calls):
    conversation = Conversation(replace(task, metric=settings.get("metric", "answer")), settings.get("max_turns", 3))
    assert conversation.add_turn(text, cut=settings.get("cut", False)) == calls
    assert conversation.stop == stop and conversation.turns == len(conversation.messages) == 1
    assert conversation.trajectory(text).stop == (stop or "infrastructure")


def test_a_sandbox_failure_is_an_infrastructure_failure(task):
    conversation = Conversation(task, 3)
    conversation.add_turn(CALL * 2)
    assert conversation.add_results([Execution(3), Execution(error="killed", fault="sandbox")]) == []
    assert conversation.stop == "infrastructure" and [m["role"] for m in conversation.messages] == ["assistant"]


def test_calls_of_several_conversations_go_back_to_each(task, sandbox):
    conversations = [Conversation(task, 3) for _ in range(3)]
    texts = [CALL.replace("add", "nope"), "It is \\boxed{3}.", CALL.replace("add", "nope") * 2]
    pending = [(c, c.add_turn(text)) for c, text in zip(conversations, texts, strict=True)]
    results = run_calls(pending, sandbox)
    assert [len(texts) for texts in results] == [1, 0, 2] and "no tool named 'nope'" in results[0][0]
    assert [m["role"] for m in conversations[2].messages] == ["assistant", "tool", "tool"]
    assert [c.stop for c in conversations] == [None, "answered", None]


def test_a_fault_of_the_tools_file_ends_as_an_infrastructure_failure(sandbox):
    source = 'def f() -> int:\n    """Do it."""\n    return b"a"\n'
    conversation = Conversation(Task("t", "Do.", "1", Toolbox.from_source("t", source), "t"), 4)
    calls = conversation.add_turn('<tool_call>{"name": "f", "arguments": {}}</tool_call>')
    assert run_calls([(conversation, calls)], sandbox) == [[]] and conversation.stop == "infrastructure"
