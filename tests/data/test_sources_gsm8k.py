"""GSM8K: annotations become calls, other rows are rejected with a reason."""

import json

import pytest

from mentorlib.core import InputError
from mentorlib.data.check_references import verify_references
from mentorlib.data.sources import read_sources
from mentorlib.data.sources.gsm8k import find_training_file, read_gsm8k

ROW = {"question": "Two and three, twice?", "answer": "2+3=<<2+3=5>>5, 5*2=<<5*2=10>>10\n#### 10"}
BAD = [
    ("no annotation", {"question": "q", "answer": "so\n#### 3"}),
    ("no answer after ####", {"question": "q", "answer": "<<1+1=2>>2"}),
    ("an annotation makes no call", {"question": "q", "answer": "<<2=2>>2\n#### 2"}),
    ("an annotation has a wrong value", {"question": "q", "answer": "<<1+1=3>>3\n#### 3"}),
    ("the last value is not the answer", {"question": "q", "answer": "<<1+1=2>>2\n#### 4"}),
    ("an annotation cannot be computed", {"question": "q", "answer": "<<1/0=2>>2\n#### 2"}),
    ("an annotation is not arithmetic", {"question": "q", "answer": "<<__import__('os')=2>>2\n#### 2"}),
]


def test_rows_convert_or_are_rejected_with_a_reason(tmp_path, sandbox):
    file = tmp_path / "train.jsonl"
    lines = [json.dumps(ROW), "{not json", *(json.dumps(row) for _, row in BAD)]
    file.write_text("\n".join(lines))
    pairs, rejected = read_gsm8k(file)
    assert [r.reason for r in rejected] == ["not JSON", *(reason for reason, _ in BAD)]
    ((task, reference),) = pairs
    assert task.answer == "10" and reference.tools == ["add", "multiply"]
    kept, refused = verify_references(pairs, sandbox)
    assert len(kept) == 1 and not refused


def test_a_missing_file_is_a_one_line_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_gsm8k(tmp_path / "none.jsonl")


def test_a_download_is_complete_or_absent(tmp_path, monkeypatch):
    class Broken:
        def to_json(self, file):
            file.write_text('{"question": "hal')
            raise KeyboardInterrupt

    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: Broken())
    with pytest.raises(KeyboardInterrupt):
        find_training_file(tmp_path / "runs")
    assert not (tmp_path / "runs/gsm8k.jsonl").exists()


def test_nine_in_ten_rows_of_gsm8k_convert(shared):
    pairs, rejected = read_gsm8k(shared / "data/gsm8k/train.jsonl")
    assert len(pairs) >= 6_699 and len(pairs) + len(rejected) == 7_473


def test_gsm8k_test_is_held_out_and_keeps_rows_without_a_reference(tmp_path):
    file = tmp_path / "test.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in [ROW, *(row for _, row in BAD)]))
    pairs, rejected, (card,) = read_sources([f"gsm8k_test:{file}"])
    assert {(t.suite, t.split) for t, _ in pairs} == {("gsm8k_test", "eval")}
    assert [r.reason for r in rejected] == ["no answer after ####"]
    assert [bool(r.calls) for _, r in pairs] == [True] + [False] * (len(BAD) - 1)
    assert "no reference" in card["simplified"]
