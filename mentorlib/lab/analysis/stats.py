"""Intervals, tests and distances: arrays in, numbers out."""

import json
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special  # scipy.stats takes a second more to import

# ---- accuracy and differences


def wilson(k: float, n: float) -> tuple[float, float]:
    """The Wilson score interval (95%) of a share k/n; (0, 1) for n = 0. Source: Wilson 1927, JASA 22(158)."""
    if n <= 0:
        return 0.0, 1.0
    z, p = 1.959964, k / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def two_way_clustered(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """The difference in mean of two arrays (tasks x runs) over the same tasks: difference, its intervals and p.

    Tasks and runs are crossed, so that their variances add up, less what both count: the rest that neither explains
    (two-way clustering: Cameron, Gelbach and Miller 2011, J. Bus. Econ. Stat. 29(2)), and never below either alone.
    Intervals and p are Student's t with Welch and Satterthwaite's degrees of freedom. A bootstrap of so few runs is
    far too sure of itself: of true nulls with two seeds that differ it refuses one in four at p < 0.05, this one in
    twenty (``tests/test_analysis.py``). Where all tasks agree, or there is one, spreads say nothing: the interval is
    then as wide as what none of n showed may be frequent (Clopper and Pearson's bound), and p is that of n coins.
    """
    n = len(ours)
    gains = ours.mean(1) - theirs.mean(1)
    by_task = (gains.var(ddof=1) / n if n > 1 else math.nan, n - 1)  # variance, degrees of freedom
    by_run, rest = [], 0.0
    for values in (ours, theirs):
        k = values.shape[1]
        if k > 1:
            by_run.append((values.mean(0).var(ddof=1) / k, k - 1))
            if n > 1:
                left = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
                rest += (left**2).sum() / ((k - 1) * (n - 1)) / values.size
    runs = sum(variance for variance, _ in by_run)
    both = max(by_task[0] + runs - rest, by_task[0], runs)

    def spread(variance: float, parts: list[tuple[float, int]]) -> tuple[float, float]:
        """Half of the interval, and the degrees of freedom."""
        if not variance:
            return 0.0, math.inf
        freedom = variance**2 / sum(v * v / df for v, df in parts)
        return float(special.stdtrit(freedom, 0.975) * math.sqrt(variance)), freedom

    middle = float(gains.mean())
    of_tasks = spread(by_task[0], [by_task])[0] if n > 1 else math.nan
    of_runs = spread(runs, by_run)[0] if by_run else math.nan
    if n > 1 and both:
        width, freedom = spread(both, [by_task, *by_run])
        low, high = max(-1.0, middle - width), min(1.0, middle + width)
        p = float(2 * special.stdtr(freedom, -abs(middle) / math.sqrt(both)))
    else:
        unseen = 1 - 0.025 ** (1 / n)
        low, high = max(-1.0, middle - unseen), min(1.0, middle + unseen)
        p = mcnemar(n, 0) if middle else 1.0
    return {
        "difference": middle,
        "low": low,
        "high": high,
        "low_tasks": middle - of_tasks,
        "high_tasks": middle + of_tasks,
        "low_runs": max(-1.0, middle - of_runs),
        "high_runs": min(1.0, middle + of_runs),
        "p": p,
    }


def place_rng(seed: int, *place: Any) -> np.random.Generator:
    """Chance of its own for each place in a table, so that an interval does not hang on what else is in the table."""
    return np.random.default_rng([seed, zlib.crc32(json.dumps(place, default=str).encode())])


def mcnemar(fixed: int, broke: int) -> float:
    """McNemar's exact two-sided p: how often a fair coin splits fixed + broke tosses at least as unevenly."""
    return min(1.0, float(2 * special.bdtr(min(fixed, broke), fixed + broke, 0.5)))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm-Bonferroni adjusted p-values, in the order given."""
    order = np.argsort(p)
    adjusted = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))) if len(p) else p
    out = np.empty(len(p))
    out[order] = adjusted
    return out


def by_group(rows: pd.DataFrame, by: Sequence[str], one: Any, columns: Sequence[str]) -> pd.DataFrame:
    found = [
        dict(zip(by, key, strict=True)) | one(group).to_dict() for key, group in rows.groupby(list(by), sort=False)
    ]
    places = {column: {v: i for i, v in enumerate(dict.fromkeys(rows[column]))} for column in by}
    found.sort(key=lambda row: [places[column][row[column]] for column in by])
    counts = {c: int for c in ("n", "tasks", "unjudged") if c in columns}
    return pd.DataFrame(found, columns=[*by, *columns]).astype(counts)


def jsd(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence in bits (log base 2), 0 = alike .. 1 = nothing shared; over the last axis.

    Takes counts or probabilities (normalised here), broadcast; NaN where one of them has no mass.
    Source: Lin 1991, IEEE Trans. Inf. Theory 37(1); the divergence, not its square root.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
        m = (p + q) / 2

        def kl(a: np.ndarray) -> np.ndarray:
            return np.where(a > 0, a * np.log2(np.where(a > 0, a / m, 1.0)), np.where(np.isnan(a), np.nan, 0.0)).sum(-1)

        return np.clip((kl(p) + kl(q)) / 2, 0.0, 1.0)
