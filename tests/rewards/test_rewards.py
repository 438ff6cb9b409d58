import itertools
import json
import pickle
import random
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fuzzed import GOLDS, fuzzed_output
from hypothesis import given, settings
from hypothesis import strategies as st

from mentorlib.core import END, Call, Execution, InputError, Reference, Trajectory, tool_messages, without_end
from mentorlib.data.sources.gsm8k import read_gsm8k
from mentorlib.data.suites import SUITES, generate
from mentorlib.rewards import answers, corrected
from mentorlib.rewards.corrected import outcome_terms
from mentorlib.rewards.matching import tool_names
from mentorlib.rewards.reward import CONTROLS, OFFICIAL, REWARDS, Reward, get_reward, score_groups
from mentorlib.rewards.score import Score
from mentorlib.rewards.score_file import score_file
from mentorlib.rewards.trl import as_trl
from mentorlib.task import Task

REPO = Path(__file__).parents[2]
NEXT = f"{END}\n<|im_start|>user\n<tool_response>\n5\n</tool_response>{END}\n<|im_start|>assistant\n"


def call(name: str = "add", arguments: str = '{"a": 2, "b": 3}') -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def teacher(*names: str, answer: str = "5") -> Reference:
    return Reference("t", [], [Call(name, {"a": 2, "b": 3}) for name in names], answer)


def score(name: str, response: str, *tools: str, answer: str = "5", version: str = "corrected", **more: Any) -> Score:
    return get_reward(name, version)(Trajectory.from_response(response), teacher(*tools), answer=answer, **more)


def test_golden_rows(shared: Path) -> None:
    rows = [json.loads(line) for line in (shared / "golden" / "official_rewards.jsonl").read_text().splitlines()]
    assert len(rows) == 1500
    for row in rows:
        trajectory = Trajectory.from_response(row["response"])
        reference = Reference("", [], [Call(name, {}) for name in row["teacher_tools"]], row["answer"])
        for name, expected in row["scores"].items():
            total = OFFICIAL[name](trajectory, reference, answer=row["answer"]).total
            assert total == pytest.approx(expected, abs=1e-6), (row["id"], name)


# --- the ledger: docs/rewards.md has a row for each, with these numbers ---

ANSWER = f"The answer is \\boxed{{5}}.{END}"
WRONG = f"The answer is \\boxed{{6}}.{END}"
CASES_OF = f"\\boxed{{\\left\\{{ x=2,y=3 \\right.}}{END}"
# id: (reward, response, teacher's tools, gold answer, further arguments of the corrected reward)
LEDGER: dict[str, tuple[str, str, list[str], str, dict[str, Any]]] = {
    "malformed": ("none", '<tool_call>\n{"name": "add", "argu\n</tool_call>' + NEXT + ANSWER, ["add"], "5", {}),
    "unclosed": ("none", '<tool_call>\n{"name": "add", "arguments": {}}' + NEXT + ANSWER, ["add"], "5", {}),
    "after-answer": ("exact", "\\boxed{5}\n" + call() + NEXT + "Done." + END, ["add"], "5", {}),
    "gave-up": ("exact", call() + NEXT + "I do not know." + END, ["add"], "5", {}),
    "gave-up-invented": ("exact", call("guess") + NEXT + "I do not know." + END, ["add"], "5", {}),
    "prompt-box": ("sparse", "Use \\boxed{5}.\n<|im_start|>assistant\nNo idea." + END, ["add"], "5", {}),
    "tool-box": ("sparse", call() + NEXT.replace("5", "\\boxed{5}") + "No idea." + END, ["add"], "5", {}),
    "hard-coded": ("exact", call("convert") + NEXT + ANSWER, ["convert"], "5", {"valid_tools": ["convert"]}),
    "no-teacher": ("exact", ANSWER, [], "5", {}),
    "no-mathruler": ("sparse", f"\\boxed{{(15,-29)}}{END}", ["add"], "(15,-29)", {}),
    "box-space": ("sparse", f"\\boxed {{7}}. If not 7, then 5{END}", ["add"], "5", {}),
    "escaped-brace": ("sparse", CASES_OF, ["add"], "\\left\\{ x=2,y=3 \\right.", {}),
    "open-box": ("sparse", f"\\boxed{{5}} that is \\boxed{{5{END}", ["add"], "5", {}),
    "no-arguments": ("exact", '<tool_call>{"name": "add"}</tool_call>' + NEXT + ANSWER, ["add"], "5", {}),
    "quoted-call": ("exact", call() + NEXT.replace("5", call("guess")) + ANSWER, ["add"], "5", {}),
    "swallowed": (
        "exact",
        "<tool_call>" + END + "\n<|im_start|>assistant\n" + call() + NEXT + ANSWER,
        ["add"],
        "5",
        {},
    ),
    "odd-name": ("none", call().replace('"add"', '["add"]') + NEXT + ANSWER, ["add"], "5", {}),
    "misread": ("sparse", f"\\boxed{{2031-05-02}}{END}", ["add"], "2031-02-05", {}),
    "thought": ("exact", f"<think>{call('guess')}</think>{call()}{NEXT}{ANSWER}", ["add"], "5", {}),
    "unjudged": ("sparse", f"\\boxed{{9**9**9**9}}{END}", ["add"], "x^2", {}),
}


