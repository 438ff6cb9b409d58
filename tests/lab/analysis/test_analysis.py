"""The numbers of the notebooks against values worked out by hand, and the made-up runs."""

import json
import math
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st

from mentorlib.core import InputError
from mentorlib.lab import analysis


def frame(
    correct: dict[str, list[bool | None]], suite: str = "calculator", tools: list[str] | None = None
) -> pd.DataFrame:
    """Evaluated rows with the given verdicts: one task a position."""
    return pd.DataFrame(
        [
            {
                "run": m,
                "method": m,
                "seed": 0,
                "suite": suite,
                "task_id": str(i),
                "correct": c,
                "teacher_tools": ["add"],
            }
            | {"calls": [{"name": t, "arguments": {}} for t in tools or ["add"]]}
            for m, verdicts in correct.items()
            for i, c in enumerate(verdicts)
        ]
    )


def test_methods_are_named_and_ordered(root: Path) -> None:
    found = analysis.load.methods(root=root)
    assert list(found["method"]) == ["base", "sft", "grpo-exact", "grpo-sparse", "grpo-strict"]
    assert set(found["seconds"]) == {100.0}
    assert list(analysis.load.methods(["sft", "base"], root)["run"]) == ["sft", "base"]


def test_runs_of_one_method_with_other_data_are_not_pooled(tmp_path: Path) -> None:
    for name, data, seed in (("a", "runs/x/calc.parquet", 0), ("b", "gsm8k.parquet", 0), ("c", "gsm8k.parquet", 1)):
        (tmp_path / name).mkdir()
        parameters = {"method": "sft", "reward": "exact", "data": data, "seed": seed, "run": name}
        (tmp_path / name / "run.json").write_text(json.dumps({"parameters": parameters}))
    found = analysis.load.methods(["a", "b", "c"], tmp_path)
    assert list(found["method"]) == ["sft data=calc", "sft data=gsm8k", "sft data=gsm8k"]


def test_a_run_that_went_on_from_another_says_so(tmp_path: Path) -> None:
    for seed in (0, 1):
        for name, extra in (("half", {"method": "sft"}), ("whole", {"method": "grpo", "steps": 12}), ("plain", {})):
            parameters = {"method": "grpo", "reward": "exact", "student": "nano", "steps": 24, "seed": seed} | extra
            if name == "whole":
                parameters["student"] = str(tmp_path / f"half{seed}" / "model")
            (tmp_path / f"{name}{seed}").mkdir()
            (tmp_path / f"{name}{seed}" / "run.json").write_text(json.dumps({"parameters": parameters}))
    found = analysis.load.methods(["half0", "half1", "whole0", "whole1", "plain0"], tmp_path)
    assert list(found["method"]) == ["sft", "sft", "sft+grpo-exact", "sft+grpo-exact", "grpo-exact"]


def test_runs_that_began_otherwise_are_not_pooled(tmp_path: Path) -> None:
    for name, steps in (("short", 12), ("long", 480)):
        before = {"method": "sft", "steps": steps, "learning_rate": 1e-4}
        after = {"method": "grpo", "reward": "exact", "student": str(tmp_path / name / "model")}
        for run, parameters in ((name, before), (f"{name}-on", after)):
            (tmp_path / run).mkdir()
            (tmp_path / run / "run.json").write_text(json.dumps({"parameters": parameters}))
    found = list(analysis.load.methods(["short-on", "long-on"], tmp_path)["method"])
    assert found == ["sft+grpo-exact before_steps=12", "sft+grpo-exact before_steps=480"]


def test_tuning_chooses_the_most_accurate_rate_and_of_equals_the_lowest() -> None:
    named = {"a 1": [1, 0, 0], "a 2": [1, 1, 0], "a 3": [1, 0, 1], "b 1": [0, 0, 0], "b 2": [0, 0, 0]}
    rows = frame({k.replace(" ", " learning_rate="): [bool(x) for x in v] for k, v in named.items()})
    other = frame({"a learning_rate=1": [True] * 3}, suite="longer")
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


