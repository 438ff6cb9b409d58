"""The treatment check: shares of identical rollouts and answers, groups ranked differently, gates and sentences."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic

from mentorlib.core import InputError
from mentorlib.lab import analysis
from mentorlib.lab.batch.parameters import parameters_of, read_notebook, run_check_cell
from mentorlib.lab.batch.plan import plan
from mentorlib.lab.checks import check_comparison

EXACT_SPARSE = [["grpo-exact", "grpo-sparse"]]


@pytest.fixture
def same(tmp_path: Path) -> Path:
    """grpo-exact, and grpo-sparse with the very same rollouts and answers; both with log-probabilities."""
    root = tmp_path / "runs"
    synthetic.make_runs(root, tasks=12, steps=4, methods=("grpo-exact", "grpo-sparse"))
    for name in ("rollouts.jsonl", "eval/calculator.jsonl", "eval/longer.jsonl", "eval/unseen.jsonl"):
        lines = [json.loads(line) for line in (root / "grpo-exact" / name).read_text().splitlines()]
        for arm, p in (("grpo-exact", -0.5), ("grpo-sparse", -0.25)):
            tokens = {"tokens": ["a", "b", "c"], "logprobs": [p, None, -1.0]}
            rows = [row | tokens | ({"reward": arm[5:]} if "reward" in row else {}) for row in lines]
            (root / arm / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for arm, kl in (("grpo-exact", 0.3), ("grpo-sparse", 0.1)):
        logged = [{"step": i, "kl": kl * (i == 3), "entropy": 0.5} for i in range(4)]
        (root / arm / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged))
    return root


def check(root: Path, **gates: float) -> pd.Series:
    rows = analysis.comparison.add_domain(analysis.load.evaluations(root=root), ["calculator"])
    return analysis.treatment.pairs(analysis.load.rollouts(root=root), rows, EXACT_SPARSE, **gates).iloc[0]


def test_the_same_rollouts_are_the_same_treatment(same: Path) -> None:
    row = check(same)
    assert (row["identical"], row["answers"], row["gate"]) == (1, 1, "same treatment")
    assert row["n"] == 2 * 12 and row["tasks"] == 24  # the second half of four steps of 12; two suites of 12
    assert row["logprob_gap"] == pytest.approx((0.25 + 0) / 2)
    assert check(same, identical_max=1, answers_max=1, reranked_min=0)["gate"] == "passes"
    assert check(same, identical_max=1, answers_max=1, reranked_min=1)["gate"] == "same treatment"  # ranked alike


def test_rows_that_one_of_the_rewards_cannot_score_have_no_ranks(same: Path) -> None:
    for arm in ("grpo-exact", "grpo-sparse"):
        for file in (same / arm).rglob("*.jsonl"):
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            alone = {"teacher_tools": [], "teacher_calls": None, "teacher_results": []}
            file.write_text("".join(json.dumps(row | (alone if "answer" in row else {})) + "\n" for row in rows))
    assert math.isnan(check(same)["reranked"])
    arms = analysis.treatment.arms(analysis.load.rollouts(root=same), analysis.load.metrics(root=same))
    assert arms[["match_right", "match_wrong"]].isna().all(axis=None) and len(arms) == 2
    evaluated = analysis.load.evaluations(root=same)
    assert set(evaluated["outcome"]) & {"wrong answer"} and not set(evaluated["outcome"]) & {"wrong tool"}
    overlap = analysis.tool_use.tool_overlap(evaluated)
    assert (overlap["calls"] > 0).all() and overlap["teacher_calls"].isna().all()
    assert analysis.tool_use.tool_jsd(evaluated).empty and analysis.skills.by_calls(evaluated).empty
    assert analysis.skills.habits(evaluated)["abstained"].isna().all()
    scored = analysis.reward_effects.rescore(analysis.load.rollouts(root=same))
    assert set(scored["reward"]) == {"sparse", "none"}
    official = analysis.reward_effects.rescore(analysis.load.rollouts(root=same), "official")
    shares = analysis.reward_effects.version_difference_share(official, scored)
    assert set(shares["reward"]) == {"any", "sparse", "none"}


def test_a_changed_half_is_counted(same: Path) -> None:
    file = same / "grpo-sparse" / "rollouts.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        if row["sample"] % 2:
            row["response"], row["tokens"] = "another text", ["x", "b", "c"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    row = check(same, answers_max=1, reranked_min=0)
    assert row["identical"] == 0.5 and row["gate"] == "passes"  # not above the gate
    assert row["logprob_gap"] == pytest.approx((0.25 + 0) / 2)  # nothing after the first other token counts
    steps = analysis.treatment.identical_by_step(analysis.load.rollouts(root=same), EXACT_SPARSE)
    assert set(steps["share"]) == {0.5} and len(steps) == 4


def test_ranking_differs_where_only_one_reward_sees_the_tools(same: Path) -> None:
    """Two wrong rollouts, one with the teacher's tools: exact ranks them, sparse does not."""
    right, tool, argument = (synthetic.row(kind, random.Random(0), 1) for kind in ("right", "tool", "argument"))
    placed = [
        row | {"step": 1, "group": group, "sample": i, "reward": reward, "total": 0.0}
        for reward in ("exact", "sparse")
        for group, rows in enumerate(([right, tool], [argument, tool]))
        for i, row in enumerate(rows)
    ]
    for reward in ("exact", "sparse"):
        lines = [json.dumps(row) + "\n" for row in placed if row["reward"] == reward]
        (same / f"grpo-{reward}" / "rollouts.jsonl").write_text("".join(lines))
    assert check(same)["reranked"] == 0.5


