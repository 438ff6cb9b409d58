"""List tools: none of them is seen in pretraining or distillation (the ladder's `unseen` rung)."""

from collections.abc import Callable
from typing import Any


def largest(values: list[float]) -> float:
    """Find the largest value of a list.

    Args:
        values: the values
    """
    return max(values)


def smallest(values: list[float]) -> float:
    """Find the smallest value of a list.

    Args:
        values: the values
    """
    return min(values)


def count_values(values: list[float]) -> int:
    """Count the values of a list.

    Args:
        values: the values
    """
    return len(values)


def last_value(values: list[float]) -> float:
    """Find the last value of a list.

    Args:
        values: the values
    """
    return values[-1]


TOOLS: list[Callable[..., Any]] = [largest, smallest, count_values, last_value]
