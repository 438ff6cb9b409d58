"""Arguments that stand neither in the question nor in a tool result."""

from random import Random

import synthetic

from mentorlib.lab import analysis


def test_ungrounded_arguments() -> None:
    row = synthetic.row("right", Random(0), 1)
    assert analysis.ungrounded.ungrounded_arguments(row) == []
    wrong = synthetic.row("argument", Random(0), 1)
    assert {argument for _, _, argument, _ in analysis.ungrounded.ungrounded_arguments(wrong)} <= {
        "a",
        "b",
    } and analysis.ungrounded.ungrounded_arguments(wrong)
    row["question"] = "Twice as many in an hour, 5% more"
    for value, odd in ((2, 0), (60, 0), (0.05, 0), (77, 1), ("hours", 0), ("zebra", 1), ([2, 78], 1), (None, 0)):
        row["messages"][0]["tool_calls"][0]["function"]["arguments"] = {"x": value}
        assert len(analysis.ungrounded.ungrounded_arguments(row)) == odd, value
