"""What a trajectory's tokens are (a call, the answer, other text), and on which of them a reward's advantage falls."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

import pandas as pd

from ...core import thought_spans
from ...rewards.answers import box_spans
from .reward_effects import advantages

KINDS = {
    "call": "from <tool_call> to </tool_call>, or to the turn's end if it is never closed",
    "answer": "\\boxed{…}",
    "other": "everything else that the policy sampled, thoughts and end tokens included",
}
_CALL = re.compile(r"<tool_call>.*?(?:</tool_call>|\Z)", re.DOTALL)


def sampled_turns(row: Mapping[str, Any]) -> Iterator[list[tuple[str, float]]]:
    """The policy's turns, each as (text of a token, its log-probability).

    Rows without ``tokens`` (rebuilt from text) give their characters instead, with NaN.
    """
    if isinstance(row.get("tokens"), list):
        pairs = zip(row["tokens"], row["logprobs"], strict=True)
        for is_sampled, turn in groupby(pairs, key=lambda pair: pair[1] is not None):
            if is_sampled:
                yield [(token, float(logprob)) for token, logprob in turn]  # "nan" where the sampler gave no number
        return
    for text in re.split(r"<\|im_start\|>(?=assistant\n|user\n)", str(row["response"])):
        if not text.startswith("user\n"):
            yield [(character, math.nan) for character in text.removeprefix("assistant\n")]


def token_kinds(row: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Every sampled token of a stored row: (its text, one of KINDS, its log-probability).

    A token across a border has the kind of its first character.
    """
    tokens = []
    for turn in sampled_turns(row):
        text = "".join(token for token, _ in turn)
        spans = _spans(text)
        start, end, kind, at = 0, 0, "other", 0
        for token, logprob in turn:
            while end <= at:
                start, end, kind = next(spans, (len(text) + 1, len(text) + 2, "other"))
            tokens.append((token, kind if start <= at else "other", logprob))
            at += len(token)
    return tokens


def _spans(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, kind) of calls and of boxes, as the rewards read them, in order; of two that overlap, the first."""
    text = _without(text, thought_spans(text))  # a call or box in a thought is neither
    calls = [match.span() for match in _CALL.finditer(text)]
    boxes = box_spans(_without(text, calls))
    at = 0
    for start, end, kind in sorted([(*span, "call") for span in calls] + [(*span, "answer") for span in boxes]):
        if start >= at:
            yield start, end, kind
            at = end


def _without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with blanks in place of these spans, which are in order."""
    pieces, at = [], 0
    for start, end in spans:
        pieces += [text[at:start], " " * (end - start)]
        at = end
    return "".join([*pieces, text[at:]])


def advantage_by_token_kind(rows: pd.DataFrame, scored: pd.DataFrame) -> pd.DataFrame:
    """On which tokens each reward's advantage falls. In: rows of ``rollouts``, and ``rescore`` of them.

    GRPO multiplies the log-probability of every sampled token by its trajectory's advantage over its number of sampled
    tokens. Out, a row for each method, reward and kind: tokens (the kind's share of a mean trajectory's tokens),
    share (its share of that weight, |advantage| x tokens of the kind / tokens of the trajectory), gradient (the same
    with each token's weight times 1 - p, the size of the gradient at the sampled token's own logit; NaN where rows have
    no log-probabilities), n (rollouts in groups with variance).

    Limits: it describes the gradient on the rollouts of that step, not what it does to the shared weights of the model;
    another reward would have led to other rollouts at the next step.
    """
    columns = ["method", "reward", "kind", "tokens", "share", "gradient", "n"]
    varied = advantages(scored.dropna(subset=["step"]))
    varied = varied[~varied["zero_variance"]]
    if varied.empty:
        return pd.DataFrame(columns=columns)
    parts: dict[Any, dict[str, float]] = {}
    for index in varied["row"].unique():
        tokens = token_kinds(rows.loc[index].to_dict())
        n = max(1, len(tokens))
        parts[index] = {f"tokens {k}": sum(kind == k for _, kind, _ in tokens) / n for k in KINDS} | {
            f"gradient {k}": sum(1 - math.exp(min(p, 0.0)) for _, kind, p in tokens if kind == k) / n for k in KINDS
        }
    weighed = varied.join(pd.DataFrame.from_dict(parts, orient="index"), on="row")
    table = []
    for (method, reward), group in weighed.groupby(["method", "reward"], sort=False):
        weight = group["advantage"].abs()
        sizes = {k: float((weight * group[f"gradient {k}"]).sum(skipna=False)) for k in KINDS}
        whole = sum(sizes.values())
        for k in KINDS:
            share = float((weight * group[f"tokens {k}"]).sum() / weight.sum())
            gradient = sizes[k] / whole if whole else math.nan
            table.append([method, reward, k, group[f"tokens {k}"].mean(), share, gradient, len(group)])
    return pd.DataFrame(table, columns=columns)
