"""EM and F1 as HotpotQA counts them."""

import pytest
from source_rows import HOTPOT

from mentorlib.core import Trajectory
from mentorlib.data.sources import multihop
from mentorlib.rollout.grading import exact_match, grade, word_f1


def test_words_are_graded_as_hotpotqa_does():
    assert exact_match("The  Lund!", "lund") and not exact_match("Lund, Sweden", "Lund")
    assert word_f1("Lund, Sweden", "Lund") == pytest.approx(2 / 3) and word_f1("yes it is", "yes") == 0.0
    task, _ = multihop.hotpotqa_pair(HOTPOT, "f:1")
    said = Trajectory.from_response("\\boxed{Lund Sweden}<|im_end|>")
    assert grade(task, said) == {"correct": False, "word_f1": pytest.approx(2 / 3)}
    assert grade(task, Trajectory("f:1", [], "", "infrastructure")) == {"correct": None, "word_f1": None}
