"""Reference data sets are read as they were written, and a malformed file is one line that names it."""

import pandas as pd
import pytest

from mentorlib.core import InputError
from mentorlib.data.check_references import RejectedRow
from mentorlib.data.parquet import load_tasks, overlapping, save_tasks
from mentorlib.data.suites import generate
from mentorlib.runs.run import Run


@pytest.fixture
def run(tmp_path):
    run = Run("data", root=tmp_path)
    save_tasks(
        run, generate("calculator", 5) + generate("unseen", 3, split="eval"), [RejectedRow("f:1", "no answer", "")]
    )
    return run


def test_a_data_set_is_read_as_written(run):
    assert load_tasks(run.path, "calculator") == generate("calculator", 5)
    assert len(load_tasks(run.path, split="eval")) == 3 and len(load_tasks(run.path, n=2)) == 2
    assert run.read_rows("tasks.rejected.jsonl") == [{"where": "f:1", "reason": "no answer", "detail": "", "row": ""}]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: f.assign(answer=[None, *f["answer"][1:]]), r"row 0 \(calculator-train-0-0\): no answer"),
        (lambda f: f.assign(question=[*f["question"][:-1], " "]), "row 7 .*: no question"),
        (lambda f: f.assign(calls="{"), "row 0 "),
        (lambda f: f.assign(metric="vibes"), "row 0 .*unknown metric 'vibes'"),
        (lambda f: f.assign(toolbox="[]"), "row 0 .*not a toolbox"),
        (lambda f: f.drop(columns="messages"), "lacks column 'messages'"),
    ],
)
def test_an_error_names_the_bad_row_or_column(run, spoil, says):
    file = run.path / "tasks.parquet"
    spoil(pd.read_parquet(file)).to_parquet(file)
    with pytest.raises(InputError, match=says) as error:
        load_tasks(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_an_error_gives_the_row_number_in_the_whole_file(run):
    file = run.path / "tasks.parquet"
    frame = pd.read_parquet(file)
    frame.assign(question=[*frame["question"][:-1], " "]).to_parquet(file)
    with pytest.raises(InputError, match="row 7 "):
        load_tasks(file, split="eval")


def test_a_missing_malformed_or_empty_file_is_a_one_line_error(run, tmp_path):
    (tmp_path / "tasks.parquet").write_bytes(b"not parquet")
    for path, suite, says in [
        (tmp_path / "none", None, "no such data set"),
        (tmp_path, None, "cannot be read as parquet"),
        (run.path, "nope", "it holds calculator/train, unseen/eval"),
    ]:
        with pytest.raises(InputError, match=says):
            load_tasks(path, suite)


def test_data_sets_that_exist_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tasks(Run("mine"), generate("calculator", 1), [])
    with pytest.raises(InputError, match="runs/none: no such data set; there are runs/mine: give one of them"):
        load_tasks("runs/none")


def test_contamination_is_thirteen_words_or_the_whole_question():
    long = " ".join(f"w{i}" for i in range(20))
    questions = [f"x {long[6:]}", " ".join(long.split()[:12]), "who IS it", "who is"]
    assert overlapping([long, "Who is it?"], questions) == [True, False, True, False]


def test_no_task_at_all_is_said_with_the_reasons_and_a_remedy(tmp_path):
    run = Run("none", root=tmp_path)
    rejected = [RejectedRow(f"a:{i}", "no trajectory is right", "") for i in range(3)]
    with pytest.raises(InputError, match=r"none: no task was kept: 3 x no trajectory is right; read tasks\.rejected"):
        save_tasks(run, [], rejected)
    assert len(run.read_rows("tasks.rejected.jsonl")) == 3 and not (run.path / "tasks.parquet").exists()