def ledger_totals(key: str) -> tuple[float | None, float | None]:
    name, response, tools, gold, more = LEDGER[key]
    official = score(name, response, *tools, answer=gold, version="official")
    if key == "prompt-box":  # the release scores prompt and response as one text, the correction only the response
        response = response.split("<|im_start|>assistant\n")[1]
    corrected = score(name, response, *tools, answer=gold, **more)
    return official.total, corrected.total if corrected.judged else None


def documented() -> dict[str, tuple[str, str, str]]:
    """id: (reward, official, corrected) as docs/rewards.md has them."""
    text = (REPO / "docs" / "rewards.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| (\w+) \| ([\d.]+) \| ([\d.]+|none) \|", text, re.MULTILINE)
    return {row[0]: (row[1], row[2], row[3]) for row in rows}


@pytest.mark.parametrize("key", LEDGER)
def test_ledger_row(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if key == "unjudged":
        monkeypatch.setattr(answers, "TIME_LIMIT", 1.0)
    totals = ledger_totals(key)
    name, expected_official, expected_corrected = documented()[key]
    assert name == LEDGER[key][0]
    assert totals[0] == pytest.approx(float(expected_official))
    assert totals[1] == (None if expected_corrected == "none" else pytest.approx(float(expected_corrected)))


def test_ledger_is_complete() -> None:
    assert set(documented()) == set(LEDGER)


def test_ledger_zero_result() -> None:
    """A deviation of the rollout, not of the scorer: a tool's 0 must reach the policy."""
    assert [Execution(value=value).text for value in (0, 0.0, False, "")] == ["0", "0", "false", ""]


# --- what holds for every reward ---


def as_trajectory(reference: Reference) -> Trajectory:
    return Trajectory(reference.task_id, reference.messages, f"…{END}", "answered")


def assert_maximum(task: Task, reference: Reference) -> None:
    for name, reward in REWARDS.items():
        result = reward(
            as_trajectory(reference),
            reference,
            answer=task.answer,
            valid_tools=task.toolbox.names,
            metric=task.metric,
        )
        assert result.total == pytest.approx(reward.maximum), (task.id, name, result)


@pytest.mark.parametrize("suite", SUITES)
def test_the_reference_scores_the_maximum(suite: str) -> None:
    for task, reference in generate(suite, 200, seed=1):
        assert_maximum(task, reference)


def test_the_reference_scores_the_maximum_on_gsm8k(shared: Path) -> None:
    pairs, _ = read_gsm8k(shared / "data" / "gsm8k" / "train.jsonl")
    assert len(pairs) > 5000
    for task, reference in pairs:
        assert_maximum(task, reference)


def check_bounds(name: str, result: Score) -> None:
    assert set(result.terms) == set(result.weights)
    assert all(0 <= value <= 1 for value in result.terms.values()), (name, result)
    assert result.total == sum(value * result.weights[term] for term, value in result.terms.items())
    lowest = sum(weight for weight in REWARDS[name].weights.values() if weight < 0)
    assert lowest <= result.total <= REWARDS[name].maximum + 1e-12, (name, result)


def test_order_of_outcomes() -> None:
    """What a policy should prefer: never worse to try than to give up, never better to invent a tool."""
    ladder = [
        call() + NEXT + "I do not know." + END,
        call("guess") + NEXT + WRONG,
        call("subtract") + NEXT + WRONG,
        call() + NEXT + WRONG,
        call("guess") + NEXT + ANSWER,
        call("subtract") + NEXT + ANSWER,
        call() + NEXT + ANSWER,
    ]
    for name in ("sparse", "exact", "partial", "none", "f1", "strict"):
        totals = [score(name, response, "add").total for response in ladder]
        assert totals == sorted(totals), (name, totals)
        assert totals[0] < totals[-1]
    exact = [score("exact", response, "add").total for response in ladder]
    assert exact == pytest.approx([0.0, 0.0, 0.1, 0.16, 0.7, 0.8, 1.1])
    assert score("exact", (call() + NEXT + ANSWER).removesuffix(END), "add").total == 0.0


def test_matching_rules() -> None:
    two = call() + NEXT + call("multiply") + NEXT + ANSWER
    assert score("exact", two, "add").terms["tools"] == 0.0
    assert score("partial", two, "add").terms["tools"] == 1.0
    assert score("f1", two, "add").terms["tools"] == pytest.approx(2 / 3)
    assert score("exact", two, "multiply", "add", "add").terms["tools"] == 1.0
    assert score("strict", two, "add", "multiply").terms["tools"] == 1.0
    assert score("strict", two, "multiply", "add").terms["tools"] == 0.0
    assert score("strict", call("add", '{"a": 2, "b": 4}') + NEXT + ANSWER, "add").terms["tools"] == 0.0
    for name in ("exact", "partial", "f1", "strict"):
        assert score(name, two).terms["tools"] == 0.0  # the teacher used none
        assert score(name, ANSWER).terms["tools"] == 1.0


def test_toolrl() -> None:
    """By hand, S_max = 1 + 2 calls + 4 arguments = 7."""
    swapped = call("multiply") + call() + NEXT + ANSWER
    assert score("toolrl", swapped, "add", "multiply").total == pytest.approx(4.0)
    half = call("add", '{"a": 2, "c": 3}') + NEXT + ANSWER  # names 1/2, parameters 1/3, values 1
    assert score("toolrl", half, "add", "multiply").total == pytest.approx(1 + 6 * (1 / 2 + 1 / 3 + 1) / 7 - 3)
    assert score("toolrl", call("guess") + END, "add").total == pytest.approx(-3.0)
    invented = call("add") + call("guess") + NEXT + ANSWER  # names 1/2: what is not offered counts as used
    assert score("toolrl", invented, "add").total == pytest.approx(1 + 6 * (1 / 2 + 1 + 2) / 4 - 3)
    assert score("toolrl", ANSWER + call("add") + NEXT + "Done." + END, "add").total == pytest.approx(4.0)
    greedy_loses = call("add", '{"a": 2, "b": 9}') + call("add", '{"a": 1, "b": 9}') + NEXT + ANSWER
    reference = Reference("t", [], [Call("add", {"a": 1, "b": 8}), Call("add", {"a": 1, "b": 9})], "5")
    best = REWARDS["toolrl"](Trajectory.from_response(greedy_loses), reference, answer="5")
    assert best.terms["values"] == pytest.approx(2 / 7)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.randoms(use_true_random=False))
