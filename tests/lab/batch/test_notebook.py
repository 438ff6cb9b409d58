import errno
import json
import os
import re
import subprocess
import sys
import tempfile
import time

import nbformat
import plotly.graph_objects as go
import pytest
from nbformat.sign import NotebookNotary
from tiny import notebook

from mentorlib.core import InputError
from mentorlib.lab import figures
from mentorlib.lab.batch.notebook import NotebookFailed, _Lines, run_notebook
from mentorlib.lab.batch.parameters import check_parameters, parameters_of, read_notebook
from mentorlib.lab.report.html import figure_html
from mentorlib.runs.run import Run

PARAMETERS = """run: str = "one"  # the run's name
steps: int = 3  # optimizer steps
lr: float = 1e-6
lora: bool = False
suites: list[str] = [
    "a",
    "b",
]  # suites to use
limit: int | None = None  # rows (# of them)
weights: dict[str, float] = {}
free = None"""
LOADS = re.compile(r"<script[^>]*\ssrc=|<link[^>]*href=|@import|<img[^>]*src=.http|import\(|requirejs|MathJax\.js")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def typed(tmp_path):
    return notebook(tmp_path / "typed.ipynb", PARAMETERS)


def test_parameters_are_read_with_types_defaults_and_help(typed):
    parameters = {p.name: p for p in parameters_of(read_notebook(typed))}
    assert list(parameters) == ["run", "steps", "lr", "lora", "suites", "limit", "weights", "free"]
    assert parameters["steps"].default == 3 and parameters["steps"].help == "optimizer steps"
    assert parameters["suites"].default == ["a", "b"] and parameters["suites"].help == "suites to use"
    assert parameters["limit"].type == "int | None" and parameters["limit"].help == "rows (# of them)"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("steps=7", 7),
        ("lr=1e-5", 1e-5),
        ("lr=2", 2),
        ("lora=true", True),
        ("suites=[a, b c]", ["a", "b c"]),
        ("suites=[]", []),
        ("limit=null", None),
        ("limit=5", 5),
        ("run=123", "123"),
        ("run=no", "no"),
        ("run=a: b", "a: b"),
        ("run=[x", "[x"),
        ("run=", ""),
        ("weights={tool: 0.5}", {"tool": 0.5}),
        ("free=[1, x]", [1, "x"]),
    ],
)
def test_text_values_become_typed(typed, text, value):
    name, _, raw = text.partition("=")
    (checked,) = check_parameters(typed, {name: raw}, text=True).values()
    assert checked == value and type(checked) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz=7", "no parameter 'stepz'; did you mean steps?"),
        ("zzz=7", "no parameter 'zzz'; it takes run, steps"),
        ("steps=1.5", "parameter steps takes int (optimizer steps), not 1.5"),
        ("steps=many", "takes int"),
        ("steps=true", "takes int"),
        ("steps=null", "takes int"),
        ("lr=fast", "takes float"),
        ("lora=1", "takes bool"),
        ("suites=a", "takes list[str]"),
        ("suites=[1]", "takes list[str]"),
        ("limit=x", "takes int | None"),
        ("weights={tool: x}", "takes dict[str, float]"),
    ],
)
def test_unknown_and_ill_typed_parameters_are_refused(typed, text, message):
    name, _, raw = text.partition("=")
    with pytest.raises(InputError) as error:
        check_parameters(typed, {name: raw}, text=True)
    assert message in str(error.value) and "typed.ipynb" in str(error.value) and "\n" not in str(error.value)


def test_refusal_comes_before_a_kernel_and_leaves_nothing(typed, tmp_path, monkeypatch):
    monkeypatch.setattr("mentorlib.lab.batch.notebook.execute_notebook", None)
    for given in ({"steps": "3"}, {"nothing": 1}, {"run": "a/b"}):
        with pytest.raises(InputError):
            run_notebook(typed, given)
    assert os.listdir(tmp_path) == ["typed.ipynb"]


def test_the_check_cell_refuses_before_a_kernel(tmp_path, monkeypatch):
    check = """from mentorlib import InputError, notebook_parameters
print(notebook_parameters(globals()))
if steps > 3: raise InputError(f"steps={steps}: at most 3")
if steps < 0: 1 / 0"""
    file = notebook(tmp_path / "n.ipynb", PARAMETERS, check, "later = 1")
    node = read_notebook(file)
    node.cells[2].metadata["tags"] = ["check"]
    nbformat.write(node, file)
    started = []
    monkeypatch.setattr("mentorlib.lab.batch.notebook.execute_notebook", lambda *_: started.append(1))
    with pytest.raises(InputError, match="steps=4: at most 3"):
        run_notebook(file, {"steps": 4})
    assert not started and os.listdir(tmp_path) == ["n.ipynb"]
    run_notebook(file, {"steps": 2})
    run_notebook(file, {"steps": -1})  # any other error is the execution's
    assert len(started) == 2


