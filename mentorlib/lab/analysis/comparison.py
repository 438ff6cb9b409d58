"""Accuracy by suite and domain, and differences between methods on the same tasks."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ...core import InputError
from .stats import by_group, holm, mcnemar, two_way_clustered, wilson


def domains(rows: pd.DataFrame, in_domain: Sequence[str]) -> pd.DataFrame:
    """Add ``domain``, "in domain" or "out of domain" by the row's suite, and put the rows of the former first."""
    inside = rows["suite"].isin(in_domain)
    named = rows.assign(domain=np.where(inside, "in domain", "out of domain"))
    return pd.concat([named[inside], named[~inside]])


def comparable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows on which means over suites compare methods: all were asked the same. In: rows of ``domains``.

    Left out are methods that lack a suite in domain, and suites that one of the other methods lacks.
    """
    asked = rows.groupby("method", sort=False)["suite"].agg(set)
    inside = set(rows.loc[rows["domain"] == "in domain", "suite"])
    whole = [method for method, own in asked.items() if inside <= own] or list(asked.index)
    return shared(rows[rows["method"].isin(whole)])


def shared(table: pd.DataFrame) -> pd.DataFrame:
    """The part of a table (method and suite a row) on which methods can be compared: each has the same suites there.

    Those are the methods with the suite that most have, and the suites that all of these have.
    """
    suites = table.groupby("method")["suite"].agg(set)
    common = table[["method", "suite"]].drop_duplicates()["suite"].mode().iloc[0]
    suites = suites[[common in own for own in suites]]
    return table[table["method"].isin(suites.index) & table["suite"].isin(set.intersection(*suites))]


def accuracy(rows: pd.DataFrame, by: Sequence[str] = ("suite", "method")) -> pd.DataFrame:
    """Accuracy with a 95% Wilson interval. In: rows of ``evaluations``.

    Out: ``by``, accuracy, low, high, n, tasks, unjudged, runs, sd_runs (standard deviation of accuracy between runs,
    NaN with one), word_f1 (its mean where answers are graded by words, accuracy being exact match; else NaN). Rows that
    are ours (correct is None) are left out and counted in ``unjudged``. Where a task has several rows (samples, seeds),
    n in the interval is the effective sample size from the variance between tasks (Kish's design effect), so that ten
    samples of a task do not count as ten tasks. The interval covers the choice of tasks, not the luck of a training
    seed.
    """

    def one(group: pd.DataFrame) -> pd.Series:
        judged = group.dropna(subset=["correct"])
        right, n = judged["correct"].astype(float), len(judged)
        p = right.mean() if n else math.nan
        means = right.groupby([judged["suite"], judged["task_id"]]).mean()
        effective = float(len(means))
        if len(means) < n and len(means) > 1 and means.var() > 0:
            effective = min(float(n), max(effective, p * (1 - p) / (means.var() / len(means))))
        low, high = wilson(p * effective, effective) if n else (math.nan, math.nan)
        return pd.Series(
            {"accuracy": p, "low": low, "high": high, "n": n, "tasks": len(means), "unjudged": len(group) - n}
            | {"runs": judged["run"].nunique(), "sd_runs": right.groupby(judged["run"]).mean().std()}
            | {"word_f1": judged["word_f1"].astype(float).mean() if "word_f1" in judged else math.nan}
        )

    return by_group(rows, by, one, ["accuracy", "low", "high", "n", "tasks", "unjudged", "runs", "sd_runs", "word_f1"])


def paired(rows: pd.DataFrame, against: str = "base", by: str = "suite") -> pd.DataFrame:
    """What each method changes against one method on the same tasks.

    In: rows of ``evaluations``. Out, a row for each value of ``by`` and other method: difference (mean over runs and
    tasks of the difference in accuracy, in points of 0..1), low, high (95%, for other tasks and, where a method has
    several runs, other seeds; see ``crossed``), low_tasks, high_tasks (for other tasks alone), low_runs, high_runs
    (for other seeds alone; NaN with one run of each), runs, tasks, fixed, broke (tasks solved by only the one; solved =
    more than half of the task's rows are right), p, p_holm (Holm-Bonferroni over the whole table). With one run of each
    p is McNemar's exact two-sided test on fixed against broke, with more that of ``crossed``: seed by seed where both
    methods are GRPO with the same seeds, since such runs sample the same tasks in the same order. A method with one run
    adds no spread of seeds: right for base, which is not trained; for another the interval leaves out the luck of
    training. Raises InputError if there are rows and none is of ``against``.
    """
    if len(rows) and against not in set(rows["method"]):
        raise InputError(
            f"against={against!r}: no such method here; the methods are: {', '.join(sorted(set(rows['method'])))}"
        )
    found = []
    judged = rows.dropna(subset=["correct"]).astype({"correct": float})
    seed_of = dict(zip(judged["run"], judged["seed"], strict=True))
    for value, group in judged.groupby(by, sort=False):
        tables = {
            method: own.pivot_table(
                index=["suite", "task_id"], columns="run", values="correct", aggfunc="mean"
            ).dropna()
            for method, own in group.groupby("method", sort=False)
        }
        if against not in tables:
            continue
        for method in (m for m in tables if m != against):
            index = tables[method].index.intersection(tables[against].index)
            if not len(index):
                continue
            one, other = (
                tables[name].loc[index].rename(columns=seed_of).sort_index(axis=1) for name in (method, against)
            )
            ours, theirs = one.to_numpy(), other.to_numpy()  # tasks x runs, by seed
            matched = list(one) == list(other) and one.columns.is_unique and ours.shape[1] > 1
            matched = matched and all(name.startswith("grpo-") for name in (method, against))
            before, after = theirs.mean(1) > 0.5, ours.mean(1) > 0.5
            fixed, broke = int((~before & after).sum()), int((before & ~after).sum())
            gains = (
                two_way_clustered(ours - theirs, np.zeros((len(index), 1)))
                if matched
                else two_way_clustered(ours, theirs)
            )
            row = {by: value, "method": method, "against": against, **gains}
            row |= {"runs": ours.shape[1], "tasks": len(index), "fixed": fixed, "broke": broke}
            if max(ours.shape[1], theirs.shape[1]) == 1:
                row["p"] = mcnemar(fixed, broke)
            found.append(row)
    columns = [by, "method", "against", "difference", "low", "high", "low_tasks", "high_tasks", "low_runs", "high_runs"]
    frame = pd.DataFrame(found, columns=[*columns, "runs", "tasks", "fixed", "broke", "p"])
    return frame.assign(p_holm=holm(frame["p"].to_numpy(float)))


def paired_domains(rows: pd.DataFrame, against: str = "base") -> pd.DataFrame:
    """``paired`` by domain, over the suites that all have (``comparable``). In: rows of ``domains``.

    Empty where ``against`` is not among the methods that can be compared so.
    """
    even = comparable(rows)
    return paired(even if against in set(even["method"]) else even.iloc[:0], against, by="domain")


def tuning(rows: pd.DataFrame, runs: pd.DataFrame, suites: Sequence[str]) -> pd.DataFrame:
    """Which learning rate each method should have. In: rows of ``evaluations`` (of the validation split), ``methods``.

    Out, a row for each method (without the rate in its label) and learning_rate: accuracy over ``suites``, low, high
    (Wilson), n, chosen (the method's most accurate; of equals the lowest rate). A method with one rate had no choice:
    it is left out. Raises InputError if none of these suites was evaluated, or no method has two rates.
    """
    own = rows[rows["suite"].isin(suites)]
    if own.empty:
        raise InputError(
            f"suites={list(suites)}: not evaluated here; there are {', '.join(sorted(set(rows['suite'])))}"
        )
    rates = runs.set_index("run")["parameters"].map(lambda p: float(p.get("learning_rate", math.nan)))
    plain = own["method"].str.replace(r" learning_rate=\S+", "", regex=True)
    table = accuracy(own.assign(method=plain, learning_rate=own["run"].map(rates)), by=["method", "learning_rate"])
    table = table[table.groupby("method")["learning_rate"].transform("nunique") > 1]
    if table.empty:
        raise InputError(
            "no method was trained at two rates: studies/tune.yaml makes such runs; name yours as runs=[…]"
        )
    table = table.sort_values(["accuracy", "learning_rate"], ascending=[False, True])
    table = table.assign(chosen=~table.duplicated("method")).sort_index()
    return table[["method", "learning_rate", "accuracy", "low", "high", "n", "chosen"]]


def shares(rows: pd.DataFrame, column: str = "outcome", by: Sequence[str] = ("suite", "method")) -> pd.DataFrame:
    """How a column (``outcome`` or ``stop``) is spread. Out: ``by``, the column, n, share (within ``by``)."""
    counts = rows.groupby([*by, column], sort=False).size().rename("n").reset_index()
    return counts.assign(share=counts["n"] / counts.groupby(list(by))["n"].transform("sum"))


def cost(rows: pd.DataFrame, training: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """What each method costs. In: ``evaluations``, ``rollouts`` and ``methods`` of the same runs.

    Out, a row a method: calls, tokens (sampled, per evaluated task), rollouts, rollout_tokens (sampled in training,
    all runs), seconds (wall clock of each run, as last begun; NaN if they do not tell).
    """
    out = rows.groupby("method", sort=False).agg(calls=("n_calls", "mean"), tokens=("n_tokens", "mean"))
    trained = training.groupby("method").agg(rollouts=("task_id", "size"), rollout_tokens=("n_tokens", "sum"))
    seconds = runs.groupby("method")["seconds"].sum(min_count=1)
    filled = (
        out.join(trained).fillna({"rollouts": 0, "rollout_tokens": 0}).astype({"rollouts": int, "rollout_tokens": int})
    )
    return filled.join(seconds).reset_index()
