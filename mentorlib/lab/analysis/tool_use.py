import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...core import Call
from ...rewards.table import call_key
from .outcomes import counted
from .stats import by_group, jsd, place_rng, wilson

# ---- tool use against the teacher's


def tool_use(rows: pd.DataFrame, by: Sequence[str] = ("suite", "method")) -> pd.DataFrame:
    """How close the tools come to the teacher's. In: rows of ``evaluations``.

    Out: ``by``, precision, recall, f1 (means over rows, of the sets of tools called, invented ones too, and of the
    teacher's; a row that called none has no precision), invented (share of all calls that name a tool the task does not
    offer), calls, teacher_calls (per row), n (rows).
    """

    def one(group: pd.DataFrame) -> pd.Series:
        means = group[["precision", "recall", "f1"]].mean().to_dict()
        calls = group["n_calls"].sum()
        return pd.Series(
            means
            | {"invented": group["n_invented"].sum() / calls if calls else 0.0, "calls": group["n_calls"].mean()}
            | {"teacher_calls": group["teacher_tools"].map(len).mean(), "n": len(group)}
        )

    return by_group(rows, by, one, ["precision", "recall", "f1", "invented", "calls", "teacher_calls", "n"])


def off_reference(rows: pd.DataFrame) -> pd.DataFrame:
    """How often a right answer took another way than the teacher: where none does, rewards that look at the way agree.

    In: stored rows. Out, a row a method: n (right answers whose teacher's calls are known), tools and calls (shares of
    them with another set of tools, and with other calls, arguments and order counted).
    """

    def keys(calls: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
        return [call_key(Call(c["name"], c["arguments"])) for c in calls]

    rows = rows if "teacher_calls" in rows else rows.assign(teacher_calls=None)
    known = rows["teacher_calls"].map(lambda calls: isinstance(calls, list) and bool(calls))
    right = rows[rows["correct"].eq(True) & known]
    pairs = list(zip(right["calls"], right["teacher_calls"], strict=True))
    others = right.assign(
        tools=[{c["name"] for c in ours} != {c["name"] for c in gold} for ours, gold in pairs],
        calls=[keys(ours) != keys(gold) for ours, gold in pairs],
    )
    found = others.groupby("method", sort=False)
    return found.agg(n=("tools", "size"), tools=("tools", "mean"), calls=("calls", "mean")).reset_index()


def tool_jsd(
    rows: pd.DataFrame, by: Sequence[str] = ("suite", "method"), draws: int = 500, seed: int = 0
) -> pd.DataFrame:
    """How far the tools called are distributed from the teacher's on the same tasks (MENTOR's similarity).

    In: rows of ``evaluations``. Out: ``by``, jsd (bits, 0..1), low, high (percentile bootstrap over tasks; a JSD of
    resampled counts is biased upwards, so the interval may lie above the estimate), floor, tasks. ``floor`` is the
    teacher against itself on other tasks: the mean JSD between two draws of as many tasks. It is a scale to read the
    others by, not a test: student and teacher worked on the same tasks, so that a small difference may still be one of
    habit. Invented tools count as tools that the teacher never uses.
    """

    def one(group: pd.DataFrame) -> pd.Series:
        rng = place_rng(seed, *(group[column].iloc[0] for column in by))
        tasks = group.groupby(["suite", "task_id"])
        student = [Counter(c["name"] for calls in g["calls"] for c in calls) for _, g in tasks]
        teacher = [Counter(name for name in g["teacher_tools"].iloc[0]) for _, g in tasks]
        names = sorted({name for counter in [*student, *teacher] for name in counter})
        s, t = (
            np.array([[c[name] for name in names] for c in side], float).reshape(len(side), -1)
            for side in (student, teacher)
        )
        n = len(s)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=draws)
        drawn = jsd(weights @ s, weights @ t)
        floor = jsd(weights @ t, rng.multinomial(n, np.full(n, 1 / n), size=draws) @ t)
        low, high = np.nanquantile(drawn, [0.025, 0.975]) if np.isfinite(drawn).any() else (math.nan, math.nan)
        found = float(jsd(s.sum(0), t.sum(0)))
        return pd.Series(
            {"jsd": found, "low": low, "high": high}
            | {"floor": float(np.nanmean(floor)) if np.isfinite(floor).any() else math.nan, "tasks": n}
        )

    return by_group(rows, by, one, ["jsd", "low", "high", "floor", "tasks"])


