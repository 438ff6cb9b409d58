"""Read a file row by row: each row becomes a pair or is rejected by name, and none is lost or ends the reading."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core import InputError, Pair
from ..teachers import Rejected

Row = dict[str, Any]
Make = Callable[[Row, str], Pair]  # (row, where) -> pair; raises Unusable


class Unusable(Exception):
    """A row that does not become a pair: (reason, one of a few fixed texts; detail, what was seen)."""

    def __init__(self, reason: str, detail: Any = ""):
        super().__init__(reason, f"{detail}"[:200])


def read_text(path: Path, what: str) -> str:
    """A text file's content; InputError, naming the mend, if there is none or it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: cannot be read ({e.__class__.__name__}): give the path of {what}") from None


def json_lines(path: Path, what: str) -> list[tuple[str, Any]]:
    """(where, value) of each line; where is "train.jsonl:12". A line that is not JSON has an Unusable for its value.

    Empty lines are passed over.
    """
    found: list[tuple[str, Any]] = []
    for number, line in enumerate(read_text(path, what).split("\n"), start=1):  # a text may hold other line breaks
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = Unusable("not JSON", line[:80])
            found.append((f"{path.name}:{number}", value))
    return found


def json_list(path: Path, what: str) -> list[tuple[str, Any]]:
    """(where, value) of each item of a file that is one JSON list; where is "dev.json:12", counted from 1."""
    try:
        rows = json.loads(read_text(path, what))
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path}: not JSON ({e}): give the path of {what}"[:300]) from None
    if not isinstance(rows, list):
        raise InputError(f"{path}: not a list of rows: give the path of {what}")
    return [(f"{path.name}:{number}", row) for number, row in enumerate(rows, start=1)]


def convert(rows: Iterable[tuple[str, Any]], make: Make) -> tuple[list[Pair], list[Rejected]]:
    """Make each row a pair, or reject it by name: as many rows come out as went in."""
    pairs: list[Pair] = []
    rejected: list[Rejected] = []
    for where, row in rows:
        try:
            if isinstance(row, Unusable):
                raise row
            if not isinstance(row, dict):
                raise Unusable("not a JSON object", row)
            pairs.append(make(row, where))
        except Unusable as e:
            rejected.append(Rejected(where, *e.args))
    return pairs, rejected


def text_of(row: Row, key: str) -> str:
    """A row's text; Unusable if it is missing, empty, or no text."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise Unusable(f"no {key.lower()}", value)
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise Unusable(f"the {key.lower()} is not text", ascii(value))  # half a surrogate pair: no tokenizer takes it
    return value


def hold_out(pairs: list[Pair], n_eval: int) -> list[Pair]:
    """The pairs, the last n_eval of them, a fifth at most, with split "eval"."""
    cut = len(pairs) - min(n_eval, len(pairs) // 5)
    return pairs[:cut] + [(replace(t, split="eval"), r) for t, r in pairs[cut:]]
