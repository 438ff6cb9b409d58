"""What a reward does: stored trajectories under every reward, nothing sampled and nothing trained.

``rescore`` scores the rows that ``analysis`` reads; the rest compares rewards on them: where release and correction
part, what advantages each would have given, and which terms these are made of.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...core import Call, InputError, Reference, Trajectory, tool_messages
from ...rewards.reward import OFFICIAL, REWARDS
from ...rewards.table import NEEDS_RESULTS
from .stats import wilson


def rescore(rows: pd.DataFrame, version: str = "corrected", rewards: Sequence[str] = ()) -> pd.DataFrame:
    """Score stored rows under several rewards, without sampling anything.

    In: rows of ``rollouts`` or ``evaluations``. Out, one row for each row and reward: row (index into ``rows``), run,
    method, step, group, correct, outcome, n_tokens, trained (the reward that the run was trained with), reward,
    version, total, terms, weights (dicts by term), reason. Rows that are ours (stop == "infrastructure") are left
    out, as in training. A group of ``rollouts`` is scored as one, a row of ``evaluations`` alone. ``version`` is
    "corrected" or "official"; ``rewards`` are names, none means all. Raises InputError for an unknown one.
    """
    versions = {"corrected": REWARDS, "official": OFFICIAL}
    if version not in versions:
        raise InputError(f"version={version!r}: say corrected or official")
    table = versions[version]
    for name in rewards:
        if name not in table:
            raise InputError(f"reward {name!r}: no such {version} reward; there are {', '.join(table)}")
    lacking = () if "teacher_results" in rows else NEEDS_RESULTS  # rows of an older library
    chosen = [table[name] for name in rewards or table if name not in lacking]
    keys = ("run", "method", "step", "group", "correct", "outcome", "n_tokens")
    found = []
    told = rows[rows["stop"] != "infrastructure"]
    kept = zip(told.index, told.to_dict("records"), strict=True)
    for _, group in itertools.groupby(kept, key=lambda x: (x[1].get("run"), x[1].get("step"), x[1].get("group", x[0]))):
        members = [(i, row, *stored(row)) for i, row in group]
        for reward in chosen:
            scores = [
                reward(trajectory, reference, answer=str(row["answer"]), valid_tools=list(row["tools"]))
                for _, row, trajectory, reference in members
            ]
            for (index, row, _, _), score in zip(members, reward.in_group(scores), strict=True):
                found.append(
                    {"row": index, **{k: row.get(k) for k in keys}, "trained": row.get("reward")}
                    | {"reward": reward.name, "version": version}
                    | {"total": score.total if score.judged or version == "official" else math.nan}
                    | {"terms": score.terms, "weights": score.weights, "reason": score.reason}
                )
    return pd.DataFrame(
        found, columns=["row", *keys, "trained", "reward", "version", "total", "terms", "weights", "reason"]
    )


def stored(row: Mapping[str, Any]) -> tuple[Trajectory, Reference]:
    """Rebuild from a stored row the two things that a reward reads (no token ids)."""
    calls = row.get("teacher_calls")
    if not isinstance(calls, list):
        calls = [{"name": name, "arguments": {}} for name in row["teacher_tools"]]
    task = str(row["task_id"])
    results = row.get("teacher_results")
    told = tool_messages(results if isinstance(results, list) else [])
    reference = Reference(task, told, [Call(c["name"], c["arguments"]) for c in calls], str(row["answer"]))
    return Trajectory(task, list(row["messages"]), str(row["response"]), row["stop"]), reference


def version_differences(official: pd.DataFrame, corrected: pd.DataFrame) -> pd.DataFrame:
    """Where the release and the mended reward pay differently. In: two results of ``rescore`` on the same rows.

    Out, a row for each parting trajectory and reward, the widest first: row, run, reward, official, corrected
    (totals), change, official_reason, corrected_reason, outcome.
    """
    keys = ["row", "run", "reward", "outcome"]
    both = official[[*keys, "total", "reason"]].merge(
        corrected[[*keys, "total", "reason"]], on=keys, suffixes=("_o", "_c")
    )
    both = both.rename(
        columns={
            "total_o": "official",
            "total_c": "corrected",
            "reason_o": "official_reason",
            "reason_c": "corrected_reason",
        }
    )
    both = both.assign(change=both["corrected"] - both["official"])
    parted = both[both["change"].abs() > 1e-9]
    return parted.iloc[parted["change"].abs().to_numpy().argsort(kind="stable")[::-1]].reset_index(drop=True)


def version_difference_share(official: pd.DataFrame, corrected: pd.DataFrame) -> pd.DataFrame:
    """How often the release and the mended rewards pay differently. In: two results of ``rescore`` on the same rows.

    Out, a row for each reward and one for ``any``: reward, share (of trajectories), low, high (Wilson), n.
    """
    parted, n = version_differences(official, corrected), corrected["row"].nunique()
    counts = {reward: own["row"].nunique() for reward, own in parted.groupby("reward")}
    counts = {"any": parted["row"].nunique()} | {r: counts.get(r, 0) for r in dict.fromkeys(official["reward"])}
    return pd.DataFrame(
        [
            {"reward": reward, "share": k / n if n else math.nan, "n": n}
            | dict(zip(("low", "high"), wilson(k, n), strict=True))
            for reward, k in counts.items()
        ],
        columns=["reward", "share", "low", "high", "n"],
    )


def advantages(scored: pd.DataFrame) -> pd.DataFrame:
    """Normalise totals within their groups again, as TRL's GRPO does: (r - mean) / (std + 1e-4), std with n - 1.

    In: ``rescore`` of rollouts, or rollouts themselves (their totals under the reward they were trained with). Out:
    the same with ``advantage`` and ``dead`` (no spread within the group: it teaches nothing). A group is one run,
    step, group and reward. Honest limit: another reward would have led to other rollouts, so this tells what it would
    have taught at this step, not where it would have led. Source: trl.GRPOTrainer, scale_rewards="group"; arXiv
    2402.03300, section 4.1.
    """
    scored = scored.dropna(subset=["total"]).astype({"total": float})
    totals = scored.groupby(["run", "step", "group", "reward"], dropna=False)["total"]
    std = totals.transform("std").fillna(0.0)
    return scored.assign(advantage=(scored["total"] - totals.transform("mean")) / (std + 1e-4), dead=std < 1e-8)


def counterfactual(scored: pd.DataFrame) -> pd.DataFrame:
    """What each reward would have taught on the groups that another one produced. In: ``rescore`` of rollouts.

    Out, a row for each method (its own reward is the one compared with) and reward: flips (share of rollouts pushed
    the other way), silenced (share with a push that gets none), woken (share without one that gets one), dead (share
    of groups without spread under this reward), spearman (mean rank correlation of advantages within groups that live
    under both), n (rollouts).
    """
    scored = advantages(scored)
    found = []
    for (method, trained), group in scored.groupby(["method", "trained"], sort=False):
        wide = group.pivot_table(index=["run", "step", "group", "row"], columns="reward", values="advantage")
        if trained not in wide:
            continue
        own = wide[trained]
        for name in dict.fromkeys(group["reward"]):
            other = wide[name]
            a, b = np.sign(own.where(own.abs() > 1e-9, 0)), np.sign(other.where(other.abs() > 1e-9, 0))
            each = _spearman(own, other, ["run", "step", "group"])
            dead = group[group["reward"] == name].groupby(["run", "step", "group"])["dead"].first().mean()
            found.append(
                {"method": method, "trained": trained, "reward": name, "flips": float((a * b < 0).mean())}
                | {"silenced": float(((a != 0) & (b == 0)).mean()), "woken": float(((a == 0) & (b != 0)).mean())}
                | {"dead": dead, "spearman": each, "n": len(wide)}
            )
    columns = ["method", "trained", "reward", "flips", "silenced", "woken", "dead", "spearman", "n"]
    return pd.DataFrame(found, columns=columns)


def _spearman(a: pd.Series, b: pd.Series, levels: Sequence[str]) -> float:
    """Mean over groups of the rank correlation, of those groups in which both vary; NaN if there is none."""
    ranks = pd.DataFrame({"a": a.round(9), "b": b.round(9)}).groupby(level=levels).rank()
    centred = ranks - ranks.groupby(level=levels).transform("mean")
    sums = (
        pd.DataFrame({"ab": centred["a"] * centred["b"], "aa": centred["a"] ** 2, "bb": centred["b"] ** 2})
        .groupby(level=levels)
        .sum()
    )
    alive = sums[(sums["aa"] > 0) & (sums["bb"] > 0)]
    return float((alive["ab"] / np.sqrt(alive["aa"] * alive["bb"])).mean()) if len(alive) else math.nan


def decomposition(scored: pd.DataFrame) -> pd.DataFrame:
    """Split the advantage exactly into the reward's terms. In: rollouts (their own terms) or ``rescore`` of them.

    A total is the sum of weight x term, so the advantage is the sum over terms of (w t - its group mean) / (std +
    1e-4); what the terms leave over goes to a term ``rest``. Out, a row for each method, reward, step and term: share
    (sum of advantage x the term's part over the sum of squared advantages: the shares of a step add up to 1, a
    negative one means that the term pulls against the rest), size (mean absolute part), alive (rollouts of the step
    in groups with spread).
    """
    frame = advantages(scored.dropna(subset=["step"]))
    frame = frame[~frame["dead"]].reset_index(drop=True)
    columns = ["method", "reward", "step", "term", "share", "size", "alive"]
    if frame.empty:
        return pd.DataFrame(columns=columns)
    parts = pd.DataFrame(
        [
            {k: v * (w or {}).get(k, 1.0) for k, v in (t or {}).items()}
            for t, w in zip(frame["terms"], frame["weights"], strict=True)
        ]
    ).fillna(0.0)
    rest = frame["total"] - parts.sum(axis=1)
    if rest.abs().max() > 1e-9:
        parts["rest"] = rest
    keys = [frame[k] for k in ("run", "step", "group", "reward")]
    std = frame["total"].groupby(keys, dropna=False).transform("std")
    parts = (parts - parts.groupby(keys, dropna=False).transform("mean")).div(std + 1e-4, axis=0)
    found = []
    for (method, reward, step), index in frame.groupby(["method", "reward", "step"], sort=False).groups.items():
        own, whole = parts.loc[index], frame.loc[index, "advantage"]
        for term in parts.columns:
            if own[term].abs().max() > 1e-12 or any(term in (t or {}) for t in frame.loc[index, "terms"]):
                share = float((own[term] * whole).sum() / (whole**2).sum())
                found.append([method, reward, step, term, share, float(own[term].abs().mean()), len(index)])
    return pd.DataFrame(found, columns=columns)
