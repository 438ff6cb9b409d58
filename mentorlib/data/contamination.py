"""Which evaluation questions a training set gives away, by the words they share."""

import re
from collections.abc import Iterable

N = 13  # words in a row, as GPT-3's overlap analysis has it (arXiv 2005.14165, appendix C)
RULE = (
    f"an evaluation question overlaps when {N} of its words in a row stand in a training question, or, if it is "
    "shorter, when it is a training question; words are runs of letters and digits, in lower case"
)


def overlapping(training: Iterable[str], questions: Iterable[str]) -> list[bool]:
    """Whether each question overlaps with the training questions by RULE, in the order of the questions."""
    known: set[tuple[str, ...]] = set()
    for text in training:
        known.update(_runs(text))
    return [not known.isdisjoint(_runs(text)) for text in questions]


def _runs(text: str) -> Iterable[tuple[str, ...]]:
    """All runs of N words, or the whole of a shorter text."""
    words = re.findall(r"\w+", text.lower())
    return (tuple(words[i : i + N]) for i in range(max(1, len(words) - N + 1)))
