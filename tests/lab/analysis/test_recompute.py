"""Results of a comparison are computed again from the trajectories; changed numbers or rows are reported."""

import json
from pathlib import Path

import pandas as pd
import pytest
import synthetic

from mentorlib.cli import main
from mentorlib.core import InputError
from mentorlib.lab import analysis
from mentorlib.lab.analysis.recompute import record_table, verify_run
from mentorlib.runs.run import Run


@pytest.fixture
def compared(tmp_path: Path) -> Run:
    root = tmp_path / "runs"
    synthetic.make_runs(root, tasks=12, steps=3)
    names = list(analysis.load.methods(root=root)["run"])
    rows, rollouts = analysis.load.evaluations(names, root), analysis.load.rollouts(names, root)
    run = Run("compare", root)
    record_table(
        run, names, analysis.comparison.paired(rows), "difference", ["suite", "method"], "paired", against="base"
    )
    record_table(run, names, analysis.tool_use.tool_jsd(rows), "jsd", ["suite", "method"], "tool_jsd")
    record_table(
        run,
        names,
        analysis.training.learning_speed(rollouts, level=0.5),
        "area",
        ["method"],
        "learning_speed",
        level=0.5,
    )
    run.record("stated", 3)
    return run


def test_every_number_of_a_table_is_verified(compared: Run) -> None:
    entry = compared.results["difference/longer/sft"]
    assert entry["query"] == "paired(against='base').difference where suite == 'longer' and method == 'sft'"
    assert entry["n"] == 12 and entry["ci"][0] <= entry["value"] <= entry["ci"][1]
    checked = verify_run(compared)
    assert len(checked) > 20 and {c["ok"] for c in checked if c["key"] != "stated"} == {True}
    assert checked[-1] == {"key": "stated", "value": 3, "recomputed": None, "ok": None}


@pytest.mark.parametrize("part", ["value", "ci"])
def test_a_changed_result_is_reported(compared: Run, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    changed = compared.results["jsd/calculator/sft"]
    changed[part] = 0.123 if part == "value" else [0.1, 0.2]
    compared.record_many({"jsd/calculator/sft": changed})
    assert [c["key"] for c in verify_run(compared) if c["ok"] is False] == ["jsd/calculator/sft"]
    assert main(["verify", str(compared.path)]) == 1
    assert "jsd/calculator/sft says" in capsys.readouterr().out


def test_a_changed_trajectory_is_reported(compared: Run) -> None:
    file = compared.path.parent / "sft" / "eval" / "longer.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row["correct"] = True
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "difference/longer/sft" in {c["key"] for c in verify_run(compared) if c["ok"] is False}


def test_unknown_tables_and_malformed_queries_are_refused(compared: Run) -> None:
    with pytest.raises(InputError, match="no table 'exec'"):
        record_table(
            compared, compared.info["compares"], analysis.load.methods(root=compared.path.parent), "x", [], "exec"
        )
    with pytest.raises(InputError, match="about other runs"):
        record_table(compared, ["base"], analysis.load.methods(root=compared.path.parent), "seed", ["run"], "accuracy")
    for query in ("open('x').value", "paired(against=open('x')).x", "paired(nothing=1).x", "paired(.x"):
        entry = compared.results["area/grpo-exact"] | {"query": f"{query} where method == 'a'"}
        compared.record_many({"bad": entry})
        with pytest.raises(InputError, match="query "):
            verify_run(compared)


def test_a_reward_function_s_numbers_carry_no_query(compared: Run) -> None:
    """`verify` executes nobody's file: such a number is stated, and the others are verified."""
    table = pd.DataFrame(
        {"method": "grpo-exact", "trained": ["exact", "exact", "mine.py:f"], "reward": ["sparse", "mine.py:f", "exact"]}
    ).assign(sign_flips=0.5, n=3)
    names = compared.info["compares"]
    record_table(compared, names, table, "sign_flips", ["trained", "reward"], "counterfactual", groups=2)
    entries = {k: e["rows"] for k, e in compared.results.items() if k.startswith("sign_flips")}
    assert list(entries.values()) == ["runs", None, None]
    assert {c["ok"] for c in verify_run(compared) if "mine.py:f" in c["key"]} == {None}


def test_a_query_cannot_name_a_file_to_execute(compared: Run, tmp_path: Path) -> None:
    """A run of somebody else brings its results, and may bring a file beside them."""
    mark, file = tmp_path / "executed", tmp_path / "evil.py"
    file.write_text(f"open({str(mark)!r}, 'w').close()\ndef f(trajectory, reference, terms): return 0.0\n")
    query = f"counterfactual(groups=2, rewards=['{file}:f']).n where reward == 'exact'"
    compared.record_many({"bad": compared.results["area/grpo-exact"] | {"query": query}})
    with pytest.raises(InputError, match="files are not executed"):
        verify_run(compared)
    assert not mark.exists()