def test_arms(same: Path) -> None:
    rollouts, metrics = analysis.load.rollouts(root=same), analysis.load.metrics(root=same)
    table = analysis.treatment.arms(rollouts, metrics).set_index("method")
    assert table["kl"].to_dict() == {"grpo-exact": 0.3, "grpo-sparse": 0.1} and set(table["entropy"]) == {0.5}
    row, mine = table.loc["grpo-exact"], rollouts[rollouts["method"] == "grpo-exact"]
    right = mine[mine["correct"]]
    sides = zip(right["calls"], right["teacher_tools"], strict=True)
    match = [{call["name"] for call in calls} == set(tools) for calls, tools in sides]
    assert row["right"] == len(right) / len(mine) and row["match_right"] == np.mean(match)
    groups = mine.groupby(["step", "group"])["correct"]
    assert row["all_wrong"] == (groups.max() == 0).mean() and row["all_right"] == (groups.min() == 1).mean()
    nothing = analysis.treatment.arms(rollouts.iloc[:0], metrics.iloc[:0])
    assert nothing.empty and "kl" in nothing


def test_without_rollouts_the_answers_decide(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    synthetic.make_runs(root, tasks=12, steps=2, methods=("sft", "grpo-exact"))
    rows = analysis.comparison.add_domain(analysis.load.evaluations(root=root), ["calculator"])
    rollouts = analysis.load.rollouts(root=root)
    row = analysis.treatment.pairs(rollouts, rows, [["grpo-exact", "sft"], ["grpo-exact", "absent"]]).iloc[0]
    assert math.isnan(row["identical"]) and math.isnan(row["reranked"]) and row["tasks"] == 24
    assert 0 < row["answers"] < 1 and row["gate"] == "passes"
    other = rows.assign(seed=rows["seed"] + (rows["method"] == "sft"))
    assert analysis.treatment.pairs(rollouts, other, [["grpo-exact", "sft"]]).iloc[0]["gate"] == "not measured"


def test_a_failed_gate_is_the_verdict_and_the_family_stays(same: Path) -> None:
    rows = pd.concat(
        [
            analysis.comparison.add_domain(analysis.load.evaluations(root=same), ["calculator"]).assign(seed=seed)
            for seed in range(4)
        ]
    )
    checks = analysis.treatment.pairs(analysis.load.rollouts(root=same), rows, EXACT_SPARSE)
    plain = analysis.comparison.planned(rows, EXACT_SPARSE).iloc[0]
    gated = analysis.comparison.planned(rows, EXACT_SPARSE, 0.05, checks)
    assert plain["verdict"] != "same treatment" and gated["verdict"].item() == "same treatment"
    assert gated[["p", "p_holm", "detectable"]].isna().all(axis=None)
    (said,) = analysis.findings.verdicts(gated, checks)
    assert said.startswith("grpo-exact and grpo-sparse were the same treatment") and "100% of their training" in said


def test_sentences_of_the_other_verdicts() -> None:
    row = {"method": "a", "against": "b", "difference": 0.06, "low": 0.02, "high": 0.1, "seeds": 8, "tasks": 400}
    row |= {"p": 0.0001, "p_holm": 0.0002, "detectable": 0.05}
    verdicts = {
        "higher": "a is higher than b out of domain (+6.0 points [2.0, 10.0], 8 seeds, 400 tasks, p <0.001 after",
        "lower, by less than 5 points": "a is lower than b out of domain, by less than 5 points (",
        "no difference of more than 5 points": "a and b: no difference of more than 5 points out of domain (",
        "undecided": "a true difference of 5.0% would have been found in four of five such studies.",
        "no verdict: 1 of at least 4 seeds": "a against b: no verdict: 1 of at least 4 seeds (",
    }
    table = pd.DataFrame([row | {"verdict": verdict} for verdict in verdicts])
    for said, words in zip(analysis.findings.verdicts(table, pd.DataFrame()), verdicts.values(), strict=True):
        assert words in said
    assert "None of the planned contrasts" in analysis.findings.verdicts(table.iloc[:0], pd.DataFrame())[0]
    shown = analysis.text.readable(table.assign(p=[0.0123, 0.2, math.nan, 0.0, 1.0]))
    assert list(shown["p"]) == ["0.012", "0.200", "–", "<0.001", "1.000"] and shown["seeds"].tolist() == [8] * 5
    counts = pd.DataFrame({"n": [832.0, 42656.0, math.nan, 12.5, 1.0], "k": [9999, 10000, 3, 4, 5]})
    shown = analysis.text.readable(counts)
    assert list(shown["n"]) == ["832", "42,656", "–", "12.500", "1.000"]
    assert list(shown["k"]) == [9999, "10,000", 3, 4, 5]


def test_a_contrast_that_is_missing_and_a_suite_trained_on_are_said() -> None:
    row = {"method": "a", "against": "b", "difference": 0.06, "low": 0.02, "high": 0.1, "seeds": 1, "tasks": 400}
    table = pd.DataFrame([row | {"p": math.nan, "p_holm": math.nan, "verdict": "no verdict: 1 of at least 4 seeds"}])
    said = analysis.findings.verdicts(table, pd.DataFrame(), [["a", "b"], ["a", "c"], ["b", "a"]], ["a", "b", "a"])
    assert said[1:] == [
        "a against c was planned and is not compared: there is no method c (there are a, b).",
        "b against a was planned and is not compared: they share no task.",
    ]
    assert analysis.findings.verdicts(table.iloc[:0], pd.DataFrame(), [], ["a"]) == ["No contrast was planned."]
    runs = pd.DataFrame(
        [["a", {"method": "sft", "suite": "rooms"}], ["b", {"method": "none", "suite": "rooms"}], ["z", {}]],
        columns=["method", "parameters"],
    )
    rows = pd.DataFrame({"suite": ["rooms", "longer"], "domain": "out of domain"})
    assert analysis.findings.trained_outside(runs, rows, [["a", "b"]]) == [
        "a was trained on rooms, which counts as out of domain here: give in_domain."
    ]
    inside = rows.assign(domain=["in domain", "out of domain"])
    assert not analysis.findings.trained_outside(runs, inside) and not analysis.findings.trained_outside(
        runs.iloc[1:], rows
    )


PLAN = {
    "runs": ["x"],
    "contrasts": [["a", "b"]],
    "margin": 0.05,
    "identical_max": 0.5,
    "answers_max": 0.9,
    "reranked_min": 0.1,
}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"contrasts": ["a", "b"]}, "'a' is not two methods"),
        ({"contrasts": [["a"]]}, "is not two methods"),
        ({"contrasts": [["a", "b", "c"]]}, "is not two methods"),
        ({"contrasts": [["a", 1]]}, "is not two methods"),
        ({"margin": 0}, "margin=0: a share"),
        ({"answers_max": 2}, "answers_max=2: a share"),
    ],
)
def test_a_wrong_plan_is_refused_before_anything_runs(wrong: dict[str, Any], says: str) -> None:
    check_comparison(**PLAN, run="x")
    with pytest.raises(InputError, match=says):
        check_comparison(**PLAN | wrong)
    node = read_notebook(Path(__file__).parents[3] / "notebooks/05_compare.ipynb")
    with pytest.raises(InputError, match=says):
        run_check_cell(node, wrong)


