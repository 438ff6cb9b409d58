"""The notebooks that make things run top to bottom on tiny parameters, and hand on what the next one reads."""

import json
from pathlib import Path

import pytest
from tiny import executed

from mentorlib.lab.analysis.recompute import verify_run
from mentorlib.rollout.model import load_model
from mentorlib.runs.run import Run

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
GSM8K = {"question": "Two and three, twice?", "answer": "2+3=<<2+3=5>>5, 5*2=<<5*2=10>>10\n#### 10"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of runs with a small data set built by notebook 01."""
    root = tmp_path_factory.mktemp("runs")
    rows = [GSM8K | {"question": f"{GSM8K['question']} ({i})"} for i in range(4)] + [{"question": "no answer"}]
    (root / "gsm8k.jsonl").write_text("\n".join(map(json.dumps, rows)))
    small = {"n_train": 30, "n_eval": 6, "sources": [f"gsm8k:{root}/gsm8k.jsonl"]}
    execute("01_build_data", root, **small)
    return root


def execute(name, root, **parameters):
    output = root / f"{name}-{parameters.get('method', '')}.ipynb"
    executed(NOTEBOOKS / f"{name}.ipynb", output, root=str(root), **parameters)


def test_build_data(root):
    run = Run.open("data", root)
    card = json.loads((run.path / "tasks.card.json").read_text())
    assert run.status == "done"
    assert card["kept"] == 30 + 7 * 6 + 4 and card["rejected"] == {"no answer after ####": 1}


@pytest.mark.parametrize("method", ["none", "sft", "grpo"])
def test_train(root, method):
    sizes = {
        "steps": 2,
        "groups": 2,
        "group_size": 2,
        "max_tokens": 64,
        "n_eval": 4,
        "eval_suites": ["calculator", "wording"],
    }
    execute("02_train", root, run=f"tiny-{method}", data=str(root / "data"), method=method, **sizes)
    run = Run.open(f"tiny-{method}", root)
    assert run.status == "done" and (run.path / "model" / "model.safetensors").exists()
    assert len(run.read_rows("eval/wording.jsonl")) == 4
    checks = {check["key"]: check["ok"] for check in verify_run(run)}
    assert checks["accuracy/wording"] is True and False not in checks.values()


def test_tour(root):
    executed(NOTEBOOKS / "00_tour.ipynb", root / "00.ipynb")


def test_remaking_the_student(root):
    sizes = {"steps": 4, "examples_per_step": 1, "n_eval": 2, "n_groups": 2, "suites": ["calculator"]}
    execute("90_student", root, run="student", **sizes)
    run = Run.open("student", root)
    assert run.status == "done"
    assert all(check["ok"] is not False for check in verify_run(run))  # the groups' results name no rows
    load_model(str(run.path / "model"))
