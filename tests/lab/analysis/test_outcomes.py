"""One outcome a row, by fixed rules."""

import math
from random import Random

import numpy as np
import pandas as pd
import pytest
import synthetic

from mentorlib.lab import analysis


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("right", "correct"),
        ("box", "right tools, wrong answer"),
        ("tool", "wrong tool"),
        ("argument", "wrong argument"),
        ("invented", "invented tool"),
        ("malformed", "malformed call"),
        ("error", "tool error ignored"),
        ("gave_up", "gave up"),
        ("cut", "ran out"),
    ],
)
def test_outcomes(kind: str, outcome: str) -> None:
    row = synthetic.row(kind, Random(0), 3)
    assert analysis.outcomes.classify_outcome(row) == outcome
    assert outcome in analysis.outcomes.OUTCOMES
    assert analysis.outcomes.classify_outcome(row | {"stop": "infrastructure"}) == "infrastructure failure"
    assert (
        analysis.outcomes.classify_outcome(row | {"correct": None})
        == analysis.outcomes.classify_outcome(row | {"correct": math.nan})
        == "infrastructure failure"
    )


def test_the_gold_value_on_the_way_is_not_the_right_tools() -> None:
    row = synthetic.row("tool", Random(0), 3)
    on_the_way = [{"role": "tool", "content": row["answer"]}, *row["messages"]]
    assert analysis.outcomes.classify_outcome(row | {"messages": on_the_way}) == "wrong tool"


def test_a_task_that_no_teacher_did_is_not_one_where_no_tool_fits() -> None:
    row = synthetic.row("tool", Random(0), 3) | {"teacher_tools": [], "teacher_calls": None, "teacher_results": []}
    assert analysis.outcomes.classify_outcome(row) == "wrong answer"
    assert analysis.outcomes.classify_outcome(row | {"teacher_calls": []}) == "wrong tool"  # it fits no tool
    columns = analysis.outcomes.derived_columns(row)
    assert all(math.isnan(columns[name]) for name in ("precision", "recall", "f1", "agreement"))
    rows = pd.DataFrame([row | columns, row | {"teacher_calls": []}, row | {"teacher_tools": ["add"]}])
    assert list(analysis.outcomes.with_teacher(rows).index) == [1, 2]
    assert list(analysis.outcomes.with_teacher(rows.drop(columns="teacher_calls")).index) == [0, 1, 2]
    assert analysis.outcomes.with_teacher(rows.iloc[:0]).columns.equals(rows.columns)


def test_every_row_has_an_outcome(rows: pd.DataFrame) -> None:
    assert set(rows["outcome"]) <= set(analysis.outcomes.OUTCOMES)
    shares = analysis.outcomes.outcome_shares(rows)
    assert np.allclose(shares.groupby(["suite", "method"])["share"].sum(), 1)
