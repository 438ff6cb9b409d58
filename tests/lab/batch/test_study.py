import base64
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import synthetic
from tiny import notebook

from mentorlib.core import InputError
from mentorlib.lab.analysis.load import methods
from mentorlib.lab.batch.keys import FILES_WITHOUT_EFFECT, stage_keys
from mentorlib.lab.batch.notebook import run_notebook
from mentorlib.lab.batch.plan import Stage, StageStatus, plan
from mentorlib.lab.batch.setting import study_setting
from mentorlib.lab.batch.study import StudyFailed, run_study
from mentorlib.lab.batch.study_page import _rows_link, write_study_page
from mentorlib.runs.run import Run

MAKE = """from mentorlib.runs.run import Run
record = Run(run, seed=seed, data=data, fail=fail)
print('working', run, seed)
if fail: raise ValueError('asked to')
record.append_rows('eval/a.jsonl', [{'correct': True}, {'correct': seed > 0}])
record.record('accuracy', rows='eval/a.jsonl', query='mean(correct)')
record.finish()"""
PARAMETERS = 'run: str = "m"\nseed: int = 0\ndata: str = ""\nfail: bool = False\nrefuse: bool = False'
GATHER = """from mentorlib.runs.run import Run
record = Run(run, runs=runs)
record.record('mean', sum(Run.open(r).results['accuracy']['value'] for r in runs) / len(runs))
record.finish()"""

BOOKS = Path(__file__).parents[3] / "notebooks"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook(Path("make.ipynb"), PARAMETERS, MAKE)
    notebook(Path("gather.ipynb"), 'run: str = "g"\nruns: list[str] = []', GATHER)


@pytest.fixture
def quick(monkeypatch):
    """Stages without kernels, to test the order of things: a process that leaves a report, fails if asked to."""
    script = Path("stage.py")
    script.write_text("""
import json, os, sys
folder, parameters = sys.argv[1], json.loads(sys.argv[2])
print("working", parameters["run"], "on", os.environ["OMP_NUM_THREADS"], "and", os.environ["MKL_NUM_THREADS"])
if parameters.get("fail"):
    sys.exit("mentor: asked to")
if parameters.get("refuse"):
    print("mentor: row 3: no answer", file=sys.stderr)
    sys.exit(2)
for name, text in {"report.html": "ok", "results.json": "{}"}.items():
    open(f"{folder}/{name}", "w").write(text)
""")
    monkeypatch.setattr(
        "mentorlib.lab.batch.schedule._command",
        lambda stage: [sys.executable, "-S", str(script), str(stage.folder), json.dumps(stage.parameters)],
    )


def study(text: str, name: str = "small.yaml") -> Path:
    Path(name).write_text(text)
    return Path(name)


SMALL = """
question: Which <seed>?
stages:
  - name: gather
    notebook: gather.ipynb
    parameters: {runs: [$one, $many]}
  - {name: one, notebook: make.ipynb, parameters: {seed: 5}}
  - {name: many, notebook: make.ipynb, grid: {seed: [0, 1]}, parameters: {data: $one/}, minutes: 0.1}
"""


def test_a_study_orders_runs_skips_and_reports(capfd):
    file = study(SMALL)
    settings, stages = plan(file)
    assert [s.name for s in stages] == ["one", "many-0", "many-1", "gather"]
    assert stages[1].parameters == {"seed": 0, "data": "runs/small-one", "run": "small-many-0"}
    assert stages[3].parameters["runs"] == ["small-one", "small-many-0", "small-many-1"]
    assert stages[3].needs == ("one", "many-0", "many-1") and settings["workers"] == 2

    report = run_study(file)
    printed = capfd.readouterr().out
    assert report == Path("reports/small/index.html")
    assert "[one] working small-one 5" in printed and "[many-1] working small-many-1 1" in printed
    assert re.search(r"\[small\] gather done in \d+s \(4 of 4 stages done, nothing left to run\)", printed)
    assert re.search(r"about \d+m?\d*s left", printed)
    assert Run.open("small-gather").results["mean"]["value"] == pytest.approx((1 + 0.5 + 1) / 3)
    page = report.read_text()
    assert "Which &lt;seed&gt;?" in page and 'href="gather.html"' in page and "accuracy" in page
    assert not re.search(
        r"<script[^>]*\ssrc=.(?!script-\w+\.js)|<link[^>]*href=.(?!style-\w+\.css)|@import|<img[^>]*src=.http|import\(",
        page,
    )  # offline
    assert sorted(p.name for p in report.parent.glob("*.html")) == [
        "gather.html", "index.html", "many-0.html", "many-1.html", "one.html"
    ]  # fmt: skip


