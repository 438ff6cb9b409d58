"""Ungrounded arguments: values in a call that stand neither in the question nor in an earlier tool result."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from .outcomes import without_failures
from .stats import by_group, wilson
from .tool_use import path_of

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")
CONSTANTS = (0, 1, 2, 10, 100)  # numbers that need no source
_COUNTING = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
WORDS = {  # numbers that a word of the question implies
    **{word: (n,) for n, word in enumerate(_COUNTING.split())},
    **{word: (10 * n,) for n, word in enumerate("thirty forty fifty sixty seventy eighty ninety".split(), 3)},
    **{"half": (2, 0.5), "double": (2,), "twice": (2,), "pair": (2,), "couple": (2,), "triple": (3,), "thrice": (3,)},
    **{"third": (3, 1 / 3), "quarter": (4, 0.25), "dozen": (12,), "thousand": (1000,), "million": (1_000_000,)},
    **{"second": (60,), "minute": (60,), "hour": (24, 60), "day": (7, 24, 30, 365), "week": (7, 52)},
    **{"month": (12, 30), "year": (12, 52, 365), "percent": (100,), "square": (2, 4), "decimal": (10, 100)},
}


def ungrounded_arguments(row: Mapping[str, Any]) -> list[tuple[int, str, str, Any]]:
    """The ungrounded arguments of a stored row: (number of the call, from 0; tool; argument; value).

    A number is grounded if it, its negative or, where the question is about percent, a hundredth of it stands in the
    question or in the result of an earlier turn (to a millionth), if a word of the question implies it (WORDS), or if
    it is one of CONSTANTS. A text is grounded if all its words stand there, plural or not. true, false, null and the
    empty text need no source. Calls of one turn do not see each other's results.
    """
    question = str(row.get("question") or "")
    words = set(re.findall(r"[a-z]+", question.lower()))
    implied = [n for word in words | {w.removesuffix("s") for w in words} for n in WORDS.get(word, ())]
    percent = "percent" in words or "%" in question
    texts, numbers = [question], [float(n) for n in (*CONSTANTS, *implied, *_numbers(question, percent))]
    ungrounded, at = [], 0
    for message in row["messages"]:
        if message["role"] == "tool":
            texts.append(str(message.get("content") or "")[:20_000])
            numbers += _numbers(texts[-1], False)
        for call in (message.get("tool_calls") or ()) if message["role"] == "assistant" else ():
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            for key, value in arguments.items() if isinstance(arguments, Mapping) else ():
                ungrounded += [(at, name, key, leaf) for leaf in _leaves(value) if not _grounded(leaf, numbers, texts)]
            at += 1
    return ungrounded


def _numbers(text: str, percent: bool) -> list[float]:
    values = []
    for match in _NUMBER.findall(text)[:1000]:
        try:
            value = abs(float(match.replace(",", "")))
        except ValueError:
            continue
        if math.isfinite(value):
            values += [value, value / 100] if percent else [value]
    return values


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value[:1000]:
            yield from _leaves(item)
    else:
        yield value


def _grounded(leaf: Any, numbers: list[float], texts: list[str]) -> bool:
    if leaf is None or isinstance(leaf, bool) or leaf == "":
        return True
    if isinstance(leaf, int | float):
        try:
            value = abs(float(leaf))
        except OverflowError:
            return False
        tolerance = 1e-9 + 1e-6 * value
        return math.isfinite(value) and any(abs(number - value) <= tolerance for number in numbers)
    source = "\n".join(texts).lower()
    words = re.findall(r"\w+", str(leaf).lower())
    return str(leaf).lower() in source or (bool(words) and all(word.removesuffix("s") in source for word in words))


def ungrounded_calls(rows: pd.DataFrame) -> pd.DataFrame:
    """Calls with an ungrounded argument, by suite and method. In: rows of ``evaluations``.

    Out: suite, method, calls, n (calls with an ungrounded argument), share, low, high (95% Wilson; calls of one row are
    not independent, so it is somewhat narrow), rows (trajectories with such a call), false_positive_rate (the share
    among the calls of rows that made the teacher's calls, which are right; NaN without such rows).
    """
    rows = without_failures(rows)
    records = rows.to_dict("records")
    marked = rows.assign(
        flagged=[len({call for call, *_ in ungrounded_arguments(row)}) for row in records],
        made=[len(row["calls"]) for row in records],
        as_teacher=[path_of(row).startswith("teacher's calls") for row in records],
    )

    def summarise(group: pd.DataFrame) -> dict[str, Any]:
        n, calls, right = int(group["flagged"].sum()), int(group["made"].sum()), group[group["as_teacher"]]
        low, high = wilson(n, calls)
        return {
            "calls": calls,
            "n": n,
            "share": n / calls if calls else math.nan,
            "low": low,
            "high": high,
            "rows": int((group["flagged"] > 0).sum()),
            "false_positive_rate": right["flagged"].sum() / right["made"].sum() if right["made"].sum() else math.nan,
        }

    columns = ["calls", "n", "share", "low", "high", "rows", "false_positive_rate"]
    return by_group(marked, ["suite", "method"], summarise, columns)