def test_bad_run_folders_give_one_line(tmp_path: Path, root: Path) -> None:
    with pytest.raises(InputError, match="no run folder with rows"):
        analysis.load.evaluations(root=tmp_path)
    with pytest.raises(InputError, match=r"nowhere.*base"):
        analysis.load.evaluations(["nowhere"], root)
    synthetic.make_runs(tmp_path, tasks=2, methods=("base",))
    file = tmp_path / "base/eval/calculator.jsonl"
    good = file.read_text()
    file.write_text("[1]\n" + good)
    with pytest.raises(InputError, match="line 1"):
        analysis.load.evaluations(root=tmp_path)
    row = json.loads(good.splitlines()[0])
    del row["answer"]
    file.write_text(good + json.dumps(row) + "\n")
    with pytest.raises(InputError, match=r"calculator.jsonl:3: no key 'answer'"):
        analysis.load.evaluations(root=tmp_path)
    (tmp_path / "base/run.json").write_text("{}")
    with pytest.raises(InputError, match="no parameters"):
        analysis.load.evaluations(root=tmp_path)


def test_rollouts_of_runs_without_any_are_empty_with_columns(root: Path) -> None:
    empty = analysis.load.rollouts(["base", "sft"], root)
    assert empty.empty and {"step", "group", "total", "method", "outcome"} <= set(empty.columns)
    computed = analysis.reward_effects.decomposition(empty)
    assert computed.empty and "method" in computed
    with pytest.raises(InputError, match="none of these runs was evaluated"):
        (root / "bare").mkdir(exist_ok=True)
        (root / "bare/run.json").write_text('{"parameters": {}}')
        analysis.load.evaluations(["bare"], root)


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("right", "correct"),
        ("box", "right tools, wrong answer"),
        ("tool", "wrong tool"),
        ("argument", "wrong argument"),
        ("invented", "invented tool"),
        ("malformed", "malformed call"),
        ("error", "tool error ignored"),
        ("gave_up", "gave up"),
        ("cut", "ran out"),
    ],
)
def test_outcomes(kind: str, outcome: str) -> None:
    row = synthetic.row(kind, Random(0), 3)
    assert analysis.outcomes.classify_outcome(row) == outcome
    assert outcome in analysis.outcomes.OUTCOMES
    assert analysis.outcomes.classify_outcome(row | {"stop": "infrastructure"}) == "infrastructure failure"
    assert (
        analysis.outcomes.classify_outcome(row | {"correct": None})
        == analysis.outcomes.classify_outcome(row | {"correct": math.nan})
        == "infrastructure failure"
    )


def test_the_gold_value_on_the_way_is_not_the_right_tools() -> None:
    row = synthetic.row("tool", Random(0), 3)
    on_the_way = [{"role": "tool", "content": row["answer"]}, *row["messages"]]
    assert analysis.outcomes.classify_outcome(row | {"messages": on_the_way}) == "wrong tool"


def test_every_row_has_an_outcome(rows: pd.DataFrame) -> None:
    assert set(rows["outcome"]) <= set(analysis.outcomes.OUTCOMES)
    shares = analysis.outcomes.outcome_shares(rows)
    assert np.allclose(shares.groupby(["suite", "method"])["share"].sum(), 1)


def test_wilson_against_published_values() -> None:
    # Newcombe 1998, Statistics in Medicine 17(8), table I: 81/263 and 0/20
    assert np.allclose(analysis.stats.wilson(81, 263), (0.2553, 0.3662), atol=1e-4)
    assert np.allclose(analysis.stats.wilson(0, 20), (0, 0.1611), atol=1e-4)
    assert analysis.stats.wilson(0, 0) == (0.0, 1.0)


def test_accuracy_leaves_out_what_is_ours() -> None:
    one = analysis.comparison.accuracy(frame({"base": [True, False, None, True]})).iloc[0]
    assert (one["accuracy"], one["n"], one["unjudged"]) == (2 / 3, 3, 1)


