"""The tools that a student calls, against the teacher's: sets, distributions, and call by call."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...core import Call
from ...rewards.matching import call_key
from .outcomes import call_counts, column_shares
from .stats import by_group, jsd, seeded_rng

_WAYS = ("teacher's calls", "teacher's tools otherwise", "other tools", "no call")
PATHS = (*(f"{way}, {end}" for end in ("right", "wrong") for way in _WAYS), "infrastructure failure")
START, END, NO_CALL = "(start)", "(end)", "(no call)"


def tool_overlap(rows: pd.DataFrame, by: Sequence[str] = ("suite", "method")) -> pd.DataFrame:
    """Precision and recall of the tools called. In: rows of ``evaluations``.

    Out: ``by``, precision, recall, f1 (means over rows, of the sets of tools called, invented ones included, and the
    teacher's; a row without calls has no precision), invented (share of all calls whose tool the task does not offer),
    calls, teacher_calls (per row), n (rows).
    """

    def summarise(group: pd.DataFrame) -> dict[str, Any]:
        calls = group["n_calls"].sum()
        return group[["precision", "recall", "f1"]].mean().to_dict() | {
            "invented": group["n_invented"].sum() / calls if calls else 0.0,
            "calls": group["n_calls"].mean(),
            "teacher_calls": group["teacher_tools"].map(len).mean(),
            "n": len(group),
        }

    return by_group(rows, by, summarise, ["precision", "recall", "f1", "invented", "calls", "teacher_calls", "n"])


def off_reference(rows: pd.DataFrame) -> pd.DataFrame:
    """How often a correct answer was reached otherwise than by the teacher's calls.

    In: stored rows. Out, a row a method: n (correct rows whose teacher's calls are known), other_tools (share of them
    with another set of tools), other_calls (share with other calls, arguments or order).
    """

    def keys(calls: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
        return [call_key(Call(c["name"], c["arguments"])) for c in calls]

    rows = rows if "teacher_calls" in rows else rows.assign(teacher_calls=None)
    known = rows["teacher_calls"].map(lambda calls: isinstance(calls, list) and bool(calls))
    right = rows[rows["correct"].eq(True) & known]
    pairs = list(zip(right["calls"], right["teacher_calls"], strict=True))
    marked = right.assign(
        other_tools=[{c["name"] for c in calls} != {c["name"] for c in teacher} for calls, teacher in pairs],
        other_calls=[keys(calls) != keys(teacher) for calls, teacher in pairs],
    )
    shares = marked.groupby("method", sort=False)[["other_tools", "other_calls"]]
    return shares.mean().assign(n=shares.size())[["n", "other_tools", "other_calls"]].reset_index()


def tool_jsd(rows: pd.DataFrame, draws: int = 500) -> pd.DataFrame:
    """Divergence of the tools called from the teacher's on the same tasks (the paper's similarity).

    In: rows of ``evaluations``. Out: suite, method, jsd (bits, 0..1), low, high (95%, percentile bootstrap over tasks;
    biased upwards, so the interval may lie above the estimate), floor, tasks. ``floor`` is the mean JSD between the
    teacher's calls on two resamples of as many tasks: a scale to read the others by, not a test.
    Invented tools count as tools that the teacher never uses.
    """

    def summarise(group: pd.DataFrame) -> dict[str, Any]:
        rng = seeded_rng(0, group["suite"].iloc[0], group["method"].iloc[0])
        tasks = [task for _, task in group.groupby(["suite", "task_id"])]
        student = [Counter(c["name"] for calls in task["calls"] for c in calls) for task in tasks]
        teacher = [Counter(task["teacher_tools"].iloc[0]) for task in tasks]
        names = sorted(set().union(*student, *teacher))
        s, t = (
            np.array([[c[n] for n in names] for c in side], float).reshape(len(side), -1) for side in (student, teacher)
        )
        n = len(tasks)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=draws)
        drawn = jsd(weights @ s, weights @ t)
        floor = jsd(weights @ t, rng.multinomial(n, np.full(n, 1 / n), size=draws) @ t)
        low, high = np.nanquantile(drawn, [0.025, 0.975]) if np.isfinite(drawn).any() else (math.nan, math.nan)
        return {
            "jsd": float(jsd(s.sum(0), t.sum(0))),
            "low": low,
            "high": high,
            "floor": float(np.nanmean(floor)) if np.isfinite(floor).any() else math.nan,
            "tasks": n,
        }

    return by_group(rows, ["suite", "method"], summarise, ["jsd", "low", "high", "floor", "tasks"])


def path_of(row: Mapping[str, Any]) -> str:
    """Which of PATHS a row took: the teacher's tools or others, the teacher's arguments or others, right or wrong.

    "teacher's calls" are the same calls with the same arguments in any order; "teacher's tools otherwise" the same
    set of tools with other arguments, or more or fewer calls.
    """
    if row["outcome"] == "infrastructure failure":
        return "infrastructure failure"
    end = "right" if row["outcome"] == "correct" else "wrong"
    calls = row["calls"]
    if not calls:
        return f"no call, {end}" if row["teacher_tools"] else f"teacher's calls, {end}"
    if {call["name"] for call in calls} != set(row["teacher_tools"]):
        return f"other tools, {end}"
    teacher_calls = row.get("teacher_calls")
    same = isinstance(teacher_calls, list) and call_counts(calls) == call_counts(teacher_calls)
    return f"teacher's {'calls' if same else 'tools otherwise'}, {end}"


def tool_paths(rows: pd.DataFrame) -> pd.DataFrame:
    """How many rows took each path, by suite and method. Out: suite, method, path, n, share."""
    return column_shares(rows.assign(path=[path_of(row) for row in rows.to_dict("records")]), "path")


def confusion(rows: pd.DataFrame) -> pd.DataFrame:
    """Which tool the student calls where the teacher calls another: the i-th call against the i-th call.

    Out: method, step (from 1), teacher, student (a tool, or NO_CALL where one of them has ended), n. Counting by
    position is strict: a call left out shifts all that follow.
    """
    tally: Counter[tuple[Any, ...]] = Counter()
    for row in rows.to_dict("records"):
        teacher, student = list(row["teacher_tools"]), [call["name"] for call in row["calls"]]
        for i in range(max(len(student), len(teacher))):
            pair = (names[i] if i < len(names) else NO_CALL for names in (teacher, student))
            tally[(row["method"], i + 1, *pair)] += 1
    return pd.DataFrame([[*key, n] for key, n in tally.items()], columns=["method", "step", "teacher", "student", "n"])


def transitions(rows: pd.DataFrame) -> pd.DataFrame:
    """Which call follows which, for each method and for the teacher (method "teacher", each task once).

    Out: method, start (a tool or START), next (a tool or END), n, share (of what follows ``start``).
    """
    first = rows.drop_duplicates(["suite", "task_id"])
    chains = [("teacher", list(tools)) for tools in first["teacher_tools"]]
    chains += [
        (method, [c["name"] for c in calls]) for method, calls in zip(rows["method"], rows["calls"], strict=True)
    ]
    tally: Counter[tuple[str, str, str]] = Counter()
    for method, names in chains:
        tally.update((method, *pair) for pair in zip([START, *names], [*names, END], strict=True))
    table = pd.DataFrame([[*key, n] for key, n in tally.items()], columns=["method", "start", "next", "n"])
    return table.assign(share=table["n"] / table.groupby(["method", "start"])["n"].transform("sum"))
