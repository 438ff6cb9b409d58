"""A run is a folder of parameters, provenance, metrics, rows and results.

``runs/<name>/`` holds ``run.json`` (parameters, seed, versions, git revision, data hashes, status),
``metrics.jsonl``, rows as JSON Lines (``rollouts.jsonl``, ``eval/<suite>.jsonl``; ``eval_steps.jsonl`` of evaluations
along training, ``eval/samples/<suite>.jsonl`` of several samples a task), ``results.json``, and what trainers and
notebooks write: ``checkpoints/`` (until training is done), ``model/``, ``notebook.ipynb``, ``report.html``.
``kill -9`` costs at most the row being written. One process writes a run at a time: another one that would create or
reopen it is refused until the first has finished the run or ended (see `processes.claim_run`).
"""

import json
import os
import platform
import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..core import InputError, did_you_mean
from .files import Row, append_rows, dumps_json, file_hash, json_lines, jsonable, read_json, read_rows, write_text
from .functions import function_file
from .parameters import Planned
from .processes import claim_run, release_run
from .provenance import git_revision, versions
from .query import query_rows
from .rows import is_texts, wrong_info, wrong_result

API_KEY_VARIABLE = "OPENAI_API_KEY"  # the environment variable with an endpoint's key, which no file stores
MAX_NAME = 200  # bytes of a run's name; file systems take 255, and files named after a run need more
_ABSENT = object()


