"""Intervals, tests and distances: arrays in, numbers out.

scipy.special is enough. scipy.stats takes over a second to import, its Wilson interval (binomtest) takes whole counts
only, where n here is an effective sample size, and it has no Holm correction.
"""

import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

Z = 1.959964  # the normal quantile of a 95% interval
SEEDS = 4  # no p and no verdict below as many training seeds


def wilson(k: float, n: float, z: float = Z) -> tuple[float, float]:
    """The Wilson score interval (95%) of a share k/n; (0, 1) for n = 0. Source: Wilson 1927, JASA 22(158).

    ``z`` is Student's quantile where n comes from a variance between few clusters.
    """
    if n <= 0:
        return 0.0, 1.0
    p = k / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def two_way_clustered(
    values: np.ndarray, baseline: np.ndarray, clusters: Sequence[Any] = (), seeds: int = 0
) -> dict[str, float]:
    """The difference in mean of two arrays (tasks x runs each) over the same tasks, with its interval and p.

    Tasks and runs are crossed, so their variances add up, minus the residual that both contain, and never below either
    alone (Cameron, Gelbach and Miller 2011, J. Bus. Econ. Stat. 29(2)). Student's t has ``seeds`` - 1 degrees of
    freedom, or ``effective_clusters`` - 1 if these are fewer: the smaller sample limits the degrees of freedom. With
    zero variance (all tasks agree) or a single task, the interval is the Clopper-Pearson bound of 0 in n, and p that of
    a sign test.
    ``tests/lab/analysis/test_coverage.py`` simulates coverage and type I error.

    Args:
        values, baseline: of each task and run. Runs with the same seeds are compared seed by seed if ``values`` holds
            their differences and ``baseline`` is 0.
        clusters: a label a task (``tool_clusters``); tasks with one label count as one draw; () for each alone.
        seeds: training seeds of the method that has fewer; 0 is the runs of the array that has fewer.

    Returns:
        difference, low, high (95%; with one seed of tasks alone), se (standard error), freedom (degrees, for low, high
        and p), p (NaN below SEEDS seeds).
    """
    seeds = seeds or min(values.shape[1], baseline.shape[1])
    middle = float((values.mean(1) - baseline.mean(1)).mean())
    by_task = clustered_variance(values.mean(1) - baseline.mean(1), clusters)
    values, baseline = _by_cluster(values, clusters), _by_cluster(baseline, clusters)
    n, effective = len(values), effective_clusters(clusters) if len(clusters) else float(len(values))
    by_run, residual = 0.0, 0.0
    for array in (values, baseline):
        k = array.shape[1]
        if k > 1:
            by_run += array.mean(0).var(ddof=1) / k
            if n > 1:
                rest = array - array.mean(0) - array.mean(1, keepdims=True) + array.mean()
                residual += (rest**2).sum() / ((k - 1) * (n - 1)) / array.size
    both = max(by_task + by_run - residual, by_task, by_run)
    freedom = (min(seeds, effective) if seeds > 1 else effective) - 1
    if n > 1 and both:
        error = math.sqrt(both)
        width = float(special.stdtrit(freedom, 0.975) * error) if freedom > 0 else math.nan
        p = float(2 * special.stdtr(freedom, -abs(middle) / error))
    else:
        error, width = math.nan, 1 - 0.025 ** (1 / n)
        p = min(1.0, 2 * 0.5 ** min(n, seeds)) if middle else 1.0
    return {
        "difference": middle,
        "low": max(-1.0, middle - width),
        "high": min(1.0, middle + width),
        "se": error,
        "freedom": freedom,
        "p": p if seeds >= SEEDS else math.nan,
    }


class Pairing(NamedTuple):
    """How two methods are compared, of ``pairing``: all fields but the last two have an entry for each of the two."""

    trained: list[bool]  # False for base, whose runs count as one
    seeds: list[list[Any]]  # those compared
    by_seed: bool  # whether each seed of the one is compared with the same seed of the other
    fewer: int  # seeds of the method that has fewer; 1 if neither is trained


def pairing(methods: Sequence[str], seeds: Sequence[Iterable[Any]]) -> Pairing:
    """How to compare two methods, from their names and the seeds that each was evaluated with.

    Two trained methods with several common seeds are compared seed by seed on these, since runs with one seed draw the
    same tasks in the same order; others as independent. base is not trained.
    """
    trained = [not name.startswith("base") for name in methods]
    common = set(seeds[0]) & set(seeds[1])
    by_seed = all(trained) and len(common) > 1
    kept = [sorted(common if by_seed else set(own)) for own in seeds]
    return Pairing(trained, kept, by_seed, min([len(own) for own, t in zip(kept, trained, strict=True) if t] or [1]))


def tool_clusters(suite: Sequence[str], tools: Sequence[Iterable[str]], task: Sequence[str]) -> list[tuple[str, ...]]:
    """The cluster of each row: its suite and the set of tools that the teacher used.

    Whether a student can use a tool decides all of the tool's tasks at once, so these are not independent draws. A
    suite with fewer than six such sets (``retrieval`` has one) is no sample of tools: there a cluster is a task, and
    results hold for these tools alone.
    """
    sets = [(name, *sorted(set(used))) for name, used in zip(suite, tools, strict=True)]
    found = Counter(name for name, *_ in set(sets))
    return [key if found[key[0]] >= 6 else (key[0], str(name)) for key, name in zip(sets, task, strict=True)]


def effective_clusters(clusters: Sequence[Any]) -> float:
    """As how many equal clusters these count, by a label a task: (sum of sizes)^2 / sum of squared sizes (Kish 1965).

    Two of ``calculator``'s 41 sets of tools hold half of its tasks; the variance between sets is known as badly as that
    of 6 equal ones. Source: Carter, Schnepel and Steigerwald 2017, Rev. Econ. Stat. 99(4).
    """
    sizes = np.array(list(Counter(clusters).values()), float)
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if len(sizes) else 0.0


def clustered_variance(values: np.ndarray, clusters: Sequence[Any]) -> float:
    """The variance of a mean; values with the same label are one draw, each is one with (). NaN for a single draw."""
    sums = _by_cluster(values[:, None], clusters)[:, 0]
    return float(sums.var(ddof=1) / len(sums)) if len(sums) > 1 else math.nan


def _by_cluster(array: np.ndarray, clusters: Sequence[Any]) -> np.ndarray:
    """A row a cluster: the sum of its tasks' deviations, scaled so that the mean of each run stays (any sizes)."""
    if not len(clusters):
        return array
    codes, labels = pd.factorize(pd.Series(clusters, dtype=object))
    sums = np.zeros((len(labels), array.shape[1]))
    np.add.at(sums, codes, array - array.mean())
    return array.mean() + sums * len(labels) / len(array)


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


def seeded_rng(*place: Any) -> np.random.Generator:
    """A generator for one row of a table, so that its interval does not depend on the table's other rows."""
    return np.random.default_rng([0, zlib.crc32(json.dumps(place, default=str).encode())])


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