def test_toolrl_matches_calls_as_well_as_can_be(n: int, m: int, rng: random.Random) -> None:
    """Parameters + values are the highest of all one-to-one matchings."""
    student, golds = (
        [Call("add", {name: rng.choice([1, 2]) for name in "abc" if rng.random() < 0.7}) for _ in range(size)]
        for size in (n, m)
    )

    def gain(gold: Call, call: Call) -> float:
        either = gold.arguments.keys() | call.arguments.keys()
        shared = len(gold.arguments.keys() & call.arguments.keys()) / len(either) if either else 1.0
        return shared + sum(call.arguments.get(name) == value for name, value in gold.arguments.items())

    few, many = (golds, student) if m <= n else (student, golds)
    best = max(
        sum(gain(*((one, other) if m <= n else (other, one))) for one, other in zip(few, chosen, strict=True))
        for chosen in itertools.permutations(many, len(few))
    )
    trajectory = Trajectory("t", [{"role": "assistant", "tool_calls": [c.message for c in student]}], END, "answered")
    terms = REWARDS["toolrl"](trajectory, Reference("t", [], golds, "5"), answer="5").terms
    largest = 1 + m + sum(len(gold.arguments) for gold in golds)
    assert terms["parameters"] + terms["values"] == pytest.approx(best / largest)


