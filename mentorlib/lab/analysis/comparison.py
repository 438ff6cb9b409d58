"""Accuracy by suite and domain, and differences between methods on the same tasks."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from ...core import InputError
from .outcomes import without_failures
from .stats import (
    SEEDS,
    Z,
    by_group,
    clustered_variance,
    effective_clusters,
    holm,
    pairing,
    tool_clusters,
    two_way_clustered,
    wilson,
)


def add_domain(rows: pd.DataFrame, in_domain: Sequence[str]) -> pd.DataFrame:
    """Add ``domain``, "in domain" or "out of domain" by the row's suite, and put the rows in domain first."""
    inside = rows["suite"].isin(in_domain)
    named = rows.assign(domain=np.where(inside, "in domain", "out of domain"))
    return pd.concat([named[inside], named[~inside]])


def comparable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows on which means over suites compare methods. In: rows of ``add_domain``.

    Left out are methods that were not evaluated on every suite in domain, then what ``common_suites`` leaves out.
    """
    evaluated = rows.groupby("method", sort=False)["suite"].agg(set)
    inside = set(rows.loc[rows["domain"] == "in domain", "suite"])
    complete = [method for method, suites in evaluated.items() if inside <= suites] or list(evaluated.index)
    return common_suites(rows[rows["method"].isin(complete)])


def common_suites(table: pd.DataFrame) -> pd.DataFrame:
    """The part of a table (with suite and method) in which every method has the same suites.

    Keep the methods evaluated on the most widely evaluated suite, and the suites they all share.
    """
    if table.empty:
        return table
    suites = table.groupby("method")["suite"].agg(set)
    commonest = table[["method", "suite"]].drop_duplicates()["suite"].mode().iloc[0]
    suites = suites[[commonest in names for names in suites]]
    return table[table["method"].isin(suites.index) & table["suite"].isin(set.intersection(*suites))]


def accuracy(rows: pd.DataFrame, by: Sequence[str] = ("suite", "method")) -> pd.DataFrame:
    """Accuracy with a 95% Wilson interval. In: rows of ``evaluations``.

    Out: ``by``, accuracy, low, high, n, tasks, unjudged (infrastructure failures, left out), runs, sd_runs (standard
    deviation of accuracy between runs, NaN with one), word_f1 (mean, where answers are graded by words; else NaN).
    Where a task has several rows, or tasks use the same tools (``tool_clusters``), the interval uses the effective
    sample size from the variance between tasks or sets of tools (Kish's design effect), and Student's quantile for
    their number (``effective_clusters``). It covers the choice of tasks, not the variance between training seeds.
    """

    def summarise(group: pd.DataFrame) -> dict[str, Any]:
        judged = group.dropna(subset=["correct"])
        right, n = judged["correct"].astype(float), len(judged)
        p = right.mean() if n else math.nan
        clusters = tool_clusters(judged["suite"], judged["teacher_tools"], judged["task_id"])
        tasks = judged[["suite", "task_id"]].drop_duplicates()
        effective, z = float(n), Z
        if len(set(clusters)) < n:
            variance, few = clustered_variance(right.to_numpy(), clusters), effective_clusters(clusters)
            effective = min(float(n), max(few, p * (1 - p) / variance if variance > 0 else few))
            z = float(special.stdtrit(max(1.0, few - 1), 0.975))
        low, high = wilson(p * effective, effective, z) if n else (math.nan, math.nan)
        return (
            {"accuracy": p, "low": low, "high": high, "n": n, "tasks": len(tasks), "unjudged": len(group) - n}
            | {"runs": judged["run"].nunique(), "sd_runs": right.groupby(judged["run"]).mean().std()}
            | {"word_f1": judged["word_f1"].astype(float).mean() if "word_f1" in judged else math.nan}
        )

    columns = ["accuracy", "low", "high", "n", "tasks", "unjudged", "runs", "sd_runs", "word_f1"]
    return by_group(rows, by, summarise, columns)


def paired(rows: pd.DataFrame, against: str = "base", by: str = "suite", measure: str = "correct") -> pd.DataFrame:
    """The difference in accuracy between each method and ``against`` on the same tasks. Exploratory: no p.

    In: rows of ``evaluations``. Out, a row for each value of ``by`` and other method: difference (mean over seeds and
    tasks, -1..1) with the intervals of ``two_way_clustered`` (tasks clustered by ``tool_clusters``), seeds, tasks,
    fixed, broke (tasks that only the one or the other solved: more than half of the task's rows are correct).

    ``stats.pairing`` decides which seeds are compared; ``seeds`` is their number, of the method that has fewer. With
    one seed the interval leaves the variance between seeds out, so that it supports no verdict.
    ``measure`` is the column compared: "correct", or "agreement" with the teacher's tools.

    Raises InputError if there are rows and none is of ``against``.
    """
    methods = sorted(set(rows["method"]))
    if methods and against not in methods:
        raise InputError(f"against={against!r}: no such method here; the methods are: {', '.join(methods)}")
    differences = []
    for place, group in rows.groupby(by, sort=False):
        for method in dict.fromkeys(group["method"]):
            row = _difference(group, str(method), against, measure) if method != against else {}
            if row:
                differences.append({by: place, "method": method, "against": against, **row})
    columns = [by, "method", "against", "difference", "low", "high", "seeds", "tasks", "fixed", "broke"]
    return pd.DataFrame(differences, columns=columns)


def _by_seed(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The measure of one method's tasks under each seed: a row a task (suite, task_id), a column a seed.

    Tasks that all seeds evaluated. Where a seed's rows could not be judged, it has the mean of the task's other seeds:
    leaving the whole task out would drop it for the other method too, and such rows are not a random sample.
    """
    judged = rows[measure].where(rows["correct"].notna()).astype(float)
    cells = judged.groupby([rows["suite"], rows["task_id"], rows["seed"]])
    values = cells.mean().unstack().dropna(axis=1, how="all")
    everywhere = cells.size().unstack()[values.columns].notna().all(axis=1)
    values = values[everywhere].dropna(how="all")
    return values.where(values.notna(), values.mean(axis=1), axis=0)


def _difference(rows: pd.DataFrame, method: str, against: str, measure: str = "correct") -> dict[str, Any]:
    """``two_way_clustered`` of two methods, with seeds, tasks, fixed and broke; empty if they share no task."""
    sides = [_by_seed(rows[rows["method"] == name], measure) for name in (method, against)]
    tasks = sides[0].index.intersection(sides[1].index)
    if not len(tasks):
        return {}
    how = pairing((method, against), [side.columns for side in sides])
    values, baseline = (
        side.loc[tasks, seeds].to_numpy() if learns else side.loc[tasks].mean(axis=1).to_numpy()[:, None]
        for side, seeds, learns in zip(sides, how.seeds, how.trained, strict=True)
    )
    tools = rows.drop_duplicates(["suite", "task_id"]).set_index(["suite", "task_id"])["teacher_tools"].loc[tasks]
    clusters = tool_clusters(tasks.get_level_values("suite"), tools, tasks.get_level_values("task_id"))
    after, before = values.mean(1) > 0.5, baseline.mean(1) > 0.5
    if how.by_seed:
        values, baseline = values - baseline, np.zeros((len(tasks), 1))
    return two_way_clustered(values, baseline, clusters, how.fewer) | {
        "seeds": how.fewer,
        "tasks": len(tasks),
        "fixed": int((~before & after).sum()),
        "broke": int((before & ~after).sum()),
    }


def changed(rows: pd.DataFrame, contrasts: Sequence[Sequence[str]]) -> pd.DataFrame:
    """The rows behind differences: those whose verdict is not that of the method they are compared with.

    In: rows of ``evaluations`` and pairs (method, against). Out: for each pair the rows of ``method`` with ``against``
    and ``verdict``, "right" (where ``against`` is wrong on the task) or "wrong" (where it is right). The row of
    ``against`` is the one of the same seed, or its first where it has none, as base.
    """
    judged, task = rows.dropna(subset=["correct"]), ["suite", "task_id"]
    parts = [judged.iloc[:0].assign(against="", verdict="")]
    for method, against in contrasts:
        ours = judged[judged["method"] == method]
        theirs = judged.loc[judged["method"] == against, [*task, "seed", "correct"]].astype({"correct": float})
        same, first = theirs.drop_duplicates([*task, "seed"]), theirs.drop_duplicates(task).drop(columns="seed")
        both = ours[[*task, "seed"]].merge(same, how="left").merge(first, how="left", on=task, suffixes=("", "_first"))
        before = both["correct"].fillna(both["correct_first"]).to_numpy()
        after = ours["correct"].to_numpy(float)
        verdict = np.where(after > 0.5, "right", "wrong")
        parts.append(ours.assign(against=against, verdict=verdict)[np.abs(after - before) > 0.5])
    return pd.concat(parts)


def paired_domains(rows: pd.DataFrame, against: str = "base") -> pd.DataFrame:
    """``paired`` by domain over the rows of ``comparable``; empty if ``against`` is not among their methods.

    In: rows of ``add_domain``.
    """
    kept = comparable(rows)
    return paired(kept if against in set(kept["method"]) else kept.iloc[:0], against, by="domain")


def planned(
    rows: pd.DataFrame,
    contrasts: Sequence[Sequence[str]],
    margin: float = 0.05,
    checks: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The planned contrasts, each of two methods on one score: accuracy over all suites out of domain.

    Out, a row for each contrast whose methods are here: method, against, difference, low, high (95%), seeds, tasks,
    p, p_holm (one family: the contrasts of this table), detectable (the true difference that this standard error finds
    with 80% power at 0.05 over the number of contrasts), verdict. p, p_holm and detectable are NaN below SEEDS seeds,
    and where the treatment check failed, which is the verdict then; such a contrast stays in the family.

    Args:
        rows: of ``add_domain``.
        contrasts: (method, against), chosen before the runs.
        margin: the largest difference that counts as none (0.05 is 5 points), chosen before the runs.
        checks: of ``treatment.pairs``; None: all contrasts count as different treatments.
    """
    named = rows[rows["method"].isin([name for contrast in contrasts for name in contrast])]
    outside = comparable(named).query("domain == 'out of domain'")
    table = []
    for method, against in contrasts:
        if {method, against} <= set(outside["method"]) and (row := _difference(outside, method, against)):
            table.append({"method": method, "against": against, **row})
    columns = ["method", "against", "difference", "low", "high", "seeds", "tasks", "p", "se", "freedom"]
    frame = pd.DataFrame(table, columns=columns)
    tested = frame["p"].notna()
    frame["p_holm"] = math.nan
    frame.loc[tested, "p_holm"] = holm(frame.loc[tested, "p"].to_numpy(float))
    freedom = frame["freedom"].to_numpy(float)
    needed = special.stdtrit(freedom, 1 - 0.025 / max(1, tested.sum()))
    # The noncentrality at which t exceeds what Holm's correction needs in 80% of studies.
    frame["detectable"] = (frame["se"] * special.nctdtrinc(freedom, 0.2, needed)).where(tested)
    frame["verdict"] = [_verdict(r._asdict(), margin) for r in frame.itertuples()]
    if checks is not None:
        failed = checks[checks["gate"] == "same treatment"]
        pairs = set(zip(failed["method"], failed["against"], strict=True))
        same = [pair in pairs for pair in zip(frame["method"], frame["against"], strict=True)]
        frame.loc[same, "verdict"] = "same treatment"
        frame.loc[same, ["p", "p_holm", "detectable"]] = math.nan
    return frame.drop(columns=["se", "freedom"])


def _verdict(row: dict[str, Any], margin: float) -> str:
    if row["seeds"] < SEEDS:
        return f"no verdict: {row['seeds']} of at least {SEEDS} seeds"
    points, inside = f"{100 * margin:g} points", -margin < row["low"] and row["high"] < margin
    if row["p_holm"] < 0.05:
        side = "higher" if row["difference"] > 0 else "lower"
        return f"{side}, by less than {points}" if inside else side
    return f"no difference of more than {points}" if inside else "undecided"


def tuning(rows: pd.DataFrame, runs: pd.DataFrame, suites: Sequence[str]) -> pd.DataFrame:
    """The best learning rate of each method. In: rows of ``evaluations`` (of the validation split), ``methods``.

    Out, a row for each method (without the rate in its label) and learning_rate: accuracy over ``suites``, low, high
    (Wilson), n, chosen (the method's most accurate rate; among equals the lowest). Methods with one rate are left out.
    Raises InputError if none of these suites was evaluated, or no method has two rates.
    """
    chosen = rows[rows["suite"].isin(suites)]
    if chosen.empty:
        evaluated = ", ".join(sorted(set(rows["suite"])))
        raise InputError(f"suites={list(suites)}: not evaluated here; there are {evaluated}")
    rates = runs.set_index("run")["parameters"].map(lambda p: float(p.get("learning_rate", math.nan)))
    plain = chosen["method"].str.replace(r" learning_rate=\S+", "", regex=True)
    labelled = chosen.assign(method=plain, learning_rate=chosen["run"].map(rates))
    table = accuracy(labelled, by=["method", "learning_rate"])
    table = table[table.groupby("method")["learning_rate"].transform("nunique") > 1]
    if table.empty:
        raise InputError("no method was trained at two rates: studies/tune.yaml makes such runs; give them as runs=[…]")
    table = table.sort_values(["accuracy", "learning_rate"], ascending=[False, True])
    table = table.assign(chosen=~table.duplicated("method")).sort_index()
    return table[["method", "learning_rate", "accuracy", "low", "high", "n", "chosen"]]


def cost(rows: pd.DataFrame, training: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """What each method costs. In: ``evaluations``, ``rollouts`` and ``methods`` of the same runs.

    Out, a row a method: calls, tokens (sampled, per evaluated task), rollouts, rollout_tokens (sampled in training,
    all runs), seconds (wall clock of all runs, of the last attempt; NaN if not recorded).
    """
    table = (
        without_failures(rows).groupby("method", sort=False).agg(calls=("n_calls", "mean"), tokens=("n_tokens", "mean"))
    )
    trained = training.groupby("method").agg(rollouts=("task_id", "size"), rollout_tokens=("n_tokens", "sum"))
    table = table.join(trained).fillna({"rollouts": 0, "rollout_tokens": 0})
    seconds = runs.groupby("method")["seconds"].sum(min_count=1)
    return table.astype({"rollouts": int, "rollout_tokens": int}).join(seconds).reset_index()
