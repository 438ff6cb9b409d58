"""Text tools: none of them is seen in pretraining or distillation (the ladder's `unseen` rung)."""

from collections.abc import Callable
from typing import Any


def count_letters(text: str) -> int:
    """Count the letters in a text.

    Args:
        text: the text
    """
    return sum(c.isalpha() for c in text)


def count_words(text: str) -> int:
    """Count the words in a text.

    Args:
        text: the text
    """
    return len(text.split())


def reverse_text(text: str) -> str:
    """Write a text backwards.

    Args:
        text: the text
    """
    return text[::-1]


def upper_text(text: str) -> str:
    """Write a text in capitals.

    Args:
        text: the text
    """
    return text.upper()


def repeat_text(text: str, times: int) -> str:
    """Write a text several times.

    Args:
        text: the text
        times: how often
    """
    return text * times


def join_texts(first: str, second: str) -> str:
    """Write two texts as one.

    Args:
        first: first text
        second: second text
    """
    return first + second


TOOLS: list[Callable[..., Any]] = [count_letters, count_words, reverse_text, upper_text, repeat_text, join_texts]
