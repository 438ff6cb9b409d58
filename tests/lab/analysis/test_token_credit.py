"""Kinds of tokens, and the share of the advantage that falls on them."""

import math
from pathlib import Path

import pytest
import synthetic

from mentorlib.lab import analysis, figures


def test_kinds_of_tokens() -> None:
    said = ["So ", "<tool_", "call>\n{}", "</tool_call>", "\n5\n", "It is \\bo", "xed{", "{4}", "}", "."]
    row = {"tokens": said, "logprobs": [-0.1] * 4 + [None] + [-0.2] * 5, "response": "".join(said)}
    result = [kind for _, kind, _ in analysis.token_credit.token_kinds(row)]
    assert result == ["other", "call", "call", "call", "other", "answer", "answer", "answer", "other"]
    bare = analysis.token_credit.token_kinds(
        {"response": "<tool_call>x<|im_end|>\n<|im_start|>user\nhidden<|im_end|>\n"}
    )
    assert {kind for _, kind, _ in bare} == {"call"} and "hidden" not in "".join(t for t, _, _ in bare)
    assert math.isnan(bare[0][2])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{\left\{ x=2 \right.}. Then I check", r"\boxed{\left\{ x=2 \right.}"),
        (r"\boxed{\boxed{7}} it is", r"\boxed{\boxed{7}}"),
        (r"\boxed{1} or \boxed {2}.", r"\boxed{1}\boxed {2}"),
        (r"<think>\boxed{1}</think>\boxed{2}", r"\boxed{2}"),
        (r"<tool_call>\boxed{1}</tool_call>\boxed{2}", r"\boxed{2}"),
        (r"It is \boxed{5", ""),
    ],
)
def test_an_answer_is_a_box_as_the_rewards_read_it(text: str, answer: str) -> None:
    kinds = analysis.token_credit.token_kinds({"response": text})
    assert "".join(token for token, kind, _ in kinds if kind == "answer") == answer


def test_gradient_shares_add_up(tmp_path: Path) -> None:
    synthetic.make_runs(tmp_path, steps=3)
    rows = analysis.load.rollouts(root=tmp_path)
    table = analysis.token_credit.advantage_by_token_kind(rows, analysis.reward_effects.rescore(rows))
    sums = table.groupby(["method", "reward"])[["tokens", "share"]].sum()
    assert sums.to_numpy() == pytest.approx(1.0) and table["gradient"].isna().all()
    kept = rows.assign(tokens=[list(r) for r in rows["response"]], logprobs=[[-0.5] * len(r) for r in rows["response"]])
    even = analysis.token_credit.advantage_by_token_kind(kept, analysis.reward_effects.rescore(kept))
    assert even["gradient"].to_numpy() == pytest.approx(even["share"].to_numpy())  # equal probabilities
    assert (
        figures.token_credit.advantage_by_token_kind(table).data
        and not figures.token_credit.advantage_by_token_kind(table.head(0)).data
    )
