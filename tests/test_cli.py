import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import make_runs
from tiny import notebook

from mentorlib.cli import main
from mentorlib.runs.run import Run

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TURNS = [
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "add", "content": "2"},
    {"role": "assistant", "content": "So \\boxed{2}\x1b[31m"},
]
ROW = {"task_id": "t1", "suite": "a", "question": "1+1?", "answer": "2", "stop": "answered", "correct": True}
ROWS = [
    {**ROW, "teacher_tools": ["add"], "messages": TURNS},
    {**ROW, "task_id": "t2", "stop": "gave_up", "correct": False, "teacher_tools": [], "messages": []},
]


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run():
    run = Run("r", seed=1)
    run.append_rows("eval/a.jsonl", ROWS)
    run.record("accuracy", rows="eval/a.jsonl", query="mean(correct)")
    run.record("seconds", 3)
    return run


def test_run_executes_and_prints_the_report(capfd):
    notebook(Path("n.ipynb"), 'run: str = "x"\nsuites: list[str] = []', "print('suites', suites)")
    assert main(["run", "n.ipynb", "suites=[a, b]", "run=7"]) == 0
    assert capfd.readouterr().out == "suites ['a', 'b']\nReport: runs/7/report.html\n"


def test_a_failing_cell_is_exit_1_with_a_report(capfd):
    notebook(Path("n.ipynb"), "n: int = 0", "1 / n")
    assert main(["run", "n.ipynb", "--output", "out"]) == 1
    assert "ZeroDivisionError" in capfd.readouterr().err and Path("out/report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.ipynb"], "no such notebook"),
        (["run", "n.ipynb", "stepz=1"], "did you mean steps?"),
        (["run", "n.ipynb", "n=x"], "takes int"),
        (["run", "n.ipynb", "n"], "write parameters as key=value"),
        (["run", "n.ipynb", "n=1", "n=2"], "given twice"),
        (["run", "n.ipynb", "-p", "steps", "3"], "No such option: -p; write parameters as key=value: steps=3"),
        (["run", "n.ipynb", "-r", "n"], "write parameters as key=value: steps=3"),
        (["run", "n.ipynb", "out.ipynb"], "the executed notebook goes into the run's folder, or --output"),
        (["study", "none.yaml"], "no such study file"),
        (["study", "none.yaml", "--workers", "0"], "greater than or equal to 1"),
        (["view", "none"], "no run 'none'"),
        (["view", "r", "--rows", "eval/b.jsonl"], "there are: eval/a.jsonl"),
        (["view", "r", "--text", "--where", "nothing == 1"], "no column 'nothing'"),
        (["view", "r"], "no key 'tools'"),
        (["run", "n.ipynb", "n=2024-13-45"], "n takes int"),
        (["run", "n.ipynb", f"n={'[' * 2000}"], "n takes int"),
        (["verify", "none"], "no run 'none'"),
        (["verify", "none.html"], "none.html: no such report"),
        (["import", "."], ".: is a folder; give a file"),
        (["check", "nanno"], "nanno: no such model folder"),
        (["score", "none.jsonl"], "none.jsonl"),
        (["score", "rows.jsonl", "--reward", "exat"], "exat"),
        (["score", "rows.jsonl", "--version", "new"], "new"),
        ([], "Missing command"),
        (["vew"], "Did you mean 'view'?"),
        (["view"], "Missing argument 'RUN'"),
        (["view", "r", "--txt"], "No such option: --txt"),
        (["study", "none.yaml", "--workers", "two"], "'--workers'"),
        (["export", "r", "--to", "paper"], "'archive', 'hub', 'inspect', 'trackio'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments, message, run, capfd):
    notebook(Path("n.ipynb"), "n: int = 0\nsteps: int = 1")
    Path("rows.jsonl").write_text(json.dumps({"response": "\\boxed{2}", "answer": "2", "teacher_tools": []}) + "\n")
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert message in err and err.count("\n") == 1 and err.startswith("mentor: ") and not out
    assert not Path("scored").exists()


def test_input_errors_of_cells_are_exit_2(capfd):
    notebook(Path("n.ipynb"), 'run: str = "r"\nn: int = 0', "from mentorlib.runs.run import Run\nRun(run, n=n)")
    Run("r", n=1)
    assert main(["run", "n.ipynb"]) == 2
    assert "n (was 1, now 0)" in capfd.readouterr().err and not Path("runs/r/report.html").exists()


def test_verify(run, capfd):
    assert main(["verify", "r"]) == 0
    assert capfd.readouterr().out == "1 of 1 results verified from their rows; 1 carry no rows to compute them from\n"
    run.append_rows("eval/a.jsonl", [{**ROWS[1]}])
    Path("reports/s").mkdir(parents=True)
    Path("reports/s/stages.json").write_text(json.dumps({"one": "runs/r"}))
    for page in ("runs/r/report.html", "reports/s/index.html"):
        Path(page).write_text("")
    for target in ("runs/r/report.html", "reports/s", "reports/s/index.html"):
        assert main(["verify", target]) == 1
        assert "accuracy says 0.5, its rows give 0.333" in capfd.readouterr().out


def test_what_others_wrote_never_steers_the_terminal(run, capfd):
    run.record("\x1b[31mred\u202e", 0.9, rows="eval/a.jsonl", query="mean(correct)")
    assert main(["verify", "r"]) == 1 and main(["verify", "\x1b[31m"]) == 2
    out, err = capfd.readouterr()
    assert "\\u001b[31mred\\u202e says 0.9" in out and not {"\x1b", "\u202e"} & set(out + err)
    notebook(Path("n.ipynb"), "n: int = 0", "print('a teacher said \\x1b[2J')")
    assert main(["run", "n.ipynb"]) == 0 and "said \\u001b[2J" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("runs/r/run.json", "[]", "not a run's"),
        ("runs/r/run.json", "[" * 100_000, "not JSON"),
        ("reports/s/stages.json", "[1]", "not a study's list of runs"),
        ("reports/s/stages.json", "{", "not JSON"),
        ("reports/s/stages.json", '{"one": 3}', "not a study's list of runs"),
    ],
)
def test_damaged_files_of_a_run_are_one_line(run, file, text, message, capfd):
    Path("reports/s").mkdir(parents=True)
    Path(file).write_text(text)
    assert main(["verify", "r" if "run.json" in file else "reports/s"]) == 2
    assert message in (err := capfd.readouterr().err) and err.count("\n") == 1


