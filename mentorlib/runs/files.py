"""JSON, JSON Lines and text files that survive a kill: replaced as a whole, or appended and synced to disk."""

import dataclasses
import decimal
import errno
import gc
import hashlib
import json
import math
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ..core import InputError, one_line
from .rows import wrong_key, wrong_metric

Row = dict[str, Any]


_OPENED = re.compile(r"/dev/(stdin|stdout|stderr|fd/.+)|/proc/.+")
REMEDIES = {  # by errno
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, or give another place, then run the same again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "give a place that you may read and write"),
    errno.ENAMETOOLONG: "give a shorter name",
}


def describe_os_error(error: OSError, file: str | Path | None = None) -> str:
    """What failed on a file, why, and the remedy, on one line: ``runs/x: No space left on device: free some …``."""
    where = file if file is not None else error.filename
    said = f"{where}: " if where is not None else ""
    why = error.strerror or one_line(error)
    remedy = REMEDIES.get(error.errno or 0)
    return said + why + (f": {remedy}" if remedy else "")


def make_folder(folder: Path) -> Path:
    """Make a folder and those above it, if they are missing. InputError names the cause if it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(describe_os_error(error, folder)) from error
    return folder


def is_stream(file: str | Path) -> bool:
    """Whether a path is a device, a pipe or one of this process's open files: read once, never replaced."""
    if _OPENED.fullmatch(os.path.abspath(file)):
        return True
    try:
        mode = os.stat(file).st_mode
    except (OSError, ValueError):  # a NUL in it
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextmanager
def whole_file(file: str | Path) -> Iterator[BinaryIO]:
    """A file to write, which appears or is replaced as a whole when the block ends (fsync, rename).

    A link stays: the file that it points to is replaced. A device or a pipe is written through, as it comes.

    Raises:
        InputError: it cannot be written; the line names the cause.
    """
    temporary, target = None, Path(os.path.realpath(file))
    try:
        if is_stream(file):
            with open(file, "wb") as handle:
                yield handle
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o644
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.")
        with open(descriptor, "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, target)
        temporary = None
    except BrokenPipeError:
        raise
    except OSError as error:
        elsewhere = error.filename is not None and not str(error.filename).startswith(os.path.dirname(target))
        raise InputError(describe_os_error(error, None if elsewhere else file)) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)


def write_text(file: Path, text: str) -> Path:
    """Write a text file as a whole (see `whole_file`). Returns its path."""
    with whole_file(file) as handle:
        handle.write(_encode(text))
    return file


def append_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows to a JSON Lines file and sync it to disk. A last line that a kill cut short is removed first.

    Raises:
        InputError: it cannot be written; the line names the cause.
    """
    text = _encode(json_lines(rows))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "a+b") as handle:
            _repair_last_line(handle)
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        raise InputError(describe_os_error(error, file)) from error


def read_rows(file: str | Path) -> list[Row]:
    """The rows of a JSON Lines or parquet file. A last line that a kill cut short is left out.

    Raises:
        InputError: the file is missing, or a line (named by its number) is not a JSON object, or is a trajectory or a
            line of metrics.jsonl with a key that holds another type than a run writes.
    """
    file = Path(file)
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    if file.suffix == ".parquet":
        return jsonable(read_parquet(file))
    rows = []
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                if not line.endswith(b"\n"):
                    break
                row = None
            if not isinstance(row, dict):
                raise InputError(f"{file}, line {number}: not a JSON object; fix or remove the line")
            is_trajectory = "messages" in row or "response" in row
            check = wrong_key if is_trajectory else wrong_metric if file.name == "metrics.jsonl" else None
            wrong = check(row) if check else ""
            if is_trajectory and not wrong and (b"\\ud" in line or b"\\uD" in line) and not _is_unicode(row):
                wrong = "half a surrogate pair, which is not text"
            if wrong:
                raise InputError(f"{file}, line {number}: {wrong}; fix or remove the line")
            rows.append(row)
    return rows


def read_parquet(file: str | Path) -> list[Row]:
    """The rows of a parquet file as Python's own values.

    Not by pandas, which turns integers into floats where another row is null: 9007199254740993 would end in 992.

    Raises:
        InputError: the file is missing or not parquet.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            rows: list[Row] = table.read().to_pylist()
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        raise InputError(f"{file}: cannot be read as parquet ({one_line(error, 120)})") from error
    return rows


def read_json(file: Path) -> Any:
    """The content of a run's JSON file. InputError if it cannot be read or is not JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(describe_os_error(error, file)) from error
    except (ValueError, RecursionError):
        raise InputError(f"{file}: not JSON; fix the file or remove the run's folder") from None


def dumps_json(value: Any, indent: int | None = None) -> str:
    """JSON text of anything that `jsonable` converts."""
    return json.dumps(jsonable(value), indent=indent, ensure_ascii=False, allow_nan=False)


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """JSON Lines text: one row a line."""
    return "".join(dumps_json(row) + "\n" for row in rows)


def jsonable(value: Any) -> Any:
    """JSON's own types: arrays as lists, paths as strings, dataclasses as objects, NaN and infinities as None.

    pydantic_core.to_jsonable_python is faster, but gives sets in random order and fails on lone surrogates in keys.

    Raises:
        TypeError: a value of another type.
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(jsonable(v) for v in value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "tolist"):  # numpy and torch, arrays and scalars
        return jsonable(value.tolist())
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, decimal.Decimal) and value.is_finite():
        return int(value) if value == value.to_integral_value() else float(value)
    raise TypeError(f"{type(value).__name__} does not fit into JSON: {value!r:.80}")


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, as "sha256:…"."""
    with open(path, "rb") as handle:
        return "sha256:" + hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause Python's garbage collector where many objects without reference cycles are made.

    Halves the time to read the rows of a study.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _repair_last_line(handle: BinaryIO) -> None:
    """Remove an incomplete last line; add the newline to one that lacks only that."""
    size = end = handle.seek(0, os.SEEK_END)
    tail = b""
    while end and b"\n" not in tail:
        start = max(0, end - 65_536)
        handle.seek(start)
        tail, end = handle.read(end - start) + tail, start
    tail = tail.rpartition(b"\n")[2]
    if tail:
        try:
            json.loads(tail)
            handle.write(b"\n")
        except ValueError:
            handle.truncate(size - len(tail))


def _is_unicode(row: Row) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate becomes its JSON escape
