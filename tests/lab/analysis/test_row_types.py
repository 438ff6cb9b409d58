"""Rows whose keys hold other types than a run writes: one line names file, row and key, and nothing is a traceback."""

import json
import random
from contextlib import suppress
from copy import deepcopy
from itertools import chain
from pathlib import Path

import pytest
import synthetic

from mentorlib.core import InputError
from mentorlib.lab import analysis
from mentorlib.lab.analysis.load import _KEYS
from mentorlib.lab.export.inspect_logs import KEYS, save_inspect
from mentorlib.lab.report.transcript import transcript_text
from mentorlib.lab.report.viewer import write_trajectories
from mentorlib.rewards.stored_rows import score_file
from mentorlib.runs.query import query_rows
from mentorlib.runs.run import Run

VALUES = [None, 3, 10**400, True, "x", [3], ["x"], {}, {"a": 1}, [{}], float("nan")]
CALL = ("messages", 0, "tool_calls", 0, "function")
NESTED = [("messages", 1, "content"), ("messages", 1, "role"), CALL[:-1], CALL, (*CALL, "name"), (*CALL, "arguments")]
NESTED += [(*CALL, "arguments", "a"), ("calls", 0, "arguments", "a")]
NESTED += [(key,) for key in ("failure", "unjudged", "word_f1", "prompt", "finish_reason")]
MISSING = object()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    synthetic.make_runs(tmp_path, tasks=1, steps=1, methods=("grpo-exact",))
    run = Run.open(tmp_path / "grpo-exact")
    row = json.loads((run.path / "rollouts.jsonl").read_text().splitlines()[0])
    made = synthetic.row("argument", random.Random(0), 0)
    row |= {key: made[key] for key in ("messages", "calls", "response", "stop", "correct")}
    row |= {"metric": "answer", "tokens": ["a", "b"], "logprobs": [-0.1, None]}
    (run.path / "rollouts.jsonl").write_text(json.dumps(row) + "\n")
    run.info |= {"git": "", "versions": {}}
    return run


def paths(row):
    for key, value in row.items():
        yield (key,)
        inside = value if isinstance(value, dict) else {0: value[0]} if isinstance(value, list) and value else {}
        for inner, part in inside.items():
            yield key, inner
            yield from ((key, inner, last) for last in part) if isinstance(part, dict) else ()


def spoilt(row):
    for path in dict.fromkeys(chain(paths(row), NESTED)):
        for value in [*VALUES, MISSING]:
            other = deepcopy(row)
            inside = other
            for key in path[:-1]:
                inside = inside[key]
            if value is MISSING:
                inside.pop(path[-1]) if path[-1] in inside or path[-1] == 0 else None
            else:
                inside[path[-1]] = value
            yield path, value, other


def test_no_row_of_other_types_is_a_traceback(run, tmp_path):
    file = run.path / "rollouts.jsonl"
    (row,) = run.read_rows(file.name)
    every, accepted = [], []
    for path, value, other in spoilt(row):
        every.append(json.dumps(other) + "\n")
        file.write_text(json.dumps(row) + "\n" + every[-1])
        try:
            accepted += run.read_rows(file.name)[1:]
        except InputError as error:
            where, _, wrong = str(error).partition(", line 2: ")
            assert where == str(file) and path[0] in wrong.partition(": ")[0] and "\n" not in wrong, (path, value)
    assert len(accepted) < len(every) / 2

    file.write_text("".join(every))  # `score` reads rows of others, too: it rejects or scores each
    assert score_file(file, tmp_path / "scored.jsonl", ["exact"])["rows"] == len(every)

    whole = [other for other in accepted if set(_KEYS) <= other.keys() and "question" in other]
    file.write_text("".join(json.dumps(other) + "\n" for other in whole))
    assert all(map(transcript_text, accepted))
    assert save_inspect(run, tmp_path / "inspect")
    rows = analysis.load.rollouts(["grpo-exact"], tmp_path)
    assert write_trajectories(tmp_path / "page.html", rows, "t").exists() and len(rows) == len(whole)
    for select in ("mean(total)", "mean(correct) where step >= 0", "mean(len(calls))", "mean(terms['correct'])"):
        with suppress(InputError):
            query_rows(whole, select)
    for table in (
        analysis.tool_use.tool_overlap,
        analysis.ungrounded.ungrounded_calls,
        analysis.outcomes.outcome_shares,
        analysis.exploits.exploit_rates,
        analysis.reward_effects.rescore,
    ):
        assert len(table(rows)), table


@pytest.mark.parametrize("key", KEYS)
def test_a_row_that_lacks_a_key_is_named_when_exported(run, tmp_path, key):
    file = run.path / "rollouts.jsonl"
    (row,) = run.read_rows(file.name)
    del row[key]
    file.write_text(json.dumps(row))
    with pytest.raises(InputError, match=f"rollouts.jsonl, line 1: no key '{key}'"):
        save_inspect(run, tmp_path / "inspect")