class Run:
    """Create ``root/run``, or reopen it when its parameters agree with ``params``, or when it failed.

    Parameters are stored as JSON. Files that they name, also as FILE.py:FUNCTION, and the files of the model folders
    that they name are hashed into run.json's ``data``.
    Reopening a run that ended removes its results, which are then recorded again. A run that failed may be corrected:
    it takes the new parameters, keeps the old ones under ``corrected`` of run.json, and loses its evaluation;
    `trainer.launch.train` keeps its training where the parameters of that are the same.

    Raises:
        InputError: ``run`` cannot be a folder's name, a run of that name has other parameters (each is named), or a
            parameter is an address that holds credentials; or another process writes this run.
    """

    def __init__(self, run: str, root: str | Path = "runs", **params: Any):
        self.name, self.path = check_name(run), Path(root) / run
        params = jsonable(params)
        for value in params.values():
            reject_credentials(value)
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file, not a run; choose another run name")
        self._writes = True
        claim_run(self.path)
        try:
            self._begin(params)
        except BaseException:
            release_run(self.path)
            raise

    def _begin(self, params: dict[str, Any]) -> None:
        if (self.path / "run.json").exists():
            self.info: dict[str, Any] = _read_info(self.path / "run.json")
            self._reopen(params)
        else:
            self.info = {"name": self.name, "status": "running", "created": _now(), "finished": None}
            self._describe(params)
        self._save()

    def _describe(self, params: dict[str, Any]) -> None:
        self.info |= {
            "parameters": params,
            "seed": params.get("seed"),
            "python": platform.python_version(),
            "machine": {"system": platform.platform(), "cores": os.cpu_count()},
            "versions": versions(),
            "git": git_revision(),
            "data": _files(params),
        }

    def _reopen(self, params: dict[str, Any]) -> None:
        check_reopen(self.name, self.path.parent, **params)
        if self.info.pop("compares", None) or self.status != "running":  # its results are recorded again
            (self.path / "results.json").unlink(missing_ok=True)
        if changed := _changed(self.info["parameters"], params):
            old = {key: self.info["parameters"].get(key) for key in changed}
            self.info["corrected"] = [*self.info.get("corrected", []), {"time": _now(), "was": old}]
            self._describe(params)
            shutil.rmtree(self.path / "eval", ignore_errors=True)
        else:
            self.info["data"] |= _files(params)  # they may have changed
        reopened = [*self.info.get("reopened", []), {"time": _now(), "git": git_revision(), "was": self.status}]
        self.info |= {"reopened": reopened, "status": "running", "finished": None}

    @classmethod
    def open(cls, name: str | Path, root: str | Path = "runs") -> "Run":
        """Open an existing run for reading, by name or by its folder's path. InputError if there is none."""
        path = Path(name) if (Path(name) / "run.json").exists() else Path(root) / name
        if not (path / "run.json").exists():
            known = sorted(p.parent.name for p in Path(root).glob("*/run.json"))
            hint = did_you_mean(name, known).strip() or f"there are: {', '.join(known) or 'none'}"
            raise InputError(f"no run {str(name)!r} under {root}/; {hint}")
        run = cls.__new__(cls)
        run.name, run.path, run.info = path.resolve().name, path, _read_info(path / "run.json")
        run._writes = False
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
        """Set the final status, "done" or "failed", and let other processes write the run.

        The checkpoints of a run that is done are removed.
        """
        self.info |= {"status": status, "finished": _now()}
        self._save()
        checkpoints, obsolete = self.path / "checkpoints", self.path / "checkpoints.done"
        if status == "done" and checkpoints.exists():
            shutil.rmtree(obsolete, ignore_errors=True)
            checkpoints.rename(obsolete)  # at once: training would resume from a half-removed folder
            shutil.rmtree(obsolete, ignore_errors=True)
        if self._writes:
            release_run(self.path)

    def uses(self, path: str | Path) -> Path:
        """Record an input file's SHA-256 in run.json's ``data``. Returns its path. InputError if it is missing.

        Of a file in another run's folder, that run's parameters are kept in ``inputs`` too, by its folder: what the
        data are can then be told without it.
        """
        if not os.path.isfile(path):
            raise InputError(f"{path}: no such file")
        self.info["data"][str(path)] = file_hash(path)
        if (source := Path(path).parent / "run.json").exists():
            self.info.setdefault("inputs", {})[str(source.parent)] = _read_info(source)["parameters"]
        self._save()
        return Path(path)

    def log(self, step: int, **metrics: Any) -> None:
        """Append one line to metrics.jsonl: step, time (ISO 8601, UTC) and the metrics."""
        self.append_rows("metrics.jsonl", [{"step": step, "time": _now(), **metrics}])

    def write_json(self, name: str, value: Any) -> Path:
        """Replace a JSON file of the run as a whole. NaN and infinities become null."""
        self._claim()
        return write_text(self.path / name, dumps_json(value, indent=1) + "\n")

    def append_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to a JSON Lines file of the run, as `files.append_rows`."""
        self._claim()
        append_rows(self.path / name, rows)

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Replace a JSON Lines file of the run as a whole: for rows that a resumed step would write again."""
        self._claim()
        return write_text(self.path / name, json_lines(rows))

    def read_rows(self, name: str) -> list[Row]:
        """The rows of a JSON Lines or parquet file of the run, as `files.read_rows`."""
        return read_rows(self.path / name)

    def record(
        self,
        key: str,
        value: Any = None,
        *,
        n: int | None = None,
        rows: str | None = None,
        query: str | None = None,
    ) -> Any:
        """Record a number in results.json. Returns its value.

        Args:
            key: the result's name, such as "accuracy/longer".
            value: the number; if left out, it and ``n`` are computed from ``rows`` and ``query``.
            n: the number of rows behind it.
            rows: the file it is computed from, relative to the run's folder.
            query: how it is computed, for `verify_run` to compute it again; see `query_rows`.

        Raises:
            InputError: only one of rows and query, no such file, or a wrong query.
        """
        if (rows is None) != (query is None):
            raise InputError(f"result {key!r}: rows and query go together")
        if rows is not None and query is not None and value is None:
            value, counted = query_rows(self.read_rows(rows), query)
            n = counted if n is None else n
        self.record_many({key: {"value": value, "ci": None, "n": n, "rows": rows, "query": query}})
        return value

    def record_many(self, entries: Mapping[str, Mapping[str, Any]]) -> None:
        """Record several results: key -> {value, ci, n, rows, query}; ci is the interval (low, high), or None."""
        self.write_json("results.json", {**self.results, **entries})

    def compares(self, runs: list[str]) -> None:
        """Record in run.json which other runs the results compare. InputError if they compared other runs before."""
        if self.info.setdefault("compares", runs) != runs:
            raise InputError(f"{self.path}: its results are about other runs; record all of them of the same runs")
        self._save()

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """results.json: key -> {value, ci, n, rows, query}; empty when nothing was recorded.

        Raises:
            InputError: the file holds something else.
        """
        file = self.path / "results.json"
        return read_results(file) if file.exists() else {}

    def _claim(self) -> None:
        if self._writes:  # a cell that is executed again after the notebook has finished its run
            claim_run(self.path)

    def _save(self) -> None:
        self.write_json("run.json", self.info)


