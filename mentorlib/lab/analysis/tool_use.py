"""The tools that a student calls, against the teacher's: sets, distributions, and call by call."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from ...core import Call
from ...rewards.matching import call_key
from .outcomes import call_counts, column_shares, with_teacher, without_failures
from .stats import by_group, effective_clusters, jsd, pairing, seeded_rng, tool_clusters

_WAYS = ("teacher's calls", "teacher's tools otherwise", "other tools", "no call")
PATHS = (*(f"{way}, {end}" for end in ("right", "wrong") for way in _WAYS), "infrastructure failure")
START, END, NO_CALL = "(start)", "(end)", "(no call)"


def tool_overlap(rows: pd.DataFrame) -> pd.DataFrame:
    """Precision and recall of the tools called. In: rows of ``evaluations``.

    Out: suite, method, precision, recall, f1 (means over rows, of the sets of tools called, invented ones included, and
    the teacher's; a row without calls has no precision), invented (share of all calls whose tool the task does not
    offer), calls, teacher_calls (per row), n (rows). Infrastructure failures are left out, as in the tables below;
    tasks that no teacher did count for ``invented`` and ``calls``, and in no other of these tables.
    """
    rows = without_failures(rows)

    def summarise(group: pd.DataFrame) -> dict[str, Any]:
        calls = group["n_calls"].sum()
        return group[["precision", "recall", "f1"]].mean().to_dict() | {
            "invented": group["n_invented"].sum() / calls if calls else 0.0,
            "calls": group["n_calls"].mean(),
            "teacher_calls": with_teacher(group)["teacher_tools"].map(len).mean(),
            "n": len(group),
        }

    columns = ["precision", "recall", "f1", "invented", "calls", "teacher_calls", "n"]
    return by_group(rows, ["suite", "method"], summarise, columns)


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


def tool_jsd(rows: pd.DataFrame) -> pd.DataFrame:
    """How far the tools called are from the teacher's on the same tasks. Descriptive: no interval.

    In: rows of ``evaluations``. Out: suite, method, jsd (bits, 0..1, of the counts of tools over all rows: the paper's
    similarity; invented tools are tools that the teacher never uses), agreement (mean over rows, see
    ``outcomes.derived_columns``), tasks. Two tools swapped on some tasks leave the counts as they are, so that the JSD
    does not see it; agreement does.
    """
    rows = with_teacher(without_failures(rows))

    def summarise(group: pd.DataFrame) -> dict[str, Any]:
        student = Counter(call["name"] for calls in group["calls"] for call in calls)
        teacher = Counter(name for tools in group["teacher_tools"] for name in tools)
        names = sorted({*student, *teacher})
        return {
            "jsd": float(jsd(*(np.array([side[name] for name in names], float) for side in (student, teacher)))),
            "agreement": group["agreement"].mean(),
            "tasks": len(group[["suite", "task_id"]].drop_duplicates()),
        }

    return by_group(rows, ["suite", "method"], summarise, ["jsd", "agreement", "tasks"])


def jsd_differences(rows: pd.DataFrame, against: str = "base", draws: int = 500) -> pd.DataFrame:
    """The difference in JSD to the teacher between each method and ``against`` on the same tasks. Exploratory.

    In: rows of ``evaluations``. Out, as of ``comparison.paired``: suite, method, against, difference (bits; below 0 is
    nearer the teacher), low, high (95%), seeds, tasks. Tasks (clustered by tool) and seeds are resampled together, the
    same for both methods (each its own seeds where ``stats.pairing`` compares them as independent); the interval is
    Student's t with seeds - 1 degrees of freedom, as ``two_way_clustered`` counts them, on the bootstrap's standard
    error. With one seed it is of other tasks alone; NaN where resampling changes nothing.
    """
    judged = with_teacher(rows).dropna(subset=["correct"])
    table = []
    for suite, group in judged.groupby("suite", sort=False):
        for method in dict.fromkeys(group["method"]):
            sides = [group[group["method"] == name] for name in (method, against)]
            if method != against and len(sides[1]):
                row = _jsd_difference(sides[0], sides[1], seeded_rng(suite, method, against), draws)
                table.append({"suite": suite, "method": method, "against": against, **row})
    columns = ["suite", "method", "against", "difference", "low", "high", "seeds", "tasks"]
    return pd.DataFrame(table, columns=columns).dropna(subset=["difference"])


def _jsd_difference(
    student: pd.DataFrame, other: pd.DataFrame, rng: np.random.Generator, draws: int
) -> dict[str, float]:
    """One row of ``jsd_differences``, of two methods on one suite."""
    sides = [student, other]
    how = pairing([str(side["method"].iloc[0]) for side in sides], [side["seed"] for side in sides])
    sides = [side[side["seed"].isin(seeds)] for side, seeds in zip(sides, how.seeds, strict=True)]
    complete = [  # judged under every seed of both
        set(counts.index[counts == len(seeds)])
        for counts, seeds in zip((s.groupby("task_id")["seed"].nunique() for s in sides), how.seeds, strict=True)
    ]
    first = student[student["task_id"].isin(set.intersection(*complete))].drop_duplicates("task_id")
    places = {task: i for i, task in enumerate(first["task_id"])}
    names: dict[str, int] = {}
    counts = []  # of each side: seeds (one where it is not trained) x tasks x tools
    for side, seeds, learns in zip(sides, how.seeds, how.trained, strict=True):
        calls = [
            (seeds.index(row["seed"]) if learns else 0, places[row["task_id"]], names.setdefault(name, len(names)))
            for row in side[side["task_id"].isin(places)].to_dict("records")
            for name in _called(row)
        ]
        counts.append((calls, (len(seeds) if learns else 1, len(places))))
    teacher = [
        (0, places[r.task_id], names.setdefault(t, len(names))) for r in first.itertuples() for t in r.teacher_tools
    ]
    a, b, t = (_count(calls, (*shape, len(names))) for calls, shape in (*counts, (teacher, (1, len(places)))))
    labels = tool_clusters(first["suite"], first["teacher_tools"], first["task_id"])
    codes, clusters = pd.factorize(pd.Series(labels, dtype=object))
    result = {"difference": math.nan, "low": math.nan, "high": math.nan, "seeds": how.fewer, "tasks": len(places)}
    if not len(places):
        return result
    of_tasks = rng.multinomial(len(clusters), np.full(len(clusters), 1 / len(clusters)), size=draws)[:, codes]

    def drawn(array: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Counts of tools (draws x tools) under weights of seeds (draws x seeds) and of tasks."""
        return sum(weights[:, [k]] * (of_tasks @ array[k]) for k in range(len(array)))

    of_seeds = [rng.multinomial(len(x), np.full(len(x), 1 / len(x)), size=draws) for x in (a, b)]
    if how.by_seed:
        of_seeds[1] = of_seeds[0]
    target = of_tasks @ t[0]
    spread = jsd(drawn(a, of_seeds[0]), target) - jsd(drawn(b, of_seeds[1]), target)
    middle = float(jsd(a.sum((0, 1)), t.sum((0, 1))) - jsd(b.sum((0, 1)), t.sum((0, 1))))
    units = min(how.fewer, len(clusters)) if how.fewer > 1 else len(clusters)
    error = float(np.nanstd(spread)) if np.isfinite(spread).any() else 0.0
    if units > 1 and error > 1e-12:  # a bootstrap of k units has (k - 1) / k of their variance
        freedom = min(units, effective_clusters(labels)) - 1
        width = float(special.stdtrit(freedom, 0.975)) * error * math.sqrt(units / (units - 1))
        result |= {"low": max(-1.0, middle - width), "high": min(1.0, middle + width)}
    return result | {"difference": middle}


def _called(row: Mapping[str, Any]) -> list[str]:
    return [call["name"] for call in row["calls"]]


def _count(places: Sequence[tuple[int, int, int]], shape: tuple[int, int, int]) -> np.ndarray:
    array = np.zeros(shape)
    if places:
        np.add.at(array, tuple(np.array(places).T), 1)
    return array


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
    rows = with_teacher(rows)
    return column_shares(rows.assign(path=[path_of(row) for row in rows.to_dict("records")]), "path")


def confusion(rows: pd.DataFrame) -> pd.DataFrame:
    """Which tool the student calls where the teacher calls another: the i-th call against the i-th call.

    Out: method, step (from 1), teacher, student (a tool, or NO_CALL where one of them has ended), n. Counting by
    position is strict: a call left out shifts all that follow.
    """
    rows = with_teacher(without_failures(rows))
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
    rows = with_teacher(without_failures(rows))
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