def test_no_notebook_and_bad_notebooks(tmp_path, typed):
    with pytest.raises(InputError, match=r"did you mean .*typed\.ipynb"):
        run_notebook(tmp_path / "typd.ipynb")
    (tmp_path / "bad.ipynb").write_text("{")
    with pytest.raises(InputError, match=r"bad\.ipynb: not a notebook"):
        run_notebook(tmp_path / "bad.ipynb")
    with pytest.raises(InputError, match="not a literal"):
        run_notebook(notebook(tmp_path / "x.ipynb", "a: int = len('x')"))
    with pytest.raises(InputError, match="as `name: type"):
        run_notebook(notebook(tmp_path / "x.ipynb", "print(1)"))


def test_a_report_streams_runs_here_and_opens_offline(tmp_path):
    source = notebook(
        tmp_path / "books" / "good.ipynb",
        'run: str = "r"\nn: int = 2',
        "from mentorlib.runs.run import Run\nimport os, sys, time\nrecord = Run(run, n=n)",
        "for i in range(n):\n    print('step', i, flush=True)\n    time.sleep(1.0)",
        "print(os.getcwd()); print(sys.executable)",
        "import plotly.express as px\npx.line(x=[1, 2], y=[3, 4], title='</script><b>bold').show()",
        "px.bar(x=[1], y=[2])",
        "import ipywidgets\nipywidgets.IntSlider()",
        "print('<script>alert(1)</script>')",
        "print('careful', file=sys.stderr)",
        "record.finish()",
    )
    before = source.read_bytes()
    printed = []
    report = run_notebook(source, {"n": 3}, on_line=lambda line: printed.append((line, time.monotonic())))
    assert report == tmp_path.relative_to(tmp_path) / "runs" / "r" / "report.html"
    assert source.read_bytes() == before
    lines = [line for line, _ in printed]
    assert lines[:5] == ["step 0", "step 1", "step 2", str(tmp_path), sys.executable]
    assert printed[2][1] - printed[0][1] > 1.0  # as they were printed, not at the end
    html = report.read_text()
    page = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert not LOADS.search(page) and not re.search(r"<script[^>]*src", html) and len(html) > 3_000_000
    assert html.count('<script>drawFigure("figure-') == 2 and "<b>bold" not in html
    assert (
        "<details" in page
        and "<summary>warnings</summary>" in page
        and "<title>r · Tiny</title>" in page
        and "&lt;script&gt;alert(1)" in page
    )
    assert "slider" not in page.lower().replace("intslider", "")
    executed = nbformat.read(tmp_path / "runs" / "r" / "notebook.ipynb", 4)
    assert executed.metadata.mentorlib.parameters == {"run": "r", "n": 3} and executed.metadata.mentorlib.error is None
    assert sorted(os.listdir(tmp_path / "runs" / "r")) == ["notebook.ipynb", "report.html", "run.json"]
    assert Run.open("r").status == "done"


def test_lines_of_progress_appear_while_it_runs_and_do_not_pile_up_in_the_report(tmp_path):
    source = notebook(
        tmp_path / "n.ipynb",
        'run: str = "r"',
        "import time\nfrom mentorlib import Run\nfrom mentorlib.lab.report.live import Live\n"
        "from mentorlib.runs import progress\nprogress.EVERY = 0.2\nrecord = Run(run)",
        "print('before')\nreport = progress.progress_printer('evaluate', every=0)\n"
        "for done in range(4):\n    report(done, 3, {'tokens': 1000 * done})\n    time.sleep(0.3)",
        "with progress.waiting('loading big'):\n    time.sleep(0.7)",  # from a thread
        "follow = Live(record, progress.progress_printer('grpo', every=0))\n"
        "for step in range(2):\n    for done in range(3):\n"
        "        follow(step, 2, {'inside': f'rollouts {done}/3'})\n        time.sleep(0.2)\n"
        "    record.log(step + 1, loss=0.5)\n    follow(step + 1, 2, {'loss': 0.5})",
        "record.finish()",
    )
    printed = []
    report = run_notebook(source, on_line=printed.append)
    assert printed[0] == "before"
    for done in range(3):
        assert sum(line.startswith(f"evaluate {done}/3  tokens {1000 * done:,}  ") for line in printed) == 1
        for step in (1, 2):
            assert printed.count(f"grpo step {step}/2: rollouts {done}/3") == 1
    assert sum(line.startswith("loading big: ") for line in printed) > 2
    page = re.sub(r"<script>.*?</script>", "", report.read_text(), flags=re.DOTALL)
    page = re.sub(r"<div class=\"jp-Cell-inputWrapper\".*?</details>", "", page, flags=re.DOTALL)
    page = page[page.index(">before") :]
    assert "evaluate" not in page and "loading big: " not in page and "rollouts" not in page and "\r" not in page
    kept = report.with_name("notebook.ipynb").read_text()
    assert kept.count("evaluate 3/3") == 1 and kept.count("loading big: ") == 1 and "evaluate 2/3" not in kept


