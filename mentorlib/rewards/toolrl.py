"""The correctness part of ToolRL (arXiv 2504.13958, section 3.3)."""

import math
from typing import Any, TypeAlias

from ..core import Call
from .table import _names, _same_text


def _toolrl(student: list[Call], teacher: list[Call]) -> dict[str, float]:
    """The correctness part of ToolRL (arXiv 2504.13958, section 3.3) with its optimal assignment, over S_max.

    The three terms add up to R_max / S_max, which is 1 for the teacher's own calls in any order.
    """
    ours, theirs = _names(student), _names(teacher)
    names = len(ours & theirs) / len(ours | theirs) if ours | theirs else 1.0
    largest = 1 + len(teacher) + sum(len(call.arguments) for call in teacher)
    golds = [_parts(call) for call in teacher]
    copies: dict[Any, int] = {}
    candidates = []
    for call in student:
        if call.name in theirs:
            parts = _parts(call)
            copies[parts] = copies.get(parts, 0) + 1
            if copies[parts] <= len(golds):  # more copies than gold calls cannot be assigned
                candidates.append(parts)

    def pair(gold: _Parts, candidate: _Parts) -> tuple[float, float]:
        if gold[0] != candidate[0]:
            return 0.0, 0.0
        mine, wanted = dict(candidate[1]), dict(gold[1])
        either = len(mine.keys() | wanted.keys())
        return (
            len(mine.keys() & wanted.keys()) / either if either else 1.0,
            float(sum(key in mine and mine[key] == value for key, value in wanted.items())),
        )

    pairs = [[pair(gold, candidate) for candidate in candidates] for gold in golds]
    chosen = [pairs[i][j] for i, j in assign([[sum(both) for both in row] for row in pairs])]
    return {
        "names": names / largest,
        "parameters": sum(both[0] for both in chosen) / largest,
        "values": sum(both[1] for both in chosen) / largest,
    }


_Parts: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]


def _parts(call: Call) -> _Parts:
    return call.name, tuple(sorted((name, _same_text(value)) for name, value in call.arguments.items()))


def assign(gains: list[list[float]]) -> list[tuple[int, int]]:
    """Pairs (row, column), each used once, with the highest sum of gains: Kuhn's method with potentials, O(n^2 m)."""
    if not gains or not gains[0]:
        return []
    if len(gains) > len(gains[0]):
        return [(row, column) for column, row in assign([list(column) for column in zip(*gains, strict=True)])]
    n, m = len(gains), len(gains[0])
    u, v = [0.0] * (n + 1), [0.0] * (m + 1)
    owner = [0] * (m + 1)  # the row that holds each column, counted from 1; column 0 is the row being placed
    for row in range(1, n + 1):
        owner[0] = row
        column, least, came, seen = 0, [math.inf] * (m + 1), [0] * (m + 1), [False] * (m + 1)
        while owner[column]:
            seen[column] = True
            here, delta, best = owner[column], math.inf, 0
            for j in range(1, m + 1):
                if not seen[j]:
                    cost = -gains[here - 1][j - 1] - u[here] - v[j]
                    if cost < least[j]:
                        least[j], came[j] = cost, column
                    if least[j] < delta:
                        delta, best = least[j], j
            for j in range(m + 1):
                if seen[j]:
                    u[owner[j]] += delta
                    v[j] -= delta
                else:
                    least[j] -= delta
            column = best
        while column:
            owner[column] = owner[came[column]]
            column = came[column]
    return [(owner[j] - 1, j - 1) for j in range(1, m + 1) if owner[j]]
