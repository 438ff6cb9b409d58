"""Treatment check: how far two arms of a study were treated differently, before their difference is read.

Two rewards can be the same treatment: if every right rollout gets more than every wrong one under both, groups are
ranked alike, the updates are alike, and the arms end as nearly the same model. An interval of their difference is then
narrow around zero and says nothing of the rewards. Arms of a study share tasks and random numbers seed by seed, so that
equal policies give equal rollouts, byte for byte.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...rewards.function import function_file
from .load import subsample_groups
from .outcomes import without_failures
from .reward_effects import rescore
from .stats import by_group
from .text import percent

_PLACE = ["seed", "step", "group", "sample", "task_id"]
_HELD_OUT = ["seed", "suite", "task_id", "sample"]


def arms(rollouts: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """What training under each method was like. In: ``load.rollouts`` and ``load.metrics`` of the same runs.

    Out, a row for each method that samples in training: right (share of rollouts), match_right, match_wrong (shares of
    the right and of the wrong rollouts whose set of tools is the teacher's: if 1 and 0, a reward for tools repeats the
    reward for the answer), all_wrong, all_right (shares of groups: only there can a reward of tools rank what the
    answer does not), kl (to the start) and entropy (nats a token) at the end (last eighth of the steps), runs, n.
    """
    columns = ["right", "match_right", "match_wrong", "all_wrong", "all_right", "kl", "entropy", "runs", "n"]
    judged = rollouts.dropna(subset=["correct"])
    match = judged["precision"].eq(1) & judged["recall"].eq(1)
    match = match.astype(float).where(judged["f1"].notna())  # NaN where no teacher did the task
    judged = judged.assign(correct=judged["correct"].astype(bool), match=match)
    last = metrics.groupby("run")["step"].transform("max")
    end = metrics[metrics["step"] > last * 7 / 8].groupby("run")[["kl", "entropy"]].mean()

    def summarise(group: pd.DataFrame) -> dict[str, Any]:
        right = group["correct"]
        groups = group.groupby(["run", "step", "group"])["correct"].agg(["min", "max"])
        return (
            {"right": right.mean(), "match_right": group.loc[right, "match"].mean()}
            | {"match_wrong": group.loc[~right, "match"].mean()}
            | {"all_wrong": (~groups["max"].astype(bool)).mean(), "all_right": groups["min"].astype(bool).mean()}
            | end.reindex(group["run"].unique()).mean().to_dict()
            | {"runs": group["run"].nunique(), "n": len(group)}
        )

    return by_group(judged, ["method"], summarise, columns)


def pairs(
    rollouts: pd.DataFrame,
    evaluated: pd.DataFrame,
    contrasts: Sequence[Sequence[str]],
    identical_max: float = 0.5,
    answers_max: float = 0.9,
    reranked_min: float = 0.1,
    groups: int = 400,
) -> pd.DataFrame:
    """How far the two methods of each contrast were treated differently, and whether that passes the gates.

    In: ``load.rollouts`` and rows of ``add_domain``. Out, a row for each contrast whose methods were evaluated out of
    domain, NaN where a method has no such rows: method, against, and

    - identical: share of rollouts of the second half of training that are the same text, same seed, step, task and
      sample (the first steps are alike under any two rewards, since both start from one model);
    - logprob_gap: mean absolute difference in the log-probability of tokens that both arms sampled after the same
      prefix, nats, in the same rollouts. No KL divergence: tokens on which the arms differ are left out;
    - reranked: share of groups, of both arms, that the two rewards rank differently;
    - answers: share of tasks out of domain on which both arms wrote the same text in evaluation, same seed;
    - n (rollouts matched), tasks (evaluated rows matched), gate: "passes"; "same treatment" if a share is beyond its
      gate; "not measured" if neither rollouts nor evaluated rows have a counterpart;
    - beyond: which shares are beyond which gates, in words; "" if none is.

    Args:
        rollouts, evaluated, contrasts: see above.
        identical_max, answers_max: the largest shares of identical rollouts and answers of different treatments.
        reranked_min: the smallest share of groups ranked differently.
        groups: scored under both rewards at most, evenly spread over steps and runs.
    """
    outside = evaluated[evaluated["domain"] == "out of domain"]
    table = []
    columns = ["method", "against", "identical", "logprob_gap", "reranked", "answers", "n", "tasks", "gate", "beyond"]
    for method, against in contrasts:
        if not {method, against} <= set(outside["method"]):
            continue
        both = _matched(_late(rollouts), method, against, _PLACE)
        tasks = _matched(outside, method, against, _HELD_OUT)
        row = {
            "identical": _same_text(both),
            "logprob_gap": _logprob_gap(both),
            "reranked": _reranked(rollouts[rollouts["method"].isin([method, against])], groups),
            "answers": _same_text(tasks),
            "n": len(both),
            "tasks": len(tasks),
        }
        beyond = [
            f"{name} {'above' if highest else 'below'} {percent(gate)}"
            for name, gate, highest in (
                ("identical", identical_max, True),
                ("answers", answers_max, True),
                ("reranked", reranked_min, False),
            )
            if (row[name] > gate if highest else row[name] < gate)
        ]
        verdict = "same treatment" if beyond else "passes" if row["n"] or row["tasks"] else "not measured"
        table.append({"method": method, "against": against, **row, "gate": verdict, "beyond": ", ".join(beyond)})
    return pd.DataFrame(table, columns=columns)


def identical_by_step(rollouts: pd.DataFrame, contrasts: Sequence[Sequence[str]]) -> pd.DataFrame:
    """Share of identical rollouts by step of training. In: ``load.rollouts``. Out: method, against, step, share, n."""
    table = []
    for method, against in contrasts:
        both = _matched(rollouts, method, against, _PLACE)
        same = both["response_a"].eq(both["response_b"]).groupby(both["step"])
        shares = zip(same.groups, same.mean(), same.size(), strict=True)
        table += [[method, against, step, share, n] for step, share, n in shares]
    return pd.DataFrame(table, columns=["method", "against", "step", "share", "n"])


def _late(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["step"] > rows.groupby("run")["step"].transform("max") / 2]


def _matched(rows: pd.DataFrame, method: str, against: str, on: list[str]) -> pd.DataFrame:
    """Rows of both methods at the same place: the columns of ``on``; response, tokens and logprobs with _a and _b."""
    kept = without_failures(rows)
    columns = [*on, "response", "logprobs", "tokens"]
    a, b = (kept[kept["method"] == name].reindex(columns=columns) for name in (method, against))
    return a.merge(b.drop_duplicates(on), on=on, suffixes=("_a", "_b"))


def _same_text(both: pd.DataFrame) -> float:
    return float(both["response_a"].eq(both["response_b"]).mean()) if len(both) else math.nan


def _logprob_gap(both: pd.DataFrame) -> float:
    """See ``pairs``. NaN if no log-probabilities are stored."""
    gaps: list[float] = []
    for row in both[["tokens_a", "tokens_b", "logprobs_a", "logprobs_b"]].itertuples(index=False):
        if not all(isinstance(value, list) for value in row):
            continue
        for one, other, ours, theirs in zip(*row, strict=False):
            if one != other:
                break
            if isinstance(ours, float | int) and isinstance(theirs, float | int):
                gaps.append(abs(ours - theirs))
    return float(np.mean(gaps)) if gaps else math.nan


def _reranked(rows: pd.DataFrame, groups: int) -> float:
    """Share of groups that the two rewards of these rows rank differently; NaN unless there are two, known by name."""
    rewards = [str(name) for name in dict.fromkeys(rows["reward"].dropna())]
    if len(rewards) != 2 or any(map(function_file, rewards)):
        return math.nan
    scored = rescore(subsample_groups(rows, groups), rewards=rewards)
    wide = scored.pivot_table(index=["run", "step", "group", "row"], columns="reward", values="total")
    wide = wide.reindex(columns=rewards).dropna()  # without rows that one of them cannot score
    ranks = wide.round(9).groupby(level=["run", "step", "group"]).rank()
    differs = ranks[rewards[0]].ne(ranks[rewards[1]])
    return float(differs.groupby(level=["run", "step", "group"]).any().mean())
