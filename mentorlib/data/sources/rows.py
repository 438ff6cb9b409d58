"""Read a file row by row: each row becomes a pair or is rejected with a reason, and bad rows stop nothing."""

import codecs
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ...core import InputError
from ...task import Pair
from ..check_references import RejectedRow

MAX_TEXT = 100_000  # characters of a question or an answer; a longer one is probably a whole file in one row

Row = dict[str, Any]
Located = tuple[str, Any]  # ("train.jsonl:12", the row, or UnusableRow if it cannot be parsed)
T = TypeVar("T")


class UnusableRow(Exception):
    """A row that cannot become a pair: (reason, one of a few fixed texts; detail, the value behind it)."""

    def __init__(self, reason: str, detail: Any = ""):
        super().__init__(reason, f"{detail}"[:200])


def read_text(path: Path, expected: str) -> str:
    """A UTF-8 file's content without a byte order mark.

    Args:
        path: the file.
        expected: what it should be, for the error message.

    Raises:
        InputError: it cannot be read or is not UTF-8.
    """
    try:
        return _read_bytes(path, expected).decode()
    except UnicodeDecodeError as e:
        raise InputError(
            f"{path}: not UTF-8 (byte {e.start:,}): save it as UTF-8, or give the path of {expected}"
        ) from None


def read_json_lines(path: Path, expected: str) -> list[Located]:
    """The rows of a JSON Lines file; empty lines are skipped. Raises InputError as read_text does."""
    lines = _read_bytes(path, expected).split(b"\n")  # not splitlines: a text may contain other line breaks
    return [(f"{path.name}:{i}", _parse_line(line)) for i, line in enumerate(lines, start=1) if line.strip()]


def read_json_list(path: Path, expected: str) -> list[Located]:
    """The rows of a file that is one JSON list, counted from 1. Raises InputError as read_text does."""
    text = read_text(path, expected)
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path}: not JSON ({e}): give the path of {expected}"[:300]) from None
    if not isinstance(rows, list):
        raise InputError(f"{path}: not a list of rows: give the path of {expected}")
    return [(f"{path.name}:{i}", row) for i, row in enumerate(rows, start=1)]


def _read_bytes(path: Path, expected: str) -> bytes:
    try:
        return path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.__class__.__name__}): give the path of {expected}") from None


def _parse_line(line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as e:
        return UnusableRow("not UTF-8", f"byte {e.start + 1} of {line[:80]!r}")
    except (ValueError, RecursionError) as e:
        return UnusableRow("not JSON", f"{e}: {line[:80].decode(errors='replace')}")


def convert_rows(
    rows: Iterable[Located], convert: Callable[[Row, str], T], unique: Callable[[T], str] | None = None
) -> tuple[list[T], list[RejectedRow]]:
    """Convert each row, or reject it with a reason.

    Args:
        rows: with their places.
        convert: from a row and its place; raises UnusableRow for a row that it cannot use.
        unique: a text of the result that must not occur twice.
    """
    converted: list[T] = []
    rejected: list[RejectedRow] = []
    seen: set[str] = set()
    for where, row in rows:
        try:
            if isinstance(row, UnusableRow):
                raise row
            if not isinstance(row, dict):
                raise UnusableRow("not a JSON object", row)
            check_text(row)
            result = convert(row, where)
            if unique:
                if unique(result) in seen:
                    raise UnusableRow("duplicate", unique(result))
                seen.add(unique(result))
            converted.append(result)
        except UnusableRow as e:
            rejected.append(RejectedRow(where, e.args[0], e.args[1], _beginning(row)))
    return converted, rejected


def convert_file(
    path: str | Path,
    rows: list[Located],
    convert: Callable[[Row, str], T],
    expected: str,
    unique: Callable[[T], str] | None = None,
) -> tuple[list[T], list[RejectedRow]]:
    """``convert_rows`` of a file's rows; InputError, with the first reason, if none can be used."""
    converted, rejected = convert_rows(rows, convert, unique)
    if not converted:
        why = [f"({row.where}: {row.reason}: {row.detail})".replace("\n", " ") for row in rejected[:1]]
        raise InputError(" ".join([f"{path}: none of its {len(rows)} rows is {expected}", *why]))
    return converted, rejected


def _beginning(row: Any) -> str:
    """The first 1,000 characters of a row; "" if it is not JSON."""
    try:
        return "" if isinstance(row, UnusableRow) else json.dumps(row, default=str)[:1000]
    except (TypeError, ValueError, RecursionError):
        return ""


def check_text(value: Any) -> None:
    """UnusableRow if a text in it has an unpaired surrogate, which no file, tokenizer or request accepts."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as e:
        raise UnusableRow("an unpaired surrogate", ascii(e.object[e.start - 40 : e.end + 40])) from None
    except (TypeError, ValueError, RecursionError) as e:  # such as a key that is not a text
        raise UnusableRow("not JSON", e) from None


def required_text(row: Row, key: str) -> str:
    """A row's text; UnusableRow if it is missing, empty, too long, or not a text."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise UnusableRow(f"no {key.lower()}", value)
    if len(value) > MAX_TEXT:
        raise UnusableRow(f"the {key.lower()} is too long", f"{len(value):,} characters, at most {MAX_TEXT:,}")
    return value


def hold_out(pairs: list[Pair], n_eval: int) -> list[Pair]:
    """The pairs, with split "eval" for the last n_eval, at most a fifth; pairs of other splits stay."""
    cut = len(pairs) - min(n_eval, len(pairs) // 5)
    return pairs[:cut] + [(replace(t, split="eval"), r) for t, r in pairs[cut:]]
