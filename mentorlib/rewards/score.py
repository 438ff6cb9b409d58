"""What a reward returns: a Score, made of the terms that the reward's own function computes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Terms(NamedTuple):
    """What a reward's function computes: values in [0, 1] by term (a term left out is 0) and the reason in words.

    ``judged`` is False when nobody could tell whether the answer is right.
    """

    values: dict[str, float]
    reason: str
    judged: bool = True


@dataclass(frozen=True)
class Score:
    """One trajectory under one reward: ``total`` is the sum of ``terms[k] * weights[k]``, in the order of the weights.

    Terms lie in [0, 1]; what a function of the user's returns may be any number. ``judged`` is False when the answer
    could not be judged or the infrastructure failed: the total then counts the answer as wrong, and must be left out of
    the loss.
    """

    terms: dict[str, float]
    weights: dict[str, float]
    total: float
    reason: str
    judged: bool = True

    @classmethod
    def weigh(cls, weights: Mapping[str, float], terms: Terms) -> "Score":
        """The score of these terms; terms without a weight are dropped."""
        values = {name: terms.values.get(name, 0.0) for name in weights}
        total = sum([values[name] * weight for name, weight in weights.items()])
        return cls(values, dict(weights), total, terms.reason, terms.judged)
