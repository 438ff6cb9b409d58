import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from mentorlib.cli import main
from mentorlib.core import InputError
from mentorlib.lab.analysis.recompute import verify_run
from mentorlib.lab.export.archive import load_archive, save_archive
from mentorlib.lab.export.hub import save_hub
from mentorlib.lab.export.inspect_logs import save_inspect
from mentorlib.runs.run import Run

CALL = {"type": "function", "function": {"name": "power", "arguments": {"a": 8, "b": 2}}}
ROW = {
    "task_id": "calculator-0",
    "suite": "calculator",
    "split": "eval",
    "question": "How many plums is a square of 8? <b>",
    "answer": "64",
    "teacher_tools": ["power"],
    "tools": ["power", "sqrt"],
    "messages": [
        {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "64"},
        {"role": "tool", "content": "64"},
        {"role": "assistant", "content": "The answer is \\boxed{64}."},
    ],
    "stop": "answered",
    "n_tokens": 17,
    "correct": True,
    "sample": 0,
}


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run() -> Run:
    """A run as notebook 02 writes it, without the weights."""
    Path("tasks.parquet").write_bytes(b"rows")
    run = Run("mine", student="nano", method="grpo", reward="exact", steps=2, suite="calculator", seed=3, data="")
    run.uses("tasks.parquet")
    rows = [
        ROW,
        ROW | {"sample": 1, "correct": False},
        ROW | {"task_id": "calculator-1", "correct": None, "messages": []},
    ]
    run.write_rows("eval/calculator.jsonl", rows)
    run.append_rows(
        "rollouts.jsonl", [ROW | {"step": step, "total": 0.5, "terms": {"correct": 1.0}} for step in (1, 2)]
    )
    for step in (1, 2):
        run.log(step, reward=step / 2, loss=0.1)
    run.record("accuracy/calculator", rows="eval/calculator.jsonl", query="mean(correct)")
    run.finish()
    return run


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_export_and_import_as_one_archive(run, capsys):
    before = content(run.path)
    (run.path / ".lock").touch()
    assert main(["export", "mine", "-o", "to/mine.tar.gz"]) == 0
    assert capsys.readouterr().out == "to/mine.tar.gz\n"
    with tarfile.open("to/mine.tar.gz") as archive:
        assert {(m.uid, m.uname, m.gname) for m in archive.getmembers()} == {(0, "", "")}
    assert main(["import", "to/mine.tar.gz"]) == 2  # an existing run is never changed
    assert capsys.readouterr().err.startswith("mentor: runs/mine exists: import under another name with --name")
    assert main(["import", "to/mine.tar.gz", "--name", "copied"]) == 0
    copied = Run.open("copied")
    assert copied.info == run.info | {"name": "copied"} and verify_run(copied)[0]["ok"] is True
    shutil.rmtree(run.path)
    assert load_archive("to/mine.tar.gz").info == run.info
    assert content(run.path) == before
    assert sorted(os.listdir("runs")) == ["copied", "mine"]  # nothing is left half-unpacked


def test_a_link_is_not_exported(run):
    (run.path / "model").symlink_to("/etc")
    with pytest.raises(InputError, match="runs/mine/model is a link"):
        save_archive(run, "mine.tar.gz")
    assert not [name for name in os.listdir() if "tar" in name]


def tar_file(members: dict[str, bytes | str], kind: bytes = tarfile.SYMTYPE) -> Path:
    """An archive with these members: bytes become a file, a text the target of a link."""
    import io

    with tarfile.open("bad.tar.gz", "w:gz") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(data, str):
                member.type, member.linkname = kind, data
                archive.addfile(member)
            else:
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return Path("bad.tar.gz")


INFO = json.dumps({"name": "x", "parameters": {}, "status": "done", "data": {}}).encode()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x/run.json": INFO, "x/../../out": b"1"}, "outside the destination"),
        ({"/x/run.json": INFO}, "absolute path"),
        ({"x/run.json": INFO, "x/link": "/etc/passwd"}, "is a link"),
        ({"x/run.json": INFO, "y/run.json": INFO}, "holds no run"),
        ({"x/other.json": INFO}, "holds no run"),
        ({"x/run.json": b"{}"}, "damaged one (its run.json is not a run's)"),
        ({"x/run.json": b'{"parameters": {}, "status": "done"}'}, "its run.json is not a run's"),
        ({"x/run.json": b"[]"}, "no archive of a run, or a damaged one"),
        ({"x/run.json": b"\xff"}, "no archive of a run, or a damaged one"),
        ({".x/run.json": INFO}, "run name '.x'"),
        ({"x/run.json": INFO, "x/a": b"1", "x/a/b": b"1"}, "no archive of a run, or a damaged one"),
        ({"x/run.json": INFO, f"x/{'d/' * 1500}f": b"1"}, "no archive of a run, or a damaged one"),
    ],
)
def test_a_hostile_archive_leaves_nothing(members, message, tmp_path):
    with pytest.raises(InputError) as error:
        load_archive(tar_file(members))
    assert message in str(error.value) and "bad.tar.gz" in str(error.value).replace("run name", "bad.tar.gz")
    assert "\n" not in str(error.value)
    assert not list(Path("runs").glob("*")) and not (tmp_path.parent / "out").exists()