def test_rows_of_another_place_are_not_a_run_s(run, capfd):
    entry = run.results["accuracy"]
    run.record_many({"accuracy": entry | {"rows": "../../elsewhere.jsonl"}})
    assert main(["verify", "r"]) == 2 and "names rows elsewhere" in capfd.readouterr().err


def test_view(run, capfd):
    assert main(["view", "r", "--text"]) == 0
    out = capfd.readouterr().out
    assert "2 of 2 rows" in out and "add(a=1)" in out and "gold answer   2" in out
    assert "\\u001b[31m" in out and "\x1b" not in out
    assert main(["view", "runs/r", "--text", "--where", "not correct", "-n", "5"]) == 0
    out = capfd.readouterr().out
    assert "1 of 1 rows" in out and "t2" in out and "t1" not in out


def test_view_writes_a_page_and_opens_it(capfd, monkeypatch, tmp_path):
    make_runs(tmp_path / "runs", tasks=5, methods=("grpo-exact",))
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    assert main(["view", "grpo-exact"]) == 0
    page = tmp_path / "runs" / "grpo-exact" / "trajectories.html"
    assert opened == [page.as_uri()] and "87 trajectories" in capfd.readouterr().out and page.stat().st_size > 10_000
    whole = page.read_bytes()
    assert main(["view", "grpo-exact", "--where", "not correct"]) == 0  # the report opens the other page
    assert page.read_bytes() == whole and opened.pop() == page.with_name("trajectories-view.html").as_uri()
    capfd.readouterr()
    assert main(["view", "grpo-exact", "-o", "w.html", "--rows", "eval/longer.jsonl", "--where", "not correct"]) == 0
    assert len(opened) == 1
    wrong = [row for row in Run.open("grpo-exact").read_rows("eval/longer.jsonl") if not row["correct"]]
    assert f"{len(wrong)} trajectories: w.html" in capfd.readouterr().out and Path("w.html").exists()
    samples = tmp_path / "runs/grpo-exact/eval/samples/longer.jsonl"  # beside the rows that the page of a run has
    samples.parent.mkdir()
    samples.write_bytes((tmp_path / "runs/grpo-exact/eval/longer.jsonl").read_bytes())
    assert main(["view", "grpo-exact", "-o", "s.html", "--rows", "./eval/samples/longer.jsonl"]) == 0
    assert "5 trajectories: s.html" in capfd.readouterr().out
    assert main(["view", "grpo-exact", "-o", "t.html", "--where", "len(terms) > 1"]) == 0  # evaluated rows have none
    assert "72 trajectories: t.html" in capfd.readouterr().out