def test_a_grid_goes_on_from_the_same_place_of_a_grid():
    text = """
stages:
  - {name: first, notebook: make.ipynb, grid: {seed: [0, 1]}}
  - {name: then, notebook: make.ipynb, grid: {fail: [false, true], seed: [0, 1]}, parameters: {data: $first/model}}
"""
    _, stages = plan(study(text))
    assert [s.parameters["data"] for s in stages[2:]] == [f"runs/small-first-{seed}/model" for seed in (0, 1, 0, 1)]
    with pytest.raises(InputError, match="no run of the stage 'first' has the values"):
        plan(study(text.replace("[false, true], seed: [0, 1]", "[false], seed: [2]")))


def test_done_stages_are_skipped_and_changed_ones_run_again(quick, capfd):
    def starts() -> list[str]:
        return re.findall(r"\] (\S+) starts", capfd.readouterr().out)

    file = study(SMALL)
    report = run_study(file)
    assert len(starts()) == 4
    before = {p: p.stat().st_mtime_ns for p in Path("runs").rglob("*")}
    made = report.stat().st_mtime_ns
    assert run_study(file) == report and starts() == [] and report.stat().st_mtime_ns == made
    assert {p: p.stat().st_mtime_ns for p in Path("runs").rglob("*")} == before

    run_study(study(SMALL.replace("[0, 1]", "[0, 2]")))  # another seed: its stage and what needs it, nothing else
    assert starts() == ["many-2", "gather"]

    one = study("stages: [{name: one, notebook: make.ipynb, parameters: {data: rows.jsonl}}]", "other.yaml")
    for text in ("{}\n", "{} \n"):  # another data file
        Path("rows.jsonl").write_text(text)
        run_study(one)
        assert starts() == ["one"]
    Path("runs/other-one/old").touch()
    notebook(Path("make.ipynb"), PARAMETERS, MAKE, "seed")  # another notebook: the folder begins anew
    run_study(one)
    assert starts() == ["one"] and not Path("runs/other-one/old").exists()


def test_a_failed_stage_stops_only_what_needs_it(quick):
    text = (
        SMALL.replace("{seed: 5}", "{seed: 5, fail: true}").replace("$one/", "''").replace("[$one, $many]", "[$many]")
    )
    text += "  - {name: last, notebook: gather.ipynb, parameters: {runs: [$one]}}\n"
    with pytest.raises(StudyFailed, match=r"one: mentor: asked to; the rest is in reports/small/index\.html") as error:
        run_study(study(text))
    page = error.value.report.read_text()
    assert "skipped" in page and "asked to" in page and 'href="many-0.html"' in page and 'href="gather.html"' in page
    assert not Path("runs/small-last").exists()


def test_bad_input_in_a_stage_is_bad_input_of_the_study(quick):
    with pytest.raises(InputError, match="only: mentor: row 3: no answer"):
        run_study(study("stages: [{name: only, notebook: make.ipynb, parameters: {refuse: true}}]"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not YAML"),
        ("stages:\n\t- {}", "indent with spaces, not tabs"),
        ("[]", "write keys and values"),
        ("stages: []", "no stages"),
        ("stages: [{name: a}]", "stage 1: no 'notebook'"),
        ("stages: [{name: a, notebook: make.ipynb, gird: {}}]", "unknown key 'gird'; did you mean grid?"),
        ("stages: [{name: a/b, notebook: make.ipynb}]", "'a/b' is taken or has other than"),
        ("stages: [{name: a, notebook: make.ipynb}, {name: a, notebook: make.ipynb}]", "'a' is taken"),
        ("stages: [{name: a, notebook: mak.ipynb}]", "did you mean make.ipynb?"),
        ("stages: [{name: a, notebook: make.ipynb, parameters: {sed: 1}}]", "did you mean seed?"),
        (
            "stages: [{name: a, notebook: make.ipynb, parameters: {seed: x}}]",
            "stage 'a': make.ipynb: parameter seed takes int",
        ),
        ("stages: [{name: a, notebook: make.ipynb, grid: {seed: 3}}]", "not a list of values"),
        (
            f"stages: [{{name: a, notebook: make.ipynb, grid: {{seed: {[*range(1000)]}, data: {[*'abcdefgh']}}}}}]",
            "stage 'a': the grid has 8,000 combinations, more than 1,000",
        ),
        ("stages: [{name: a, notebook: make.ipynb, parameters: {data: $b}}]", "no stage 'b'"),
        ("stages: [{name: abc, notebook: make.ipynb, parameters: {data: $abd}}]", "'abd'; did you mean abc?"),
        ("stages: [{name: a, notebook: make.ipynb, needs: [a]}]", "circle"),
        ("stages: [{name: a, notebook: make.ipynb, parameters: {run: a/b}}]", "run name 'a/b'"),
        ("stages: [{name: a, notebook: make.ipynb, parameters: {seed: 2024-13-45}}]", "not YAML"),
        ("stages: [{name: a, notebook: make.ipynb, parameters: {seed: &x [*x]}}]", "not YAML"),
        ("stages: [{name: a, notebook: make.ipynb, parameters: {1: 2}}]", "1 is no name"),
        ("stages: [{name: a, notebook: make.ipynb, needs: [[b]]}]", "['b'] is no name"),
        ("stages: [{name: a, notebook: make.ipynb, minutes: .inf}]", "'minutes' takes a number of minutes, not inf"),
        ("workers: 0\nstages: [{name: a, notebook: make.ipynb}]", "'workers' is at least 1"),
        ("workers: two\nstages: [{name: a, notebook: make.ipynb}]", "'workers' takes a int"),
        ("stages: [{name: a, notebook: make.ipynb, grid: {seed: [0, 1]}, parameters: {run: x}}]", "fill one folder"),
    ],
)
def test_a_wrong_study_is_refused_before_anything_starts(text, message):
    with pytest.raises(InputError) as error:
        run_study(study(text))
    assert message in str(error.value) and "small.yaml" in str(error.value) and "\n" not in str(error.value)
    assert not Path("runs").exists() and not Path("reports").exists()


