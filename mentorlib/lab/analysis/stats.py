"""Intervals, tests and distances: arrays in, numbers out.

scipy.special is enough. scipy.stats takes over a second to import, its Wilson interval (binomtest) takes whole counts
only, where n here is an effective sample size, and it has no Holm correction.
"""

import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special


def wilson(k: float, n: float) -> tuple[float, float]:
    """The Wilson score interval (95%) of a share k/n; (0, 1) for n = 0. Source: Wilson 1927, JASA 22(158)."""
    if n <= 0:
        return 0.0, 1.0
    z, p = 1.959964, k / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def two_way_clustered(values: np.ndarray, baseline: np.ndarray) -> dict[str, float]:
    """The difference in mean of two arrays (tasks x runs each) over the same tasks, with intervals and p.

    Out: difference, low, high (95%), low_tasks, high_tasks (other tasks alone), low_runs, high_runs (other runs alone;
    NaN with one run of each), p. Tasks and runs are crossed, so their variances add up, minus the residual that both
    contain, and never below either alone (two-way clustering: Cameron, Gelbach and Miller 2011, J. Bus. Econ. Stat.
    29(2)). Intervals and p use Student's t with Welch-Satterthwaite degrees of freedom; a bootstrap of so few runs
    rejects one in four true nulls at p < 0.05. Where all tasks agree, or there is only one, the variance says nothing:
    the interval is then the Clopper-Pearson bound of 0 in n, and p that of n coin tosses.
    """
    n = len(values)
    gains = values.mean(1) - baseline.mean(1)
    by_task = (gains.var(ddof=1) / n if n > 1 else math.nan, n - 1)  # variance, degrees of freedom
    by_run, residual = [], 0.0
    for array in (values, baseline):
        k = array.shape[1]
        if k > 1:
            by_run.append((array.mean(0).var(ddof=1) / k, k - 1))
            if n > 1:
                rest = array - array.mean(0) - array.mean(1, keepdims=True) + array.mean()
                residual += (rest**2).sum() / ((k - 1) * (n - 1)) / array.size
    runs = sum(variance for variance, _ in by_run)
    both = max(by_task[0] + runs - residual, by_task[0], runs)

    def half_width(variance: float, parts: list[tuple[float, int]]) -> tuple[float, float]:
        """Half of the interval, and the degrees of freedom."""
        if not variance:
            return 0.0, math.inf
        freedom = variance**2 / sum(v * v / df for v, df in parts)
        return float(special.stdtrit(freedom, 0.975) * math.sqrt(variance)), freedom

    middle = float(gains.mean())
    of_tasks = half_width(by_task[0], [by_task])[0] if n > 1 else math.nan
    of_runs = half_width(runs, by_run)[0] if by_run else math.nan
    if n > 1 and both:
        width, freedom = half_width(both, [by_task, *by_run])
        p = float(2 * special.stdtr(freedom, -abs(middle) / math.sqrt(both)))
    else:
        width = 1 - 0.025 ** (1 / n)
        p = mcnemar(n, 0) if middle else 1.0
    return {
        "difference": middle,
        "low": max(-1.0, middle - width),
        "high": min(1.0, middle + width),
        "low_tasks": middle - of_tasks,
        "high_tasks": middle + of_tasks,
        "low_runs": max(-1.0, middle - of_runs),
        "high_runs": min(1.0, middle + of_runs),
        "p": p,
    }


def mcnemar(fixed: int, broke: int) -> float:
    """McNemar's exact two-sided p: how often a fair coin splits fixed + broke tosses at least as unevenly."""
    return min(1.0, float(2 * special.bdtr(min(fixed, broke), fixed + broke, 0.5)))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm-Bonferroni adjusted p-values, in the order given."""
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def jsd(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence in bits (log base 2), 0 = the same .. 1 = disjoint; over the last axis.

    Takes counts or probabilities (normalised here), broadcast; NaN where one of them has no mass. The square of
    scipy's jensenshannon, which gives NaN where rounding makes the divergence of two equal distributions negative.
    Source: Lin 1991, IEEE Trans. Inf. Theory 37(1).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
        m = (p + q) / 2
        nats = (special.rel_entr(p, m) + special.rel_entr(q, m)).sum(-1) / 2
        return np.clip(nats / math.log(2), 0.0, 1.0)


def seeded_rng(seed: int, *place: Any) -> np.random.Generator:
    """A generator for one row of a table, so that its interval does not depend on the table's other rows."""
    return np.random.default_rng([seed, zlib.crc32(json.dumps(place, default=str).encode())])


def by_group(
    rows: pd.DataFrame,
    by: Sequence[str],
    summarise: Callable[[pd.DataFrame], Mapping[str, Any]],
    columns: Sequence[str],
) -> pd.DataFrame:
    """One row of ``by`` and ``columns`` a group, in the order in which the values of ``by`` first appear."""
    table = [
        dict(zip(by, key, strict=True)) | dict(summarise(group)) for key, group in rows.groupby(list(by), sort=False)
    ]
    places = {column: {value: i for i, value in enumerate(dict.fromkeys(rows[column]))} for column in by}
    table.sort(key=lambda row: [places[column][row[column]] for column in by])
    return pd.DataFrame(table, columns=[*by, *columns])