def test_hard_links_damaged_and_too_large_archives_are_refused(run, monkeypatch):
    with pytest.raises(InputError, match="is a link"):
        load_archive(tar_file({"x/run.json": INFO, "x/link": "x/run.json"}, tarfile.LNKTYPE), "in")
    complete = save_archive(run, "mine.tar.gz").read_bytes()
    checksum = len(complete) - 8  # gzip ends with a checksum and the size, of four bytes each
    changed = complete[:checksum] + bytes([complete[checksum] ^ 1]) + complete[checksum + 1 :]
    for broken in (b"", complete[:20], complete[: len(complete) // 2], complete[:-4], changed):
        Path("cut.tar.gz").write_bytes(broken)
        with pytest.raises(InputError, match=r"cut\.tar\.gz: no archive of a run, or a damaged one"):
            load_archive("cut.tar.gz", "in")
    for place in range(0, len(complete), 29):  # some flipped bits change nothing (a repeat of another zero)
        Path("cut.tar.gz").write_bytes(complete[:place] + bytes([complete[place] ^ 1]) + complete[place + 1 :])
        with contextlib.suppress(InputError):
            assert content(load_archive("cut.tar.gz", "flipped").path) == content(run.path)
            shutil.rmtree("flipped")
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 10))
    with pytest.raises(InputError, match="has room for"):
        load_archive("mine.tar.gz", "in")
    with pytest.raises(InputError, match="no such file"):
        load_archive("nothing.tar.gz")
    assert not list(Path("in").glob("*"))


def test_the_student_and_its_card_are_exported_to_the_hub(run):
    from mentorlib.rollout.model import NANO, load_model

    with pytest.raises(InputError, match="has no trained model"):
        save_hub(run, "out")
    shutil.copytree(NANO, run.path / "model", ignore=lambda _, names: [n for n in names if n.endswith(".py")])
    base = Run("base", student="nano", method="none")
    entry = {"value": 0.25, "ci": (0.2, 0.3), "n": 200, "rows": None, "query": None}
    base.record_many({"accuracy/calculator": entry})
    Path("reports/small").mkdir(parents=True)
    Path("reports/small/stages.json").write_text(json.dumps({"base": "runs/base", "mine": "runs/mine"}))
    assert main(["export", "mine", "--to", "hub", "-o", "out", "--license", "apache-2.0"]) == 0
    card = Path("out/README.md").read_text()
    assert "| suite | tasks | mine | base |" in card
    assert "| calculator | 2 | 50.0% (9% to 91%) | 25.0% (20% to 30%) |" in card
    assert run.info["data"]["tasks.parquet"] in card and "GRPO with the reward `exact`" in card
    facts = ModelCard.load("out/README.md").data
    (result,) = facts.eval_results
    assert facts.license == "apache-2.0" and facts.base_model is None  # nano is on no hub
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("calculator", "accuracy", 0.5)
    exported, tokenizer = load_model("out")
    shipped, _ = load_model()
    assert all((a == b).all() for a, b in zip(exported.parameters(), shipped.parameters(), strict=True))
    assert tokenizer.chat_template


ODD = [
    *("", "{", "[]", "{}", "[" * 9999, '{"metadata": null}'),
    '{"metadata": {"mentorlib": {"notebook": "x", "given": 5}}}',
    '{"metadata": {"mentorlib": {"notebook": "x.ipynb\\n```\\n<script>", "given": ["seed"]}}}',
]


@pytest.mark.parametrize("notebook", ODD)
def test_an_exported_model_has_nothing_from_elsewhere(run, notebook):
    (run.path / "model").mkdir()
    (run.path / "model/config.json").write_text("{}")
    (run.path / "notebook.ipynb").write_text(notebook)
    save_hub(run, "out")
    assert "mentorlib run notebooks/NOTEBOOK " in Path("out/README.md").read_text()
    (run.path / "model/vocab.txt").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match=r"vocab\.txt is a link"):
        save_hub(run, "again")
    assert not Path("again").exists()