def test_of_a_bar_redrawn_in_place_the_last_state_is_a_line():
    lines = []
    file = _Lines(lines.append)
    for text in ("whole\nhal", "f\n", "\r 1%", "\r 50%\r", "", "\r100%", "\nours  1/2 \r", "ours 2/2   \nend"):
        file.write(text)
    assert lines == ["whole", "half", " 50%", "100%", "ours  1/2", "ours 2/2"] and file.rest == "end"


def test_a_report_is_in_its_runs_folder_wherever_that_is(tmp_path):
    cells = ('run: str = "r"\nroot: str = "runs"', "from mentorlib import Run\nRun(run, root=root).finish()")
    given = run_notebook(notebook(tmp_path / "n.ipynb", *cells), {"root": "elsewhere"}, on_line=lambda line: None)
    assert {p.name for p in given.parent.iterdir()} >= {"report.html", "notebook.ipynb", "run.json"}
    assert str(given) == "elsewhere/r/report.html"


def test_a_custom_figure_keeps_its_title():
    dressed = figures.base.style_figure(go.Figure(), "What <it> says", 300)
    page = figure_html(json.loads(dressed.to_json()), "f")
    assert ">What &lt;it&gt; says</p>" in page and '"title": {"text": "<b>' not in page
    own = go.Figure(layout={"margin": {"l": 0}, "title": "Mine"})
    page = figure_html(json.loads(own.to_json()), "f")
    assert '"title": {"text": "Mine"}' in page and "</p>" not in page
    assert "</p>" not in figure_html(json.loads(go.Figure().to_json()), "f")


def test_a_failing_cell_still_gives_a_report(tmp_path):
    source = notebook(
        tmp_path / "bad.ipynb",
        'run: str = "r"',
        "from mentorlib.runs.run import Run\nRun(run)\nprint('so far')",
        "raise ValueError('three <b>\\nsecond line')",
        "print('never')",
    )
    with pytest.raises(NotebookFailed) as error:
        run_notebook(source)
    assert (
        "bad.ipynb" in str(error.value) and "ValueError: three <b>" in str(error.value) and "\n" not in str(error.value)
    )
    html = error.value.report.read_text()
    assert "so far" in html and "This notebook failed" in html and "three &lt;b&gt;" in html and "<b>\n" not in html
    assert Run.open("r").status == "failed"
    assert not (tmp_path / "runs" / "r" / "running.ipynb").exists()


def test_a_dying_kernel_still_gives_a_report(tmp_path):
    source = notebook(tmp_path / "dies.ipynb", "n: int = 1", "print('so far')", "import os; os._exit(1)")
    with pytest.raises(NotebookFailed, match="DeadKernelError"):
        run_notebook(source)
    assert "so far" in (tmp_path / "reports" / "dies" / "report.html").read_text()


def test_input_errors_of_cells_leave_no_trace_and_no_damage(tmp_path):
    source = notebook(
        tmp_path / "b.ipynb",
        'run: str = "r"\nn: int = 1',
        "from mentorlib.runs.run import Run\nrecord = Run(run, n=n)\nrecord.finish()",
    )
    run_notebook(source)
    folder = tmp_path / "runs" / "r"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(InputError, match=r"n \(was 1, now 2\)"):
        run_notebook(source, {"n": 2})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    raising = "from mentorlib.core import InputError\nraise InputError('rows.jsonl, line 3: no answer')"
    other = notebook(tmp_path / "o.ipynb", 'run: str = "new"', raising)
    with pytest.raises(InputError, match="line 3"):
        run_notebook(other)
    assert not (tmp_path / "runs" / "new").exists()


def test_a_run_that_breaks_is_failed_wherever_its_report_goes(tmp_path):
    begin = "from mentorlib.core import InputError\nfrom mentorlib.runs.run import Run\nrecord = Run(run)"
    for error, raised in (("InputError", InputError), ("ValueError", NotebookFailed)):
        source = notebook(tmp_path / f"{error}.ipynb", f'run: str = "{error}"', begin, f"raise {error}('late')")
        with pytest.raises(raised, match="late"):
            run_notebook(source, output=tmp_path / "out" / error)
        assert Run.open(tmp_path / "runs" / error).status == "failed"
        assert "late" in (tmp_path / "out" / error / "report.html").read_text()


