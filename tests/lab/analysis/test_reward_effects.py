"""Stored rows under every reward, against values worked out by hand, and the made-up runs."""

import math
from random import Random

import numpy as np
import pandas as pd
import pytest
import synthetic

from mentorlib.core import InputError
from mentorlib.lab import analysis


def test_a_group_is_scored_as_one() -> None:
    """Anneal weighs tools by the share of the group that is wrong; a row of an evaluation stands alone."""
    rng = Random(0)
    rows = pd.DataFrame([synthetic.row(kind, rng, 1) for kind in ("right", "argument", "argument", "right")])
    grouped = rows.assign(run="r", method="m", step=1, group=[0, 0, 1, 1], outcome="", reward="anneal")
    scored = analysis.reward_effects.rescore(grouped, rewards=["anneal"])
    assert [w["tools"] for w in scored["weights"]] == pytest.approx([0.15] * 4)
    alone = analysis.reward_effects.rescore(grouped.drop(columns=["step", "group"]), rewards=["anneal"])
    assert [w["tools"] for w in alone["weights"]] == pytest.approx([0, 0.3, 0.3, 0])


def test_advantages_are_those_that_were_stored(rollouts: pd.DataFrame) -> None:
    again = analysis.reward_effects.advantages(rollouts)
    assert np.allclose(again["advantage"], rollouts["advantage"].astype(float))
    assert np.allclose(again.groupby(["run", "step", "group"])["advantage"].sum(), 0)


def test_decomposition_adds_up(rollouts: pd.DataFrame) -> None:
    for scored in (rollouts, analysis.reward_effects.rescore(rollouts)):
        shares = analysis.reward_effects.decomposition(scored).groupby(["method", "reward", "step"])["share"].sum()
        assert len(shares) and np.allclose(shares, 1)


def test_a_total_that_its_terms_do_not_explain_gets_a_rest(rollouts: pd.DataFrame) -> None:
    odd = rollouts.assign(total=rollouts["total"].astype(float) * 2)
    assert "rest" in set(analysis.reward_effects.decomposition(odd)["term"])


def test_counterfactual_of_the_own_reward_changes_nothing(rollouts: pd.DataFrame) -> None:
    table = analysis.reward_effects.counterfactual(analysis.reward_effects.rescore(rollouts))
    same = table[table["reward"] == table["trained"]]
    assert len(same) == 3 and (same[["sign_flips", "zeroed", "became_nonzero"]] == 0).all(axis=None)
    assert np.allclose(same["spearman"].dropna(), 1)
    assert table[["sign_flips", "zeroed", "became_nonzero", "zero_variance"]].stack().between(0, 1).all()


def test_counterfactual_by_hand() -> None:
    totals = {"a": [0.0, 1.0, 0.5, 0.5], "b": [1.0, 0.0, 0.5, 0.5], "c": [1.0, 1.0, 1.0, 1.0]}
    scored = pd.DataFrame(
        [
            {
                "row": i,
                "run": "r",
                "method": "grpo-a",
                "step": 0,
                "group": 0,
                "trained": "a",
                "reward": name,
                "total": t,
            }
            for name, values in totals.items()
            for i, t in enumerate(values)
        ]
    )
    table = analysis.reward_effects.counterfactual(scored).set_index("reward")
    assert table.loc["b", ["sign_flips", "zeroed", "zero_variance", "spearman"]].tolist() == [
        0.5,
        0,
        0,
        pytest.approx(-1),
    ]
    assert table.loc["c", ["sign_flips", "zeroed", "zero_variance"]].tolist() == [0, 0.5, 1] and math.isnan(
        table.loc["c", "spearman"]
    )


def test_version_differences_show_what_was_corrected(rollouts: pd.DataFrame) -> None:
    official, corrected = (
        analysis.reward_effects.rescore(rollouts, "official"),
        analysis.reward_effects.rescore(rollouts),
    )
    differing = analysis.reward_effects.version_differences(official, corrected)
    assert {"malformed call", "gave up"} <= set(differing["outcome"])
    assert (differing["change"].abs().diff().dropna() <= 1e-12).all()
    assert np.allclose(differing["change"], differing["corrected"] - differing["official"])
    assert analysis.reward_effects.version_differences(official, official).empty


def test_rows_are_read_with_the_scores_they_were_given_anew(rollouts: pd.DataFrame) -> None:
    scored = analysis.reward_effects.rescore(rollouts, rewards=["sparse"]).iloc[[3, 1]]
    shown = analysis.reward_effects.with_scores(rollouts, scored)
    assert shown.index.tolist() == scored["row"].tolist() and "advantage" not in shown
    assert shown["reward"].tolist() == ["sparse"] * 2 and shown["total"].tolist() == scored["total"].tolist()
    assert set(shown["terms"].iloc[0]) == set(scored["terms"].iloc[0]) != set(rollouts["terms"].iloc[0])
    assert shown["response"].tolist() == rollouts.loc[scored["row"], "response"].tolist()


def test_rescore_refuses_unknown_names(rollouts: pd.DataFrame) -> None:
    with pytest.raises(InputError, match=r"nonsense.*sparse"):
        analysis.reward_effects.rescore(rollouts, rewards=["nonsense"])
    with pytest.raises(InputError, match="version"):
        analysis.reward_effects.rescore(rollouts, "old")


def test_what_cannot_be_judged_has_no_total(rollouts: pd.DataFrame) -> None:
    right = rollouts[rollouts["outcome"] == "correct"].head(1)
    unclear = right.assign(answer="x^2", messages=[[{"role": "assistant", "content": "\\boxed{9**9**9**9}"}]])
    assert analysis.reward_effects.rescore(unclear, rewards=["exact"])["total"].isna().all()
    assert analysis.reward_effects.rescore(unclear, "official", rewards=["exact"])["total"].notna().all()


def test_infrastructure_failures_are_never_scored(rollouts: pd.DataFrame) -> None:
    failed = rollouts.head(4).assign(stop=["infrastructure", "answered", "answered", "answered"])
    assert analysis.reward_effects.rescore(failed, rewards=["exact"])["row"].tolist() == failed.index[1:].tolist()


def test_other_families_end_tokens_are_no_cut(rollouts: pd.DataFrame) -> None:
    """Rollouts of a Llama end in its own token; the release's rule reads ChatML's."""
    rows = rollouts.head(40)
    other = rows.assign(response=[text.replace("<|im_end|>", "<|eot_id|>\n") for text in rows["response"]])
    for version in ("official", "corrected"):
        totals = [analysis.reward_effects.rescore(r, version, ["sparse"])["total"] for r in (rows, other)]
        assert totals[0].equals(totals[1]) and totals[0].gt(0).any()
