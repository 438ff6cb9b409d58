"""What notebook 01 refuses before its kernel starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mentorlib.core import InputError
from mentorlib.data.checks import check_building
from mentorlib.lab.batch import notebook
from mentorlib.lab.batch.parameters import parameters_of, read_notebook
from mentorlib.runs.run import Run

NOTEBOOK = Path(__file__).parents[2] / "notebooks/01_build_data.ipynb"
DEFAULTS = {p.name: p.default for p in parameters_of(read_notebook(NOTEBOOK))}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"suites": ["calculator", "retreival"]}, "did you mean retrieval"),
        ({"suite_options": {"varid": True}}, "did you mean varied"),
        ({"suites": ["retrieval"], "suite_options": {"noise": 0.5}}, "'retrieval' has no option 'noise'"),
        ({"suites": [], "suite_options": {"noise": 0.5}}, "names none"),
        ({"suites": [], "sources": []}, "nothing to build"),
        ({"n_train": 0, "n_eval": 0, "sources": []}, "nothing to build"),
        ({"sources": ["gsm9k:x"]}, "write name:path"),
        ({"sources": ["bfcl"]}, "add its path"),
        ({"sources": ["bfcl:nowhere"]}, "no such file or folder: nowhere"),
        ({"teacher_suites": ["calculator"]}, "there is no teacher to sample"),
        *[({name: -1}, f"{name}=-1") for name in ("n_train", "n_eval", "n_validation", "sources_eval", "seed")],
        *[({name: 0}, f"{name}=0") for name in ("samples", "max_tokens", "concurrency")],
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"timeout": 0.0}, "timeout=0"),
        ({"prices": [1.0]}, "give two"),
        ({"teacher": "nofolder"}, "no such model folder"),
        ({"teacher": "http://localhost:8000/v1"}, "which model"),
    ],
)
def test_parameters_are_refused_by_name(tmp_path, settings, words):
    with pytest.raises(InputError, match=words) as caught:
        check_building(**DEFAULTS | {"root": str(tmp_path)} | settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ("f = lambda x: x", r"rooms/tools\.py: toolbox rooms: tool f is a lambda"),
        ("def f(x: int):\n    'Do it.'", "argument x has no line in the docstring"),
        (
            "import nosuch",
            r"rooms/tools\.py does not load in the sandbox: ModuleNotFoundError: No module named 'nosuch'",
        ),
        ("while True: pass", "does not load in the sandbox: timed out"),
        (None, r"rooms/tools\.py: cannot be read"),
    ],
)
def test_a_folder_s_tools_are_loaded_before_anything_is_built(tmp_path, monkeypatch, tools, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rooms").mkdir()
    (tmp_path / "rooms/tasks.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    if tools is not None:
        (tmp_path / "rooms/tools.py").write_text(tools)
    with pytest.raises(InputError, match=words) as caught:
        check_building(**DEFAULTS | {"root": str(tmp_path / "runs"), "sources": ["own:rooms"]})
    assert "\n" not in str(caught.value)
    (tmp_path / "rooms/tools.py").write_text("def f() -> int:\n    'Do it.'\n    return 1")
    check_building(**DEFAULTS | {"root": str(tmp_path / "runs"), "sources": ["own:rooms"]})


def test_the_defaults_pass_and_other_parameters_need_another_name(tmp_path):
    parameters = DEFAULTS | {"root": str(tmp_path)}
    check_building(**parameters)
    server = ("concurrency", "per_minute", "timeout", "prices")
    run = Run(**{name: value for name, value in parameters.items() if name not in server})  # as the notebook does
    run.finish()
    check_building(**parameters | {"concurrency": 1, "prices": [1.0, 2.0]})
    with pytest.raises(InputError, match=r"n_train \(was 1000, now 7\)"):
        check_building(**parameters | {"n_train": 7})
    run.finish("failed")
    check_building(**parameters | {"n_train": 7})


def test_the_notebook_refuses_before_its_kernel_starts_and_leaves_nothing(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(notebook, "execute_notebook", lambda *_: started.append(1))
    with pytest.raises(InputError, match="did you mean retrieval"):
        notebook.run_notebook(NOTEBOOK, {"root": str(tmp_path), "suites": ["retreival"]})
    assert not started and not os.listdir(tmp_path)


def test_checking_needs_neither_torch_nor_transformers():
    code = "import sys, mentorlib.data.checks; sys.exit(bool({'torch', 'trl', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