def test_what_a_run_says_is_text_in_its_card(run):
    evil = "x`\n# <img src=x> [a](b) | ```"
    (run.path / "model").mkdir()
    (run.path / "model/config.json").write_text("{}")
    info = json.loads((run.path / "run.json").read_text())
    for key in ("student", "suite", "steps", "reward", "seed"):
        info["parameters"][key] = evil
    info["data"], info["versions"], info["git"], info["seed"] = {evil: evil}, {evil: evil}, evil, evil
    (run.path / "run.json").write_text(json.dumps(info))
    save_hub(Run.open("mine"), "out")
    card = Path("out/README.md").read_text()
    head, commands, tail = re.split("^```$", card.partition("## How it was made")[2], flags=re.MULTILINE)
    assert "mentorlib run notebooks/" in commands and "x # img src=x a (b)" in tail
    shown = card.replace(commands, "").partition("\n---\n")[2]  # a command holds what was given, quoted, as code
    assert "<img" not in shown and "[a]" not in shown and "\n# <" not in shown and not head.strip()


def test_inspect_logs_say_what_the_rows_say(run):
    file, rollouts = save_inspect(run, "logs")
    # the form that inspect_ai.log.list_eval_logs looks for
    assert re.fullmatch(r"logs/\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d[^_]*_calculator_mine\.json", str(file))
    log = json.loads(file.read_text())
    assert log["version"] == 2 and log["eval"]["task"] == "calculator" and log["eval"]["config"] == {"epochs": 2}
    right, wrong, unjudged = log["samples"]
    assert [s["scores"]["correct"]["value"] for s in log["samples"]] == ["C", "I", "N"]
    assert (right["id"], right["epoch"], wrong["epoch"]) == ("calculator-0", 1, 2)
    assert right["target"] == "64" and right["input"] == ROW["question"] and unjudged["output"]["choices"] == []
    called, *results = right["messages"][2:5]
    assert [c["id"] for c in called["tool_calls"]] == [m["tool_call_id"] for m in results] == ["0-0", "0-1"]
    assert called["tool_calls"][0] == {
        "id": "0-0",
        "function": "power",
        "arguments": {"a": 8, "b": 2},
        "type": "function",
    }
    (score,) = log["results"]["scores"]
    assert score["metrics"]["accuracy"]["value"] == 0.5 == run.results["accuracy/calculator"]["value"]
    log = json.loads(rollouts.read_text())
    assert log["eval"]["task"] == "rollouts" and log["eval"]["config"] == {"epochs": 2}
    assert [(s["epoch"], s["metadata"]["step"], s["metadata"]["total"]) for s in log["samples"]] == [
        (1, 1, 0.5),
        (2, 2, 0.5),
    ]
    with pytest.raises(InputError, match="nothing was evaluated or sampled"):
        save_inspect(Run("empty"), "logs")


def test_a_run_of_somebody_else_names_no_place_for_its_logs(run):
    run.info["created"] = "/../elsewhere/2026"
    assert {file.parent for file in save_inspect(run, "logs")} == {Path("logs")}


def test_trackio_gets_metrics_and_a_trace_of_each_rollout(run, tmp_path):
    # In a separate process: trackio chooses its folder when it is imported, and keeps threads.
    code = """
import json
from mentorlib.runs.run import Run
from mentorlib.lab.export.trackio_traces import save_trackio
count = save_trackio(Run.open("mine"), "project")
from trackio.sqlite_storage import SQLiteStorage as Storage
print(json.dumps([count, Storage.get_logs("project", "mine"), Storage.get_traces("project", "mine")]))
"""
    where = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", code], env=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, logs, traces = json.loads(done.stdout.splitlines()[-1])
    assert count == len(traces) == 5
    assert [(row["step"], row["reward"]) for row in logs if "reward" in row] == [(1, 0.5), (2, 1.0)]
    assert sorted((t["step"], t["key"]) for t in traces) == [
        *((1, "rollouts"), (2, "rollouts"), (3, "calculator"), (3, "calculator"), (3, "calculator"))
    ]
    (first,) = (t for t in traces if t["step"] == 1)
    assert first["metadata"]["total"] == 0.5 and first["metadata"]["task_id"] == "calculator-0"
    called = first["messages"][2]["tool_calls"][0]
    assert called["function"] == {"name": "power", "arguments": '{"a": 8, "b": 2}'}
    assert [m.get("tool_call_id") for m in first["messages"][3:5]] == ["0-0", "0-1"]