def test_equal_arguments_are_json_equal() -> None:
    def same(a: str, b: str) -> bool:
        gold = Reference("t", [], [Call("add", json.loads(a))], "5")
        result = REWARDS["strict"](Trajectory.from_response(call("add", b) + NEXT + ANSWER), gold, answer="5")
        return result.terms["tools"] == 1.0

    assert same('{"a": 8, "b": [1.0, {"c": null}]}', '{"b": [1, {"c": null}], "a": 8.0}')
    assert not same('{"a": 1}', '{"a": true}')
    assert not same('{"a": 1}', '{"a": "1"}')
    assert not same('{"a": [1, 2]}', '{"a": [2, 1]}')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=4), lambda inner: st.lists(inner, max_size=3)
)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "multiply", "guess"]), st.dictionaries(st.sampled_from("abcd"), JSON, max_size=4)
        ),
        max_size=3,
    ),
    st.randoms(use_true_random=False),
)
def test_json_formatting_of_a_call_makes_no_difference(
    calls: list[tuple[str, dict[str, Any]]], rng: random.Random
) -> None:
    def write(name: str, arguments: dict[str, Any], shuffled: bool) -> str:
        items, indent = list(arguments.items()), None
        outer: list[tuple[str, Any]] = [("name", name), ("arguments", arguments)]
        if shuffled:
            rng.shuffle(items)
            rng.shuffle(outer)
            indent = rng.choice([None, 0, 4])
            outer = [(key, dict(items) if key == "arguments" else value) for key, value in outer]
        gap = rng.choice(["", " ", "\n\n", "\t"]) if shuffled else "\n"
        body = json.dumps(dict(outer), indent=indent, ensure_ascii=not shuffled)
        return f"<tool_call>{gap}{body}{gap}</tool_call>"

    reference = teacher("add", "multiply")
    for version in (REWARDS, OFFICIAL):
        for name, reward in version.items():
            plain, other = (
                reward(
                    Trajectory.from_response("".join(write(*c, shuffled) + NEXT for c in calls) + ANSWER),
                    reference,
                    answer="5",
                )
                for shuffled in (False, True)
            )
            assert plain.terms == other.terms, name


def test_where_calls_are_compared_only_rewards_that_judge_no_answer_score() -> None:
    """As docs/rewards.md says."""
    trajectory, reference = Trajectory.from_response(f"\\boxed{{5}}{END}"), teacher("add")
    every = REWARDS | CONTROLS
    judged = {n for n, reward in every.items() if reward(trajectory, reference, answer="5", metric="calls").judged}
    assert judged == {"toolrl", "imitate", "null"}


# --- fuzz ---