def check_reopen(run: str, root: str | Path = "runs", **params: Any) -> None:
    """InputError if a run of that name exists with other parameters, unless it failed: then it may be corrected.

    It may not by another notebook, with parameters that it lacks and without some that it has: that would lose it.
    """
    if isinstance(run, Planned):  # the study empties its folder
        return
    file = Path(root) / check_name(run) / "run.json"
    if not file.exists():
        return
    info, params = _read_info(file), jsonable(params)
    old, differ = info["parameters"], _changed(info["parameters"], params)
    other = old.keys() - params.keys() and params.keys() - old.keys()
    if differ and (info.get("status") != "failed" or other):
        listed = ", ".join(f"{k} (was {_show(old, k)}, now {_show(params, k)})" for k in differ)
        raise InputError(
            f"{file.parent} exists with other parameters: {listed}; choose another run name or remove the folder"
        )


def _read_info(file: Path) -> dict[str, Any]:
    """The content of a run.json. InputError if it is none."""
    info = read_json(file)
    if not isinstance(info, dict) or not isinstance(info.get("parameters"), dict):
        raise InputError(f"{file}: not a run's, it has no parameters; fix the file or remove the run's folder")
    if wrong := wrong_info(info):
        raise InputError(f"{file}: {wrong}; fix the file or remove the run's folder")
    return info


def trajectory_files(folder: Path) -> list[Path]:
    """A run's rows of trajectories: ``eval/<suite>.jsonl`` in order, and GRPO's ``rollouts.jsonl``; may be empty."""
    return [*sorted(folder.glob("eval/*.jsonl")), *folder.glob("rollouts.jsonl")]


def read_stages(file: Path) -> list[Path]:
    """The runs' folders in a study's stages.json. InputError if it holds something else."""
    stages = read_json(file)
    if not isinstance(stages, dict) or not is_texts([*stages.values()]):
        raise InputError(f"{file}: not a study's list of runs; run the study again")
    return [Path(folder) for folder in stages.values()]


def read_results(file: Path) -> dict[str, dict[str, Any]]:
    """The content of a results.json. InputError names the result and the key that hold something else."""
    results = read_json(file)
    if not isinstance(results, dict):
        raise InputError(f"{file}: not an object of results; remove it, and run the notebook again")
    for key, entry in results.items():
        if wrong := wrong_result(entry):
            raise InputError(f"{file}: result {key!r}: {wrong}; fix or remove that result")
    return results


def _files(params: Mapping[str, Any]) -> dict[str, str]:
    """The hashes of the files that parameters name, and of those in the model folders that they name, by path."""
    values = [item for value in params.values() for item in (value if isinstance(value, list) else [value])]
    names = [function_file(text) or text for text in values if isinstance(text, str) and text]
    models = [name for name in names if os.path.isfile(os.path.join(name, "config.json"))]
    files = names + [os.path.join(model, file) for model in models for file in sorted(os.listdir(model))]
    return {file: file_hash(file) for file in files if os.path.isfile(file)}


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [k for k in {**old, **new} if old.get(k, _ABSENT) != new.get(k, _ABSENT)]


def check_name(name: Any) -> str:
    """Return a run's name if it can be a folder's name. InputError if not."""
    if (
        not isinstance(name, str)
        or not name.isprintable()  # control and direction marks would steer a terminal
        or not name
        or name.startswith(".")
        or not set(name).isdisjoint('/\\:*?"<>|')
    ):
        raise InputError(f"run name {name!r}: use letters, digits, '-', '_' and '.', with no path separator")
    if len(name.encode("utf-8", "replace")) > MAX_NAME:
        raise InputError(f"run name {name[:40]!r}… is {len(name)} characters long: give one of at most {MAX_NAME}")
    return name


def reject_credentials(value: Any) -> None:
    """InputError for an address (or one in a list) with a user, password or query string: a run would store it."""
    for text in value if isinstance(value, list) else [value]:
        if not isinstance(text, str) or "://" not in text:
            continue
        try:
            parts = urlsplit(text)
        except ValueError:  # such as half an IPv6 address
            continue
        if parts.username or parts.password or parts.query:
            raise InputError(
                f"the address of {parts.hostname} holds a key, which a run would store: set {API_KEY_VARIABLE} instead"
            )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _show(params: Mapping[str, Any], key: str) -> str:
    return json.dumps(params[key]) if key in params else "absent"