def test_a_killed_notebook_takes_its_kernel_with_it(tmp_path):
    source = notebook(
        tmp_path / "long.ipynb",
        "n: int = 1",
        "import os, time\nprint('kernel', os.getpid(), flush=True)",
        "for i in range(600):\n    print(i, flush=True)\n    time.sleep(0.1)",
    )
    child = subprocess.Popen(
        [sys.executable, "-c", f"from mentorlib.lab.batch.notebook import run_notebook; run_notebook({str(source)!r})"],
        stdout=subprocess.PIPE,
        text=True,
    )
    kernel = int(child.stdout.readline().split()[1])
    child.kill()
    child.wait()
    for _ in range(100):
        if not os.path.exists(f"/proc/{kernel}"):
            break
        time.sleep(0.1)
    else:
        os.kill(kernel, 9)
        pytest.fail("the kernel outlived its parent")


def test_the_notebook_metadata_is_json(tmp_path):
    source = notebook(tmp_path / "p.ipynb", "n: int = 1", "print(n)")
    run_notebook(source, output=tmp_path / "out", on_line=lambda line: None)
    assert (
        json.loads((tmp_path / "out" / "notebook.ipynb").read_text())["metadata"]["mentorlib"]["notebook"] == "p.ipynb"
    )
    executed = nbformat.read(tmp_path / "out" / "notebook.ipynb", 4)
    assert NotebookNotary().check_signature(executed)  # JupyterLab opens it without a question
    executed.cells[-1].outputs[0].text = "another"
    assert not NotebookNotary().check_signature(executed)


def test_two_executions_do_not_fill_one_run(tmp_path):
    cells = """from mentorlib.runs.run import Run
record = Run(run)
record.append_rows('rows.jsonl', [{}])
while not Path('go').exists(): time.sleep(0.05)
record.finish()"""
    one = notebook(tmp_path / "one.ipynb", 'run: str = "x"', "import time\nfrom pathlib import Path\n" + cells)
    command = [sys.executable, "-m", "mentorlib", "run", str(one)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "runs/x/rows.jsonl").exists():
        assert first.poll() is None
        time.sleep(0.05)
    with pytest.raises(InputError, match="x is being written by process"):
        run_notebook(one)
    with pytest.raises(InputError, match="x is being written by process"):  # as one in JupyterLab would be
        run_notebook(one, output="elsewhere")
    assert Run.open("x").status == "running" and not (tmp_path / "elsewhere").exists()
    (tmp_path / "go").touch()
    assert first.wait(60) == 0
    assert Run.open("x").status == "done" and len(Run.open("x").read_rows("rows.jsonl")) == 1
    assert not {".lock", ".writer", "running.ipynb"} & set(os.listdir("runs/x"))


def test_a_long_tmpdir_does_not_stop_a_kernel(tmp_path, monkeypatch):
    folder = tmp_path / ("t" * 124)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    run_notebook(notebook(tmp_path / "n.ipynb", "n: int = 1", "print(n)"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match=r"TMPDIR=.*t is too long for a kernel's sockets: set it to a folder with a"):
        run_notebook(tmp_path / "n.ipynb")


def test_a_full_disk_is_named_and_not_hidden_by_what_it_cut_short(tmp_path, monkeypatch):
    one = notebook(tmp_path / "one.ipynb", 'run: str = "x"')

    def fill(node, running, *_):
        running.write_text('{"cells": [')  # cut short
        monkeypatch.setattr(os, "fsync", full)  # and no report can be written
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mentorlib.lab.batch.notebook.execute_notebook", fill)
    with pytest.raises(
        InputError, match=r"^runs/x: OSError: \[Errno 28\] No space left on device: free some space"
    ) as e:
        run_notebook(one)
    assert "\n" not in str(e.value) and not (tmp_path / "runs/x/running.ipynb").exists()


def test_what_the_file_system_refuses_a_cell_is_one_line(tmp_path):
    cell = "from mentorlib.runs.run import Run\nRun(run, '/proc')"
    with pytest.raises(InputError, match=r"^/proc/x: No such file or directory"):
        run_notebook(notebook(tmp_path / "one.ipynb", 'run: str = "x"', cell))
    cell = "with open('/dev/full', 'w') as full: full.write('x')"
    with pytest.raises(InputError, match=r"^runs/x: cell 2: OSError: \[Errno 28\] No space left on device: free some"):
        run_notebook(notebook(tmp_path / "two.ipynb", 'run: str = "x"', cell))
    with pytest.raises(NotebookFailed, match="FileNotFoundError"):  # which is the cell's own affair
        run_notebook(notebook(tmp_path / "three.ipynb", 'run: str = "x"', "open('/proc/x')"))
