"""Run folders as DataFrames: labels of methods, errors, subsampling."""

import json
from pathlib import Path

import pandas as pd
import pytest
import synthetic

from mentorlib.core import InputError
from mentorlib.lab import analysis


def test_methods_are_named_and_ordered(root: Path) -> None:
    result = analysis.load.methods(root=root)
    assert list(result["method"]) == ["base", "sft", "grpo-exact", "grpo-sparse", "grpo-strict"]
    assert set(result["seconds"]) == {100.0}
    assert list(analysis.load.methods(["sft", "base"], root)["run"]) == ["sft", "base"]


def test_runs_of_one_method_with_other_data_are_not_pooled(tmp_path: Path) -> None:
    for name, data, seed in (("a", "runs/x/calc.parquet", 0), ("b", "gsm8k.parquet", 0), ("c", "gsm8k.parquet", 1)):
        (tmp_path / name).mkdir()
        parameters = {"method": "sft", "reward": "exact", "data": data, "seed": seed, "run": name}
        (tmp_path / name / "run.json").write_text(json.dumps({"parameters": parameters}))
    result = analysis.load.methods(["a", "b", "c"], tmp_path)
    assert list(result["method"]) == ["sft data=calc", "sft data=gsm8k", "sft data=gsm8k"]


def test_training_sets_drawn_anew_for_each_seed_are_one_method(tmp_path: Path) -> None:
    data = {"n_train": 20, "eval_seed": 0}
    made = {f"data-{i}": {**data, "seed": i, "run": f"data-{i}"} for i in range(2)} | {"larger": {"n_train": 40}}
    made |= {f"sft-{i}": {"method": "sft", "seed": i, "data": f"runs/data-{i}"} for i in range(2)}
    for name, parameters in made.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"parameters": parameters}))
    assert list(analysis.load.methods(["sft-0", "sft-1"], tmp_path)["method"]) == ["sft", "sft"]
    (tmp_path / "alone").mkdir()  # runs that were imported without their data
    for i in range(2):
        info = {"parameters": made[f"sft-{i}"], "inputs": {f"runs/data-{i}": made[f"data-{i}"]}}
        (tmp_path / "alone" / f"sft-{i}").mkdir()
        (tmp_path / "alone" / f"sft-{i}" / "run.json").write_text(json.dumps(info))
    assert list(analysis.load.methods(["sft-0", "sft-1"], tmp_path / "alone")["method"]) == ["sft", "sft"]
    (tmp_path / "other").mkdir()
    other = {"method": "sft", "seed": 0, "data": "runs/larger"}
    (tmp_path / "other" / "run.json").write_text(json.dumps({"parameters": other}))
    result = list(analysis.load.methods(["sft-0", "sft-1", "other"], tmp_path)["method"])
    assert result == ["sft data=data-0", "sft data=data-0", "sft data=larger"]


def test_what_changes_no_result_and_other_ways_to_write_a_number_split_no_method(tmp_path: Path) -> None:
    given = ({"temperature": 1}, {"temperature": 1.0}, {"temperature": 1.0, "micro_batch": 8}, {"temperature": 0.7})
    for seed, extra in enumerate(given):
        (tmp_path / f"run{seed}").mkdir()
        parameters = {"method": "grpo", "reward": "exact", "seed": seed, "micro_batch": 0, **extra}
        (tmp_path / f"run{seed}" / "run.json").write_text(json.dumps({"parameters": parameters}))
    assert set(analysis.load.methods(["run0", "run1", "run2"], tmp_path)["method"]) == {"grpo-exact"}
    result = list(analysis.load.methods(["run0", "run1", "run2", "run3"], tmp_path)["method"])
    assert result == ["grpo-exact temperature=1"] * 3 + ["grpo-exact temperature=0.7"]


def test_a_switch_that_is_on_is_named(tmp_path: Path) -> None:
    for name, extra in (("old", {}), ("off", {"demonstrations": False}), ("on", {"demonstrations": True})):
        (tmp_path / name).mkdir()
        parameters = {"method": "grpo", "reward": "exact", "seed": 0, **extra}
        (tmp_path / name / "run.json").write_text(json.dumps({"parameters": parameters}))
    result = list(analysis.load.methods(["old", "off", "on"], tmp_path)["method"])
    assert result == ["grpo-exact", "grpo-exact", "grpo-exact demonstrations"]


def test_a_run_that_continues_another_is_labelled_so(tmp_path: Path) -> None:
    for seed in (0, 1):
        for name, extra in (("half", {"method": "sft"}), ("whole", {"method": "grpo", "steps": 12}), ("plain", {})):
            parameters = {"method": "grpo", "reward": "exact", "student": "nano", "steps": 24, "seed": seed} | extra
            if name == "whole":
                parameters["student"] = str(tmp_path / f"half{seed}" / "model")
            (tmp_path / f"{name}{seed}").mkdir()
            (tmp_path / f"{name}{seed}" / "run.json").write_text(json.dumps({"parameters": parameters}))
    result = analysis.load.methods(["half0", "half1", "whole0", "whole1", "plain0"], tmp_path)
    assert list(result["method"]) == ["sft", "sft", "sft+grpo-exact", "sft+grpo-exact", "grpo-exact"]


def test_runs_with_other_starting_points_are_not_pooled(tmp_path: Path) -> None:
    for name, steps in (("short", 12), ("long", 480)):
        before = {"method": "sft", "steps": steps, "learning_rate": 1e-4}
        after = {"method": "grpo", "reward": "exact", "student": str(tmp_path / name / "model")}
        for run, parameters in ((name, before), (f"{name}-on", after)):
            (tmp_path / run).mkdir()
            (tmp_path / run / "run.json").write_text(json.dumps({"parameters": parameters}))
    result = list(analysis.load.methods(["short-on", "long-on"], tmp_path)["method"])
    assert result == ["sft+grpo-exact before_steps=12", "sft+grpo-exact before_steps=480"]


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
    with pytest.raises(InputError, match=r"calculator.jsonl, line 3: no key 'answer'"):
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


def test_subsampling_keeps_whole_groups(rollouts: pd.DataFrame, rows: pd.DataFrame) -> None:
    kept = analysis.load.subsample_groups(rollouts, 6)
    assert (kept.groupby(["run", "step", "group"]).size() == 4).all()
    assert kept.groupby("run")["step"].agg(["min", "max"]).drop_duplicates().values.tolist() == [[0, 5]]
    assert len(analysis.load.subsample_groups(rows, 50)) == 50
