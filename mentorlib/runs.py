"""A run is a folder: parameters, provenance, metrics, rows, results.

``runs/<name>/`` holds ``run.json`` (parameters, seed, versions, git revision, data hashes, status),
``metrics.jsonl``, rows as JSON Lines (``rollouts.jsonl``, ``eval/<suite>.jsonl``), ``results.json``, and what others
put there: ``checkpoints/`` (until it is done), ``model/``, ``notebook.ipynb``, ``report.html``. Files are replaced
whole (temporary file, fsync, rename); JSON Lines are appended and synced, so that ``kill -9`` costs at most the row
being written. One process writes a run at a time.
"""

import ast
import dataclasses
import gc
import hashlib
import importlib.metadata
import json
import math
import operator
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .core import InputError

Row = dict[str, Any]
PACKAGES = (
    *("torch", "trl", "transformers", "peft", "accelerate", "tokenizers", "datasets", "numpy", "pandas", "pyarrow"),
    *("plotly", "papermill", "math-verify", "mathruler"),
)


class Run:
    """Create ``root/name``, or reopen it when its parameters agree with ``params``.

    Parameters are kept as JSON. Those that name an existing file are hashed into run.json's ``data``. Raises InputError
    for a name that is no folder name, and for a run of that name with other parameters (naming each key that differs).
    """

    def __init__(self, name: str, root: str | Path = "runs", **params: Any):
        self.name, self.path = check_name(name), Path(root) / name
        params = json.loads(_dumps(params))
        for value in params.values():
            check_address(value)
        if (self.path / "run.json").exists():
            self.info: dict[str, Any] = _read_json(self.path / "run.json")
            old = self.info["parameters"]
            differ = [k for k in {**old, **params} if old.get(k, _ABSENT) != params.get(k, _ABSENT)]
            if differ:
                listed = ", ".join(f"{k} (was {_show(old, k)}, now {_show(params, k)})" for k in differ)
                raise InputError(
                    f"{self.path} exists with other parameters: {listed}; choose another run name or remove the folder"
                )
            self.info["reopened"] = [*self.info.get("reopened", []), {"time": _now(), "git": git_revision()}]
            ended, self.info["status"] = self.info["status"] != "running", "running"
            self.info["finished"] = None
            if self.info.pop("compares", None) or ended:  # what it found is said anew
                (self.path / "results.json").unlink(missing_ok=True)
            self._save()
        else:
            if self.path.exists() and not self.path.is_dir():
                raise InputError(f"{self.path} is a file, not a run; choose another run name")
            self.info = {
                "name": name,
                "parameters": params,
                "seed": params.get("seed"),
                "status": "running",
                "created": _now(),
                "finished": None,
                "python": platform.python_version(),
                "machine": {"system": platform.platform(), "cores": os.cpu_count()},
                "versions": versions(),
                "git": git_revision(),
                "data": {},
            }
            for value in params.values():
                if isinstance(value, str) and os.path.isfile(value):
                    self.info["data"][value] = file_hash(value)
            self._save()

    @classmethod
    def open(cls, name: str | Path, root: str | Path = "runs") -> "Run":
        """Open a run that exists, by name or by its folder's path, to read it. InputError if there is none."""
        path = Path(name) if (Path(name) / "run.json").exists() else Path(root) / name
        if not (path / "run.json").exists():
            known = sorted(p.parent.name for p in Path(root).glob("*/run.json"))
            raise InputError(f"no run {str(name)!r} under {root}/; there are: {', '.join(known) or 'none'}")
        run = cls.__new__(cls)
        run.name, run.path, run.info = path.resolve().name, path, _read_json(path / "run.json")
        return run

    @property
    def params(self) -> dict[str, Any]:
        """The parameters it was created with."""
        return self.info["parameters"]

    @property
    def status(self) -> str:
        """ "running", "done" or "failed"."""
        return self.info["status"]

    def finish(self, status: str = "done") -> None:
        """Say how it ended: "done" or "failed". A done run's checkpoints are removed, since nothing goes on."""
        self.info |= {"status": status, "finished": _now()}
        self._save()
        checkpoints, over = self.path / "checkpoints", self.path / "checkpoints.done"
        if status == "done" and checkpoints.exists():
            shutil.rmtree(over, ignore_errors=True)
            checkpoints.rename(over)  # at once: half a folder of them would be taken for an interrupted training's
            shutil.rmtree(over, ignore_errors=True)

    def uses(self, path: str | Path) -> Path:
        """Record an input file's SHA-256 in run.json's ``data``; give its path back. InputError if it is missing."""
        if not os.path.isfile(path):
            raise InputError(f"{path}: no such file")
        self.info["data"][str(path)] = file_hash(path)
        self._save()
        return Path(path)

    def log(self, step: int, **metrics: Any) -> None:
        """Append one line to metrics.jsonl: step, time (ISO 8601, UTC) and the metrics."""
        self.append_rows("metrics.jsonl", [{"step": step, "time": _now(), **metrics}])

    def write_json(self, name: str, value: Any) -> Path:
        """Replace a JSON file of the run, whole or not at all. NaN and infinities become null."""
        return write_text(self.path / name, _dumps(value, indent=1) + "\n")

    def append_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to a JSON Lines file of the run and sync them to disk. A torn last line is cut off first."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "a+b") as handle:
            _mend_last_line(handle)
            handle.write(_encode("".join(_dumps(row) + "\n" for row in rows)))
            handle.flush()
            os.fsync(handle.fileno())

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Replace a JSON Lines file of the run, whole or not at all: for rows that a resumed step would write again."""
        return write_text(self.path / name, "".join(_dumps(row) + "\n" for row in rows))

    def read_rows(self, name: str) -> list[Row]:
        """The rows of a JSON Lines (or parquet) file of the run; InputError as `read_rows`."""
        return read_rows(self.path / name)

    def record(
        self,
        key: str,
        value: Any = None,
        *,
        ci: tuple[float, float] | None = None,
        n: int | None = None,
        rows: str | None = None,
        query: str | None = None,
    ) -> Any:
        """Put a number into results.json, with its interval (low, high), the count behind it and where it came from.

        ``rows`` names the file it was computed from (relative to the run's folder), ``query`` how (see `query_rows`).
        With both, ``value`` and ``n`` may be left out: they are then computed here, as ``recorded.verify`` does again.
        Gives the value.
        """
        if (rows is None) != (query is None):
            raise InputError(f"result {key!r}: rows and query go together")
        if rows is not None and query is not None and value is None:
            value, counted = query_rows(self.read_rows(rows), query)
            n = counted if n is None else n
        self.record_many({key: {"value": value, "ci": ci, "n": n, "rows": rows, "query": query}})
        return value

    def record_many(self, entries: Mapping[str, Mapping[str, Any]]) -> None:
        """Put results into results.json as they stand there: key -> {value, ci, n, rows, query}."""
        self.write_json("results.json", {**self.results, **entries})

    def compares(self, runs: list[str]) -> None:
        """Keep in run.json which other runs its results are about. InputError if this execution named others before."""
        if self.info.setdefault("compares", runs) != runs:
            raise InputError(f"{self.path}: its results are about other runs; record all of them of the same runs")
        self._save()

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """results.json: key -> {value, ci, n, rows, query}; empty when nothing was recorded."""
        file = self.path / "results.json"
        return _read_json(file) if file.exists() else {}

    def _save(self) -> None:
        self.write_json("run.json", self.info)


_ABSENT = object()


def check_name(name: Any) -> str:
    """Give a run's name back if it can be a folder's; InputError if not."""
    if not isinstance(name, str) or not name or name.startswith(".") or not set(name).isdisjoint('/\\:\0\n\t*?"<>|'):
        raise InputError(f"run name {name!r}: use letters, digits, '-', '_' and '.', with no path separator")
    return name


def write_text(file: Path, text: str) -> Path:
    """Replace a text file, whole or not at all: temporary file beside it, fsync, rename."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with open(descriptor, "wb") as handle:
            handle.write(_encode(text))
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise
    return file


def read_rows(file: str | Path) -> list[Row]:
    """The rows of a JSON Lines (or parquet) file; a torn last line, left by a kill, is dropped.

    InputError if the file is missing, or names the line that is not a JSON object.
    """
    file = Path(file)
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    if file.suffix == ".parquet":
        import pandas

        return json.loads(_dumps(pandas.read_parquet(file).to_dict("records")))
    rows = []
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError:
                if not line.endswith(b"\n"):
                    break
                row = None
            if not isinstance(row, dict):
                raise InputError(f"{file}, line {number}: not a JSON object; mend or remove the line")
            rows.append(row)
    return rows


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep Python's cycle collector away from a place that makes many objects, which it would walk again and again.

    Half of the time to read the rows of a study is saved, and they hold no cycles.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


KEY = "OPENAI_API_KEY"  # the variable that a server's key is read from: it is written nowhere


def check_address(value: Any) -> None:
    """InputError for an address, here or in a list, that holds a name, a password or a query: a run would store it."""
    for text in value if isinstance(value, list) else [value]:
        if not isinstance(text, str) or "://" not in text:
            continue
        try:
            parts = urlsplit(text)
        except ValueError:  # such as half an IPv6 address
            continue
        if parts.username or parts.password or parts.query:
            raise InputError(f"the address of {parts.hostname} holds a key, which a run would store: set {KEY} instead")


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, as "sha256:…"."""
    with open(path, "rb") as handle:
        return "sha256:" + hashlib.file_digest(handle, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Installed versions of the packages whose behaviour the results depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
    """The commit of the code, with "+dirty" when tracked files differ from it; None outside a git checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


# --- The query language of results: `aggregate(expression) where condition` over rows ---

_AGGREGATES: dict[str, Callable[[list[Any]], Any]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "sum": math.fsum,
    "min": min,
    "max": max,
    "count": len,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
    ast.Is: lambda a, b: a is b,
    ast.IsNot: lambda a, b: a is not b,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def query_rows(rows: list[Row], query: str) -> tuple[Any, int]:
    """Compute e.g. ``mean(correct)`` or ``mean(stop == 'answered') where suite == 'calculator' and step >= 10``.

    mean, median, sum, min, max or count of a Python expression over each row: columns, ``terms['tool']``, constants,
    comparisons, and / or / not, + - * /, len(). A column or key that a row lacks is None. Rows where the expression
    is None are left out (an answer that could not be judged), and so are those that fail the condition. Gives the
    value (None when no row is left) and how many rows it stands on. InputError for anything else, and for an unknown
    column.
    """
    text, _, condition = query.partition(" where ")
    call = _parse(text, query)
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in _AGGREGATES):
        raise InputError(f"query {query!r}: begin with one of {', '.join(_AGGREGATES)}(…)")
    if call.keywords or len(call.args) > 1 or (not call.args and call.func.id != "count"):
        raise InputError(f"query {query!r}: {call.func.id} takes one expression")
    expression = call.args[0] if call.args else ast.Constant(True)
    _check_columns(expression, rows, query)
    try:
        kept = select_rows(rows, condition) if condition.strip() else rows
        values = [value for row in kept if (value := _evaluate(expression, row, query)) is not None]
        if not values and call.func.id != "count":
            return None, 0
        return _AGGREGATES[call.func.id](values), len(values)
    except (TypeError, ArithmeticError) as error:
        raise InputError(f"query {query!r}: {error}") from None


def select_rows(rows: list[Row], condition: str) -> list[Row]:
    """The rows for which a condition of the query language holds, e.g. ``not correct and 'add' in tools``."""
    keep = _parse(condition, condition)
    _check_columns(keep, rows, condition)
    try:
        return [row for row in rows if _evaluate(keep, row, condition)]
    except (TypeError, ArithmeticError) as error:
        raise InputError(f"query {condition!r}: {error}") from None


def _parse(text: str, query: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(f"query {query!r}: write aggregate(expression) where condition") from None


def _check_columns(node: ast.expr, rows: list[Row], query: str) -> None:
    columns = {column for row in rows for column in row}
    for name in (part.id for part in ast.walk(node) if isinstance(part, ast.Name)):
        if rows and name not in columns | {"len"}:
            raise InputError(f"query {query!r}: no column {name!r}; the rows have {', '.join(sorted(columns))}")


def _evaluate(node: ast.expr, row: Row, query: str) -> Any:
    match node:
        case ast.Constant(value):
            return value
        case ast.Name(column):
            return row.get(column)
        case ast.Subscript(value, key):
            inside, at = _evaluate(value, row, query), _evaluate(key, row, query)
            try:
                return None if inside is None else inside[at]
            except (LookupError, TypeError):
                return None
        case ast.List(items) | ast.Tuple(items):
            return [_evaluate(item, row, query) for item in items]
        case ast.Call(ast.Name("len"), [value], []):
            return len(_evaluate(value, row, query) or ())
        case ast.UnaryOp(ast.Not(), value):
            return not _evaluate(value, row, query)
        case ast.UnaryOp(ast.USub(), value):
            return -_evaluate(value, row, query)
        case ast.BoolOp(ast.And(), values):
            return all(_evaluate(value, row, query) for value in values)
        case ast.BoolOp(ast.Or(), values):
            return any(_evaluate(value, row, query) for value in values)
        case ast.Compare(left, [op], [right]):
            a, b = _evaluate(left, row, query), _evaluate(right, row, query)
            if None in (a, b) and not isinstance(op, ast.Eq | ast.NotEq | ast.Is | ast.IsNot):
                return None
            return _COMPARE[type(op)](a, b)
        case ast.BinOp(left, op, right) if type(op) in _ARITHMETIC:
            a, b = _evaluate(left, row, query), _evaluate(right, row, query)
            return None if a is None or b is None else _ARITHMETIC[type(op)](a, b)
    raise InputError(f"query {query!r}: {ast.unparse(node)!r} is outside the query language")


def _mend_last_line(handle: Any) -> None:
    """Cut a last line that a kill tore; close one that lacks only its newline."""
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


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate becomes its JSON escape


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _show(params: Mapping[str, Any], key: str) -> str:
    return json.dumps(params[key]) if key in params else "absent"


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"{file}: not JSON; remove the run's folder or mend the file") from None


def _dumps(value: Any, indent: int | None = None) -> str:
    return json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """JSON's own types: arrays as lists, paths as strings, dataclasses as objects, NaN and infinities as None."""
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(v) for v in value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "tolist"):  # numpy and torch, arrays and scalars
        return plain(value.tolist())
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    raise TypeError(f"{type(value).__name__} does not fit into JSON: {value!r:.80}")