def test_score(capfd):
    Path("rows.jsonl").write_text(
        json.dumps({"response": "\\boxed{2}<|im_end|>", "answer": "2", "teacher_tools": []}) + "\n"
    )
    assert main(["score", "rows.jsonl", "--reward", "sparse", "-o", "out.jsonl"]) == 0
    assert "1 rows" in capfd.readouterr().out
    assert "sparse" in json.loads(Path("out.jsonl").read_text())["scores"]
    with Path("rows.jsonl").open("a") as rows:
        rows.write('{"response": 5}\n')
    words = "score rows.jsonl --reward sparse exact --reward f1 --valid-tools add,guess -o out.jsonl".split()
    assert main(words) == 1  # a row was quarantined, the others are scored
    assert "2 rows, 1 scored, 1 rejected" in capfd.readouterr().out
    assert json.loads(Path("out.jsonl.rejected.jsonl").read_text())["line"] == 2
    assert list(json.loads(Path("out.jsonl").read_text())["scores"]) == ["sparse", "f1", "exact"]
    Path("rows.jsonl").write_text('{"response": "\\\\boxed{2}", "answer": "2", "teacher_tools": []}\n' * 3)
    assert main(["score", "rows.jsonl", "--reward", "sparse", "-o", "out.jsonl"]) == 1
    said = capfd.readouterr()
    assert "3 seem cut" in said.out and "all rows seem cut off" in said.err and "finish_reason" in said.err
    assert said.err.count("\n") == 1
    Path("rows.jsonl").write_text("")
    assert main(["score", "rows.jsonl", "-o", "out.jsonl"]) == 2
    assert "rows.jsonl: no rows in it" in capfd.readouterr().err


def test_help_and_version(capfd):
    assert main(["--version"]) == 0 and capfd.readouterr().out == "mentor 0.1.0\n"
    code = (
        "import sys; from mentorlib.cli import main; main(['run', '--help']); import mentorlib.lab.batch.study; "
        "print([m for m in sys.modules if m in ('torch', 'pandas', 'transformers', 'scipy', 'plotly')])"
    )  # the first line of `mentor study` waits for none of them
    python = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert "suites=[a, b]" in python.stdout and python.stdout.endswith("[]\n"), python.stderr
    assert "$ mentor run notebooks/05_compare.ipynb runs=[quick-exact,f1]" in python.stdout


