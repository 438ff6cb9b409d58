"""Where relative paths are read from, whoever starts the kernel of a notebook."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import notebook

from mentorlib.lab.batch.notebook import run_notebook
from mentorlib.runs.run import Run
from mentorlib.runs.workspace import enter_workspace, find_workspace


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """A workspace with one notebook, which writes a run and reads another."""
    monkeypatch.chdir(tmp_path)
    Run("before").finish()
    body = "from mentorlib import Run\nRun.open(other)\nRun(run, other=other).finish()"
    notebook(Path("notebooks/n.ipynb"), 'run: str = "new"\nother: str = "before"', body)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return tmp_path


def test_the_nearest_folder_with_notebooks_and_runs_is_the_workspace(work, monkeypatch):
    assert find_workspace() == work
    deep = work / "notebooks/mine"
    (deep / "notebooks").mkdir(parents=True)  # no workspace: neither studies nor runs beside it
    for folder in (work / "notebooks", deep, work / "runs/before"):
        monkeypatch.chdir(folder)
        assert find_workspace() == work
    (deep / "studies").mkdir()
    monkeypatch.chdir(deep / "notebooks")
    assert find_workspace() == deep
    (work / "runs").rename(work / "other")
    monkeypatch.chdir(work / "other")
    assert find_workspace() == work / "other"
    enter_workspace()  # in a kernel only
    monkeypatch.chdir(deep / "notebooks")
    enter_workspace()
    assert Path.cwd() == deep / "notebooks"


@pytest.mark.parametrize(
    "command", ["nbconvert --to notebook --execute n.ipynb --output-dir ..", "papermill n.ipynb ../n.ipynb"]
)
def test_a_kernel_that_starts_beside_its_notebook_finds_the_runs(work, command):
    tool, *words = command.split()
    module = {"papermill": "papermill", "nbconvert": "nbconvert"}[tool]
    done = subprocess.run(
        [sys.executable, "-m", module, *words], cwd=work / "notebooks", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert Run.open("new").status == "done" and sorted(os.listdir("notebooks")) == ["n.ipynb"]


def test_in_batch_too(work, monkeypatch):
    monkeypatch.chdir("notebooks")
    report = run_notebook("n.ipynb", on_line=lambda line: None)
    assert str(report) == "../runs/new/report.html" and report.exists() and os.listdir() == ["n.ipynb"]
    report = run_notebook("n.ipynb", {"run": "again"}, "here", on_line=lambda line: None)
    assert str(report) == "here/report.html" and report.exists() and Run.open(work / "runs/again").status == "done"
