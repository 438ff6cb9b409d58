"""pass@k, accuracy by number of calls, and habits, against values computed by hand."""

import math

import pandas as pd
import pytest
import synthetic

from mentorlib.lab import analysis


def sampled(right: dict[str, list[int]], n: int = 4) -> pd.DataFrame:
    """Rows of n samples a task; ``right``: of each method, how many of each task's samples are right."""
    rows = [
        {"method": method, "run": method, "suite": "s", "task_id": str(i), "sample": j, "correct": j < c}
        | {"domain": "in domain", "teacher_tools": ["add"]}
        for method, counts in right.items()
        for i, c in enumerate(counts)
        for j in range(n)
    ]
    return pd.DataFrame(rows)


def test_pass_at_k_is_the_unbiased_estimator() -> None:
    table = analysis.skills.pass_at_k(sampled({"base": [0, 1, 2, 4], "sft": [0, 4, 4, 4]})).set_index(["method", "k"])
    assert table.loc[("base", 1), "share"] == pytest.approx((0 + 1 + 2 + 4) / 16)
    assert table.loc[("base", 2), "share"] == pytest.approx((0 + 1 / 2 + (1 - 1 / 6) + 1) / 4)
    assert table.loc[("base", 4), "share"] == 0.75 == table.loc[("sft", 4), "share"] == table.loc[("sft", 1), "share"]
    assert (table["low"] <= table["share"]).all() and (table["high"] >= table["share"]).all()
    fewer = pd.concat([sampled({"base": [1]}), sampled({"sft": [1]}, n=2)])
    assert analysis.skills.pass_at_k(fewer)["k"].max() == 2
    assert analysis.skills.pass_at_k(fewer.iloc[:0]).empty
    rows = sampled({"base": [1, 2, 3]}).astype({"correct": object})
    rows.loc[0, "correct"] = None  # one sample that nobody could judge costs its task, not everybody's pass@4
    table = analysis.skills.pass_at_k(rows)
    assert table["k"].max() == 4 and set(table["tasks"]) == {2}


def test_by_calls_counts_the_teachers() -> None:
    rows = synthetic.evaluated_rows({"base": [True, False, True, True]})
    rows["teacher_tools"] = [["add"], ["add", "add"], ["add"], []]
    table = analysis.skills.by_calls(rows).set_index("calls")
    assert table["accuracy"].to_dict() == {0: 1.0, 1: 1.0, 2: 0.0} and table["n"].to_dict() == {0: 1, 1: 2, 2: 1}


def test_habits() -> None:
    error = [{"role": "tool", "content": "error: b is missing"}]
    base = {"suite": "s", "method": "sft", "correct": False, "messages": [], "teacher_tools": ["add"], "n_calls": 1}
    none = {"teacher_tools": [], "n_calls": 0}
    rows = pd.DataFrame(
        [
            base | {"messages": error, "correct": True, "n_calls": 2},
            base | {"messages": error},
            base,
            base | none | {"correct": True},
            base | none | {"n_calls": 3},
        ]
    )
    row = analysis.skills.habits(rows).iloc[0]
    assert (row["failed"], row["recovered"], row["more_calls"]) == (0.4, 0.5, pytest.approx(1 / 3))
    assert (row["abstained"], row["abstained_right"], row["n"]) == (0.5, 0.5, 5)
    assert math.isnan(analysis.skills.habits(rows.iloc[2:3]).iloc[0]["recovered"])