PAPER = """
stages:
  - name: data
    notebook: 01_build_data.ipynb
    parameters: {sources: [], suites: [calculator, unseen]}
    grid: {seed: [0, 1]}
  - name: grpo
    notebook: 02_train.ipynb
    parameters: {data: $data/, eval_suites: [calculator, unseen]}
    grid: {reward: [exact, sparse], seed: [0, 1]}
  - name: warm
    notebook: 02_train.ipynb
    parameters: {data: $data/, method: sft, eval_suites: [calculator], steps: 2}
    grid: {seed: [0, 1]}
  - name: more
    notebook: 02_train.ipynb
    parameters: {data: $data/, student: $warm/model, suite: unseen, reward: exact, eval_suites: [unseen]}
    grid: {seed: [0, 1]}
  - name: compare
    notebook: 05_compare.ipynb
    parameters: {runs: [$grpo, $more], contrasts: [[sft+grpo-exact, grpo-sparse]]}
"""


@pytest.mark.parametrize(
    ("right", "wrong", "stage", "message"),
    [
        ("exact, sparse", "exact, sparce", "grpo-sparce-0", "did you mean sparse?"),
        ("exact, sparse", "exact, mine.py:f", "grpo-mine.py_f-0", "mine.py cannot be read"),
        ("reward: exact,", "reward: exact, student: nanno,", "more-0", "nanno: no such model folder"),
        ("reward: exact,", "reward: exact, groups: 7, micro_batch: 3,", "more-0", "micro_batch=3 must divide"),
        ("reward: exact,", "reward: exact, method: grop,", "more-0", "unknown method 'grop': did you mean grpo?"),
        ("reward: exact,", "reward: exact, template: t.jinja,", "more-0", "template=t.jinja: cannot be read"),
        ("suite: unseen,", "suite: unsen,", "more-0", "suite 'unsen' is not in the data set: did you mean unseen?"),
        ("eval_suites: [unseen]", "eval_suites: [unseeen]", "more-0", "did you mean unseen?"),
        ("sources: [], suites: [cal", "sources: [], suites: [col", "data-0", "did you mean calculator?"),
        ("sources: []", "sources: [mawp:x]", "data-0", "source 'mawp:x': did you mean mawps?"),
        ("grpo-sparse]]", "grpo-sparce]]", "compare", "did you mean grpo-sparse?"),
        ("contrasts:", "margin: 5.0, contrasts:", "compare", "margin=5.0"),
    ],
)
def test_what_a_notebook_would_refuse_is_refused_before_the_first_stage(right, wrong, stage, message):
    for name in ("01_build_data", "02_train", "05_compare"):
        shutil.copy(BOOKS / f"{name}.ipynb", ".")
    text = PAPER.replace("student: $warm/model, ", "") if "student" in wrong else PAPER
    assert text.count(right) == 1
    with pytest.raises(InputError) as error:
        run_study(study(text.replace(right, wrong)))
    assert str(error.value).startswith(f"small.yaml, stage '{stage}': ") and message in str(error.value)
    assert "\n" not in str(error.value) and not Path("runs").exists() and not Path("reports").exists()


def test_inputs_that_a_study_will_make_are_not_missed(quick, capfd):
    for name in ("01_build_data", "02_train", "05_compare"):
        shutil.copy(BOOKS / f"{name}.ipynb", ".")
    later = "  - {name: mine, notebook: 02_train.ipynb, needs: [grpo], parameters: {data: written/by/grpo}}\n"
    run_study(study(PAPER + later))
    Path("runs/small-grpo-exact-0/run.json").write_text('{"parameters": {"steps": 1}, "status": "done"}')
    capfd.readouterr()
    changed = PAPER.replace("unseen]}\n    grid: {reward", "unseen], steps: 9}\n    grid: {reward")
    run_study(study(changed + later))
    assert "grpo-exact-0 done" in capfd.readouterr().out


