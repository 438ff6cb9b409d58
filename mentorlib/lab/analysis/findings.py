"""What the tables of notebooks 03 and 04 say, as the sentences that these begin with."""

import pandas as pd

from .comparison import common_suites
from .outcomes import OUTCOMES
from .text import percent, span


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
        most, own = others.loc[others["sign_flips"].idxmax()], counterfactual.drop(others.index)
        said.append(
            f"Another reward would have pushed at most {percent(others['sign_flips'].max(), 1)} of the rollouts in the "
            f"other direction ({most['reward']} on {most['method']}'s rollouts; mean "
            f"{percent(others['sign_flips'].mean(), 1)}). {span(own['zero_variance'])} of the groups gave no gradient "
            f"under the reward they were trained with, {span(others['zero_variance'])} would have given none under "
            "another."
        )
    right = off_reference[off_reference["n"] > 0]
    if len(right):
        said.append(
            f"Of the right answers, {span(right['other_tools'])} used other tools than the teacher and "
            f"{span(right['other_calls'])} made other calls: where that is rare, a reward for following the teacher "
            "is a reward for being right."
        )
    if len(decomposition):
        weighed = decomposition.assign(part=decomposition["share"] * decomposition["n"])
        sums = weighed.groupby(["method", "term"], sort=False)[["part", "n"]].sum()
        shares = (sums["part"] / sums["n"]).groupby(level="method", sort=False)
        parts = [f"“{share.idxmax()[1]}” {percent(share.max())} in {method}" for method, share in shares]
        said.append(f"The term with the largest share of the advantage: {', '.join(parts)}.")
    differ = differences[differences["reward"] != "any"]
    if len(differ):
        whole = differences.loc[differences["reward"] == "any", "share"].iloc[0]
        said.append(
            f"MENTOR's released code scores {percent(whole, 1)} of these {int(differ['n'].max()):,} trajectories "
            "otherwise than the corrected rewards do."
        )
    if len(exploits):
        worst = exploits.loc[exploits["share"].idxmax()]
        grown = exploits[(exploits["mean_advantage"] > 0) & (exploits["last third"] > exploits["first third"])]
        names = ", ".join(f"{r.exploit} in {r.method}" for r in grown.itertuples())
        said.append(
            f"The commonest exploit is “{worst['exploit']}”, {percent(worst['share'], 1)} of {worst['method']}'s "
            + (
                f"rollouts. Reinforced and more frequent at the end: {names}."
                if len(grown)
                else "rollouts; none was reinforced and grew."
            )
        )
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
    failed = judged[judged["outcome"] != "correct"]
    commonest: dict[str, list[str]] = {}
    for method, outcomes in failed.groupby("method", sort=False)["outcome"]:
        counts = outcomes.value_counts()
        name = min(counts[counts == counts.max()].index, key=list(OUTCOMES).index)
        commonest.setdefault(str(name), []).append(f"{method} ({percent(counts.max() / counts.sum())})")
    if commonest:
        parts = "; ".join(f"{outcome} in {', '.join(methods)}" for outcome, methods in commonest.items())
        said.append(f"The commonest failure there, and its share of the method's failures: {parts}.")
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
