"""Accuracy by suite and domain, and differences between methods on the same tasks."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...core import InputError
from .stats import by_group, holm, mcnemar, two_way_clustered, wilson


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

    Kept are the methods that have the commonest suite, and the suites that all of these methods have.
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
    Where a task has several rows, the interval uses the effective sample size from the variance between tasks (Kish's
    design effect). It covers the choice of tasks, not the variance between training seeds.
    """

    def summarise(group: pd.DataFrame) -> dict[str, Any]:
        judged = group.dropna(subset=["correct"])
        right, n = judged["correct"].astype(float), len(judged)
        p = right.mean() if n else math.nan
        means = right.groupby([judged["suite"], judged["task_id"]]).mean()
        effective = float(len(means))
        if len(means) < n and len(means) > 1 and means.var() > 0:
            effective = min(float(n), max(effective, p * (1 - p) / (means.var() / len(means))))
        low, high = wilson(p * effective, effective) if n else (math.nan, math.nan)
        return (
            {"accuracy": p, "low": low, "high": high, "n": n, "tasks": len(means), "unjudged": len(group) - n}
            | {"runs": judged["run"].nunique(), "sd_runs": right.groupby(judged["run"]).mean().std()}
            | {"word_f1": judged["word_f1"].astype(float).mean() if "word_f1" in judged else math.nan}
        )

    columns = ["accuracy", "low", "high", "n", "tasks", "unjudged", "runs", "sd_runs", "word_f1"]
    return by_group(rows, by, summarise, columns)


def paired(rows: pd.DataFrame, against: str = "base", by: str = "suite") -> pd.DataFrame:
    """The difference in accuracy between each method and ``against`` on the same tasks.

    In: rows of ``evaluations``. Out, a row for each value of ``by`` and other method: difference (mean over runs and
    tasks, -1..1) with the intervals of ``two_way_clustered``, runs, tasks, fixed, broke (tasks that only the one or the
    other solved: more than half of the task's rows are correct), p, p_holm (Holm-Bonferroni over the whole table). With
    one run of each, p is McNemar's exact test on fixed and broke. GRPO methods with the same seeds are compared seed by
    seed, because such runs sample the same tasks in the same order. A method with one run adds no variance between
    seeds: right for base, which is not trained; for another the interval leaves that variance out.

    Raises InputError if there are rows and none is of ``against``.
    """
    methods = sorted(set(rows["method"]))
    if methods and against not in methods:
        raise InputError(f"against={against!r}: no such method here; the methods are: {', '.join(methods)}")
    judged = rows.dropna(subset=["correct"]).astype({"correct": float})
    seed_of = dict(zip(judged["run"], judged["seed"], strict=True))
    differences = []
    for value, group in judged.groupby(by, sort=False):
        tables = {  # tasks x runs, in the order of seeds
            method: subset.pivot_table(index=["suite", "task_id"], columns="run", values="correct", aggfunc="mean")
            .dropna()
            .rename(columns=seed_of)
            .sort_index(axis=1)
            for method, subset in group.groupby("method", sort=False)
        }
        other = tables.pop(against, pd.DataFrame())
        for method, table in tables.items():
            tasks = table.index.intersection(other.index)
            if not len(tasks):
                continue
            values, baseline = table.loc[tasks].to_numpy(), other.loc[tasks].to_numpy()
            trained_alike = method.startswith("grpo-") and against.startswith("grpo-") and values.shape[1] > 1
            if trained_alike and table.columns.is_unique and list(table) == list(other):
                row = two_way_clustered(values - baseline, np.zeros((len(tasks), 1)))
            else:
                row = two_way_clustered(values, baseline)
            after, before = values.mean(1) > 0.5, baseline.mean(1) > 0.5
            fixed, broke = int((~before & after).sum()), int((before & ~after).sum())
            if values.shape[1] == baseline.shape[1] == 1:
                row["p"] = mcnemar(fixed, broke)
            row |= {"runs": values.shape[1], "tasks": len(tasks), "fixed": fixed, "broke": broke}
            differences.append({by: value, "method": method, "against": against, **row})
    columns = [by, "method", "against", "difference", "low", "high", "low_tasks", "high_tasks", "low_runs", "high_runs"]
    frame = pd.DataFrame(differences, columns=[*columns, "runs", "tasks", "fixed", "broke", "p"])
    return frame.assign(p_holm=holm(frame["p"].to_numpy(float)))


def paired_domains(rows: pd.DataFrame, against: str = "base") -> pd.DataFrame:
    """``paired`` by domain over the rows of ``comparable``; empty if ``against`` is not among their methods.

    In: rows of ``add_domain``.
    """
    kept = comparable(rows)
    return paired(kept if against in set(kept["method"]) else kept.iloc[:0], against, by="domain")


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
    table = rows.groupby("method", sort=False).agg(calls=("n_calls", "mean"), tokens=("n_tokens", "mean"))
    trained = training.groupby("method").agg(rollouts=("task_id", "size"), rollout_tokens=("n_tokens", "sum"))
    table = table.join(trained).fillna({"rollouts": 0, "rollout_tokens": 0})
    seconds = runs.groupby("method")["seconds"].sum(min_count=1)
    return table.astype({"rollouts": int, "rollout_tokens": int}).join(seconds).reset_index()
