"""What tables say, as the sentences that notebooks 03, 04 and 05 begin with; some are titles of figures, too."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from .comparison import common_suites
from .outcomes import outcome_shares
from .text import leaders, p_value, percent, span


def ranking(domains: pd.DataFrame) -> str:
    """Accuracy out of domain in one sentence, the highest first. In: ``comparison.accuracy`` by domain and method."""
    outside = domains[domains["domain"] == "out of domain"].sort_values("accuracy", ascending=False, kind="stable")
    parts = ", ".join(f"{row.method} {percent(row.accuracy)}" for row in outside.itertuples())
    return f"Accuracy out of domain: {parts}." if parts else "No suite out of domain was evaluated."


def verdicts(
    planned: pd.DataFrame,
    checks: pd.DataFrame,
    contrasts: Sequence[Sequence[str]] = (),
    methods: Iterable[str] = (),
) -> list[str]:
    """A sentence for each planned contrast. In: ``comparison.planned`` and the ``treatment.pairs`` it was given.

    ``contrasts`` are all that were planned, ``methods`` those that are here: a contrast that is not in the table is
    said to be missing, unless all are.
    """
    said = []
    for row in planned.to_dict("records"):
        method, against = row["method"], row["against"]
        size = f"{row['seeds']} seed{'s' if row['seeds'] > 1 else ''}, {row['tasks']} tasks"
        points = f"{100 * row['difference']:+.1f} points [{100 * row['low']:.1f}, {100 * row['high']:.1f}], {size}"
        verdict, _, extent = str(row["verdict"]).partition(",")
        if verdict == "same treatment":
            check = checks[(checks["method"] == method) & (checks["against"] == against)].iloc[0]
            shares = {"training rollouts": check["identical"], "answers out of domain": check["answers"]}
            alike = " and ".join(
                f"{percent(share)} of their {what}" for what, share in shares.items() if share == share
            )
            ranked = check["reranked"]
            rest = "" if ranked != ranked else f"; their rewards rank {percent(ranked)} of the groups differently"
            said.append(
                f"{method} and {against} were the same treatment by the planned gates ({check['beyond']}), which "
                f"allow no verdict: {alike} are identical{rest}."
            )
        elif verdict.startswith("no verdict"):
            said.append(f"{method} against {against}: {verdict} (accuracy out of domain {points}).")
        elif verdict == "undecided":
            found = percent(row["detectable"], 1)
            said.append(
                f"Whether {method} and {against} differ out of domain is undecided: {points}; a true difference of "
                f"{found} would have been found in four of five such studies."
            )
        elif verdict.startswith("no difference"):
            said.append(f"{method} and {against}: {verdict} out of domain ({points}).")
        else:
            p = f"p {'' if row['p_holm'] < 0.001 else '= '}{p_value(row['p_holm'])} after Holm"
            extent = f",{extent}" if extent else ""
            said.append(f"{method} is {verdict} than {against} out of domain{extent} ({points}, {p}).")
    here, compared = sorted(set(methods)), set(zip(planned["method"], planned["against"], strict=True))
    there_are = f" (there are {', '.join(here)})" if here else ""
    if here and not contrasts:
        return ["No contrast was planned."]
    if not said and not any(set(contrast) <= set(here) for contrast in contrasts):
        return [f"None of the planned contrasts has both of its methods among these runs{there_are}."]
    for method, against in (contrast for contrast in contrasts if tuple(contrast) not in compared):
        absent = [name for name in (method, against) if name not in here]
        why = f"there is no method {' and no '.join(absent)}{there_are}" if absent else "they share no task"
        said.append(f"{method} against {against} was planned and is not compared: {why}.")
    return said


def trained_outside(runs: pd.DataFrame, rows: pd.DataFrame, contrasts: Sequence[Sequence[str]] = ()) -> list[str]:
    """A sentence for each suite that counts as out of domain though a method compared here was trained on it.

    In: ``load.methods`` and rows of ``add_domain``. Methods of contrasts, or all if none of these is here.
    """
    planned = {name for contrast in contrasts for name in contrast} & set(runs["method"]) or set(runs["method"])
    outside = set(rows.loc[rows["domain"] == "out of domain", "suite"])
    said = {}
    for run in runs.itertuples():
        suite = run.parameters.get("suite")
        if run.method in planned and run.parameters.get("method", "none") != "none" and suite in outside:
            said[suite] = f"{run.method} was trained on {suite}, which counts as out of domain here: give in_domain."
    return list(said.values())


def sign_flips(counterfactual: pd.DataFrame) -> str:
    """The most that another reward changes. In: ``reward_effects.counterfactual``, with other rewards in it."""
    others = counterfactual[counterfactual["reward"] != counterfactual["trained"]]
    most = others.loc[others["sign_flips"].idxmax()]
    if (others["sign_flips"].round(3) == round(most["sign_flips"], 3)).sum() > 1:
        return f"Another reward flips the sign of at most {percent(most['sign_flips'], 1)} of the advantages"
    return (
        f"On {most['method']}'s rollouts, {most['reward']} flips the sign of {percent(most['sign_flips'], 1)} of "
        f"the advantages; {percent(most['zero_variance'])} of its groups have zero variance"
    )


def largest_term(parts: pd.DataFrame) -> str:
    """The largest share of a term in the advantage, of rewards with several. In: ``reward_effects.decomposition``."""
    means = parts.groupby(["method", "term"], sort=False).apply(
        lambda g: float(np.average(g["share"], weights=g["n"])), include_groups=False
    )
    several = means[parts.groupby("method")["term"].nunique().reindex(means.index.get_level_values(0)).to_numpy() > 1]
    if several.empty:
        return "One term makes the whole advantage of each of these rewards"
    method, term = several[several < 0.9999].idxmax() if (several < 0.9999).any() else several.idxmax()
    return f"In {method}, “{term}” makes {percent(several[method, term])} of the advantage"


def commonest_exploit(summary: pd.DataFrame) -> str:
    """The exploit that grows most, or the commonest if none grows. In: ``exploits.exploit_summary``, not empty."""
    worst = summary.loc[(summary["last third"] - summary["first third"]).idxmax()]
    if worst["last third"] - worst["first third"] > 0.02:
        return (
            f"“{worst['exploit']}” grows most: {percent(worst['first third'], 1)} → "
            f"{percent(worst['last third'], 1)} of {worst['method']}'s rollouts"
        )
    most = summary.loc[summary["share"].idxmax()]
    return (
        f"No exploit grows by 2 points; the commonest is “{most['exploit']}”, {percent(most['share'], 1)} of "
        f"{most['method']}'s rollouts"
    )


def commonest_failure(table: pd.DataFrame) -> str:
    """The commonest failure on the suites in common. In: ``outcomes.outcome_shares``."""
    common = common_suites(table)
    where = " on the suites in common" if len(common) < len(table) else ""
    failed = common[~common["outcome"].isin(["correct", "infrastructure failure"])]
    counts = failed.groupby("outcome")["n"].sum().sort_values(ascending=False)
    if counts.empty:
        return f"Nothing failed: every judged row{where} is correct"
    share = percent(counts.iloc[0] / counts.sum())
    return f"The commonest failure: {leaders(counts, 0)}, {share} of all failures{where}"


def reward_findings(
    differences: pd.DataFrame,
    counterfactual: pd.DataFrame,
    decomposition: pd.DataFrame,
    off_reference: pd.DataFrame,
    exploits: pd.DataFrame,
) -> list[str]:
    """What rewards did, and would have done, to the stored rollouts: a sentence a table.

    In: ``reward_effects.version_difference_share``, ``counterfactual`` and ``decomposition``,
    ``tool_use.off_reference``, ``exploits.exploit_summary``. Tables without rows say nothing.
    """
    said = []
    others = counterfactual[counterfactual["reward"] != counterfactual["trained"]]
    if len(others):
        own = counterfactual.drop(others.index)
        said.append(
            f"{sign_flips(counterfactual)}. {span(own['zero_variance'])} of the groups gave no gradient under the "
            f"reward they were trained with, {span(others['zero_variance'])} would have given none under another."
        )
    right = off_reference[off_reference["n"] > 0]
    if len(right):
        said.append(
            f"Of the right answers, {span(right['other_tools'])} used other tools than the teacher and "
            f"{span(right['other_calls'])} made other calls: where that is rare, a reward for following the teacher "
            "is a reward for being right."
        )
    if len(decomposition):
        said.append(f"{largest_term(decomposition)}.")
    differ = differences[differences["reward"] != "any"]
    if len(differ):
        whole = differences.loc[differences["reward"] == "any", "share"].iloc[0]
        said.append(
            f"MENTOR's released code scores {percent(whole, 1)} of these {int(differ['n'].max()):,} trajectories "
            "otherwise than the corrected rewards do."
        )
    if len(exploits):
        grown = exploits[(exploits["mean_advantage"] > 0) & (exploits["last third"] > exploits["first third"])]
        names = ", ".join(f"{r.exploit} in {r.method}" for r in grown.itertuples())
        grew = f"Reinforced and more frequent at the end: {names}" if names else "None was reinforced and grew"
        said.append(f"{commonest_exploit(exploits)}. {grew}.")
    return said or ["No training rollouts: only GRPO runs keep the groups that these numbers need."]


def error_findings(rows: pd.DataFrame, pairs: pd.DataFrame, overlap: pd.DataFrame) -> list[str]:
    """Where methods fail: a sentence a table.

    In: rows of ``evaluations``, ``comparison.paired`` and ``tool_use.tool_overlap`` of them.
    """
    common = common_suites(rows)
    judged = common[common["outcome"] != "infrastructure failure"]
    right = judged["outcome"].eq("correct").groupby(judged["method"], sort=False).mean()
    said = []
    if len(right):
        suites = judged["suite"].nunique()
        parts = ", ".join(f"{method} {percent(share)}" for method, share in right.items())
        said.append(f"Right on the {suites} suites that all of these methods have: {parts}.")
    if len(right) and (right < 1).any():
        said.append(f"{commonest_failure(outcome_shares(rows))}.")
    if len(pairs):
        sums = pairs.groupby("method", sort=False)[["fixed", "broke"]].sum()
        parts = ", ".join(f"{r.Index} fixed {r.fixed:.0f} and broke {r.broke:.0f}" for r in sums.itertuples())
        said.append(f"Against {pairs['against'].iloc[0]}, task by task: {parts}.")
    calls = overlap[overlap["invented"] > 0.005]
    if len(calls):
        worst = calls.groupby("suite")["invented"].max()
        said.append(
            f"Tools that the task does not offer are called mostly on {worst.idxmax()}: up to {percent(worst.max())} "
            "of the calls there."
        )
    return said or ["Nothing failed."]
