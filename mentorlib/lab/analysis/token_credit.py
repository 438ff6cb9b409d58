"""What a trajectory's tokens are (a call, the answer, other text), and on which of them a reward's advantage falls."""

import math
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import pandas as pd

from .reward_effects import advantages

KINDS = {
    "call": "from <tool_call> to </tool_call>, or to the turn's end if it is never closed",
    "answer": "\\boxed{…}",
    "other": "everything else that the policy wrote, end tokens included",
}
_SPANS = re.compile(r"(?P<call><tool_call>.*?(?:</tool_call>|\Z))|\\boxed\s*(?P<box>\{)", re.DOTALL)


def sampled(row: Mapping[str, Any]) -> Iterator[list[tuple[str, float]]]:
    """The policy's own turns, each as (text of a token, its log-probability).

    Rows without ``tokens`` (made before they were kept, or rebuilt from text) give their characters instead, with NaN.
    """
    if isinstance(row.get("tokens"), list):
        pairs = zip(row["tokens"], row["logprobs"], strict=True)
        for own, turn in groupby(pairs, key=lambda pair: pair[1] is not None):
            if own:
                yield list(turn)
        return
    for said in re.split(r"<\|im_start\|>(?=assistant\n|user\n)", str(row["response"])):
        if not said.startswith("user\n"):
            yield [(character, math.nan) for character in said.removeprefix("assistant\n")]


def kinds(row: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Every sampled token of a stored row: (its text, one of KINDS, its log-probability).

    A token that lies across a border has the kind of its first character.
    """
    found = []
    for turn in sampled(row):
        said = "".join(token for token, _ in turn)
        spans = _spans(said)
        start, end, kind, at = 0, 0, "other", 0
        for token, logprob in turn:
            while end <= at:
                start, end, kind = next(spans, (len(said) + 1, len(said) + 2, "other"))
            found.append((token, kind if start <= at else "other", logprob))
            at += len(token)
    return found


def _spans(said: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, kind) of calls and boxes, in order; what is never closed goes on to the end."""
    for match in _SPANS.finditer(said):
        if match["call"]:
            yield *match.span(), "call"
            continue
        depth, end = 0, len(said)
        for brace in re.finditer("[{}]", said[match.start("box") :]):
            depth += 1 if brace.group() == "{" else -1
            if not depth:
                end = match.start("box") + brace.end()
                break
        yield match.start(), end, "answer"
        if depth:
            return


def gradient(rows: pd.DataFrame, scored: pd.DataFrame) -> pd.DataFrame:
    """On which tokens each reward's advantage falls. In: rows of ``rollouts``, and ``rescoring.rescore`` of them.

    GRPO multiplies the log-probability of every sampled token by its trajectory's advantage over its number of sampled
    tokens. Out, a row for each method, reward and kind: tokens (the kind's share of a mean trajectory's tokens),
    share (its share of that weight, |advantage| x tokens of the kind / tokens of the trajectory), logit (the same with
    each token's weight times 1 - p, which is the size of the gradient at the sampled token's own logit; NaN where rows
    keep no log-probabilities), n (rollouts in groups with spread).

    Honest limit: it says where the weight falls, on the rollouts of that step, not what the weights of the model then
    do: tokens share parameters, and a token of probability 1 takes no gradient however large its share (``logit``
    accounts for that, and for nothing else). Under another reward the next step's rollouts would differ.
    """
    columns = ["method", "reward", "kind", "tokens", "share", "logit", "n"]
    alive = advantages(scored.dropna(subset=["step"])) if len(scored) else scored
    alive = alive[~alive["dead"]] if len(alive) else alive
    if alive.empty:
        return pd.DataFrame(columns=columns)
    parts: dict[Any, dict[str, float]] = {}
    for index in alive["row"].unique():
        tokens = kinds(rows.loc[index].to_dict())
        n = max(1, len(tokens))
        parts[index] = {f"tokens {k}": sum(kind == k for _, kind, _ in tokens) / n for k in KINDS} | {
            f"logit {k}": sum(1 - math.exp(p) for _, kind, p in tokens if kind == k) / n for k in KINDS
        }
    weighed = alive.join(pd.DataFrame.from_dict(parts, orient="index"), on="row")
    found = []
    for (method, reward), own in weighed.groupby(["method", "reward"], sort=False):
        weight = own["advantage"].abs()
        shares = {k: float((weight * own[f"tokens {k}"]).sum() / weight.sum()) for k in KINDS}
        sizes = {k: float((weight * own[f"logit {k}"]).sum(skipna=False)) for k in KINDS}
        whole = sum(sizes.values())
        found += [
            [method, reward, k, own[f"tokens {k}"].mean(), shares[k], sizes[k] / whole if whole else math.nan, len(own)]
            for k in KINDS
        ]
    return pd.DataFrame(found, columns=columns)
