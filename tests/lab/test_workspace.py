"""``mentor init``: a workspace in a new folder, from a checkout and from a wheel."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from mentorlib.cli import main
from mentorlib.lab.batch.plan import plan
from mentorlib.lab.workspace import contents
from mentorlib.rewards.reward import get_reward
from mentorlib.runs.run import Run

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(file.name for file in (ROOT / "notebooks").glob("*.ipynb"))
STUDIES = sorted(file.name for file in (ROOT / "studies").iterdir() if file.is_file())


def test_a_workspace_has_what_its_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "my work"]) == 0
    assert "cd 'my work' &&" in capsys.readouterr().out
    monkeypatch.chdir("my work")
    assert not any(path.is_symlink() for path in Path().rglob("*"))
    assert sorted(os.listdir()) == ["README.md", "mine.py", "notebooks", "studies"]
    assert sorted(os.listdir("notebooks")) == NOTEBOOKS and sorted(os.listdir("studies")) == STUDIES
    assert plan(Path("studies/quick.yaml"))[1] and get_reward("mine.py:brevity").name == "mine.py:brevity"
    text = Path("README.md").read_text()
    for file in ("notebooks/00_tour.ipynb", "studies/quick.yaml", "notebooks/02_train.ipynb"):
        assert file in text and Path(file).is_file()


def test_nothing_is_replaced(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    for name, words in (("full", "is not empty; name a new folder"), ("full/notes.txt", "is a file; name a folder")):
        assert main(["init", str(tmp_path / name)]) == 2
        assert words in capsys.readouterr().err
    assert os.listdir(tmp_path / "full") == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    assert main(["init", str(tmp_path / "empty")]) == 0


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 2, "no space"), (KeyboardInterrupt(), 130, "interrupted")],
)
@pytest.mark.parametrize("folder", ["a/new", "empty"])
def test_half_a_workspace_is_taken_away(folder, error, code, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    copy, left = shutil.copyfile, iter(range(9))

    def full(source, target):
        if next(left, None) is None:
            raise error
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    assert main(["init", folder]) == code
    said = capsys.readouterr().err
    assert words in said.lower() and said.count("\n") == 1
    assert [str(path) for path in Path().rglob("*")] == ["empty"]


@pytest.mark.parametrize("name", ["quick", "quick.yaml", "studies/quik.yaml"])
def test_the_nearest_study_is_named(name, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["study", name]) == 2
    assert "did you mean studies/quick.yaml?" in capsys.readouterr().err


def test_the_index_leads_to_studies_and_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "No study" in contents.studies().data and "No run is here" in contents.runs().data
    for name, reward in (("plain", "<b>"), ("fine", "f1")):
        run = Run(name, method="grpo", reward=reward)
        run.record("accuracy/a", 0.5)
        run.record("accuracy/b")
        run.finish()
    Run("later", runs=[]).record("accuracy/a/base", 0.5)
    Path("runs/fine/report.html").touch()
    Path("runs/broken").mkdir()
    Path("runs/broken/run.json").write_text("[]")
    Path("reports/quick").mkdir(parents=True)
    Path("reports/quick/index.html").touch()
    page = contents.runs().data
    assert "<tr><td>fine</td><td>grpo f1</td><td>50%</td><td>done</td>" in page and "broken" not in page
    assert '<a href="../runs/fine/report.html">report</a>' in page and "notebook.ipynb" not in page
    assert "<tr><td>later</td><td></td><td></td><td>running</td>" in page
    assert "grpo &lt;b&gt;" in page
    assert '<a href="../reports/quick/index.html">quick</a>' in contents.studies().data


def test_the_index_names_every_notebook():
    text = (ROOT / "notebooks/index.ipynb").read_text()
    assert sorted({*re.findall(r"\]\((\w+\.ipynb)\)", text), "index.ipynb"}) == NOTEBOOKS


@pytest.mark.slow
def test_a_wheel_gives_a_workspace_whose_tour_runs(tmp_path):
    source, wheels, target = tmp_path / "source", tmp_path / "wheels", tmp_path / "installed"
    left_out = shutil.ignore_patterns("*.egg-info", "__pycache__", "build")
    source.mkdir()
    for name in ("mentorlib", "notebooks", "studies"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    run(*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", wheels, source)
    (wheel,) = wheels.iterdir()
    names = ZipFile(wheel).namelist()
    for name in (
        "py.typed",
        "students/nano/model.safetensors",
        "lab/workspace/notebooks/00_tour.ipynb",
        "lab/workspace/jupyterlab/overrides.json",
    ):
        assert f"mentorlib/{name}" in names
    metadata = ZipFile(wheel).read(next(n for n in names if n.endswith("/METADATA"))).decode()
    assert "License-Expression: Apache-2.0" in metadata and any(n.endswith("licenses/LICENSE") for n in names)
    run(*pip, "install", "--no-deps", "--no-index", "--target", target, wheel)
    there = {**os.environ, "PYTHONPATH": str(target)}
    mentor = [sys.executable, "-m", "mentorlib"]
    where = run(sys.executable, "-c", "import mentorlib; print(mentorlib.__file__)", cwd=tmp_path, env=there)
    assert where.startswith(str(target))
    run(*mentor, "init", "work", cwd=tmp_path, env=there)
    work = tmp_path / "work"
    assert sorted(os.listdir(work / "notebooks")) == NOTEBOOKS and sorted(os.listdir(work / "studies")) == STUDIES
    assert "report.html" in run(*mentor, "run", "notebooks/00_tour.ipynb", cwd=work, env=there)
    assert '"output_type": "error"' not in (work / "reports/00_tour/notebook.ipynb").read_text()


def run(*command, **settings) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout
