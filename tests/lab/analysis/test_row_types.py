"""Rows whose keys hold other types than a run writes: one line names file, row and key, and nothing is a traceback."""

import json
import random
from contextlib import suppress
from copy import deepcopy
from itertools import chain
from pathlib import Path

import pandas as pd
import pytest
import synthetic

from mentorlib.core import InputError
from mentorlib.lab import analysis
from mentorlib.lab.analysis.load import _KEYS
from mentorlib.lab.analysis.recompute import verify_run
from mentorlib.lab.batch.setting import study_setting
from mentorlib.lab.export.hub import save_hub
from mentorlib.lab.export.inspect_logs import KEYS, save_inspect
from mentorlib.lab.report.transcript import transcript_html, transcript_text
from mentorlib.lab.report.viewer import write_trajectories
from mentorlib.lab.workspace.contents import runs as list_runs
from mentorlib.rewards.score_file import score_file
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


TIMES = ["x", "2026-01-01T00:00:00", "9999-12-31T23:59:59-14:00"]
ENTRY = {"value": 0.5, "ci": [0.1, None], "n": 1, "rows": "rollouts.jsonl", "query": "mean(correct)"}


def read_whole(root):
    """What the commands and notebooks do with a run that somebody sent."""
    run = Run.open(root / "grpo-exact")
    verify_run(run)
    save_inspect(run, root / "inspect")
    analysis.treatment.arms(analysis.load.rollouts([run.name], root), analysis.load.metrics([run.name], root))
    study_setting(analysis.load.methods([run.name], root), root)


def write(file, change):
    info = json.loads(file.read_text())
    for path, value in change.items():
        *above, key = path.split("/")
        inside = info[above[0]] if above else info
        inside[key] = value
    file.write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("created", [3, None, {"a": 1}, *TIMES[:2]]),
        ("finished", [3, [1], *TIMES[:2]]),
        ("reopened", [3, None, {"a": 1}, [1], [{"time": "x"}]]),
        ("compares", [3, [1], ["../elsewhere"], ["/elsewhere"], [".."]]),
        ("inputs", [3, [1], {"a": 1}]),
        ("versions", [3, {"a": 1}]),
        ("git", [3]),
        ("status", [3, None]),
        ("parameters/learning_rate", ["x", None, [1], 10**400]),
        ("parameters/eval_temperature", ["x", [1]]),
        ("parameters/groups", ["x", None, {}]),
        ("parameters/seed", [[1], {}, "x"]),
        ("parameters/method", [[1], {}]),
    ],
)
def test_no_run_json_of_other_types_is_a_traceback(run, tmp_path, key, values):
    file = run.path / "run.json"
    for value in values:
        write(file, {key: value})
        with pytest.raises(InputError, match=rf"run.json: (parameter )?{key.removeprefix('parameters/')}: not "):
            read_whole(tmp_path)
    write(file, {"created": TIMES[2], "parameters/learning_rate": 1e-4})


def test_a_run_json_may_lack_what_no_reader_needs_and_say_any_time(run, tmp_path):
    read_whole(tmp_path)  # synthetic.make_runs writes neither git nor versions
    write(run.path / "run.json", {"created": TIMES[2], "finished": "0001-01-01T00:00:00+00:00"})
    read_whole(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value": 10**400}, "value: not a finite number, a text"),
        ({"value": [1]}, "value: not"),
        ({"ci": 3}, "ci: not null or two"),
        ({"ci": ["a", "b"]}, "ci: not null or two"),
        ({"n": "x"}, "n: not"),
        ({"rows": 3}, "rows: not a text"),
        ({"query": None}, "rows and query: one without the other"),
    ],
)
def test_no_results_json_of_other_types_is_a_traceback(run, tmp_path, change, said):
    file = run.path / "results.json"
    file.write_text(json.dumps({"accuracy/a": ENTRY | change}))
    with pytest.raises(InputError, match=f"results.json: result 'accuracy/a': {said}"):
        verify_run(run)
    assert "grpo-exact" not in list_runs(tmp_path).data  # left out, as is what something else wrote
    for text in ("[]", "3", '{"accuracy/a": {"value": 1}}'):
        file.write_text(text)
        with pytest.raises(InputError, match=r"results\.json: "):
            verify_run(run)


def test_a_query_of_other_types_is_one_line(run):
    run.info["compares"] = [run.name]
    for call in ("counterfactual(groups=9, rewards=[3]).x", "counterfactual(groups='x').x", "paired(against=[1]).x"):
        entry = ENTRY | {"rows": "runs", "query": f"{call} where method == 'a'"}
        (run.path / "results.json").write_text(json.dumps({"a": entry}))
        with pytest.raises(InputError):
            verify_run(run)


def test_metrics_of_other_types_are_named(run, tmp_path):
    file = run.path / "metrics.jsonl"
    for line, said in (({"kl": 1}, "step: missing"), ({"step": "x"}, "step: not"), ({"step": 1, "kl": "x"}, "kl: not")):
        file.write_text(json.dumps(line))
        with pytest.raises(InputError, match=f"metrics.jsonl, line 1: {said}"):
            read_whole(tmp_path)
    file.write_text('{"step": 1, "run": "another", "method": "sft"}')
    assert analysis.load.metrics([run.name], tmp_path)[["run", "method"]].to_numpy().tolist() == [
        ["grpo-exact", "grpo-exact"]
    ]


def test_half_a_surrogate_pair_is_named(run):
    file = run.path / "rollouts.jsonl"
    (row,) = run.read_rows(file.name)
    file.write_text(json.dumps(row | {"question": "a \U0001f600 b"}))  # a whole pair, escaped
    assert run.read_rows(file.name)[0]["question"] == "a \U0001f600 b"
    file.write_text(json.dumps(row | {"question": "a \ud800 b"}))
    with pytest.raises(InputError, match=r"rollouts\.jsonl, line 1: half a surrogate pair"):
        run.read_rows(file.name)


def test_log_probabilities_that_are_none_overflow_nothing(run):
    (row,) = run.read_rows("rollouts.jsonl")
    row |= {"tokens": ["a", "b", "c"], "logprobs": [800.0, 1e299, -0.5]}
    assert "rgba(213,94,0,0.00)" in transcript_html(row)
    rows = pd.DataFrame([row | {"method": "m", "run": "r", "total": 1.0}, row | {"method": "m", "run": "r"}])
    scored = pd.DataFrame(
        {"method": "m", "reward": "exact", "run": "r", "step": 0, "group": 0, "row": [0, 1], "total": [1.0, 0.0]}
    )
    table = analysis.token_credit.advantage_by_token_kind(rows, scored)
    assert table["tokens"].sum() == pytest.approx(1.0)


def test_runs_that_each_went_on_from_the_other_end(tmp_path):
    synthetic.make_runs(tmp_path, tasks=1, steps=1, methods=("sft", "grpo-exact"))
    for name, other in (("sft", "grpo-exact"), ("grpo-exact", "sft")):
        change = {"student": str(tmp_path / other / "model"), "groups": 2, "group_size": 2}
        write(tmp_path / name / "run.json", {f"parameters/{key}": value for key, value in change.items()})
    setting = study_setting(analysis.load.methods([], tmp_path), tmp_path)
    assert all(line["budget"].count("then") == 1 for line in setting.methods)
    write(tmp_path / "sft" / "run.json", {"parameters/data": "x" * 5000, "parameters/student": "y" * 5000 + "/model"})
    assert len(analysis.load.methods([], tmp_path)) == 2


def test_a_card_of_a_run_with_odd_results(run, tmp_path):
    (run.path / "model").mkdir()
    (run.path / "model" / "config.json").write_text("{}")
    results = {"accuracy/a": ENTRY | {"value": "x" * 3, "ci": None}, "accuracy/b": ENTRY | {"value": 7, "ci": None}}
    (run.path / "results.json").write_text(json.dumps(results))
    card = (save_hub(Run.open(run.path), tmp_path / "hub", beside=[]) / "README.md").read_text()
    assert "None recorded." in card