@pytest.mark.slow
def test_fuzzed_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 outputs under every reward: no exception, every score in its bounds. benchmarks/rewards.py times them."""
    monkeypatch.setattr(answers, "TIME_LIMIT", 0.2)
    rng = random.Random(7)
    scored = 0
    for _ in range(10_000):
        trajectory, gold = Trajectory.from_response(fuzzed_output(rng)), rng.choice(GOLDS)
        for version in (REWARDS, OFFICIAL):
            for name, reward in version.items():
                result = reward(trajectory, teacher("add", "multiply"), answer=gold)
                check_bounds(name, result)
                scored += result.total not in (0.0, 0.1, -3.0)
    assert scored > 10_000  # many get past the early exits


def test_megabytes() -> None:
    """Linear in the text: a quadratic pass would take an hour here and be killed with the suite."""
    for piece in ("<tool_call>", "</tool_call>", "\\boxed{", "<tool_response>", "{", call()):
        for start in ("", "<|im_start|>user\n"):
            text = start + piece * (1_000_000 // len(piece))
            score("toolrl", text + END, "add")
            score("exact", text + END, "add", version="official")


def test_a_text_of_end_tokens_is_read_in_linear_time() -> None:
    """Its end is looked for without copying the text at each token, which took a minute here."""
    start = time.process_time()
    assert without_end("x" + f" {END}\n<|endoftext|>" * 200_000) == "x "
    assert time.process_time() - start < 10


# --- as_trl ---


def test_as_trl() -> None:
    task = SimpleNamespace(id="t", answer="5", metric="answer", toolbox=SimpleNamespace(names=["add", "multiply"]))
    right = Trajectory.from_response(call() + NEXT + ANSWER)
    wrong = Trajectory.from_response(call("guess") + NEXT + WRONG)
    broken = Trajectory.from_response(call() + NEXT + ANSWER)
    broken.stop = "infrastructure"
    metrics: dict[str, float] = {}
    columns: dict[str, list[Any]] = {}
    function = pickle.loads(pickle.dumps(as_trl("exact")))
    assert function.__name__ == "exact" and as_trl(OFFICIAL["f1"]).__name__ == "f1"
    totals = function(
        prompts=["p"] * 3,
        completions=[[]] * 3,
        completion_ids=[[1]] * 3,
        trajectory=[right, wrong, broken],
        reference=[teacher("add")] * 3,
        task=[task] * 3,
        trainer_state=None,
        log_metric=metrics.__setitem__,
        log_extra=columns.__setitem__,
    )
    assert totals == [pytest.approx(1.1), pytest.approx(0.0), None]
    assert metrics == pytest.approx(
        {"exact/correct": 0.5, "exact/tools": 0.5, "exact/clean": 0.5, "exact/unjudged": 1 / 3}
    )
    assert columns["exact/tools"] == [1.0, 0.0, 0.0] and len(columns["exact/reason"]) == 3
    assert as_trl("sparse", "official")([""], [[]], [right], [teacher("add")], [task]) == [1.0]


def test_an_unjudged_answer_has_no_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    task = SimpleNamespace(id="t", answer="5", metric="answer", toolbox=SimpleNamespace(names=["add"]))
    monkeypatch.setattr(corrected, "judge", lambda *_, **__: answers.Verdict(None, "timeout"))
    assert as_trl("exact")([""], [[]], [Trajectory.from_response(ANSWER)], [teacher("add")], [task]) == [None]
    assert "could not be judged (timeout)" in score("exact", ANSWER, "add").reason


def test_names_and_missing_teacher() -> None:
    published, baselines = ["sparse", "exact", "partial", "none", "f1"], ["strict", "toolrl", "imitate"]
    assert list(REWARDS) == [*published, *baselines, "credit", "anneal", "count"]
    assert list(CONTROLS) == ["null", "planted"]
    assert list(OFFICIAL) == ["sparse", "exact", "partial", "none", "f1"]
    trajectory = Trajectory.from_response(ANSWER)
    assert REWARDS["sparse"](trajectory, None, answer="5").total == 1.0
    assert OFFICIAL["exact"](trajectory, None, answer="5").total == pytest.approx(0.1)
    with pytest.raises(InputError, match="reference"):
        REWARDS["exact"](trajectory, None, answer="5")
    with pytest.raises(InputError, match="sparse, exact"):
        get_reward("dense")
    with pytest.raises(InputError, match="official"):
        get_reward("strict", "official")
    with pytest.raises(InputError, match="version"):
        get_reward("exact", "offical")


# --- credit, anneal, count ---


def with_results(*results: str) -> str:
    """A transcript whose calls gave these results, without its last turn."""
    return "".join(call() + NEXT.replace("\n5\n", f"\n{result}\n") for result in results)


def test_credit_rewards_the_teachers_results_whatever_the_tools() -> None:
    gold = Reference("t", tool_messages(["10", "20", "5"]), teacher("sum_numbers", "multiply", "divide").calls, "5")

    def terms(response: str) -> float:
        return REWARDS["credit"](Trajectory.from_response(response), gold, answer="5").terms["progress"]

    assert terms(with_results("10", "20", "6") + WRONG) == pytest.approx(2 / 3)
    assert terms(with_results("20") + WRONG) == pytest.approx(1 / 3)
    assert terms(with_results("10", "10", "20", "20") + WRONG) == pytest.approx(
        2 / 4
    )  # a result counts once, and trying costs
    assert terms(with_results(*"10 20 5 1 2 3".split()) + WRONG) == pytest.approx(3 / 6)
    assert terms(WRONG) == 0 and terms(ANSWER) == 1
    assert terms("Perhaps \\boxed{3}. " + with_results("10", "20") + WRONG) == pytest.approx(
        2 / 3
    )  # the last box answers
    assert terms(WRONG.replace("\\boxed{6}.", "\\boxed{6}." + call()) + NEXT + "Done." + END) == 0  # after the answer


def test_anneal_weighs_tools_by_the_share_of_the_group_that_is_wrong() -> None:
    reward, gold = REWARDS["anneal"], teacher("add")
    right, wrong = call() + NEXT + ANSWER, call() + NEXT + WRONG
    other = call("subtract") + NEXT + WRONG

    def group(*responses: str) -> list[float]:
        alone = [reward(Trajectory.from_response(r), gold, answer="5") for r in responses]
        scores = reward.in_group(alone)
        assert scores == reward.in_group(scores)
        for result in scores:
            assert result.total == sum(v * result.weights[k] for k, v in result.terms.items())
        return [result.total for result in scores]

    assert group(wrong, wrong, other) == pytest.approx([0.4, 0.4, 0.1])  # the full weight where all are wrong
    assert group(right, wrong, other) == pytest.approx([1.0, 0.3, 0.1])
    assert group(right, right) == pytest.approx([0.8, 0.8])  # none where all are right
    unjudged = [score("anneal", ANSWER, "add"), Score({"correct": 0.0}, {"correct": 0.7}, 0.0, "", judged=False)]
    assert [s.judged for s in reward.in_group(unjudged)] == [True, False]
    assert REWARDS["exact"].in_group(unjudged) == unjudged


def test_count_compares_the_number_of_calls() -> None:
    def tools(response: str, *gold: str) -> float:
        return score("count", response, *gold).terms["tools"]

    assert tools(with_results("1", "2") + ANSWER, "subtract", "multiply") == 1  # whatever the tools
    assert tools(with_results("1", "2") + WRONG, "add", "add") == 1  # right or wrong
    assert tools(with_results("1") + WRONG, "add", "add") == 0.5  # stopping early costs
    assert tools(with_results(*"1234") + WRONG, "add", "add") == 0.5  # so does going on
    assert tools(ANSWER) == 1 and tools(ANSWER, "add") == 0 == tools(with_results("1") + ANSWER)


def test_imitate_pays_for_the_beginning_of_the_teachers_sequence_and_nothing_else() -> None:
    gold = teacher("add", "subtract", "multiply")

    def total(response: str) -> float:
        return REWARDS["imitate"](Trajectory.from_response(response), gold, answer="5", valid_tools=["add"]).total

    made = [call(name) + NEXT for name in ("add", "subtract", "multiply")]
    whole = "".join(made)
    assert total(whole + ANSWER) == total(whole + WRONG) == total(whole + "I do not know." + END) == 1
    assert total("".join(made[:2]) + ANSWER) == pytest.approx(2 / 3)  # right, but not as the teacher
    assert total("".join(made[::-1]) + ANSWER) == total(ANSWER) == 0  # order counts
    assert total(made[0] + made[0] + made[2] + ANSWER) == pytest.approx(1 / 3)
    assert total(whole + made[0] + ANSWER) == pytest.approx(3 / 4)  # a needless call
    assert total(whole + "<tool_call>\n{</tool_call>" + NEXT + ANSWER) == pytest.approx(3 / 4)  # a broken one
    assert total(call("guess") + NEXT + whole + ANSWER) == 0  # nor is a tool that is not offered passed over
    other = REWARDS["imitate"](Trajectory.from_response(ANSWER), Reference("t", [], [], "5"), answer="5")
    assert other.total == 1 and total(whole) == 0  # no call where the teacher made none; cut off


def test_groups_are_scored_as_groups() -> None:
    tasks = [SimpleNamespace(id=i, answer="5", metric="answer", toolbox=SimpleNamespace(names=["add"])) for i in "aabb"]
    trajectories = [Trajectory.from_response(call() + NEXT + end) for end in (ANSWER, WRONG, WRONG, WRONG)]
    references = [teacher("add")] * 4
    totals = as_trl("anneal")([""] * 4, [[]] * 4, trajectories, references, tasks)
    assert totals == pytest.approx([0.95, 0.25, 0.4, 0.4])
    for groups, expected in (
        ([0, 0, 1, 1], [0.95, 0.25, 0.4, 0.4]),
        (["x", "y", "x", "y"], [0.95, 0.4, 0.25, 0.4]),  # a group's rollouts need not stand together
    ):
        scores = score_groups(REWARDS["anneal"], trajectories, references, tasks, groups)
        assert [result.total for result in scores] == pytest.approx(expected)
    alone = score_groups(REWARDS["exact"], trajectories, references, tasks, [0] * 4)
    assert alone == [REWARDS["exact"](t, r, answer="5") for t, r in zip(trajectories, references, strict=True)]


def used_share(student: list[Call], teacher: list[Call]) -> float:
    """The share of the teacher's tools that were used."""
    return len(tool_names(student) & tool_names(teacher)) / len(tool_names(teacher))


