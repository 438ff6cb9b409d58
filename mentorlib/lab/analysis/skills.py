"""pass@k, longer chains, recovering from a failed call, and answering without tools."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from .comparison import accuracy, comparable
from .outcomes import with_teacher
from .stats import by_group, clustered_variance, effective_clusters, tool_clusters


def pass_at_k(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of tasks that at least one of k samples solves. In: rows of ``load.samples``, with ``domain`` (add_domain).

    The unbiased estimator of Chen et al. 2021 (arXiv 2107.03374), 1 - C(n - c, k) / C(n, k) for c of n samples right,
    averaged over tasks and runs, on the suites of ``comparable``. A method that is better at 1 and no better at the
    largest k prefers what the student could do before; one that is better at all k can do more.

    Out, a row for each domain, method and k from 1 to the number of judged samples that most tasks have under every
    method (tasks with fewer are left out): share, low, high (95%, Student's t over sets of tasks with the same tools,
    runs averaged first: other tasks, not other seeds), tasks, runs.
    """
    judged = comparable(rows).dropna(subset=["correct"]).astype({"correct": float})
    place = ["run", "suite", "task_id"]
    samples = judged.groupby(place)["correct"].transform("size")
    most = int(samples.groupby(judged["method"]).agg(lambda counts: counts.mode().max()).min()) if len(judged) else 0
    judged = judged[samples >= most]

    def summarise(group: pd.DataFrame) -> pd.DataFrame:
        counts = group.groupby(place)["correct"].agg(["size", "sum"])
        tools = group.drop_duplicates(["suite", "task_id"]).set_index(["suite", "task_id"])["teacher_tools"]
        labels = tool_clusters([suite for suite, _ in tools.index], tools, [task for _, task in tools.index])
        clusters = pd.Series(labels, index=tools.index)
        table = []
        for k in range(1, most + 1):
            n, c = counts["size"].to_numpy(float), counts["sum"].to_numpy(float)
            solved = pd.Series(1 - special.binom(n - c, k) / special.binom(n, k), index=counts.index)
            task = solved.groupby(level=["suite", "task_id"]).mean()
            error = np.sqrt(clustered_variance(task.to_numpy(), clusters.reindex(task.index)))
            width = special.stdtrit(effective_clusters(labels) - 1, 0.975) * error
            low, high = max(0.0, task.mean() - width), min(1.0, task.mean() + width)
            table.append([k, task.mean(), low, high, len(task), group["run"].nunique()])
        return pd.DataFrame(table, columns=["k", "share", "low", "high", "tasks", "runs"])

    frames = [
        summarise(group).assign(domain=domain, method=method)
        for (domain, method), group in judged.groupby(["domain", "method"], sort=False)
    ]
    columns = ["domain", "method", "k", "share", "low", "high", "tasks", "runs"]
    return pd.concat(frames)[columns] if frames else pd.DataFrame(columns=columns)


def by_calls(rows: pd.DataFrame) -> pd.DataFrame:
    """``comparison.accuracy`` by method and ``calls``, how many the teacher made. In: rows of ``evaluations``."""
    rows = with_teacher(rows)
    counted = rows.assign(calls=rows["teacher_tools"].map(len)).sort_values("calls", kind="stable")
    return accuracy(counted, by=["calls", "method"])


def habits(rows: pd.DataFrame) -> pd.DataFrame:
    """How each method handles errors, and whether it calls too much. In: rows of ``evaluations``.

    Out, a row a method, shares of rows: failed (with a failed call: its result is an error), recovered (right, of
    those), more_calls (more calls than the teacher, of the rows where the teacher made any), abstained (no call, where
    no tool fits), abstained_right (and the answer right), n; NaN where there is no such row.
    """
    columns = ["failed", "recovered", "more_calls", "abstained", "abstained_right", "n"]
    judged = rows.dropna(subset=["correct"])
    judged = judged.assign(
        correct=judged["correct"].astype(float), erred=[_failed_call(messages) for messages in judged["messages"]]
    )

    def summarise(group: pd.DataFrame) -> dict[str, Any]:
        taught = with_teacher(group)
        teacher = taught["teacher_tools"].map(len)
        none = taught[teacher == 0]
        quiet = none["n_calls"].eq(0)
        return (
            {"failed": group["erred"].mean(), "recovered": group.loc[group["erred"], "correct"].mean()}
            | {"more_calls": (taught["n_calls"] > teacher)[teacher > 0].mean()}
            | {"abstained": quiet.mean(), "abstained_right": (quiet & none["correct"].eq(1)).mean()}
            | {"n": len(group)}
        )

    return by_group(judged, ["method"], summarise, columns)


def _failed_call(messages: list[dict[str, Any]]) -> bool:
    return any(m["role"] == "tool" and str(m.get("content")).strip().startswith("error:") for m in messages)
