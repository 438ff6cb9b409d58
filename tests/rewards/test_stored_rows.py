import json
import math
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic import make_runs
from test_rewards import ANSWER, NEXT, call

from mentorlib.core import END, Call, InputError, Reference, Trajectory
from mentorlib.data.suites import generate
from mentorlib.lab import analysis
from mentorlib.rewards.official import CALCULATOR_TOOLS
from mentorlib.rewards.reward import REWARDS
from mentorlib.rewards.score_file import score_file
from mentorlib.rollout.record import trajectory_row


def write(path: Path, rows: list[Any]) -> Path:
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return path


def test_scored_rows_are_not_read_as_rows_of_the_run(tmp_path):
    make_runs(tmp_path, 6, 1, ("sft",))
    file, before = tmp_path / "sft/eval/longer.jsonl", analysis.load.evaluations(root=tmp_path)
    with file.open("a") as rows:
        rows.write("{not json\n")
    counts = score_file(file)
    assert counts["rows"] == 7 and counts["rejected"] == 1 and (tmp_path / "sft/eval/scored/longer.jsonl").exists()
    file.write_bytes(file.read_bytes().removesuffix(b"{not json\n"))
    assert len(analysis.load.evaluations(root=tmp_path)) == len(before)


def test_a_response_that_begins_like_a_tool_result_is_the_policy_s(tmp_path):
    response = "user\n<tool_response>\n7\n</tool_response><|im_end|>"
    assert [m["role"] for m in Trajectory.from_response(response).messages] == ["assistant"]
    rows = [
        {"response": text, "answer": "7", "teacher_tools": ["add"]} for text in (response, f"user\nWhat?{END}", ANSWER)
    ]
    assert score_file(write(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl")["scored"] == 3


def test_a_row_without_a_teacher_has_no_reward_that_compares_with_one(tmp_path: Path) -> None:
    (task, reference), response = generate("calculator", 1)[0], f"\\boxed{{1}}{END}"
    trajectory = Trajectory.from_response(response, task.id)
    alone = trajectory_row(task, Reference(task.id, [], [], task.answer), trajectory)
    names = trajectory_row(task, Reference(task.id, [], [Call("add", {})], task.answer), trajectory)
    whole = trajectory_row(task, reference, trajectory)
    assert alone["teacher_calls"] is None is names["teacher_calls"] and whole["teacher_calls"]
    score_file(write(tmp_path / "rows.jsonl", [alone, names, whole]), tmp_path / "out.jsonl")
    scored = [set(json.loads(line)["scores"]) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    needs = {kind: {name for name, reward in REWARDS.items() if reward.needs == kind} for kind in ("", "tools")}
    assert scored == [needs[""], needs[""] | needs["tools"], set(REWARDS)]
    frame = pd.DataFrame([row | analysis.outcomes.derived_columns(row) for row in (alone, names, whole)])
    rescored = analysis.reward_effects.rescore(frame).groupby("row")["reward"].agg(set)
    assert list(rescored) == scored


def test_rows_of_other_formats_are_scored_by_their_messages(tmp_path: Path) -> None:
    task, reference = generate("calculator", 1)[0]
    text = "[TOOL_CALLS] add …</s>"  # Mistral's; from_response reads ChatML with Hermes's calls
    trajectory = Trajectory(task.id, reference.messages, text, "answered")
    row = trajectory_row(task, reference, trajectory)
    score_file(write(tmp_path / "rows.jsonl", [row]), tmp_path / "out.jsonl")
    scores = json.loads((tmp_path / "out.jsonl").read_text())["scores"]
    assert {name: scores[name]["total"] for name in ("exact", "strict", "imitate")} == {
        "exact": 1.1,
        "strict": 1.1,
        "imitate": 1.0,
    }
    chat = [{"role": "user", "content": "q"}, *reference.messages]  # not a run's: the response is read
    score_file(write(tmp_path / "rows.jsonl", [row | {"messages": chat}]), tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text())["scores"]["imitate"]["total"] == 0
    right = {"response": f"\\boxed{{5}}{END}", "answer": "5", "teacher_tools": [], "stop": "answered"}
    for messages in ([], "x", [1], [{"role": "assistant", "content": "x", "tool_calls": "abc"}], [{"role": "tool"}]):
        counts = score_file(write(tmp_path / "rows.jsonl", [right | {"messages": messages}]), tmp_path / "out.jsonl")
        assert counts["scored"] == 1, messages
        assert json.loads((tmp_path / "out.jsonl").read_text())["scores"]["sparse"]["total"] == 1


def test_score_file(tmp_path: Path) -> None:
    good = {"response": call() + NEXT + ANSWER, "answer": "5", "teacher_tools": ["add"], "id": 7}
    full = good | {"teacher_calls": [{"name": "add", "arguments": {"b": 3, "a": 2}}], "tools": ["add"]}
    rows: list[Any] = [
        good,
        b"",
        b"{not json",
        full,
        b"[1]",
        {"answer": "5"},
        good | {"answer": 5},
        good | {"teacher_tools": "add"},
        b"\xff\xfe",
        good | {"teacher_calls": [{"name": "subtract", "arguments": {}}]},
        b'{"response": NaN}',
        json.dumps(good).encode()[:-1] + b', "x": 1e999}',
        json.dumps(good).encode()[:-1] + b', "x": ' + b"[" * 100_000 + b"}",
        good | {"stop": "infrastructure"},
    ]
    source, out = write(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl"
    assert score_file(source, out) == {
        "rows": 13,
        "scored": 3,
        "rejected": 10,
        "unjudged": 1,
        "in_part": 3,
        "seem_cut": 0,
    }
    first, second, third = (json.loads(line) for line in out.read_text().splitlines())
    with_calls = {"strict", "toolrl", "imitate", "count", "credit"}
    assert first["id"] == 7 and set(first["scores"]) == set(REWARDS) - with_calls
    assert first["scores"]["exact"]["total"] == pytest.approx(1.1)
    assert set(first["scores"]["exact"]) == {"total", "terms", "reason"}
    assert second["scores"]["strict"]["total"] == pytest.approx(1.1) and second["scores"]["toolrl"]["total"] == 4.0
    assert third["scores"]["exact"]["total"] is None
    rejected = [json.loads(line) for line in (tmp_path / "out.jsonl.rejected.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rejected] == [3, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert all(row["reason"] for row in rejected) and rejected[0]["text"] == "{not json"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.rejected.jsonl", "rows.jsonl"]

    write(source, [full])
    assert score_file(source, out, rewards=["strict"])["rejected"] == 0
    assert not (tmp_path / "out.jsonl.rejected.jsonl").exists()
    assert list(json.loads(out.read_text())["scores"]) == ["strict"]
    write(source, [good])
    for name in ("strict", "credit"):
        assert score_file(source, out, rewards=[name])["rejected"] == 1  # asked for by name, and not possible
    write(source, [good | {"teacher_results": ["5"]}, good | {"teacher_results": [5]}])
    assert score_file(source, out, rewards=["credit"])["rejected"] == 1


def test_score_file_official_reads_the_prompt(tmp_path: Path) -> None:
    row = {"prompt": "Give \\boxed{5}.\n", "response": f"No idea.{END}", "answer": "5", "teacher_tools": ["add"]}
    source, out = write(tmp_path / "rows.jsonl", [row]), tmp_path / "out.jsonl"
    score_file(source, out, ["sparse"], version="official")
    assert json.loads(out.read_text())["scores"]["sparse"]["total"] == 1.0
    score_file(source, out, ["sparse"])
    assert json.loads(out.read_text())["scores"]["sparse"]["total"] == 0.0


def test_score_file_takes_rollouts(tmp_path: Path) -> None:
    """Rows as trajectory_row stores them: a run's rollouts can be scored as they are."""
    rows = []
    for task, reference in generate("unseen", 5, seed=3):
        text = call(reference.calls[0].name, json.dumps(reference.calls[0].arguments)) + NEXT
        trajectory = Trajectory.from_response(f"{text}\\boxed{{{task.answer}}}{END}")
        rows.append(trajectory_row(task, reference, trajectory, step=1, total=0.0))
    source, out = write(tmp_path / "rollouts.jsonl", rows), tmp_path / "out.jsonl"
    assert score_file(source, out) == {
        "rows": 5,
        "scored": 5,
        "rejected": 0,
        "unjudged": 0,
        "in_part": 0,
        "seem_cut": 0,
    }
    for row in map(json.loads, out.read_text().splitlines()):
        totals = {name: result["total"] for name, result in row["scores"].items()}
        assert totals == pytest.approx({name: reward.maximum for name, reward in REWARDS.items()})


def test_score_file_compares_as_the_row_says(tmp_path: Path) -> None:
    """By default as the gold answer looks; the rows that a run stores carry their task's metric."""
    dates = {"response": f"\\boxed{{2031-05-02}}{END}", "answer": "2031-02-05", "teacher_tools": []}
    upper = {"response": f"\\boxed{{plum}}{END}", "answer": "\\text{PLUM}", "teacher_tools": []}
    formula = {"response": f"\\boxed{{q+p}}{END}", "answer": "p + q", "teacher_tools": []}
    rows = [dates, upper, formula, formula | {"metric": "math"}, formula | {"metric": "maths"}]
    source, out = write(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl"
    assert score_file(source, out, ["sparse"])["rejected"] == 1
    scored = [json.loads(line)["scores"]["sparse"]["total"] for line in out.read_text().splitlines()]
    assert scored == pytest.approx([0.1, 0.1, 0.1, 1.0])
    assert "metric: not one of answer, math" in (tmp_path / "out.jsonl.rejected.jsonl").read_text()


@pytest.mark.parametrize("version", ["corrected", "official"])
def test_what_follows_the_end_token_does_not_count(tmp_path: Path, version: str) -> None:
    """A newline of the template, padding, or another family's tokens; a server that leaves it out says why it ended."""
    said = "The answer is \\boxed{5}."
    row: dict[str, Any] = {"answer": "5", "teacher_tools": []}
    ends = [END, f"{END}\n", f" {END}<|endoftext|><|endoftext|>", f"{END}\n<pad><pad>", "<|eot_id|>", "</s>\n"]
    ends += ["<end_of_turn>\n<eos><pad>", "<｜end▁of▁sentence｜>", "<|end|><|endoftext|>"]
    rows = [row | {"response": said + end} for end in ends]
    rows += [row | {"response": said, **says} for says in ({"finish_reason": "stop"}, {"stop": "answered"})]
    rows += [row | {"response": said + end, "finish_reason": "length"} for end in ("", "<|endoftext|>")]
    rows += [row | {"response": said + end} for end in ("", "\n", "<pad>", f"{END} More")]
    source, out = write(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl"
    assert score_file(source, out, ["sparse"], version=version)["seem_cut"] == 4
    totals = [json.loads(line)["scores"]["sparse"]["total"] for line in out.read_text().splitlines()]
    assert totals == [1.0] * 11 + [0.0] * 6
    trajectory = Trajectory.from_response(said + f"{END}\n<|endoftext|>")
    assert trajectory.stop == "answered" and trajectory.messages[-1]["content"] == said


def test_padding_is_read_in_linear_time() -> None:
    assert Trajectory.from_response("\\boxed{5}" + END + "<pad>" * 20_000).ended


def test_score_file_valid_tools(tmp_path: Path) -> None:
    row = {"response": call("convert") + NEXT + ANSWER, "answer": "5", "teacher_tools": ["convert"]}
    source, out = write(tmp_path / "rows.jsonl", [row]), tmp_path / "out.jsonl"
    for valid, total in ((None, 0.7), (["convert"], 1.1)):
        score_file(source, out, ["exact"], valid_tools=valid)
        assert json.loads(out.read_text())["scores"]["exact"]["total"] == pytest.approx(total)
    assert "convert" not in CALCULATOR_TOOLS and len(CALCULATOR_TOOLS) == 12


def test_score_file_bad_arguments(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [])
    for kwargs, message in (
        ({"out": source}, "overwrite"),
        ({"rewards": ["dense"]}, "dense"),
        ({"version": "paper"}, "paper"),
        ({"version": "official", "valid_tools": ["add"]}, "twelve"),
        ({"out": tmp_path / "no" / "out.jsonl"}, "written"),
        ({"out": tmp_path}, "folder"),
    ):
        with pytest.raises(InputError, match=message):
            score_file(source, **kwargs)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot be read"):
        score_file(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="folder"):
        score_file(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_rows_from_a_pipe_and_scores_into_one(tmp_path, capfd):
    good = {"response": call() + NEXT + ANSWER, "answer": "5", "teacher_tools": ["add"]}
    file = write(tmp_path / "rows.jsonl", [good, b"{not json", good])
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def scored(out: Path) -> dict[str, int]:
        writer = threading.Thread(target=lambda: pipe.write_bytes(file.read_bytes()), daemon=True)
        writer.start()
        counts = score_file(pipe, out)
        writer.join(10)
        return counts

    counts = score_file(file, tmp_path / "whole.jsonl")
    assert counts["scored"] == 2 and counts["rejected"] == 1
    assert scored(tmp_path / "piped.jsonl") == counts
    assert (tmp_path / "piped.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    for source in (pipe, "/dev/stdin", "/dev/fd/63"):
        with pytest.raises(InputError, match=r"say where to write them: -o OUT\.jsonl"):
            score_file(source)
    null = tmp_path / "null"
    null.symlink_to("/dev/null")
    capfd.readouterr()
    assert score_file(file, null) == counts and score_file(file, "/dev/null") == counts
    assert null.is_symlink() and stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert not Path("/dev/null.rejected.jsonl").exists() and "rows.jsonl, line 2: not a JSON" in capfd.readouterr().err
    with pytest.raises(InputError, match="/dev/full: No space left on device"):
        score_file(file, "/dev/full")
    (tmp_path / "same.jsonl").hardlink_to(file)
    with pytest.raises(InputError, match="would overwrite the rows it is made from"):
        score_file(file, tmp_path / "same.jsonl")


def test_what_json_cannot_write_is_named_by_its_key(tmp_path):
    row = {"response": "\\boxed{1}<|im_end|>", "answer": "1", "teacher_tools": []}
    deep = "[" * 3000 + "]" * 3000
    lines = [json.dumps(row | {"mine": {"a": [value]}}) for value in (math.nan, -math.inf)]
    lines.append(json.dumps(row)[:-1] + f', "mine": {deep}}}')
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    score_file(tmp_path / "rows.jsonl", tmp_path / "out.jsonl", ["exact"])
    rejected = [json.loads(line) for line in (tmp_path / "out.jsonl.rejected.jsonl").read_text().splitlines()]
    reasons = {row["line"]: row["reason"] for row in rejected}
    assert reasons[1] == reasons[2] == "mine: holds NaN or an infinity, which JSON has not; give null instead"
    assert 3 not in reasons or reasons[3].startswith(("mine: nested too deeply", "not a JSON object"))
