"""Read a file row by row: each row becomes a pair or is rejected by name, and none is lost or ends the reading."""

import codecs
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ...core import InputError
from ...task import Pair
from ..check_references import RejectedRow

MAX_TEXT = 100_000  # characters of a question or an answer: more is a file that slipped into a row

Row = dict[str, Any]
T = TypeVar("T")


class Unusable(Exception):
    """A row that does not become a pair: (reason, one of a few fixed texts; detail, what was seen)."""

    def __init__(self, reason: str, detail: Any = ""):
        super().__init__(reason, f"{detail}"[:200])


def read_bytes(path: Path, what: str) -> bytes:
    """A file's content without a byte order mark; InputError, naming the mend, if there is none."""
    try:
        return path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.__class__.__name__}): give the path of {what}") from None


def read_text(path: Path, what: str) -> str:
    """A text file's content; InputError, naming the mend, if there is none or it is not UTF-8."""
    try:
        return read_bytes(path, what).decode()
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: not UTF-8 (byte {e.start:,}): save it as such, or give the path of {what}") from None


def json_lines(path: Path, what: str) -> list[tuple[str, Any]]:
    """(where, value) of each line; where is "train.jsonl:12". What cannot be read has an Unusable for its value.

    Empty lines are passed over.
    """
    found: list[tuple[str, Any]] = []
    for number, line in enumerate(read_bytes(path, what).split(b"\n"), start=1):  # a text may hold other line breaks
        if line.strip():
            found.append((f"{path.name}:{number}", _value(line)))
    return found


def _value(line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as e:
        return Unusable("not UTF-8", f"byte {e.start + 1} of {line[:80]!r}")
    except (ValueError, RecursionError) as e:
        return Unusable("not JSON", f"{e}: {line[:80].decode(errors='replace')}")


def json_list(path: Path, what: str) -> list[tuple[str, Any]]:
    """(where, value) of each item of a file that is one JSON list; where is "dev.json:12", counted from 1."""
    text = read_text(path, what)
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path}: not JSON ({e}): give the path of {what}"[:300]) from None
    if not isinstance(rows, list):
        raise InputError(f"{path}: not a list of rows: give the path of {what}")
    return [(f"{path.name}:{number}", row) for number, row in enumerate(rows, start=1)]


def convert(rows: Iterable[tuple[str, Any]], make: Callable[[Row, str], T]) -> tuple[list[T], list[RejectedRow]]:
    """Make each row a pair (or what ``make`` makes of it and its place), or reject it by name: none is lost.

    ``make`` raises Unusable for a row that it cannot use.
    """
    made: list[T] = []
    rejected: list[RejectedRow] = []
    for where, row in rows:
        try:
            if isinstance(row, Unusable):
                raise row
            if not isinstance(row, dict):
                raise Unusable("not a JSON object", row)
            check_text(row)
            made.append(make(row, where))
        except Unusable as e:
            rejected.append(RejectedRow(where, e.args[0], e.args[1], _beginning(row)))
    return made, rejected


def usable(
    path: str | Path, rows: list[tuple[str, Any]], make: Callable[[Row, str], T], like: str
) -> tuple[list[T], list[RejectedRow]]:
    """``convert`` of a file's rows; InputError, saying what they are not, if none can be used."""
    made, rejected = convert(rows, make)
    if not made:
        raise InputError(f"{path}: none of its {len(rows)} rows is {like}")
    return made, rejected


def _beginning(row: Any) -> str:
    """How a row begins, to be read where it is rejected; "" where its detail has to do."""
    try:
        return "" if isinstance(row, Unusable) else json.dumps(row, default=str)[:1000]
    except (TypeError, ValueError, RecursionError):
        return ""


def check_text(value: Any) -> None:
    """Unusable if a text in it holds half of a surrogate pair, which no file, tokenizer or request takes."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as e:
        raise Unusable("half a surrogate pair, which is not text", ascii(e.object[e.start - 40 : e.end + 40])) from None
    except (TypeError, ValueError, RecursionError) as e:  # such as a key that is no text
        raise Unusable("not JSON", e) from None


def text_of(row: Row, key: str) -> str:
    """A row's text; Unusable if it is missing, empty, or no text."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise Unusable(f"no {key.lower()}", value)
    if len(value) > MAX_TEXT:
        raise Unusable(f"the {key.lower()} is too long", f"{len(value):,} characters, at most {MAX_TEXT:,}")
    return value


def hold_out(pairs: list[Pair], n_eval: int) -> list[Pair]:
    """The pairs, the last n_eval of them, a fifth at most, with split "eval"."""
    cut = len(pairs) - min(n_eval, len(pairs) // 5)
    return pairs[:cut] + [(replace(t, split="eval"), r) for t, r in pairs[cut:]]