def test_samples_of_a_task_do_not_count_as_tasks() -> None:
    alone = frame({"base": [True, False] * 10})
    same = pd.concat([alone] * 8)
    narrow, wide = analysis.comparison.accuracy(same).iloc[0], analysis.comparison.accuracy(alone).iloc[0]
    assert narrow["n"] == 160 and narrow["tasks"] == 20
    assert np.isclose(narrow["low"], wide["low"], atol=0.02)


def test_paired_counts_and_tests() -> None:
    before, after = [False] * 8 + [True] * 2 + [None], [True] * 8 + [False, True, True]
    found = analysis.comparison.paired(frame({"base": before, "sft": after})).iloc[0]
    assert (found["tasks"], found["fixed"], found["broke"]) == (10, 8, 1)
    assert np.isclose(found["difference"], 0.7) and found["low"] < 0.7 < found["high"]
    assert np.isclose(found["p"], 2 * (1 + 9) / 2**9)
    with pytest.raises(InputError, match="against='grpo'"):
        analysis.comparison.paired(frame({"base": before}), against="grpo")


def seeded(shares: dict[str, list[float]], tasks: int = 100, seed: int = 0) -> pd.DataFrame:
    """Several runs a method, each right on its own share of the tasks."""
    rng = np.random.default_rng(seed)
    runs = [
        frame({method: list(rng.random(tasks) < share)}).assign(run=f"{method}-{i}", seed=i)
        for method, own in shares.items()
        for i, share in enumerate(own)
    ]
    return pd.concat(runs, ignore_index=True)


def test_seeds_that_differ_are_not_taken_for_tasks() -> None:
    """The same mean gain: sure if every seed has it, unsure if one of three has it all."""
    even = analysis.comparison.paired(seeded({"base": [0.4] * 3, "sft": [0.6] * 3})).iloc[0]
    one = analysis.comparison.paired(seeded({"base": [0.4] * 3, "sft": [0.95, 0.45, 0.4]})).iloc[0]
    assert even["runs"] == 3 and even["p"] < 0.01 and even["low"] > 0
    assert one["low_tasks"] > 0 and one["low"] < 0.03 and one["p"] > 0.05
    assert one["high_runs"] - one["low_runs"] > 2 * (even["high_runs"] - even["low_runs"])
    spread = analysis.comparison.accuracy(seeded({"sft": [0.95, 0.45, 0.4]})).iloc[0]
    assert spread["runs"] == 3 and spread["sd_runs"] > 0.2


def test_the_interval_covers_the_true_difference() -> None:
    """Five runs each, of skills that vary between runs: a 95% interval should hold the truth nearly that often."""
    rng, held = np.random.default_rng(1), 0
    for i in range(100):
        skills = {m: list(np.clip(rng.normal(mean, 0.08, 5), 0, 1)) for m, mean in (("base", 0.4), ("sft", 0.55))}
        found = analysis.comparison.paired(seeded(skills, seed=i)).iloc[0]
        held += found["low"] <= 0.15 <= found["high"]
    assert held >= 90


def test_rewards_with_the_same_seeds_are_compared_seed_by_seed() -> None:
    """What a seed does to both methods alike says nothing against their difference; imitation shares no sampling."""
    skills = [0.3, 0.4, 0.5, 0.6, 0.7]
    rows = seeded(
        {"grpo-sparse": skills, "grpo-exact": [s + 0.1 for s in skills], "sft": [s + 0.1 for s in skills]}, 400
    )
    found = analysis.comparison.paired(rows, against="grpo-sparse").set_index("method")
    alike, apart = found.loc["grpo-exact"], found.loc["sft"]
    assert alike["difference"] == pytest.approx(0.1, abs=0.03) and alike["low"] > 0.05 and alike["p"] < 0.001
    assert apart["low"] < -0.05 and apart["p"] > 0.1
    others = rows.assign(seed=rows["seed"] + 5 * (rows["method"] == "grpo-exact"))  # seeds of its own
    assert (
        analysis.comparison.paired(others, against="grpo-sparse").set_index("method").loc["grpo-exact", "low"] < -0.05
    )
    shuffled = analysis.comparison.paired(rows.sample(frac=1, random_state=1), against="grpo-sparse").set_index(
        "method"
    )
    assert shuffled.loc["grpo-exact", "low"] == pytest.approx(alike["low"])


