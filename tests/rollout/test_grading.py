"""EM and F1 as HotpotQA counts them."""

from dataclasses import replace
from typing import get_args

import pytest
from source_rows import HOTPOT

from mentorlib.core import Metric, Reference, Trajectory
from mentorlib.data.check_references import verify_references
from mentorlib.data.sources import multihop
from mentorlib.data.suites import generate
from mentorlib.rewards.answer_text import exact_match
from mentorlib.rewards.reward import REWARDS, score_groups
from mentorlib.rewards.trl import as_trl
from mentorlib.rollout.grading import grade, word_f1


def test_words_are_graded_as_hotpotqa_does():
    assert exact_match("The  Lund!", "lund") and not exact_match("Lund, Sweden", "Lund")
    assert word_f1("Lund, Sweden", "Lund") == pytest.approx(2 / 3) and word_f1("yes it is", "yes") == 0.0
    task, _ = multihop.hotpotqa_pair(HOTPOT, "f:1")
    said = Trajectory.from_response("\\boxed{Lund Sweden}<|im_end|>")
    assert grade(task, said) == {"correct": False, "word_f1": pytest.approx(2 / 3)}
    assert grade(task, Trajectory("f:1", [], "", "infrastructure")) == {"correct": None, "word_f1": None}


ANSWERS = {  # metric: (gold answer, accepted, not accepted)
    "answer": ("2031-02-05", "\\text{2031-02-05}", "2031-05-02"),
    "math": ("p - q", "-q + p", "q - p"),
    "text": ("PLUM JAR", " PLUM JAR ", "plum jar"),
    "words": ("Lund", "the lund!", "Malmö"),
}


@pytest.mark.parametrize("metric", ANSWERS)
def test_rewards_and_grading_judge_alike(metric, sandbox):
    """In training, in evaluation, on stored rows and among a teacher's samples the task's metric decides."""
    gold, right, wrong = ANSWERS[metric]
    task, reference = generate("no_tool", 1)[0]
    task, reference = replace(task, answer=gold, metric=metric), replace(reference, answer=gold)
    for answer, correct in ((right, True), (wrong, False)):
        said = Trajectory.from_response(f"\\boxed{{{answer}}}<|im_end|>")
        assert grade(task, said)["correct"] is correct
        assert as_trl("none")([""], [""], [said], [reference], [task]) == pytest.approx([0.8 if correct else 0.1])
        (score,) = score_groups(REWARDS["sparse"], [said], [None], [task], ["g"])
        assert (score.terms["correct"] == 1) is correct
        kept, _ = verify_references([(task, Reference(task.id, said.messages, [], gold))], sandbox)
        assert (len(kept) == 1) is correct


def test_a_reward_does_not_judge_what_is_graded_by_calls():
    assert set(get_args(Metric)) == {*ANSWERS, "calls"}
    said = Trajectory.from_response("\\boxed{[]}<|im_end|>")
    score = REWARDS["sparse"](said, None, answer="[]", metric="calls")
    assert not score.judged and "calls" in score.reason


def test_a_text_with_another_case_is_no_reference_value(sandbox):
    pairs = [pair for pair in generate("unseen", 60) if pair[1].tools == ["upper_text"]]
    assert pairs and len(verify_references(pairs, sandbox)[0]) == len(pairs)
    lower = [(replace(task, answer=task.answer.lower()), reference) for task, reference in pairs]
    assert not verify_references(lower, sandbox)[0]


def test_a_turn_that_was_cut_has_made_no_calls():
    task = replace(generate("no_tool", 1)[0][0], answer="[]", metric="calls")  # BFCL's irrelevance: no call is right
    turn = [{"role": "assistant", "content": "None of the tools fits."}]
    assert grade(task, Trajectory(task.id, turn, "", "answered")) == {"correct": True}
    assert grade(task, Trajectory(task.id, turn, "", "length")) == {"correct": False}
