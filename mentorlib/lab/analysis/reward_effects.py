"""What a reward does: stored trajectories scored under every reward; nothing is sampled or trained.

``rescore`` scores the rows that ``load`` reads; the rest compares rewards on them: where release and correction
differ, which advantages each would have given, and which terms these consist of.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ...rewards.reward import OFFICIAL, REWARDS, Reward, get_reward
from ...rewards.stored_rows import stored_reference, stored_trajectory
from .outcomes import without_failures
from .stats import wilson


def rescore(rows: pd.DataFrame, version: str = "corrected", rewards: Sequence[str | Reward] = ()) -> pd.DataFrame:
    """Score stored rows under several rewards.

    In: rows of ``rollouts`` or ``evaluations``. Out, one row for each row and reward: row (index into ``rows``), run,
    method, step, group, correct, outcome, n_tokens, trained (the reward that the run was trained with), reward,
    version, total, terms, weights (dicts by term), reason. Infrastructure failures are left out, as in training, and a
    reward on rows without what it compares with (a teacher, its calls or their results). A
    group of ``rollouts`` is scored as one, a row of ``evaluations`` alone. ``version`` is "corrected" or "official";
    no ``rewards`` means all. Raises InputError for an unknown name.
    """
    chosen = [get_reward(name, version) for name in rewards or (OFFICIAL if version == "official" else REWARDS)]
    if "teacher_results" not in rows:  # rows of an older library
        chosen = [reward for reward in chosen if reward.needs != "results"]
    keys = ("run", "method", "step", "group", "correct", "outcome", "n_tokens")
    scored = []
    kept = without_failures(rows)
    records = zip(kept.index, kept.to_dict("records"), strict=True)
    for _, group in itertools.groupby(
        records, key=lambda item: (item[1].get("run"), item[1].get("step"), item[1].get("group", item[0]))
    ):
        members = [(index, row, stored_trajectory(row), stored_reference(row)) for index, row in group]
        for reward in chosen:
            if reward.missing(members[0][3]):  # such as a teacher
                continue
            scores = [
                reward(
                    trajectory,
                    reference,
                    answer=str(row["answer"]),
                    valid_tools=list(row["tools"]),
                    metric=row["metric"] if isinstance(row.get("metric"), str) else "answer",  # an older library's row
                )
                for _, row, trajectory, reference in members
            ]
            for (index, row, *_), score in zip(members, reward.in_group(scores), strict=True):
                scored.append(
                    {"row": index, **{k: row.get(k) for k in keys}, "trained": row.get("reward")}
                    | {"reward": reward.name, "version": version}
                    | {"total": score.total if score.judged or version == "official" else math.nan}
                    | {"terms": score.terms, "weights": score.weights, "reason": score.reason}
                )
    columns = ["row", *keys, "trained", "reward", "version", "total", "terms", "weights", "reason"]
    return pd.DataFrame(scored, columns=columns)


def version_differences(official: pd.DataFrame, corrected: pd.DataFrame) -> pd.DataFrame:
    """Trajectories that the release and the corrected reward score differently. In: two results of ``rescore``.

    Out, a row for each such trajectory and reward, the largest difference first: row, run, reward, outcome, official,
    corrected (totals), official_reason, corrected_reason, change.
    """
    keys = ["row", "run", "reward", "outcome"]
    names = {version: {"total": version, "reason": f"{version}_reason"} for version in ("official", "corrected")}
    both = official[[*keys, "total", "reason"]].rename(columns=names["official"])
    both = both.merge(corrected[[*keys, "total", "reason"]].rename(columns=names["corrected"]), on=keys)
    both = both.assign(change=both["corrected"] - both["official"])
    differing = both[both["change"].abs() > 1e-9]
    return differing.iloc[differing["change"].abs().to_numpy().argsort(kind="stable")[::-1]].reset_index(drop=True)


def with_scores(rows: pd.DataFrame, scored: pd.DataFrame) -> pd.DataFrame:
    """The rows that were scored, with those scores in place of the ones they were trained with, to be read.

    In: stored rows, and some of ``rescore``'s of them. Out, in the order of ``scored``: the stored rows with its
    reward, total, terms, weights and reason, without the advantage that training gave them.
    """
    columns = ["reward", "total", "terms", "weights", "reason"]
    shown = rows.loc[scored["row"]].drop(columns=["advantage", *columns], errors="ignore")
    return shown.assign(**{name: scored[name].to_numpy(object) for name in columns})


def version_difference_share(official: pd.DataFrame, corrected: pd.DataFrame) -> pd.DataFrame:
    """How often release and corrected reward differ. In: two results of ``rescore`` on the same rows.

    Out, a row for each reward that scored any and one for ``any``: reward, share (of the trajectories that both
    scored), low, high (Wilson), n.
    """
    differing, both = version_differences(official, corrected), official.merge(corrected, on=["row", "reward"])
    counts = differing.groupby("reward")["row"].nunique().to_dict()
    scored = both.groupby("reward", sort=False)["row"].nunique().to_dict()
    table = [
        [reward, k / n, *wilson(k, n), n]
        for reward, k, n in [
            ("any", differing["row"].nunique(), both["row"].nunique()),
            *((reward, counts.get(reward, 0), n) for reward, n in scored.items()),
        ]
        if n
    ]
    return pd.DataFrame(table, columns=["reward", "share", "low", "high", "n"])


def advantages(scored: pd.DataFrame) -> pd.DataFrame:
    """Normalise totals within their groups, as TRL's GRPO does: (r - mean) / (std + 1e-4), std with n - 1.

    In: ``rescore`` of rollouts, or rollouts themselves (with their own totals). Out: the same with ``advantage`` and
    ``zero_variance`` (all totals of the group are equal: no advantage). A group is one run, step, group and reward.
    Source: trl.GRPOTrainer, scale_rewards="group"; arXiv 2402.03300, section 4.1.
    """
    scored = scored.dropna(subset=["total"]).astype({"total": float})
    totals = scored.groupby(["run", "step", "group", "reward"], dropna=False)["total"]
    std = totals.transform("std").fillna(0.0)
    advantage = (scored["total"] - totals.transform("mean")) / (std + 1e-4)
    return scored.assign(advantage=advantage, zero_variance=std < 1e-8)


def counterfactual(scored: pd.DataFrame) -> pd.DataFrame:
    """The advantages that each reward would have given to the stored groups. In: ``rescore`` of rollouts.

    Out, a row for each method, the reward it was trained with and another: sign_flips (share of rollouts whose
    advantage changes its sign), zeroed (non-zero becomes zero), became_nonzero (zero becomes non-zero), zero_variance
    (share of groups without variance under that reward), spearman (mean rank correlation of advantages within groups
    that have variance under both), n (rollouts). Limits: another reward would have led to other rollouts.
    """
    scored = advantages(scored)
    place = ["run", "step", "group"]
    table = []
    for (method, trained), group in scored.groupby(["method", "trained"], sort=False):
        wide = group.pivot_table(index=[*place, "row"], columns="reward", values="advantage")
        if trained not in wide:
            continue
        for name in dict.fromkeys(group["reward"]):
            # Without tasks that one of the two cannot score, for lack of a teacher.
            both = wide[[*dict.fromkeys([trained, name])]].dropna()
            signs = np.sign(both.where(both.abs() > 1e-9, 0))
            before, after = signs[trained], signs[name]
            groups = group[group["reward"] == name].groupby(place)["zero_variance"].first()
            table.append(
                {"method": method, "trained": trained, "reward": name}
                | {"sign_flips": float((before * after < 0).mean())}
                | {"zeroed": float(((before != 0) & (after == 0)).mean())}
                | {"became_nonzero": float(((before == 0) & (after != 0)).mean())}
                | {"zero_variance": groups.mean(), "spearman": _spearman(both[trained], both[name], place)}
                | {"n": len(both)}
            )
    columns = [
        "method",
        "trained",
        "reward",
        "sign_flips",
        "zeroed",
        "became_nonzero",
        "zero_variance",
        "spearman",
        "n",
    ]
    return pd.DataFrame(table, columns=columns)


def _spearman(a: pd.Series, b: pd.Series, levels: Sequence[str]) -> float:
    """Mean rank correlation within the groups in which both vary; NaN if there is none."""
    ranks = pd.DataFrame({"a": a.round(9), "b": b.round(9)}).groupby(level=levels).rank()
    centred = ranks - ranks.groupby(level=levels).transform("mean")
    products = centred.assign(ab=centred["a"] * centred["b"], aa=centred["a"] ** 2, bb=centred["b"] ** 2)
    sums = products.groupby(level=levels)[["ab", "aa", "bb"]].sum()
    vary = sums[(sums["aa"] > 0) & (sums["bb"] > 0)]
    return float((vary["ab"] / np.sqrt(vary["aa"] * vary["bb"])).mean()) if len(vary) else math.nan


def decomposition(scored: pd.DataFrame) -> pd.DataFrame:
    """Split the advantage exactly into the reward's terms. In: rollouts (their own terms) or ``rescore`` of them.

    A total is the sum of weight x term, so the advantage is the sum over terms of (w t - its group mean) / (std +
    1e-4); what the terms do not explain goes to a term ``rest``. Out, a row for each method, reward, step and term:
    share (sum of advantage x the term's part over the sum of squared advantages: the shares of a step add up to 1, a
    negative one works against the others), n (rollouts of the step in groups with variance).
    """
    frame = advantages(scored.dropna(subset=["step"]))
    frame = frame[~frame["zero_variance"]].reset_index(drop=True)
    columns = ["method", "reward", "step", "term", "share", "n"]
    if frame.empty:
        return pd.DataFrame(columns=columns)
    weighted = [
        {k: v * (w or {}).get(k, 1.0) for k, v in (t or {}).items()}
        for t, w in zip(frame["terms"], frame["weights"], strict=True)
    ]
    parts = pd.DataFrame(weighted).fillna(0.0)
    rest = frame["total"] - parts.sum(axis=1)
    if rest.abs().max() > 1e-9:
        parts["rest"] = rest
    keys = [frame[k] for k in ("run", "step", "group", "reward")]
    std = frame["total"].groupby(keys, dropna=False).transform("std")
    parts = (parts - parts.groupby(keys, dropna=False).transform("mean")).div(std + 1e-4, axis=0)
    table = []
    for (method, reward, step), index in frame.groupby(["method", "reward", "step"], sort=False).groups.items():
        subset, whole = parts.loc[index], frame.loc[index, "advantage"]
        for term in parts.columns:
            if subset[term].abs().max() > 1e-12 or any(term in (t or {}) for t in frame.loc[index, "terms"]):
                share = float((subset[term] * whole).sum() / (whole**2).sum())
                table.append([method, reward, step, term, share, len(index)])
    return pd.DataFrame(table, columns=columns)
