import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from decimal import Decimal

import numpy
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mentorlib.core import Call, InputError, parse_call
from mentorlib.lab.analysis.recompute import verify_run
from mentorlib.runs import processes
from mentorlib.runs.files import read_rows
from mentorlib.runs.query import query_rows
from mentorlib.runs.run import Run

ROWS = [
    {"suite": "a", "correct": True, "step": 1, "terms": {"tool": 0.5}, "calls": [1, 2], "stop": "answered"},
    {"suite": "a", "correct": False, "step": 2, "terms": {"tool": 0.0}, "calls": [], "stop": "length"},
    {"suite": "b", "correct": None, "step": 3, "terms": {}, "calls": [1], "stop": "answered", "late": 2},
]


def test_a_run_keeps_parameters_and_provenance(tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("{}\n")
    run = Run("one", tmp_path, seed=3, lr=1e-6, data=str(data), suites=("a", "b"))
    info = json.loads((run.path / "run.json").read_text())
    assert info["parameters"] == {"seed": 3, "lr": 1e-6, "data": str(data), "suites": ["a", "b"]}
    assert info["seed"] == 3 and info["status"] == "running" and info["versions"]["torch"]
    assert info["data"][str(data)].startswith("sha256:")
    run.finish()
    assert Run.open("one", tmp_path).status == "done" and Run.open(run.path).name == "one"


def test_a_run_keeps_the_hashes_of_the_model_folders_it_names(tmp_path):
    model = tmp_path / "model"
    (model / "more").mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (model / name).write_text("{}")
    run = Run("one", tmp_path, student=str(model), data=str(tmp_path), served="")
    assert sorted(run.info["data"]) == [str(model / "config.json"), str(model / "model.safetensors")]
    (model / "model.safetensors").write_text("other")
    before = run.info["data"]
    again = Run("one", tmp_path, student=str(model), data=str(tmp_path), served="").info["data"]
    assert [name for name in again if again[name] != before[name]] == [str(model / "model.safetensors")]


def test_reopening_needs_the_same_parameters(tmp_path):
    Run("one", tmp_path, seed=3, steps=10, old=None)
    again = Run("one", tmp_path, seed=3, steps=10, old=None)
    assert len(again.info["reopened"]) == 1
    before = (tmp_path / "one" / "run.json").read_bytes()
    with pytest.raises(InputError) as error:
        Run("one", tmp_path, seed=3, steps=20, new="x")
    message = str(error.value)
    assert "steps (was 10, now 20)" in message and 'new (was absent, now "x")' in message
    assert "old (was null, now absent)" in message and "seed" not in message
    assert "another run name or remove the folder" in message and "\n" not in message
    assert (tmp_path / "one" / "run.json").read_bytes() == before


def test_a_failed_run_is_corrected_by_its_own_notebook_alone(tmp_path):
    run = Run("one", tmp_path, steps=10, reward="exact")
    run.append_rows("eval/a.jsonl", [{"task_id": "t"}])
    run.finish("failed")
    with pytest.raises(InputError, match="exists with other parameters"):
        Run("one", tmp_path, runs=["a"])
    assert run.read_rows("eval/a.jsonl")
    assert Run("one", tmp_path, steps=12, reward="exact", added=0).params["steps"] == 12  # a newer library's notebook


def test_reopening_an_ended_run_removes_its_results(tmp_path):
    run = Run("one", tmp_path)
    run.record("stopped_at_step", 7, n=30)
    assert Run("one", tmp_path).results  # still running: it was killed
    run.finish()
    again = Run("one", tmp_path)
    assert not again.results and again.info["finished"] is None


def test_reopening_an_ended_run_resets_what_it_compares(tmp_path):
    for runs in (["a"], ["a", "b"]):  # another run was trained in between
        run = Run("compare", tmp_path, runs=[])
        assert run.status == "running" and not run.results
        run.compares(runs)
        run.record("best", 1)
        with pytest.raises(InputError, match="other runs"):
            run.compares(["c"])
        run.finish()
    assert Run.open(tmp_path / "compare").info["compares"] == ["a", "b"]


def test_a_run_opened_as_the_current_folder_has_its_name(tmp_path, monkeypatch):
    Run("one", tmp_path)
    monkeypatch.chdir(tmp_path / "one")
    assert Run.open(".").name == "one"


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a\\b", "/abs", "a\nb", "a\x1b[31m", "a\u202e", None, 3])
def test_names_are_folder_names(tmp_path, name):
    with pytest.raises(InputError, match="run name"):
        Run(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_opening_an_unknown_run_lists_the_existing_ones(tmp_path):
    Run("one", tmp_path)
    with pytest.raises(InputError, match=r"no run 'two'.*one"):
        Run.open("two", tmp_path)


def test_json_converts_arrays_and_writes_non_finite_numbers_as_null(tmp_path):
    run = Run("one", tmp_path)
    run.log(1, loss=float("nan"), reward=numpy.float32(0.5), high=math.inf, ok=numpy.bool_(True))
    run.append_rows("eval/a.jsonl", [{"x": numpy.arange(3), "call": Call("add", {"a": 1}), "text": "é\u2028\ud800"}])
    (line,) = run.read_rows("metrics.jsonl")
    assert line["loss"] is None and line["high"] is None and line["reward"] == 0.5 and line["ok"] is True
    (row,) = run.read_rows("eval/a.jsonl")
    assert row == {"x": [0, 1, 2], "call": {"name": "add", "arguments": {"a": 1}}, "text": "é\u2028\ud800"}
    with pytest.raises(TypeError, match="object"):
        run.write_json("bad.json", {"x": object()})
    assert not (run.path / "bad.json").exists() and not list(run.path.glob(".bad*"))


def test_an_incomplete_last_line_is_left_out_and_then_removed(tmp_path):
    run = Run("one", tmp_path)
    run.append_rows("r.jsonl", [{"i": 0}, {"i": 1}])
    with open(run.path / "r.jsonl", "ab") as handle:
        handle.write('{"i": 2, "text": "é'.encode()[:-1])
    assert [r["i"] for r in run.read_rows("r.jsonl")] == [0, 1]
    run.append_rows("r.jsonl", [{"i": 3}])
    assert [r["i"] for r in run.read_rows("r.jsonl")] == [0, 1, 3]
    with open(run.path / "r.jsonl", "ab") as handle:
        handle.write(b'{"i": 4}')  # complete but for its newline
    run.append_rows("r.jsonl", [{"i": 5}])
    assert [r["i"] for r in run.read_rows("r.jsonl")] == [0, 1, 3, 4, 5]


def test_parquet_rows_keep_their_values(tmp_path):
    """Integers beside a null, decimals, nested lists; by pandas 2**53 + 1 would end in 992.0."""
    rows = [
        {"a": 2**53 + 1, "b": [1, None], "c": {"d": True}, "e": Decimal(7)},
        {"a": None, "b": [], "c": None, "e": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    got = read_rows(tmp_path / "rows.parquet")
    assert got == [rows[0] | {"e": 7}, rows[1]] and type(got[0]["a"]) is int
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match=r"bad\.parquet: cannot be read as parquet") as error:
        read_rows(tmp_path / "bad.parquet")
    assert "\n" not in str(error.value)


def test_a_bad_line_is_named(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n[1]\n')
    with pytest.raises(InputError, match=r"rows.jsonl, line 2: not a JSON object"):
        read_rows(file)
    with pytest.raises(InputError, match="no such file"):
        read_rows(tmp_path / "none.jsonl")


def test_rows_survive_kill_9(tmp_path):
    code = """
        import sys
        from mentorlib.runs.run import Run
        run = Run("one", sys.argv[1])
        for i in range(10**6):
            run.append_rows("r.jsonl", [{"i": i, "pad": "x" * 5000}])
            run.record("last", i)
            print(i, flush=True)
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    while int(child.stdout.readline()) < 20:
        pass
    child.send_signal(signal.SIGKILL)
    last = [20, *map(int, child.stdout.read().split())][-1]
    child.wait()
    run = Run("one", tmp_path)
    kept = [row["i"] for row in run.read_rows("r.jsonl")]
    assert kept == list(range(len(kept))) and len(kept) > last
    assert run.results["last"]["value"] >= last
    run.append_rows("r.jsonl", [{"i": -1}])
    assert run.read_rows("r.jsonl")[-1]["i"] == -1


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    run = Run("one", tmp_path)
    run.write_json("x.json", {"v": 1})

    def broken(handle):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(InputError, match="disk full"):
        run.write_json("x.json", {"v": 2})
    assert json.loads((run.path / "x.json").read_text()) == {"v": 1} and not list(run.path.glob(".x*"))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("mean(correct)", (0.5, 2)),
        ("count() where suite == 'a'", (2, 2)),
        ("count()", (3, 3)),
        ("mean(stop == 'answered')", (2 / 3, 3)),
        ("mean(not correct)", (0.5, 2)),
        ("mean(correct and step > 0)", (0.5, 2)),
        ("count() where not correct", (1, 1)),
        ("count() where late is not None and late > 1", (1, 1)),  # what decides ends it: 'x' > 1 is an error
        ("count() where suite == 'c' and suite > 1", (0, 0)),
        ("count() where correct or step == 2", (2, 2)),
        ("sum(terms['tool']) where suite in ['a', 'c'] and not correct", (0.0, 1)),
        ("mean(terms['tool'])", (0.25, 2)),
        ("max(len(calls) + 2 * step)", (7, 3)),
        ("mean(step) where step > 10", (None, 0)),
        ("count() where correct is None", (1, 1)),
        ("count() where 1 in calls", (2, 2)),
        ("mean(late) where suite == 'a'", (None, 0)),
        ("sum(step * late)", (6.0, 1)),
    ],
)
def test_queries(query, expected):
    assert query_rows(ROWS, query) == expected


@pytest.mark.parametrize(
    "query",
    [
        "",
        "correct",
        "mean()",
        "mean(a, b)",
        "mean(nothing)",
        "mean(__import__('os'))",
        "mean(step.real)",
        "mean(x for x in y)",
        "mean(1 < step < 3)",
        "std(step)",
        "mean(step) where open('x')",
        "mean(2 ** 9)",
        "mean(step",
        "mean(step + 'a')",
        "max(len(step * 'a'))",
        "mean(suite.to_csv('file'))",
        "mean(@step)",
        f"mean({'not ' * 5000}step)",
    ],
)
def test_expressions_outside_the_query_language_are_refused(query):
    with pytest.raises(InputError, match="query"):
        query_rows(ROWS, query)


def test_results_are_recorded_with_their_rows_and_verified(tmp_path):
    run = Run("one", tmp_path)
    run.append_rows("eval/a.jsonl", ROWS)
    assert run.record("accuracy", rows="eval/a.jsonl", query="mean(correct)") == 0.5
    run.record("seconds", 12.5)
    run.record("wrong", 0.75, rows="eval/a.jsonl", query="mean(correct)")
    assert run.results["accuracy"] == {
        "value": 0.5, "ci": None, "n": 2, "rows": "eval/a.jsonl", "query": "mean(correct)"
    }  # fmt: skip
    assert [(c["key"], c["ok"]) for c in verify_run(run)] == [("accuracy", True), ("seconds", None), ("wrong", False)]
    with pytest.raises(InputError, match="go together"):
        run.record("half", 1, rows="eval/a.jsonl")


def test_calls_that_cannot_be_stored_are_not_parsed(tmp_path):
    """A call nested too deeply to be written back as JSON is malformed."""
    run = Run("deep", tmp_path)
    for depth in (10, 98, 120, 600, 900):
        call = parse_call('{"name": "add", "arguments": {"a": ' + "[" * depth + "]" * depth + "}}")
        assert (call is not None) is (depth < 99)
        run.append_rows("rows.jsonl", [{"call": call}])
    assert len(run.read_rows("rows.jsonl")) == 5


WRITES = """
import sys
from mentorlib.core import InputError
from mentorlib.runs.run import Run
try:
    run = Run("one", sys.argv[1])
except InputError as error:
    sys.exit(f"refused: {error}")
for i in range(3):
    run.append_rows("rollouts.jsonl", [{"i": i}])
print("writing", flush=True)
sys.stdin.read()
run.finish()
"""


def other_process(root):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", WRITES, str(root)], text=True, **pipes)


def test_a_run_has_one_writer_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "RUN_PATIENCE", 0.2)
    first = other_process(tmp_path)
    assert first.stdout.readline() == "writing\n"
    with pytest.raises(InputError, match=rf"one is being written by process {first.pid} on ") as error:
        Run("one", tmp_path)
    assert "wait until it ends" in str(error.value) and "\n" not in str(error.value)
    assert Run.open("one", tmp_path).read_rows("rollouts.jsonl") == [{"i": i} for i in range(3)]  # reading is free
    first.communicate("")
    run = Run("one", tmp_path)  # it has finished
    run = Run("one", tmp_path)  # a cell that is executed again
    second = other_process(tmp_path)
    assert second.wait(30) == 1 and "refused: " in second.stderr.read()
    run.finish()
    assert not (tmp_path / "one" / ".writer").exists()
    third = other_process(tmp_path)
    assert third.stdout.readline() == "writing\n"
    with pytest.raises(InputError, match="being written"):
        run.append_rows("rollouts.jsonl", [{}])  # this process has finished it
    third.kill()
    third.wait()
    Run("one", tmp_path).finish()  # a killed process writes no more


def test_a_refused_run_is_not_claimed_and_a_removed_folder_is_claimed_again(tmp_path):
    Run("one", tmp_path, seed=1).finish()
    with pytest.raises(InputError, match="other parameters"):
        Run("one", tmp_path, seed=2)
    assert not (tmp_path / "one" / ".writer").exists()
    Run("one", tmp_path, seed=1)
    shutil.rmtree(tmp_path / "one")
    Run("one", tmp_path, seed=2)
    assert (tmp_path / "one" / ".writer").read_text().startswith(f"process {os.getpid()} ")


@pytest.mark.parametrize(
    "query", ["sum((n - 1.5) * 1e308 * 1e308)", f"max(n * {'9' * 4000} * {'9' * 4000})", "min(texts)", "max(texts)"]
)
def test_a_result_of_others_that_cannot_be_computed_is_not_verified(tmp_path, query):
    run = Run("theirs", root=tmp_path)
    run.write_rows("rows.jsonl", [{"n": 1, "texts": ["a"]}, {"n": 2, "texts": ["b"]}])
    stored = {"k": {"value": 0.5, "ci": None, "n": None, "rows": "rows.jsonl", "query": query}}
    (run.path / "results.json").write_text(json.dumps(stored))
    try:
        (result,) = verify_run(run)
    except InputError as error:
        assert "query" in str(error)
    else:
        assert result["ok"] is False
