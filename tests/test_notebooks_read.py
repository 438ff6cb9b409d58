"""Notebooks 03 to 05, top to bottom on made-up runs: they run, record, and keep the house rules."""

import ast
import json
from pathlib import Path

import nbformat
import papermill
import pytest
import synthetic
from tiny import executed

from mentorlib.lab.analysis.recompute import verify_run
from mentorlib.runs.run import Run

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
NAMES = ["03_rewards", "04_errors", "05_compare"]


def execute(name: str, root: Path, **parameters: object) -> str:
    """Run a notebook with the given parameters; gives all that it put out, as JSON."""
    file = root / f"{name}-executed.ipynb"
    notebook = executed(NOTEBOOKS / f"{name}.ipynb", file, root=str(root), **parameters)
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    return json.dumps(outputs)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    synthetic.make_runs(path, tasks=12, steps=3)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_runs_top_to_bottom_and_records(name: str, root: Path) -> None:
    said = execute(name, root)
    assert "Traceback" not in said and said.count("application/vnd.plotly") >= 2
    assert "<script>alert" not in said.replace("&lt;script&gt;", "")
    run = Run.open(name[3:], root)
    assert run.status == "done" and len(run.results) > 5
    assert all(checked["ok"] is not False for checked in verify_run(run))
    if name == "05_compare":
        assert run.results["accuracy/calculator/base"]["n"] == 12


@pytest.mark.parametrize("name", ["03_rewards", "05_compare"])
def test_runs_on_a_base_run_alone(name: str, root: Path) -> None:
    said = execute(name, root, run=f"{name}-base", runs=["base"])
    assert "Traceback" not in said


@pytest.mark.parametrize("name", [*NAMES, "06_tune"])
def test_without_runs_one_line_says_what_to_run(name: str, tmp_path: Path) -> None:
    with pytest.raises(papermill.PapermillExecutionError):
        execute(name, tmp_path)
    cells = nbformat.read(tmp_path / f"{name}-executed.ipynb", 4).cells
    (error,) = [o for c in cells for o in c.get("outputs", ()) if o.output_type == "error"]
    (line,) = error.traceback
    assert line.startswith("InputError: ") and "make study" in line and "02_train" in line


def test_tuning_reads_a_grid(tmp_path: Path) -> None:
    for rate in (1e-4, 3e-4):
        made = synthetic.make_runs(
            tmp_path / f"{rate}", tasks=8, steps=1, methods=("sft", "grpo-exact"), seed=int(1e5 * rate)
        )
        for name in made:
            (tmp_path / f"{rate}" / name).rename(tmp_path / f"{name}-{rate}")
            path = tmp_path / f"{name}-{rate}" / "run.json"
            info = json.loads(path.read_text())
            info["parameters"]["learning_rate"] = rate
            path.write_text(json.dumps(info))
    said = execute("06_tune", tmp_path)
    assert "Traceback" not in said and "application/vnd.plotly" in said
    run = Run.open("tune", tmp_path)
    assert set(run.results) == {f"accuracy/{m}/{r}" for m in ("sft", "grpo-exact") for r in ("0.0001", "0.0003")}


@pytest.mark.parametrize("name", [*NAMES, "06_tune"])
def test_keeps_the_house_rules(name: str) -> None:
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert notebook.cells[0].cell_type == "markdown" and "What to expect" in notebook.cells[0].source
    assert len(code) <= 12 and not any(c.outputs or c.execution_count for c in code)
    tagged = [c for c in code if "parameters" in c.metadata.get("tags", ())]
    assert len(tagged) == 1
    for line in tagged[0].source.splitlines():
        assert isinstance(ast.parse(line).body[0], ast.AnnAssign) and "  # " in line
    for cell in code:
        assert not any(isinstance(n, ast.FunctionDef | ast.ClassDef) for n in ast.walk(ast.parse(cell.source)))