def test_a_custom_reward_is_one_object(tmp_path: Path) -> None:
    terms = partial(outcome_terms, tools=used_share)
    reward = Reward("recall", {"correct": 0.7, "tools": 0.3}, terms, maximum=1.0, needs="tools")
    assert get_reward(reward) is reward and pickle.loads(pickle.dumps(reward)).terms.keywords == {"tools": used_share}
    trajectory = Trajectory.from_response(call() + NEXT + ANSWER)
    task = SimpleNamespace(id="t", answer="5", metric="answer", toolbox=SimpleNamespace(names=["add"]))
    assert as_trl(reward)([""], [[]], [trajectory], [teacher("add", "multiply")], [task]) == [pytest.approx(0.85)]
    row = {"response": trajectory.response, "answer": "5", "teacher_tools": ["add", "multiply"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    score_file(tmp_path / "rows.jsonl", tmp_path / "out.jsonl", rewards=[reward])
    assert json.loads((tmp_path / "out.jsonl").read_text())["scores"]["recall"]["total"] == pytest.approx(0.85)


def test_what_a_reference_lacks() -> None:
    nothing, names = Reference("t", [], [], "5"), Reference("t", [], [Call("add", {})], "5")
    turns = [{"role": "assistant", "tool_calls": [Call("add", {"a": 2}).message]}]
    no_results, full = (Reference("t", [*turns, *results], names.calls, "5") for results in ([], tool_messages(["5"])))
    no_tool = Reference("t", [{"role": "assistant", "content": ANSWER}], [], "5")
    for name, reward in (
        REWARDS | CONTROLS | {f"official {name}": reward for name, reward in OFFICIAL.items()}
    ).items():
        assert reward.missing(full) == reward.missing(no_tool) == ""
        needs_teacher = name in ("exact", "partial", "f1", "strict", "toolrl", "imitate", "credit", "anneal", "count")
        assert reward.missing(nothing) == ("no teacher" if needs_teacher else "")
        lacks_calls = name in ("strict", "toolrl", "imitate", "count")
        assert reward.missing(names).startswith("only the names") is lacks_calls
        assert reward.missing(no_results).startswith("no results") is (name == "credit")
    for suite in SUITES:
        for _, reference in generate(suite, 20, seed=1):
            assert {reward.missing(reference) for reward in REWARDS.values()} == {""}


def test_controls() -> None:
    """null does not depend on what was done; planted is highest for giving up."""
    draws = [score("null", f"{i}{ANSWER}", "add").total for i in range(400)]
    assert draws == [score("null", f"{i}{ANSWER}").total for i in range(400)]
    assert abs(sum(draws) / 400 - 0.5) < 0.05 and len(set(draws)) == 400
    gave_up = call() + NEXT + "I cannot solve this.<|im_end|>"
    assert [score("planted", response).total for response in (ANSWER, WRONG, gave_up)] == [0.7, 0.0, 1.0]
    by_answer = REWARDS.keys() - {"toolrl", "imitate"}  # these do not look at it
    assert {score(name, gave_up, "add").total for name in by_answer} == {0.0}
    with pytest.raises(InputError, match="there is no corrected"):
        get_reward("nul")


def test_no_heavy_import() -> None:
    code = "import sys, mentorlib.rewards; assert not {'torch', 'trl', 'sympy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)
