"""A search tool over documents that a task brings along (the ladder's `retrieval` rung)."""

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

DOCUMENTS: list[str] = []  # a task's toolbox sets its own


def scores(query: str, documents: list[str]) -> list[float]:
    """BM25 of each document, as bm25s (Lucene's form, k1 = 1.5, b = 0.75) gives it.

    Written out because bm25s must open numpy's files, which a worker confined by seccomp alone cannot. Words are runs
    of two and more letters or digits, in lower case; nothing is stemmed and no word is skipped.
    """
    counts = [Counter(re.findall(r"\w\w+", text.lower())) for text in documents]
    mean = sum(c.total() for c in counts) / max(1, len(counts))
    found = [0.0] * len(counts)
    for word in re.findall(r"\w\w+", query.lower()):
        having = sum(word in c for c in counts)
        rarity = math.log(1 + (len(counts) - having + 0.5) / (having + 0.5))
        for i, c in enumerate(counts):
            if word in c:
                found[i] += rarity * c[word] / (c[word] + 1.5 * (0.25 + 0.75 * c.total() / mean))
    return found


def best(query: str, documents: list[str]) -> str:
    """The document that fits a query best, the first of equals."""
    found = scores(query, documents)
    return documents[found.index(max(found))] if found and max(found) > 0 else "nothing found"


def search(query: str) -> str:
    """Find the document that fits some words best.

    Args:
        query: the words
    """
    return best(query, DOCUMENTS)


TOOLS: list[Callable[..., Any]] = [search]