def test_no_file_and_a_folder_of_someone_else():
    with pytest.raises(InputError, match="no such study file"):
        run_study("nothing.yaml")
    with pytest.raises(InputError, match=r"\.: Is a directory; give a study's \.yaml file"):
        run_study(".")
    Run("small-one", seed=1)
    with pytest.raises(InputError, match="runs/small-one exists and is not of this study"):
        run_study(study(SMALL))
    assert not Path("reports").exists()


def test_a_study_leaves_another_study_s_runs_alone(quick):
    run_study(study("stages: [{name: one, notebook: make.ipynb}]"))
    Path("copy").mkdir()
    copy = "stages: [{name: one, notebook: make.ipynb, parameters: {seed: 3}}]"
    with pytest.raises(InputError, match=r"runs/small-one exists and is of small\.yaml; remove it, or rename"):
        run_study(study(copy, "copy/small.yaml"))
    assert json.loads(Path("runs/small-one/stage.json").read_text())["study"] == "small.yaml"
    run_study(study(copy))  # the same file, changed


def test_a_killed_study_goes_on_where_it_stopped(capfd):
    wait = "import time\nfrom pathlib import Path\nwhile not Path('go').exists(): time.sleep(0.05)"
    notebook(
        Path("wait.ipynb"), 'run: str = "w"\nseed: int = 0', f"print('waiting', flush=True)\n{wait}", "print('went')"
    )
    file = study("""
workers: 1
stages:
  - {name: one, notebook: make.ipynb}
  - {name: two, notebook: wait.ipynb, needs: [one]}
""")
    command = [sys.executable, "-m", "mentorlib", "study", str(file)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if "waiting" in line:
            break
    with pytest.raises(InputError, match="running already"):
        run_study(file)
    child.kill()
    child.wait()
    stage = json.loads(Path("runs/small-two/stage.json").read_text())
    assert "done" not in stage
    (Path("runs/small-two") / "kept").touch()  # such as a checkpoint: the folder of an interrupted stage stays
    Path("go").touch()
    time.sleep(2)  # an orphan, if there were one, would now finish the stage
    assert not Path("runs/small-two/report.html").exists()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "one starts" not in again.stdout and "[two] went" in again.stdout and "goes on" in again.stdout
    assert again.stdout.splitlines()[-1] == "Report: reports/small/index.html"
    assert Path("runs/small-two/kept").exists()


def test_another_library_begins_anew_unless_any_is_accepted(quick, capfd, monkeypatch):
    file = study("stages: [{name: a, notebook: make.ipynb}, {name: b, notebook: make.ipynb, parameters: {data: $a/}}]")
    run_study(file)
    monkeypatch.setattr("mentorlib.lab.batch.keys._folder_hash", lambda *_, **__: "another")
    capfd.readouterr()
    report = run_study(file, any_library=True)
    assert "working" not in capfd.readouterr().out
    assert report.read_text().count("done*") == 2 and "* done with another version" in report.read_text()
    report = run_study(file)
    assert capfd.readouterr().out.count("working") == 2 and "another version" not in report.read_text()
    study(file.read_text().replace("{data: $a/}", "{data: $a/, seed: 1}"))
    (report.parents[2] / "runs/small-b/replies.jsonl").touch()  # paid for, and good whatever else has changed
    (report.parents[2] / "runs/small-b/eval").mkdir()
    run_study(file, any_library=True)
    assert capfd.readouterr().out.count("working") == 1
    Path("runs/small-a/report.html").unlink()  # without its report a stage is not done, whatever is accepted
    run_study(file, any_library=True)
    assert Path("runs/small-a/report.html").exists()
    assert Path("runs/small-b/replies.jsonl").exists() and not Path("runs/small-b/eval").exists()


def test_any_executor_will_do(quick, capfd):
    file = study("stages: [{name: many, notebook: make.ipynb, grid: {seed: [0, 1]}}]")
    with ProcessPoolExecutor(2) as pool:
        run_study(file, executor=pool)
    assert "[many-0] working small-many-0" in capfd.readouterr().out


def test_stages_share_the_cores(quick, capfd, monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    run_study(study("stages: [{name: a, notebook: make.ipynb}]"))
    share = max(1, (os.cpu_count() or 1) // 2)
    assert f"[a] working small-a on {share} and {share}" in capfd.readouterr().out
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # what a user sets holds for both, or results hang on the load
    run_study(study("stages: [{name: b, notebook: make.ipynb}]"))
    assert "[b] working small-b on 7 and 7" in capfd.readouterr().out


# ---- the page (in a browser: test_browser.py)


def story(compare: str, foreign: str = "", execute: bool = False, **parameters: list) -> str:
    """The page of a study over the runs here, of which the last stage compares those in ``parameters["runs"]``.

    ``foreign`` is a run that no stage of the study made. With ``execute`` the last stage's notebook is run.
    """
    made = sorted({*os.listdir("runs")} - {foreign, "last"})
    stages = [Stage(run, BOOKS / "02_train.ipynb", {"run": run}, (), run, None) for run in made]
    stages.append(Stage("last", BOOKS / compare, parameters, tuple(s.name for s in stages), "last", None))
    if execute:
        run_notebook(BOOKS / compare, {"run": "last", **parameters}, on_line=lambda line: None)
    else:
        Path("runs/last").mkdir(exist_ok=True)
        shutil.copy(BOOKS / compare, "runs/last/notebook.ipynb")
    folder = Path("reports/s")
    folder.mkdir(parents=True, exist_ok=True)
    statuses = [StageStatus(stage, str(parameters), "done") for stage in stages]
    return write_study_page({"name": "s", "question": ""}, statuses, folder).read_text()


def test_the_page_shows_what_the_comparing_stage_put_out_and_counts_infrastructure_failures():
    runs = synthetic.make_runs(Path("runs"), 12, 1, ("base", "sft"))
    file = Path("runs/sft/eval/longer.jsonl")
    row, *rest = file.read_text().splitlines()
    file.write_text(
        "\n".join([json.dumps(json.loads(row) | {"stop": "infrastructure", "correct": None}), *rest]) + "\n"
    )
    page = story("05_compare.ipynb", execute=True, runs=runs)
    report = Path("runs/last/report.html").read_text()
    assert "1 of 72 trajectories" in page and 'outcome=infrastructure%20failure">1 of sft</a>' in page
    # Three sections of the stage's report, their numbers linked under the stage's names, code left out; then the rest.
    headings = ["Treatment check", "Planned contrasts", "Accuracy"]
    assert re.findall(r"<h3 id=[^>]+>([^<]+)<", page) == headings and "Along training" in report
    assert 'shows: <a href="last.html">last</a>' in page and page.count("Which method, and where?</h2>") <= 1
    figure = r'aria-label="([^"]+)" class="plot" id="figure-(\d+)"'
    figures = {n: title for title, n in re.findall(figure, page)}
    assert 3 <= len(figures) < len(re.findall(figure, report))
    listed = dict(re.findall(r'<a href="#figure-(\d+)">([^<]+)</a>', page))  # but not figures that are empty
    assert all(figures[n] == title for n, title in listed.items()) and 2 <= len(listed) < len(figures)
    assert page.count("None of the planned contrasts") == 1  # the verdict, before all else
    assert page.index("None of the planned contrasts") < page.index('id="setting"')
    accuracies = re.search(r'<h2 id="Accuracy">.*?<h2', report, re.DOTALL)[0]
    linked = re.findall(r"trajectories\.html#([^'\"]+method=[^'\"]+)", accuracies)
    assert len(linked) >= 6 and all(f"trajectories.html?last#{address}" in page for address in linked)
    assert "trajectories.html#" not in page.replace('href="trajectories.html"', "")
    assert "Treatment check" in page and "<summary>code</summary>" not in page and page.count("<h1") == 1
    assert "calculator (12), longer (12), unseen (12)" in page


def test_a_page_without_a_finished_comparison_has_what_the_stages_recorded():
    runs = synthetic.make_runs(Path("runs"), 12, 1, ("base", "sft"))
    Run.open("sft").record("accuracy/longer", rows="eval/longer.jsonl", query="mean(correct)")
    results = json.loads(Path("runs/sft/results.json").read_text())
    none = results["accuracy/longer"] | {"value": None, "ci": [None, None]}
    Path("runs/sft/results.json").write_text(json.dumps(results | {"accuracy/none": none}))
    stages = [Stage(run, BOOKS / "02_train.ipynb", {"run": run}, (), run, None) for run in runs]
    stages.append(Stage("last", BOOKS / "05_compare.ipynb", {"runs": runs}, tuple(runs), "last", None))
    folder = Path("reports/s")
    folder.mkdir(parents=True)
    statuses = [StageStatus(stage, "", "done") for stage in stages]
    statuses[-1].state, statuses[-1].error, statuses[-1].exit_code = "failed", "ValueError: <b>", 1
    page = write_study_page({"name": "s", "question": "Why?"}, statuses, folder).read_text()
    assert "1 of 3 stages" in page and "ValueError: &lt;b&gt;" in page and "not trained" in page
    assert (
        page.count('href="trajectories.html?sft#?file=sft%2Feval%2Flonger.jsonl"') == 1 and 'class="plot"' not in page
    )
    assert re.search(r'accuracy/none</td><td class="number"></td>\s*<td class="number"></td>', page)
    page = write_study_page({"name": "s", "question": ""}, statuses[:2], folder).read_text()
    assert "No stage failed." in page and ">Setting<" not in page and 'href="trajectories.html?sft#' in page


@pytest.mark.parametrize("notebook", ["", "{", "[]", '{"cells": 5}', "[" * 9999])
def test_a_stage_of_somebody_else_may_hold_anything(notebook):
    """A stage's folder may have come with an archive: the page is written all the same."""
    runs = synthetic.make_runs(Path("runs"), 12, 1, ("base", "sft"))
    story("05_compare.ipynb", runs=runs)
    Path("runs/last/notebook.ipynb").write_text(notebook)
    Path("runs/last/report.html").write_bytes(b"\xff<p>theirs")
    data = Path("runs/sft/run.json")
    info = json.loads(data.read_text())
    Path("theirs").mkdir()
    Path("theirs/tasks.card.json").write_text('{"parts": [1]}')
    data.write_text(json.dumps(info | {"parameters": info["parameters"] | {"data": "theirs"}}))
    stages = [Stage(run, BOOKS / "02_train.ipynb", {"run": run}, (), run, None) for run in runs]
    stages.append(Stage("last", BOOKS / "05_compare.ipynb", {"runs": runs}, tuple(runs), "last", None))
    statuses = [StageStatus(stage, notebook, "done") for stage in stages]
    page = write_study_page({"name": "s", "question": ""}, statuses, Path("reports/s")).read_text()
    assert ">Setting<" in page and "Trained on theirs" in page and Path("reports/s/last.html").exists()


def test_the_page_opens_the_trajectories_of_another_study_s_run():
    runs = synthetic.make_runs(Path("runs"), 12, 1, ("base", "sft"))
    page = story("05_compare.ipynb", foreign="base", execute=True, runs=runs)
    assert 'href="trajectories.html?last#?' in page and "method=base" in page
    trajectories = Path("reports/s/trajectories.html").read_text()
    assert "Trajectories of sft, base" in trajectories and '<a href="index.html">study s</a>' in trajectories


def test_a_run_without_trajectories_gives_no_method_a_longer_name():
    synthetic.make_runs(Path("runs"), 12, 1, ("base", "sft"))
    info = json.loads(Path("runs/base/run.json").read_text())
    info["parameters"]["data"] = "runs/data"
    Path("runs/data").mkdir()
    Path("runs/data/run.json").write_text(json.dumps({"name": "data", "parameters": {"n_train": 9}}))
    Path("runs/base/run.json").write_text(json.dumps(info))
    story("05_compare.ipynb", runs=["base", "sft"])
    page = Path("reports/s/trajectories.html").read_text()
    index = json.loads(gzip.decompress(base64.b64decode(re.search(r'gunzip\("([^"]+)"', page)[1])))
    assert index["columns"]["method"]["values"] == ["base", "sft"] and "Trajectories of base, sft<" in page
    assert "data" not in index["views"] and index["views"]["last"] == {"base": "base", "sft": "sft"}


@pytest.mark.parametrize(
    ("query", "filters"),
    [
        (
            "paired(against='b').difference where suite == 'x' and method == 'sft'",
            "suite=x&method=sft&against=b&phase=evaluation",
        ),
        (
            "paired(against='b', measure='agreement').difference where suite == 'x' and method == 'sft'",
            "suite=x&method=sft&phase=evaluation",
        ),
        (
            "planned(margin=0.05).difference where method == 'a' and against == 'b'",
            "method=a&against=b&phase=evaluation",
        ),
        ("learning_speed().area where method == 'sft'", "method=sft&phase=training"),
        ("pass_at_k(inside=['a']).share where domain == 'in domain' and method == 'sft' and k == 1", None),
    ],
)
def test_a_result_links_to_the_rows_it_was_computed_from(query, filters):
    stage = Stage("last", Path("x.ipynb"), {}, (), "s-last", None)
    link = _rows_link(stage, {"rows": "runs", "query": query})
    assert link == (f"trajectories.html?last#?{filters}" if filters else "")


def test_the_page_sets_budgets_side_by_side_and_never_pools_what_differs():
    budget = {"steps": 24, "groups": 8, "group_size": 8, "learning_rate": 2e-4, "suite": "calculator", "beta": 0.001}
    for i, own in enumerate([{"learning_rate": 1e-4}, {"learning_rate": 3e-4}, {"student": "runs/r0/model"}]):
        synthetic.make_runs(Path("runs"), 12, 1, ("sft",), i)
        info = json.loads(Path("runs/sft/run.json").read_text())
        info["parameters"] |= budget | own
        Path("runs/sft/run.json").write_text(json.dumps(info))
        Path("runs/sft").rename(f"runs/r{i}")
    page = story("06_tune.ipynb", execute=True, runs=["r0", "r1", "r2"])
    assert re.search(r"sft learning_rate=0.0001</th>\s*<td class=.number.>24 × 64</td><td class=.number.>0.0001<", page)
    assert "24 × 64, then 24 × 64" in page and "beta 0.001" in page
    assert "best for" in page  # the figure of learning rates


def test_files_left_out_of_stage_keys_exist():
    library = Path(run_notebook.__code__.co_filename).parents[2]
    assert [name for name in FILES_WITHOUT_EFFECT if not (library / name).exists()] == []


def test_a_seed_more_leaves_the_other_seeds_done():
    text = "stages: [{name: half, notebook: make.ipynb, grid: {seed: SEEDS}},"
    text += " {name: whole, notebook: make.ipynb, parameters: {data: $half/model}, grid: {seed: SEEDS}}]"
    keys = []
    for seeds in ("[0, 1]", "[0, 1, 2]"):
        stages = plan(study(text.replace("SEEDS", seeds)))[1]
        keys.append(stage_keys(stages)[0])
    assert {s.name: s.needs for s in stages}["whole-1"] == ("half-1",)
    assert keys[0].items() <= keys[1].items()


@pytest.mark.parametrize(
    ("cells", "same"),
    [
        ((PARAMETERS.replace("seed: int = 0", "seed: int = 7  # of all"), MAKE), True),  # the stage gives the seed
        ((PARAMETERS.replace(" = ", "   = "), MAKE + "\n\n# a comment\n"), True),
        ((PARAMETERS, "# Some more text", MAKE.replace("(run, seed=seed,", "(run,\n    seed = seed,")), True),
        ((PARAMETERS.replace("fail: bool = False", "fail: bool = True"), MAKE), False),
        ((PARAMETERS.replace('data: str = ""', 'data: str = "rows.jsonl"'), MAKE), False),
        ((PARAMETERS, MAKE.replace("seed > 0", "seed > 1")), False),
        ((PARAMETERS, MAKE, "seed"), False),
    ],
)
def test_a_stage_is_keyed_by_its_code_and_the_values_of_its_parameters(cells, same):
    file = study("stages: [{name: a, notebook: make.ipynb, parameters: {seed: 3}}]")
    before = stage_keys(plan(file)[1])
    notebook(Path("make.ipynb"), *cells)
    assert (stage_keys(plan(file)[1]) == before) is same


def test_a_file_that_a_default_names_is_part_of_the_key():
    notebook(Path("make.ipynb"), PARAMETERS.replace('data: str = ""', 'data: str = "rows.jsonl"'), MAKE)
    keys = []
    for text in ("{}\n", "{} \n", "{} \n"):
        Path("rows.jsonl").write_text(text)
        keys.append(stage_keys(plan(study("stages: [{name: a, notebook: make.ipynb}]"))[1])[0]["a"])
    assert keys[0] != keys[1] == keys[2]


def test_a_stage_says_what_it_will_in_any_letters(quick, capfd):
    Path("stage.py").write_text(Path("stage.py").read_text() + "\nsys.stderr.buffer.write(b'\\xff')\n")
    run_study(study("stages: [{name: a, notebook: make.ipynb, parameters: {data: 'ω😀'}}]"))
    assert "starts again" not in capfd.readouterr().out


@pytest.mark.parametrize("named", ["runs/other", "other"])
def test_a_stage_on_another_study_s_run_is_done_again_when_that_changes(quick, named):
    info = Path("runs/other/run.json")
    info.parent.mkdir(parents=True)
    info.write_text("{}")
    Path("on.yaml").write_text(f"stages: [{{name: a, notebook: make.ipynb, parameters: {{data: {named}}}}}]")
    (stage,) = plan(Path("on.yaml"))[1]
    before = stage_keys([stage])
    Path("runs/on-a").mkdir()
    Path("runs/on-a/run.json").write_text("{}")  # its own run changes nothing
    assert stage_keys([stage]) == before
    info.write_text('{"created": "later"}')
    assert stage_keys([stage]) != before


def test_a_stage_whose_reward_function_changes_is_done_again(quick):
    file = study("stages: [{name: a, notebook: make.ipynb, parameters: {data: 'mine.py:f'}}]")
    keys = []
    for text in ("def f(): 1", "def f(): 2", "def f(): 2"):
        Path("mine.py").write_text(text)
        keys.append(stage_keys(plan(file)[1])[0]["a"])
    assert keys[0] != keys[1] == keys[2]


def test_a_stage_on_a_source_is_done_again_when_its_files_change(quick):
    Path("mine").mkdir()
    Path("mine/tasks.jsonl").write_text("")
    Path("on.yaml").write_text("stages: [{name: a, notebook: make.ipynb, parameters: {data: 'own:mine'}}]")
    (stage,) = plan(Path("on.yaml"))[1]
    before = stage_keys([stage])
    Path("mine/tasks.jsonl").write_text("{}")
    assert stage_keys([stage]) != before


def test_a_stage_on_a_model_folder_among_the_runs_is_done_again_when_its_weights_change(quick):
    weights = Path("runs/models/small/model.safetensors")
    weights.parent.mkdir(parents=True)
    weights.write_text("one")
    text = "stages: [{name: a, notebook: make.ipynb, parameters: {data: WHERE}}]"
    on_model = plan(study(text.replace("WHERE", "runs/models/small")))[1]
    on_root = plan(study(text.replace("WHERE", "runs"), "all.yaml"))[1]  # as the notebooks' `root`: no input
    model, root = stage_keys(on_model), stage_keys(on_root)
    weights.write_text("two")
    assert stage_keys(on_model)[0] != model[0] and stage_keys(on_model)[1] != model[1]
    assert stage_keys(on_root) == root


def test_a_file_is_read_once_for_all_keys_of_a_study(monkeypatch):
    Path("weights").write_text("one")
    read = []
    monkeypatch.setattr("mentorlib.lab.batch.keys.file_hash", lambda file: read.append(Path(file).name) or "hash")
    text = "stages: [{name: a, notebook: make.ipynb, parameters: {data: weights}, grid: {seed: [0, 1]}}]"
    keys, plain = stage_keys(plan(study(text))[1])
    assert read.count("weights") == 1 and len(set(keys.values()) | set(plain.values())) == 4


def test_a_stage_whose_run_another_process_writes_is_refused(quick, monkeypatch):
    monkeypatch.setattr("mentorlib.runs.processes.RUN_PATIENCE", 0.1)
    file = study("stages:\n- {name: one, notebook: make.ipynb}\n- {name: two, notebook: make.ipynb, needs: [one]}")
    run_study(file)
    study(file.read_text().replace("make.ipynb}", "make.ipynb, parameters: {seed: 4}}", 1))
    script = "from mentorlib.runs.run import Run; Run('small-one'); print('writing', flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "writing\n"
    with pytest.raises(InputError, match=f"one: runs/small-one is being written by process {other.pid}"):
        run_study(file)
    assert Run.open("small-one").status == "running"  # its folder was not emptied
    other.kill()
    other.wait()
    run_study(file)


def test_the_setting_counts_seeds_and_leaves_out_what_is_not_used():
    for seed in (0, 1, 2):
        synthetic.make_runs(Path("runs"), 12, 1, ("base", "sft"), seed)
        for name in ("base", "sft"):
            info = json.loads(Path(f"runs/{name}/run.json").read_text())
            info["parameters"] |= {
                "seed": seed,
                "steps": 24,
                "template": "",
                "vllm": None,
                "beta": 0.001,
                "eval_steps": 0,
            }
            info["parameters"] |= {"data": "runs/data", "suite": "calculator"}
            Path(f"runs/{name}/run.json").write_text(json.dumps(info))
            Path(f"runs/{name}").rename(f"runs/{name}-{seed}")
    setting = study_setting(methods(["base-0", "base-1", "sft-0", "sft-1", "sft-2"], "runs"), Path("runs"))
    assert [(line["method"], line["seeds"]) for line in setting.methods] == [
        ("base", "2 (0, 1)"),
        ("sft", "3 (0 to 2)"),
    ]
    assert setting.shared["beta"] == "0.001" and not {"template", "vllm", "eval_steps"} & setting.shared.keys()
    Path("runs/data").mkdir()
    parts = {f"{suite}/train": {"tasks": n} for suite, n in (("calculator", 9), ("gsm8k", 99))}
    Path("runs/data/tasks.card.json").write_text(json.dumps({"parts": parts}))
    setting = study_setting(methods(["base-0", "sft-0"], "runs"), Path("runs"))
    assert [line["seeds"] for line in setting.methods] == ["1 (seed 0)"] * 2
    assert setting.data == [{"name": "data", "suite": "calculator", "tasks": 9, "methods": ["sft"]}]


def test_the_budget_of_runs_that_were_moved_counts_both_trainings():
    size = {"steps": 24, "groups": 8, "group_size": 8, "seed": 0}
    runs = {
        "half": {"method": "sft", "student": "nano", **size},
        "whole": {"method": "grpo", "reward": "exact", "student": "runs/half/model", **size},
    }
    for name, parameters in runs.items():
        Path(f"moved/{name}").mkdir(parents=True)
        Path(f"moved/{name}/run.json").write_text(json.dumps({"parameters": parameters, "status": "done"}))
    (line,) = study_setting(methods(["whole"], "moved"), Path("moved")).methods
    assert (line["method"], line["budget"]) == ("sft+grpo-exact", "24 × 64, then 24 × 64")
