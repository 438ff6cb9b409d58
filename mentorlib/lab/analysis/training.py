"""Training curves by step, and how fast methods learn. In: rows of ``rollouts``."""

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from .comparison import comparable
from .stats import by_group


def training_curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy, reward and zero-variance groups by step.

    Out, a row for each method and step (its seeds pooled): n (rollouts), accuracy, reward (mean total of the reward
    trained with: not comparable between methods), zero_variance (share of groups whose rewards are all equal or fewer
    than two: no advantage), runs, rollouts (of one run, so far); and of the running means over an eighth of the steps
    smooth (over all seeds), seed_low and seed_high (of the lowest and the highest seed at that step).
    """
    columns = ["n", "accuracy", "reward", "zero_variance", "runs", "smooth", "seed_low", "seed_high"]
    if rows.empty:
        return pd.DataFrame(columns=["method", "step", *columns, "rollouts"])
    seeds = _accuracy_by_step(rows)
    smooth = seeds.rolling(max(1, len(seeds) // 8), min_periods=1, center=True).mean()

    def summarise(group: pd.DataFrame) -> dict[str, Any]:
        spread = group.astype({"total": float}).groupby(["run", "group"])["total"].std().fillna(0.0)  # NaN: one reward
        around = smooth.loc[group["step"].iloc[0], group["method"].iloc[0]].dropna()
        return (
            {"n": len(group), "accuracy": group["correct"].astype(float).mean(), "runs": group["run"].nunique()}
            | {"reward": group["total"].astype(float).mean(), "zero_variance": (spread < 1e-8).mean()}
            | {"smooth": around.mean(), "seed_low": around.min(), "seed_high": around.max()}
        )

    curves = by_group(rows.sort_values("step", kind="stable"), ["method", "step"], summarise, columns)
    return curves.assign(rollouts=(curves["n"] / curves["runs"]).groupby(curves["method"]).cumsum())


def early_and_late(values: pd.Series) -> tuple[float, float]:
    """The means over the first and the last quarter of a run's steps, which the figures of training give."""
    quarter = max(1, len(values) // 4)
    return float(values.head(quarter).mean()), float(values.tail(quarter).mean())


def learning_speed(rows: pd.DataFrame, level: float = 0.7) -> pd.DataFrame:
    """How fast each method learns.

    Out, a row a method: area (mean accuracy of all training rollouts), low, high (95%, Student's t over runs; NaN with
    one), rollouts_to_level (rollouts until the mean of three steps is ``level`` or more, the median of the runs; NaN if
    half of them do not reach it), runs_at_level (runs that reach it), runs, n (rollouts).
    """
    columns = ["area", "low", "high", "rollouts_to_level", "runs_at_level", "runs", "n"]
    if rows.empty:
        return pd.DataFrame(columns=["method", *columns])
    seeds = _accuracy_by_step(rows)

    def summarise(group: pd.DataFrame) -> dict[str, Any]:
        curves = seeds[group["method"].iloc[0]]
        size = group.groupby(["run", "step"]).size().groupby("run").mean()  # rollouts a step
        reached = curves.rolling(3).mean().ge(level).to_numpy().T
        first = [int(steps.argmax()) + 1 if steps.any() else math.inf for steps in reached]
        rollouts = float(np.median([step * size[run] for step, run in zip(first, curves, strict=True)]))
        area, low, high = curves.mean(), math.nan, math.nan
        if len(area) > 1:
            low, high = area.mean() + special.stdtrit(len(area) - 1, [0.025, 0.975]) * area.sem()
        return (
            {"area": area.mean(), "low": low, "high": high}
            | {"rollouts_to_level": rollouts if math.isfinite(rollouts) else math.nan}
            | {"runs_at_level": sum(map(math.isfinite, first)), "runs": len(area), "n": len(group)}
        )

    return by_group(rows, ["method"], summarise, columns)


def _accuracy_by_step(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of training rollouts: a row a step, a column a method and run, in order of appearance.

    NaN where all rollouts of a run's step failed for infrastructure reasons.
    """
    judged = rows.dropna(subset=["correct"]).astype({"correct": float})
    wide = judged.pivot_table(index="step", columns=["method", "run"], values="correct", aggfunc="mean")
    columns = pd.MultiIndex.from_frame(rows[["method", "run"]].drop_duplicates())
    return wide.reindex(index=sorted(rows["step"].unique()), columns=columns)


def carry_over(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy out of domain against in domain along training, for methods at equal skill in domain.

    In: rows of ``load.along``, with ``domain`` (add_domain). Out, a row for each method, run and step: inside, outside
    (means over each domain's suites of ``comparable``), tasks. And of each method and step the means over its runs,
    ``run`` "".
    """
    columns = ["method", "run", "step", "inside", "outside", "tasks"]
    judged = comparable(rows).dropna(subset=["correct"]).astype({"correct": float})
    if judged.empty:
        return pd.DataFrame(columns=columns)
    suites = judged.groupby(["method", "run", "step", "domain", "suite"], sort=False)["correct"].mean()
    wide = suites.groupby(level=["method", "run", "step", "domain"], sort=False).mean().unstack("domain")
    wide = wide.reindex(columns=["in domain", "out of domain"]).set_axis(["inside", "outside"], axis=1)
    counts = judged.groupby(["method", "run", "step"])[["suite", "task_id"]].apply(lambda g: len(g.drop_duplicates()))
    single = wide.assign(tasks=counts).reset_index()
    means = single.groupby(["method", "step"], sort=False)[["inside", "outside", "tasks"]].mean().reset_index()
    return pd.concat([single, means.assign(run="")], ignore_index=True)[columns]
