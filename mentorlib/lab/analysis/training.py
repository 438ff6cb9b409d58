"""How methods learn while they train: curves by step, and how fast they get there. From the rows of ``rollouts``."""

import math

import numpy as np
import pandas as pd
from scipy import special

from .stats import wilson

COLUMNS = [
    *("n", "rollouts", "accuracy", "low", "high", "reward", "dead", "calls", "tokens", "runs"),
    *("smooth", "worst", "best"),
]


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Training as the rollouts tell it.

    Out, a row for each method and step (its seeds pooled): n (rollouts), rollouts (of one run, so far), accuracy, low,
    high (Wilson), reward (mean total of the method's own reward: not comparable between methods), dead (share of groups
    in which all rollouts scored alike, which teach nothing), calls (a rollout), tokens (sampled, a rollout), runs; and
    of the running means over an eighth of the steps smooth (of all), worst and best (of the seed that stands lowest and
    highest there).
    """
    if rows.empty:
        return pd.DataFrame(columns=["method", "step", *COLUMNS])
    seeds = _by_step(rows)
    window = max(1, len(seeds) // 8)
    seeds = seeds.rolling(window, min_periods=1, center=True).mean()
    found = []
    for (method, step), group in rows.groupby(["method", "step"], sort=False):
        right = group["correct"].dropna().astype(float)
        low, high = wilson(right.sum(), len(right))
        spread = group.dropna(subset=["total"]).astype({"total": float}).groupby(["run", "group"])["total"].std()
        there = seeds.loc[step, method].dropna()
        found.append(
            {"method": method, "step": step, "n": len(group), "accuracy": right.mean(), "low": low, "high": high}
            | {"reward": group["total"].astype(float).mean(), "dead": (spread < 1e-8).mean()}
            | {"calls": group["n_calls"].mean(), "tokens": group["n_tokens"].mean(), "runs": group["run"].nunique()}
            | {"smooth": there.mean(), "worst": there.min(), "best": there.max()}
        )
    frame = pd.DataFrame(found)
    frame["rollouts"] = (frame["n"] / frame["runs"]).groupby(frame["method"]).cumsum()
    order = {method: i for i, method in enumerate(dict.fromkeys(rows["method"]))}
    return frame.sort_values(["method", "step"], key=lambda c: c.map(order) if c.name == "method" else c)


def speed(rows: pd.DataFrame, level: float = 0.7) -> pd.DataFrame:
    """How fast each method learns, so that "better" is not only about the last step.

    Out, a row a method: area (mean accuracy of all rollouts of training: how high its curve lies), low, high
    (95%, Student's t over runs; NaN with one), reached (rollouts until the mean of three steps is ``level`` or
    more, the median of the runs; NaN if half of them do not get there), got_there (runs that did), runs, n (rollouts).
    """
    found = []
    if len(rows):
        seeds = _by_step(rows)
        size = rows.groupby(["method", "run", "step"]).size().groupby(["method", "run"]).mean()
        for method in seeds.columns.unique("method"):
            own = seeds[method]
            area = own.mean()
            there = own.rolling(3).mean().ge(level).to_numpy().T
            first = [int(steps.argmax()) + 1 if steps.any() else math.inf for steps in there]
            reached = float(np.median([step * size[method][run] for step, run in zip(first, own, strict=True)]))
            low, high = math.nan, math.nan
            if len(area) > 1:
                low, high = area.mean() + special.stdtrit(len(area) - 1, [0.025, 0.975]) * area.sem()
            found.append(
                {"method": method, "area": area.mean(), "low": low, "high": high}
                | {"reached": reached if math.isfinite(reached) else math.nan}
                | {"got_there": sum(map(math.isfinite, first)), "runs": len(area)}
                | {"n": int((rows["method"] == method).sum())}
            )
    return pd.DataFrame(found, columns=["method", "area", "low", "high", "reached", "got_there", "runs", "n"])


def _by_step(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of training rollouts: a row a step, a column a method and run, in order of appearance.

    NaN where all that a run sampled in a step is ours.
    """
    judged = rows.dropna(subset=["correct"]).astype({"correct": float})
    wide = judged.pivot_table(index="step", columns=["method", "run"], values="correct", aggfunc="mean")
    columns = pd.MultiIndex.from_frame(rows[["method", "run"]].drop_duplicates())
    return wide.reindex(index=sorted(rows["step"].unique()), columns=columns)
