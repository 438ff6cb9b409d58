"""Accuracy, differences on the same tasks, and the choice of a learning rate, against values computed by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic

from mentorlib.core import InputError
from mentorlib.lab import analysis


def test_tuning_chooses_the_most_accurate_rate_and_of_equals_the_lowest() -> None:
    named = {"a 1": [1, 0, 0], "a 2": [1, 1, 0], "a 3": [1, 0, 1], "b 1": [0, 0, 0], "b 2": [0, 0, 0]}
    rows = synthetic.evaluated_rows({k.replace(" ", " learning_rate="): [bool(x) for x in v] for k, v in named.items()})
    other = synthetic.evaluated_rows({"a learning_rate=1": [True] * 3}, suite="longer")
    rates = {run: {"learning_rate": float(run[-1])} for run in rows["run"].unique()}
    runs = pd.DataFrame({"run": list(rates), "parameters": list(rates.values())})
    grid = analysis.comparison.tuning(pd.concat([rows, other], ignore_index=True), runs, ["calculator"])
    assert grid[grid["chosen"]].set_index("method")["learning_rate"].to_dict() == {"a": 2.0, "b": 1.0}
    assert list(grid["accuracy"].round(2)) == [0.33, 0.67, 0.67, 0, 0] and set(grid["n"]) == {3}
    with pytest.raises(InputError, match="longer"):
        analysis.comparison.tuning(rows, runs, ["longer"])
    one = rows[rows["method"].isin(["a learning_rate=1", "b learning_rate=2"])]  # no choice to make
    with pytest.raises(InputError, match="trained at two rates"):
        analysis.comparison.tuning(one, runs, ["calculator"])


def test_accuracy_leaves_out_infrastructure_failures() -> None:
    one = analysis.comparison.accuracy(synthetic.evaluated_rows({"base": [True, False, None, True]})).iloc[0]
    assert (one["accuracy"], one["n"], one["unjudged"]) == (2 / 3, 3, 1)


def test_samples_of_a_task_do_not_count_as_tasks() -> None:
    alone = synthetic.evaluated_rows({"base": [True, False] * 10})
    same = pd.concat([alone] * 8)
    narrow, wide = analysis.comparison.accuracy(same).iloc[0], analysis.comparison.accuracy(alone).iloc[0]
    assert narrow["n"] == 160 and narrow["tasks"] == 20
    assert np.isclose(narrow["low"], wide["low"], atol=0.02)


def test_paired_counts_and_one_seed_has_no_p() -> None:
    before, after = [False] * 8 + [True] * 2 + [None], [True] * 8 + [False, True, True]
    result = analysis.comparison.paired(synthetic.evaluated_rows({"base": before, "sft": after})).iloc[0]
    assert (result["tasks"], result["fixed"], result["broke"], result["seeds"]) == (10, 8, 1, 1)
    assert np.isclose(result["difference"], 0.7) and result["low"] < 0.7 < result["high"]
    assert "p" not in result and "p_holm" not in result
    with pytest.raises(InputError, match="against='grpo'"):
        analysis.comparison.paired(synthetic.evaluated_rows({"base": before}), against="grpo")


def test_the_first_sentence_ranks_methods_out_of_domain() -> None:
    inside = synthetic.evaluated_rows({"a": [True] * 4, "b": [True] * 4})
    outside = synthetic.evaluated_rows({"a": [True, False] * 2, "b": [True] * 3 + [False]}, suite="longer")
    rows = analysis.comparison.add_domain(pd.concat([inside, outside], ignore_index=True), ["calculator"])
    domains = analysis.comparison.accuracy(rows, by=["domain", "method"])
    assert analysis.findings.ranking(domains) == "Accuracy out of domain: b 75%, a 50%."
    assert analysis.findings.ranking(domains.head(0)) == "No suite out of domain was evaluated."


def test_changed_rows_are_compared_with_the_same_seed_or_with_the_one_that_base_has() -> None:
    base = synthetic.evaluated_rows({"base": [False, True, None, True]})
    seeds = [
        synthetic.evaluated_rows({"a": a, "b": b}).assign(seed=seed)
        for seed, (a, b) in enumerate([([True] * 4, [False] * 4), ([False] * 4, [False, True, True, None])])
    ]
    rows = pd.concat([base.assign(seed=0), *seeds], ignore_index=True)
    shown = analysis.comparison.changed(rows, [("a", "base"), ("a", "b"), ("a", "missing")])
    counts = shown.groupby(["against", "seed", "verdict"]).size().to_dict()
    assert counts == {
        **{("base", 0, "right"): 1, ("base", 1, "wrong"): 2},
        **{("b", 0, "right"): 4, ("b", 1, "wrong"): 2},
    }
    assert set(shown["method"]) == {"a"} and analysis.comparison.changed(rows, []).empty


def test_a_row_that_nobody_could_judge_does_not_take_its_task_away() -> None:
    runs = [
        synthetic.evaluated_rows({"a": [False] * 5 + [True] * 5, "b": [True] * 10}).assign(seed=seed)
        for seed in range(4)
    ]
    rows = pd.concat(runs, ignore_index=True)
    unjudged = (rows["method"] == "a") & (rows["seed"] == 0) & ~rows["correct"].astype(bool)
    rows["correct"] = rows["correct"].astype(object).mask(unjudged, None)
    result = analysis.comparison.paired(rows, against="a").iloc[0]
    assert (result["tasks"], result["difference"], result["seeds"]) == (10, 0.5, 4)
    one_less = rows[~((rows["seed"] == 1) & (rows["task_id"] == rows["task_id"].iloc[0]))]  # not evaluated there
    assert analysis.comparison.paired(one_less, against="a").iloc[0]["tasks"] == 9


def seeded(shares: dict[str, list[float]], tasks: int = 100, seed: int = 0) -> pd.DataFrame:
    """Several runs a method, each right on its own share of the tasks."""
    rng = np.random.default_rng(seed)
    runs = [
        synthetic.evaluated_rows({method: list(rng.random(tasks) < share)}).assign(run=f"{method}-{i}", seed=i)
        for method, run_shares in shares.items()
        for i, share in enumerate(run_shares)
    ]
    return pd.concat(runs, ignore_index=True)


def test_variance_between_seeds_widens_the_interval() -> None:
    """The same mean gain: the interval excludes 0 if every seed has it, not if it comes from one seed of three."""
    even = analysis.comparison.paired(seeded({"base": [0.4] * 3, "sft": [0.6] * 3})).iloc[0]
    one = analysis.comparison.paired(seeded({"base": [0.4] * 3, "sft": [0.95, 0.45, 0.4]})).iloc[0]
    assert even["seeds"] == 3 and even["low"] > 0
    assert one["low"] < 0.03 and one["high"] - one["low"] > 1.5 * (even["high"] - even["low"])
    spread = analysis.comparison.accuracy(seeded({"sft": [0.95, 0.45, 0.4]})).iloc[0]
    assert spread["runs"] == 3 and spread["sd_runs"] > 0.2


def test_the_interval_covers_the_true_difference() -> None:
    """Five runs each, of skills that vary between runs: a 95% interval should cover the truth nearly that often."""
    rng, covered = np.random.default_rng(1), 0
    for i in range(100):
        skills = {m: list(np.clip(rng.normal(mean, 0.08, 5), 0, 1)) for m, mean in (("sft", 0.4), ("grpo-f1", 0.55))}
        result = analysis.comparison.paired(seeded(skills, seed=i), "sft").iloc[0]
        covered += result["low"] <= 0.15 <= result["high"]
    assert covered >= 90


def test_methods_with_the_same_seeds_are_compared_seed_by_seed() -> None:
    """An effect of the seed on both methods does not widen the interval of their difference."""
    skills = [0.3, 0.4, 0.5, 0.6, 0.7]
    rows = seeded({"grpo-sparse": skills, "grpo-exact": [s + 0.1 for s in skills]}, 400)
    alike = analysis.comparison.paired(rows, against="grpo-sparse").iloc[0]
    assert alike["difference"] == pytest.approx(0.1, abs=0.03) and alike["low"] > 0.04 and alike["seeds"] == 5
    others = rows.assign(seed=rows["seed"] + 5 * (rows["method"] == "grpo-exact"))  # other seeds
    assert analysis.comparison.paired(others, against="grpo-sparse").iloc[0]["low"] < -0.05
    shuffled = analysis.comparison.paired(rows.sample(frac=1, random_state=1), against="grpo-sparse").iloc[0]
    assert shuffled["low"] == pytest.approx(alike["low"])
    fewer = rows[(rows["method"] == "grpo-exact") | (rows["seed"] < 4)]  # on the four that both have
    result = analysis.comparison.paired(fewer, against="grpo-sparse").iloc[0]
    same = analysis.comparison.paired(rows[rows["seed"] < 4], against="grpo-sparse").iloc[0]
    assert result["seeds"] == 4 and result["difference"] == same["difference"]


def contrast(exact: list[float], sft: list[float], tasks: int = 400, **given: Any) -> pd.Series:
    rows = analysis.comparison.add_domain(seeded({"grpo-exact": exact, "sft": sft}, tasks), ["elsewhere"])
    return analysis.comparison.planned(rows, [["grpo-exact", "sft"], ["grpo-exact", "absent"]], **given).iloc[0]


def test_planned_contrasts_and_their_verdicts() -> None:
    same, better = [0.5] * 5, [0.8] * 5
    won = contrast(better, same)
    assert won["verdict"] == "higher" and won["p_holm"] == won["p"] < 0.05 and 0 < won["detectable"] < 0.3
    assert contrast(same, better)["verdict"] == "lower"
    none = contrast(same, same, margin=0.2)
    assert none["verdict"] == "no difference of more than 20 points" and none["p"] > 0.05
    assert contrast(same, same, margin=0.01)["verdict"] == "undecided"
    few = contrast(better[:3], same[:3])
    assert few["verdict"] == "no verdict: 3 of at least 4 seeds" and math.isnan(few["p"]) and math.isnan(few["p_holm"])
    small = contrast([s + 0.04 for s in same], same, tasks=6000, margin=0.1)
    assert small["verdict"] == "higher, by less than 10 points"


def test_the_planned_contrasts_are_one_family_and_of_one_score() -> None:
    shares = {"grpo-exact": [0.60] * 5, "sft": [0.5] * 5, "grpo-sparse": [0.5] * 5}
    outside = seeded(shares, 300)
    inside = seeded({name: [0.99] * 5 for name in shares}, 300, seed=1).assign(suite="calculator")
    rows = pd.concat([outside.assign(suite="longer"), outside.assign(suite="unseen"), inside], ignore_index=True)
    named = analysis.comparison.add_domain(rows, ["calculator"])
    table = analysis.comparison.planned(named, [["grpo-exact", "sft"], ["grpo-exact", "grpo-sparse"]])
    assert table["tasks"].tolist() == [600, 600] and (table["difference"] > 0.05).all()
    assert table["p_holm"].tolist() == pytest.approx(list(analysis.stats.holm(table["p"].to_numpy())))
    assert analysis.comparison.planned(named, []).empty and analysis.comparison.planned(named, [["a", "b"]]).empty


def test_by_domain_where_the_baseline_can_be_compared(rows: pd.DataFrame) -> None:
    named = analysis.comparison.add_domain(rows, ["calculator"])
    even = analysis.comparison.comparable(named)
    result = analysis.comparison.paired_domains(named, even["method"].iloc[0])
    pd.testing.assert_frame_equal(result, analysis.comparison.paired(even, even["method"].iloc[0], by="domain"))
    assert analysis.comparison.paired_domains(named, "nobody").empty


def test_cost(root: Path, rows: pd.DataFrame, rollouts: pd.DataFrame) -> None:
    cost = analysis.comparison.cost(rows, rollouts, analysis.load.methods(root=root)).set_index("method")
    assert cost.loc["base", "rollouts"] == 0 and cost.loc["grpo-exact", "rollouts"] == 72


def test_tables(rows: pd.DataFrame) -> None:
    assert analysis.text.percent(math.nan) == "–"
    wide = analysis.text.interval_table(analysis.comparison.accuracy(rows))
    assert wide.shape == (5, 3) and wide.loc["base", "calculator"].endswith("]")
    words = analysis.comparison.accuracy(rows.assign(word_f1=(rows["suite"] == "calculator") / 2))
    assert analysis.text.interval_table(words).loc["base", "calculator"] == wide.loc["base", "calculator"] + ", F1 0.50"