def test_by_domain_where_the_baseline_can_be_compared(rows: pd.DataFrame) -> None:
    named = analysis.comparison.add_domain(rows, ["calculator"])
    even = analysis.comparison.comparable(named)
    found = analysis.comparison.paired_domains(named, even["method"].iloc[0])
    pd.testing.assert_frame_equal(found, analysis.comparison.paired(even, even["method"].iloc[0], by="domain"))
    assert analysis.comparison.paired_domains(named, "nobody").empty


def test_other_ways_to_a_right_answer() -> None:
    call = {"name": "add", "arguments": {"a": 1, "b": 2}}
    rows = frame({"sft": [True, True, True, True, False]}).assign(
        teacher_tools=[["add"]] * 4 + [["add"]],
        teacher_calls=[[call]] * 5,
        calls=[
            [call],
            [{"name": "add", "arguments": {"b": 2.0, "a": 1}}],
            [call, call],
            [call | {"name": "power"}],
            [],
        ],
    )
    (found,) = analysis.tool_use.off_reference(rows).to_dict("records")
    assert found == {"method": "sft", "n": 4, "other_tools": 0.25, "other_calls": 0.5}
    assert analysis.tool_use.off_reference(rows.iloc[4:]).empty
    assert analysis.tool_use.off_reference(
        rows.drop(columns="teacher_calls", errors="ignore")
    ).empty  # of an older library


@pytest.mark.parametrize("runs", [2, 5])
@pytest.mark.parametrize("spread", [0.0, 0.8])
def test_chance_is_seldom_called_an_effect(runs: int, spread: float) -> None:
    """Two methods of the same skill on tasks of any difficulty; seeds that differ by ``spread`` in the logit."""
    rng = np.random.default_rng(2)

    def method(logits: np.ndarray) -> np.ndarray:
        return (rng.random((150, runs)) < 1 / (1 + np.exp(-logits - rng.normal(0, spread, runs)))).astype(float)

    p = []
    for _ in range(200):
        logits = rng.logistic(size=(150, 1))
        p.append(analysis.stats.two_way_clustered(method(logits), method(logits))["p"])
    assert np.mean(np.array(p) < 0.05) < 0.08 and np.mean(np.array(p) < 0.004) < 0.035


def test_crossed_by_hand() -> None:
    """Two tasks; of two runs one scores 0.1, against none: variance of tasks 0, of runs 1/400; t = 1 at 1 degree."""
    found = analysis.stats.two_way_clustered(np.array([[0.1, 0.0], [0.1, 0.0]]), np.zeros((2, 1)))
    assert found["difference"] == found["low_tasks"] == found["high_tasks"] == 0.05
    assert np.isclose(found["high_runs"], 0.05 + 12.7062 * 0.05) and np.isclose(found["high"], found["high_runs"])
    assert np.isclose(found["p"], 0.5)
    wide = analysis.stats.two_way_clustered(np.array([[1.0, 0.0], [1.0, 0.0]]), np.zeros((2, 1)))
    assert (wide["low"], wide["high"], wide["low_runs"], wide["high_runs"]) == (-1, 1, -1, 1)