PATHS = {
    "teacher's calls, right": "#004B73",
    "teacher's tools otherwise, right": "#0072B2",
    "other tools, right": "#56B4E9",
    "no call, right": "#BFE3F7",
    "teacher's calls, wrong": "#5E2C00",
    "teacher's tools otherwise, wrong": "#B34A00",
    "other tools, wrong": "#E69F00",
    "no call, wrong": "#F7DFA6",
    "infrastructure failure": "#000000",
}
END, NONE, ELSE = "(end)", "(no call)", "(other)"
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")
# Whole numbers that need no source, and those that a word in the question brings with it.
CONSTANTS = (0, 1, 2, 10, 100)
WORDS = {
    **{
        word: (n,)
        for n, word in enumerate(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
            "seventeen eighteen nineteen twenty".split()
        )
    },
    **{
        word: (n,)
        for n, word in zip(range(30, 100, 10), "thirty forty fifty sixty seventy eighty ninety".split(), strict=True)
    },
    **{"half": (2, 0.5), "double": (2,), "twice": (2,), "pair": (2,), "couple": (2,), "triple": (3,), "thrice": (3,)},
    **{"third": (3, 1 / 3), "quarter": (4, 0.25), "dozen": (12,), "thousand": (1000,), "million": (1_000_000,)},
    **{"second": (60,), "minute": (60,), "hour": (24, 60), "day": (7, 24, 30, 365), "week": (7, 52)},
    **{"month": (12, 30), "year": (12, 52, 365), "percent": (100,), "square": (2, 4), "decimal": (10, 100)},
}


# ---- from the teacher's tools to the outcome