@pytest.mark.parametrize(
    ("words", "completed"), [("view r", ["r"]), ("run n.ipynb st", ["steps="]), ("run none.ipynb st", [])]
)
def test_runs_and_parameters_are_completed(run, words, completed):
    Run("s")
    notebook(Path("n.ipynb"), "n: int = 0\nsteps: int = 1  # how many")
    at = str(len(words.split()))
    settings = os.environ | {"_MENTOR_COMPLETE": "complete_bash", "COMP_WORDS": f"mentor {words}", "COMP_CWORD": at}
    settings["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [sys.executable, "-m", "mentorlib"]
    assert subprocess.run(command, env=settings, capture_output=True, text=True).stdout.split() == completed


def test_a_reader_that_stops_early_is_no_traceback(run):
    run.append_rows("eval/a.jsonl", ROWS * 2000)
    command = [sys.executable, "-m", "mentorlib", "view", str(run.path.resolve()), "--text", "-n", "9999"]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": Path(__file__).parents[1]}
    with subprocess.Popen(command, **pipe) as view:
        assert "4002 of 4002 rows" in view.stdout.readline()
        view.stdout.close()
        assert view.stderr.read() == "" and view.wait() == 1


def test_doctor(capfd):
    assert main(["doctor"]) == 0
    out = capfd.readouterr().out
    assert "sandbox" in out and "seccomp" in out and "cores" in out and "trl " in out


def test_doctor_fails_if_a_layer_fails(capfd, monkeypatch):
    tests = [("seccomp", "pass", "no file"), ("landlock", "FAIL", "open: done"), ("bubblewrap", "missing", "install")]
    monkeypatch.setattr("mentorlib.sandbox.doctor.self_test", lambda: tests)
    assert main(["doctor"]) == 1
    assert "landlock     FAIL    open: done" in capfd.readouterr().out


def command(*words, **settings):
    environment = {**os.environ, **settings.pop("environment", {})}
    return subprocess.run([sys.executable, "-m", "mentorlib", *words], capture_output=True, env=environment, **settings)


def test_the_file_system_s_errors_are_one_line_and_exit_2(run, capfd):
    notebook(Path("n.ipynb"), 'run: str = "x"\nroot: str = "runs"', "1")
    long = "x" * 300
    for arguments, says in [
        (["run", "n.ipynb", f"run={long}"], "is 300 characters long: give one of at most 200"),
        (["run", "n.ipynb", "--output", long], "File name too long"),
        (["run", "n.ipynb", "root=/proc"], "/proc/x: "),
        (["run", "n.ipynb", "--output", "/proc/x"], "/proc/x: "),
        (["run", f"{long}.ipynb"], "File name too long"),
        (["view", long], "File name too long"),
        (["verify", long], "File name too long"),
        (["study", f"{long}.yaml"], "no such study file"),
        (["export", "r", "-o", "/dev/full"], "/dev/full: No space left on device: free some space"),
        (["export", "r", "-o", "/proc/x/y.tar.gz"], "/proc/x/y.tar.gz: "),
        (["import", "/proc"], "/proc: is a folder; give a file"),
    ]:
        assert main(arguments) == 2, arguments
        error = capfd.readouterr().err
        assert says in error and error.startswith("mentor: ") and error.count("\n") == 1


def test_output_that_a_terminal_cannot_show_is_escaped(run):
    run.append_rows("eval/e.jsonl", [{**ROWS[0], "question": "Wie viele Äpfel … ?"}])
    for words in (["--help"], ["view", "r", "--text", "--rows", "eval/e.jsonl"], ["score", "é.jsonl"]):
        done = command(*words, environment={"PYTHONIOENCODING": "ascii"})
        assert b"Traceback" not in done.stderr and done.stdout.isascii()
    assert (
        b"viele \\xc4pfel \\u2026"
        in command("view", "r", "--text", "--rows", "eval/e.jsonl", environment={"PYTHONIOENCODING": "ascii"}).stdout
    )


def test_outputs_through_stdout(run):
    done = command("export", "r", "-o", "/dev/stdout")
    Path("piped.tar.gz").write_bytes(done.stdout)
    assert done.stderr == b"/dev/stdout\n" and main(["import", "piped.tar.gz", "--name", "copy"]) == 0
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mentorlib", "view", "r", "--text"], stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 2 and done.stderr.startswith(b"mentor: No space left on device")
