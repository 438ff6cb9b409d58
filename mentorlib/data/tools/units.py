"""Unit tools: none of them is seen in pretraining or distillation (the ladder's `unseen` rung)."""

from collections.abc import Callable
from typing import Any


def hours_to_minutes(hours: float) -> float:
    """Turn hours into minutes.

    Args:
        hours: how many hours
    """
    return hours * 60


def weeks_to_days(weeks: float) -> float:
    """Turn weeks into days.

    Args:
        weeks: how many weeks
    """
    return weeks * 7


def meters_to_centimeters(meters: float) -> float:
    """Turn meters into centimeters.

    Args:
        meters: how many meters
    """
    return meters * 100


def dozens_to_pieces(dozens: float) -> float:
    """Turn dozens into pieces.

    Args:
        dozens: how many dozens
    """
    return dozens * 12


TOOLS: list[Callable[..., Any]] = [hours_to_minutes, weeks_to_days, meters_to_centimeters, dozens_to_pieces]