def path(row: Mapping[str, Any]) -> str:
    """Which of PATHS a row took: were the teacher's tools used, was each called as the teacher did, was it right?

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
    theirs = row.get("teacher_calls")
    same = isinstance(theirs, list) and counted(calls) == counted(theirs)
    return f"teacher's {'calls' if same else 'tools otherwise'}, {end}"


def paths(rows: pd.DataFrame) -> pd.DataFrame:
    """How many rows took each path, by suite and method. Out: suite, method, path, n, share."""
    taken = rows.assign(path=[path(row) for row in rows.to_dict("records")])
    counts = taken.groupby(["suite", "method", "path"], sort=False).size().rename("n").reset_index()
    return counts.assign(share=counts["n"] / counts.groupby(["suite", "method"])["n"].transform("sum"))


# ---- which tool, where the teacher calls which


def confusion(rows: pd.DataFrame, by: Sequence[str] = ("method",)) -> pd.DataFrame:
    """Which tool the student calls where the teacher calls X, step by step: the i-th call against the i-th call.

    Out: ``by``, step (from 1), teacher, student (a tool, or "(no call)" where one had ended), n. Steps beyond the
    teacher's last have teacher "(no call)". Counting by position is strict: one call left out shifts what follows.
    """
    tally: Counter[tuple[Any, ...]] = Counter()
    for row in rows.to_dict("records"):
        student, teacher = [call["name"] for call in row["calls"]], list(row["teacher_tools"])
        for i in range(max(len(student), len(teacher))):
            pair = tuple(names[i] if i < len(names) else NONE for names in (teacher, student))
            tally[(*(row[key] for key in by), i + 1, *pair)] += 1
    return pd.DataFrame([[*key, n] for key, n in tally.items()], columns=[*by, "step", "teacher", "student", "n"])


def transitions(rows: pd.DataFrame, by: Sequence[str] = ("method",)) -> pd.DataFrame:
    """Which call follows which, for the teacher (method "teacher", on each task once) and the students.

    Out: ``by``, start (a tool, or "(start)"), next (a tool, or "(end)"), n, share (of what follows ``start``).
    """
    tally: Counter[tuple[Any, ...]] = Counter()
    known: set[tuple[Any, Any]] = set()
    for row in rows.to_dict("records"):
        chains = [(tuple(row[key] for key in by), [call["name"] for call in row["calls"]])]
        if (row["suite"], row["task_id"]) not in known:
            known.add((row["suite"], row["task_id"]))
            chains.append((tuple("teacher" if key == "method" else row[key] for key in by), list(row["teacher_tools"])))
        for key, names in chains:
            for pair in zip(["(start)", *names], [*names, END], strict=True):
                tally[(*key, *pair)] += 1
    found = pd.DataFrame([[*key, n] for key, n in tally.items()], columns=[*by, "start", "next", "n"])
    return found.assign(share=found["n"] / found.groupby([*by, "start"])["n"].transform("sum"))


# ---- arguments from nowhere


def ungrounded_arguments(row: Mapping[str, Any]) -> list[tuple[int, str, str, Any]]:
    """Arguments that come from nowhere: (call, from 0; tool; argument; value) of a stored row.

    A number has a source if it, its negative or, where the question speaks of percent, a hundredth of it stands in the
    question or in the result of an earlier turn (to a millionth), if a word of the question brings it (WORDS: "twice"
    2, "hour" 60), or if it is one of CONSTANTS. A text has one if all its words stand there, plural or not. true,
    false, null and the empty text need none. Calls of one turn do not see each other's results.
    """
    question = str(row.get("question") or "")
    heard, found, at = [question], [], 0
    words = set(re.findall(r"[a-z]+", question.lower()))
    extra = [n for word in words | {w.removesuffix("s") for w in words} for n in WORDS.get(word, ())]
    share = "percent" in words or "%" in question
    known = [float(n) for n in (*CONSTANTS, *extra, *_numbers(question, share))]
    for message in row["messages"]:
        if message["role"] == "tool":
            said = str(message.get("content") or "")[:20_000]
            heard.append(said)
            known += _numbers(said, False)
        calls = message.get("tool_calls") or () if message["role"] == "assistant" else ()
        for call in calls:
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            for key, value in arguments.items() if isinstance(arguments, Mapping) else ():
                found += [(at, name, key, leaf) for leaf in _leaves(value) if not _sourced(leaf, known, heard)]
            at += 1
    return found


def _numbers(said: str, share: bool) -> list[float]:
    values = []
    for match in _NUMBER.findall(said)[:1000]:
        try:
            value = abs(float(match.replace(",", "")))
        except ValueError:
            continue
        if math.isfinite(value):
            values += [value, value / 100] if share else [value]
    return values


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value[:1000]:
            yield from _leaves(item)
    else:
        yield value


def _sourced(leaf: Any, known: list[float], heard: list[str]) -> bool:
    if leaf is None or isinstance(leaf, bool) or leaf == "":
        return True
    if isinstance(leaf, int | float):
        try:
            value = abs(float(leaf))
        except OverflowError:
            return False
        near = 1e-9 + 1e-6 * value
        return math.isfinite(value) and any(abs(one - value) <= near for one in known)
    said = "\n".join(heard).lower()
    words = re.findall(r"\w+", str(leaf).lower())
    return str(leaf).lower() in said or (bool(words) and all(word.removesuffix("s") in said for word in words))


def ungrounded_calls(rows: pd.DataFrame) -> pd.DataFrame:
    """Calls whose arguments come from nowhere, by suite and method. In: rows of ``evaluations``.

    Out: suite, method, calls, n (calls with an argument from nowhere), share, low, high (95% Wilson; calls of one row
    are not independent, so it is somewhat narrow), rows (trajectories with such a call), alarms (the share among calls
    of rows whose calls are the teacher's, which are right: how often the rule cries wolf; NaN without such rows).
    """
    each = [
        (len({call for call, *_ in ungrounded_arguments(row)}), len(row["calls"])) for row in rows.to_dict("records")
    ]
    marked = rows.assign(n=[n for n, _ in each], made=[made for _, made in each])
    marked = marked.assign(same=[path(row).startswith("teacher's calls") for row in rows.to_dict("records")])
    found = []
    for (suite, method), own in marked.groupby(["suite", "method"], sort=False):
        n, calls, right = int(own["n"].sum()), int(own["made"].sum()), own[own["same"]]
        low, high = wilson(n, calls)
        made = right["made"].sum()
        found.append(
            {"suite": suite, "method": method, "calls": calls, "n": n, "share": n / calls if calls else np.nan}
            | {"low": low, "high": high, "rows": int((own["n"] > 0).sum())}
            | {"alarms": right["n"].sum() / made if made else np.nan}
        )
    return pd.DataFrame(found, columns=["suite", "method", "calls", "n", "share", "low", "high", "rows", "alarms"])