def test_tasks_that_do_not_vary_are_not_certain() -> None:
    unseen = 1 - 0.025 ** (1 / 3)
    same = analysis.stats.two_way_clustered(np.ones((3, 2)), np.ones((3, 2)))
    assert (same["low"], same["high"], same["p"]) == pytest.approx((-unseen, unseen, 1))
    all_fixed = analysis.stats.two_way_clustered(np.ones((3, 2)), np.zeros((3, 1)))
    assert (all_fixed["low"], all_fixed["high"], all_fixed["p"]) == pytest.approx((1 - unseen, 1, 0.25))
    one = analysis.stats.two_way_clustered(np.ones((1, 2)), np.zeros((1, 1)))
    assert (one["difference"], one["high"], one["p"]) == (1, 1, 1) and one["low"] == pytest.approx(0.025)
    assert analysis.comparison.paired(frame({"base": [False], "sft": [True]}))["p"].tolist() == [1.0]


def test_mcnemar_and_holm() -> None:
    assert analysis.stats.mcnemar(0, 0) == analysis.stats.mcnemar(5, 5) == 1.0
    assert np.isclose(analysis.stats.mcnemar(10, 0), 2 / 2**10)
    assert np.allclose(analysis.stats.holm(np.array([0.04, 0.01, 0.03])), [0.06, 0.03, 0.06])
    assert len(analysis.stats.holm(np.array([]))) == 0


@given(st.lists(st.integers(0, 9), min_size=3, max_size=3), st.lists(st.integers(0, 9), min_size=3, max_size=3))
def test_jsd_is_a_symmetric_bounded_divergence(p: list[int], q: list[int]) -> None:
    a, b = np.array(p, float), np.array(q, float)
    found = analysis.stats.jsd(a, b)
    if not a.sum() or not b.sum():
        assert np.isnan(found)
    else:
        assert 0 <= found <= 1 and np.isclose(found, analysis.stats.jsd(b, a))
        assert np.isclose(analysis.stats.jsd(a, 3 * a), 0)


def test_jsd_by_hand() -> None:
    assert analysis.stats.jsd(np.array([1, 0]), np.array([0, 1])) == 1
    assert np.isclose(analysis.stats.jsd(np.array([1.0, 0]), np.array([1.0, 1])), 0.311278)  # h(3/4) - 1/2
    same = analysis.tool_use.tool_jsd(frame({"base": [True] * 6})).iloc[0]
    assert (same["jsd"], same["low"], same["high"], same["floor"], same["tasks"]) == (0, 0, 0, 0, 6)
    other = analysis.tool_use.tool_jsd(frame({"base": [True] * 6}, tools=["invented"])).iloc[0]
    assert other["jsd"] == 1


def test_tool_use(rows: pd.DataFrame) -> None:
    use = analysis.tool_use.tool_overlap(rows, by=["method"]).set_index("method")
    assert use["f1"].idxmax() == "grpo-exact"
    assert use["invented"].between(0, 1).all() and (use["teacher_calls"] == 1).all()


def test_thin_keeps_whole_groups(rollouts: pd.DataFrame, rows: pd.DataFrame) -> None:
    kept = analysis.load.subsample_groups(rollouts, 6)
    assert (kept.groupby(["run", "step", "group"]).size() == 4).all()
    assert kept.groupby("run")["step"].agg(["min", "max"]).drop_duplicates().values.tolist() == [[0, 5]]
    assert len(analysis.load.subsample_groups(rows, 50)) == 50


def test_cost(root: Path, rows: pd.DataFrame, rollouts: pd.DataFrame) -> None:
    cost = analysis.comparison.cost(rows, rollouts, analysis.load.methods(root=root)).set_index("method")
    assert cost.loc["base", "rollouts"] == 0 and cost.loc["grpo-exact", "rollouts"] == 72


def test_tables(rows: pd.DataFrame) -> None:
    assert analysis.text.percent(math.nan) == "–"
    wide = analysis.text.interval_table(analysis.comparison.accuracy(rows))
    assert wide.shape == (5, 3) and wide.loc["base", "calculator"].endswith("]")
    words = analysis.comparison.accuracy(rows.assign(word_f1=(rows["suite"] == "calculator") / 2))
    assert analysis.text.interval_table(words).loc["base", "calculator"] == wide.loc["base", "calculator"] + ", F1 0.50"