@pytest.mark.parametrize("study", ["quick", "nano", "own", "map"])
def test_the_contrasts_of_a_shipped_study_name_its_methods(
    study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Methods are named by what their runs differ in, so that a stage more could leave a contrast without its arm."""
    monkeypatch.chdir(Path(__file__).parents[3])
    stages = plan(Path(f"studies/{study}.yaml"))[1]
    notebooks = {stage.notebook for stage in stages}
    defaults = {file: {p.name: p.default for p in parameters_of(read_notebook(file))} for file in notebooks}
    for stage in stages:
        (tmp_path / stage.run).mkdir()
        parameters = defaults[stage.notebook] | stage.parameters
        (tmp_path / stage.run / "run.json").write_text(json.dumps({"parameters": parameters}))
    compared = [stage for stage in stages if stage.notebook.stem == "05_compare"]
    assert compared
    for stage in compared:
        contrasts = (defaults[stage.notebook] | stage.parameters)["contrasts"]
        seeds = analysis.load.methods(stage.parameters["runs"], tmp_path).groupby("method").size()
        assert len(contrasts) == (1 if study == "own" else 3) and {name for pair in contrasts for name in pair} <= set(
            seeds.index
        )
        assert study == "quick" or seeds[[name for pair in contrasts for name in pair]].min() >= 4
