"""A study: notebooks run over grids of parameters, in the order of their needs, and a page that holds their reports.

A stage is one execution of a notebook, in a process of its own. Its key hashes the notebook's cells, the parameters,
the files these name, the keys of the stages it needs, the library's source and shipped student, and the versions of
the packages; a stage whose key is the one it was last finished with is skipped. So a killed study goes on where it
stopped, and a changed library never mixes old numbers with new ones.
"""

import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

import yaml

from .core import InputError
from .progress import lasting
from .reports import check_parameters, load_yaml, parameters_of, read_notebook
from .runs import check_name, file_hash, versions, write_text
from .sources import SOURCES
from .studypage import write_page

RUNS, REPORTS = Path("runs"), Path("reports")
# Files of the library that change no stage: its key leaves them out.
AROUND = ("studies.py", "studypage.py", "studypage.template", "sharing.py", "cli.py", "processes.py", "__main__.py")
TRIES = 3  # of a stage whose worker dies


class Submits(Protocol):
    """A concurrent.futures.Executor, or what submits like one: ``submit`` gives done(), result() and cancel()."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any: ...


class StudyFailed(RuntimeError):
    """A stage failed. The message is one line; ``report`` is the study's page."""

    def __init__(self, message: str, report: Path):
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class Stage:
    """One execution of a notebook: what runs, after what, and the run folder it fills."""

    name: str
    notebook: Path
    parameters: dict[str, Any]
    needs: tuple[str, ...]  # names of stages
    run: str
    minutes: float | None  # what its author expects, for the first estimate of the time left
    grid: dict[str, Any] = field(default_factory=dict)  # its place in the grid of its stage
    study: str = ""  # the file, from the current directory

    @property
    def folder(self) -> Path:
        return RUNS / self.run


def run_study(
    path: str | Path, executor: Submits | None = None, workers: int | None = None, any_library: bool = False
) -> Path:
    """Run the stages of a study file that are not done yet; give the path of ``reports/<study>/index.html``.

    The file is YAML: ``question`` (text), ``workers`` (stages at a time, 2) and ``stages``, each with ``name``,
    ``notebook`` and, as needed, ``parameters``, ``grid`` (parameter -> values: one stage for every combination),
    ``needs`` (stages that come first) and ``minutes`` (expected). In parameters ``$name`` stands for the run of the
    stage of that name (in a list, for all runs of its grid; else, between stages with a grid, for the run with the same
    values, so that seed 3 goes on from seed 3), ``$name/`` for its folder and ``$name/file`` for a file in it; each
    implies the need. Paths are relative to the current directory. Every stage fills
    ``runs/<study>-<stage>``.

    Args:
        path: the study file.
        executor: where stages run: any concurrent.futures.Executor, a dask client's (``client.get_executor()``) or
            submitit's, on machines that share this directory and this Python; docs/cluster.md. By default ``workers``
            at a time here, each with its share of the cores. A stage whose worker dies is run again, twice at most.
        workers: overrides the file's.
        any_library: count stages as done that were finished with another version of the library, such as hours of
            training before a figure was mended; the page marks them.

    Raises:
        InputError: the file, a notebook or a parameter is wrong (before anything starts), or a stage found its input to
            be; the study is running already; a folder of that name is not the study's.
        StudyFailed: a stage failed. Stages that need it are skipped, the others run, and the page shows it all.
    """
    path = Path(path)
    study, stages = plan(path)
    workers = workers or study["workers"]
    keys, plain = stage_keys(stages), stage_keys(stages, library=False)
    finished = [
        stage.name
        for stage in stages
        if _record(stage).get("done") == keys[stage.name]
        or (any_library and _record(stage).get("plain") == plain[stage.name])
    ]
    for stage in stages:
        if stage.name in finished or not stage.folder.exists():
            continue
        theirs = _record(stage).get("study", stage.study)
        if theirs != stage.study or not (stage.folder / "stage.json").exists():
            whose = f"of {theirs}" if theirs != stage.study else "not of this study"
            raise InputError(
                f"{stage.folder} exists and is {whose}; remove it, or rename this study's file or its stage"
            )
    folder = REPORTS / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{path} is running already; wait for it or end it") from None
        return _run(study, stages, keys, plain, finished, folder, executor, workers)


def plan(path: Path) -> tuple[dict[str, Any], list[Stage]]:
    """Read and check a study file: its settings, and its stages in an order in which each follows what it needs."""
    try:
        study = load_yaml(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"{path}: no such study file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split()):.200}") from None
    _check_keys(study, {"question": str, "workers": int, "stages": list}, f"{path}")
    study = {"name": check_name(path.stem), "question": "", "workers": 2, "stages": [], **study}
    specs: dict[str, dict[str, Any]] = {}
    for number, spec in enumerate(study["stages"], 1):
        where = f"{path}, stage {number}"
        types = {"name": str, "notebook": str, "parameters": dict, "grid": dict, "needs": list, "minutes": int | float}
        _check_keys(spec, types, where)
        for key in ("name", "notebook"):
            if key not in spec:
                raise InputError(f"{where}: no {key!r}")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", spec["name"]) or spec["name"] in specs:
            raise InputError(f"{where}: the name {spec['name']!r} is taken or has other than letters, digits, - and _")
        specs[spec["name"]] = {"parameters": {}, "grid": {}, "needs": [], "minutes": None, **spec}
    if not specs:
        raise InputError(f"{path}: no stages")

    expanded: dict[str, list[Stage]] = {}  # of each spec, in order of needs
    after = {name: [*spec["needs"], *_references([spec["parameters"], spec["grid"]])] for name, spec in specs.items()}
    for name, needs in after.items():
        for need in needs:
            if need not in specs:
                near = get_close_matches(str(need), specs, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(specs)}"
                raise InputError(f"{path}, stage {name!r}: no stage {need!r}; {hint}")
    while len(expanded) < len(specs):
        ready = next((n for n in specs if n not in expanded and all(need in expanded for need in after[n])), None)
        if ready is None:
            raise InputError(
                f"{path}: stages need each other in a circle: {', '.join(n for n in specs if n not in expanded)}"
            )
        try:
            expanded[ready] = _expand(study["name"], specs[ready], expanded)
        except InputError as error:
            raise InputError(f"{path}, stage {ready!r}: {error}") from None
    stages = [replace(stage, study=os.path.relpath(path)) for group in expanded.values() for stage in group]
    for a, b in itertools.combinations(stages, 2):
        if a.run == b.run or a.name == b.name:
            raise InputError(f"{path}: the stages {a.name!r} and {b.name!r} fill one folder, {a.folder}; rename one")
    return study, stages


def stage_keys(stages: Iterable[Stage], library: bool = True) -> dict[str, str]:
    """The key of each stage by its name, with or without the library in it; stages come after those they need."""
    code = _folder_hash(Path(__file__).parent, skip=AROUND) if library else ""
    keys: dict[str, str] = {}
    stages = list(stages)
    own = {stage.folder for stage in stages}
    for stage in stages:
        node = read_notebook(stage.notebook)
        parts = [
            [[cell.cell_type, cell.source] for cell in node.cells],
            stage.parameters,
            {text: _content(text, own) for text in _strings(stage.parameters)},
            [keys[need] for need in stage.needs],
            code,
            versions(),
        ]
        keys[stage.name] = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return keys


def run_stage(
    command: list[str], label: str, environment: dict[str, str], directory: str, submitted: float
) -> tuple[int, str, float]:
    """Run one stage's process to its end, on whatever machine, passing its lines on behind the label.

    Args:
        command: the process, run in ``directory``.
        label: the stage's name.
        environment: variables that must be the same wherever it runs, such as how many threads share a sum.
        directory: where the study was started; a worker may have been started elsewhere.
        submitted: seconds since 1970. It makes each call one of its own for executors that keep results by their
            arguments, as dask does; else a stage run again would be given its old result.

    Gives the exit code, the last line of stderr, and the seconds it took, without those it waited for a worker.
    """
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            cwd=directory,
            env={**os.environ, **environment},
        )
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(f"[{label}] {line.rstrip()}\n")
            sys.stdout.flush()
        code = process.wait()
        errors.seek(0)
        said = [line.strip() for line in errors if line.strip()]
    return code, said[-1] if said else f"ended with code {code}", round(time.monotonic() - start, 1)


def _run(
    study: Mapping[str, Any],
    stages: list[Stage],
    keys: Mapping[str, str],
    plain: Mapping[str, str],
    finished: list[str],
    folder: Path,
    executor: Submits | None,
    workers: int,
) -> Path:
    own = ThreadPoolExecutor(workers) if executor is None else None
    pool: Any = own or executor
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // workers))
    environment = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "MKL_DYNAMIC": "FALSE",  # as many on a busy machine: sums shared otherwise are rounded otherwise
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait slow the other stage down several times
        "KMP_BLOCKTIME": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    environment |= {name: os.environ[name] for name in environment if name in os.environ}
    state = {stage.name: "done" if stage.name in finished else "waiting" for stage in stages}
    errors: dict[str, tuple[int, str]] = {}
    expected = _expected(stages, folder)
    started: dict[str, float] = {}
    spoke = 0.0
    running: dict[str, Any] = {}  # a stage's name -> what submit gave
    tries: Counter[str] = Counter()
    by_name = {stage.name: stage for stage in stages}

    def say(text: str) -> None:
        nonlocal spoke
        spoke = time.monotonic()
        done = sum(value == "done" for value in state.values())
        left = _time_left(stages, state, expected, started, workers)
        about = f"about {lasting(left)} left" if left else "nothing left to run"
        sys.stdout.write(f"[{study['name']}] {text} ({done} of {len(stages)} stages done, {about})\n")
        sys.stdout.flush()

    def submit(stage: Stage) -> None:
        tries[stage.name] += 1
        try:
            arguments = (_command(stage), stage.name, environment, os.getcwd(), time.time())
            running[stage.name] = pool.submit(run_stage, *arguments)
        except Exception as error:  # such as a broken pool's
            running[stage.name] = Future()
            running[stage.name].set_exception(error)

    say("begins" if "done" not in state.values() else "goes on")
    try:
        while True:
            for stage in stages:
                if state[stage.name] != "waiting":
                    continue
                if any(state[need] in ("failed", "skipped") for need in stage.needs):
                    state[stage.name] = "skipped"
                elif all(state[need] == "done" for need in stage.needs) and (own is None or len(running) < workers):
                    _prepare(stage, keys[stage.name])
                    state[stage.name], started[stage.name] = "running", time.monotonic()
                    submit(stage)
                    say(f"{stage.name} starts")
            if not running:
                break
            # Asked one by one: jobs of submitit are no futures that one could wait for. A future is let go with its
            # result: dask would run the stage again for one that is still held when the worker that ran it dies.
            ended = [name for name, future in running.items() if future.done()]
            for name in ended:
                stage = by_name[name]
                try:
                    code, error, seconds = running.pop(name).result()
                except Exception as lost:  # a stage that fails gives an exit code; this is its worker's death
                    seconds = round(time.monotonic() - started[name], 1)
                    why = f"{type(lost).__name__}: {' '.join(str(lost).split()):.200}".rstrip(": ")
                    if tries[name] < TRIES:
                        submit(stage)
                        say(f"{name} did not come back ({why}) and starts again")
                        continue
                    code, error = 1, f"did not come back, {TRIES} times ({why})"
                expected[name] = seconds
                state[name] = "done" if code == 0 else "failed"
                if code:
                    errors[name] = (code, error)
                    _note(stage, {"key": keys[name], "seconds": seconds, "error": error})
                    say(f"{name} failed after {lasting(seconds)}: {error}")
                else:
                    _note(stage, {"key": keys[name], "seconds": seconds, "done": keys[name], "plain": plain[name]})
                    say(f"{name} done in {lasting(seconds)}")
            if ended:
                write_text(folder / "timings.json", json.dumps(expected, indent=1) + "\n")
            elif time.monotonic() > spoke + 30:
                say(f"{', '.join(running)} running")
            else:
                time.sleep(0.1)
    finally:
        if own:
            own.shutdown(cancel_futures=True)
        for future in running.values():  # none but after an interrupt
            future.cancel()
    older = [stage.name for stage in stages if _record(stage).get("done") not in (None, keys[stage.name])]
    took = {stage.name: _record(stage).get("seconds") for stage in stages}
    report = write_page(study, stages, state, errors, older, took, keys, folder)
    if errors:
        failed = "; ".join(f"{name}: {error}" for name, (_, error) in errors.items())
        if all(code == 2 for code, _ in errors.values()):
            raise InputError(failed)
        raise StudyFailed(f"{failed}; the rest is in {report}", report)
    return report


def _command(stage: Stage) -> list[str]:
    words = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in stage.parameters.items()]
    return [
        *(sys.executable, "-m", "mentorlib", "run", str(stage.notebook), *words),
        *("--output", str(stage.folder), "--attached"),
    ]


def _prepare(stage: Stage, key: str) -> None:
    """Make the stage's folder: an interrupted stage's is kept, so that training resumes; one with another key goes.

    But not what a server replied: it may have cost money, and lies under the hash of what was asked.
    """
    if _record(stage).get("key") not in (None, key):
        for old in [p for p in stage.folder.iterdir() if p.name != "replies.jsonl"]:
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            else:
                old.unlink()
    stage.folder.mkdir(parents=True, exist_ok=True)
    _note(stage, {"key": key})


def _record(stage: Stage) -> dict[str, Any]:
    """stage.json: the key it last began with, and once finished ``done`` and ``plain`` (keys) and ``seconds``."""
    try:
        found = json.loads((stage.folder / "stage.json").read_text())
    except (OSError, ValueError):
        return {}
    if "done" in found and not (stage.folder / "report.html").exists():
        del found["done"]
    return found


def _note(stage: Stage, record: Mapping[str, Any]) -> None:
    about = {"study": stage.study, "stage": stage.name}
    write_text(stage.folder / "stage.json", json.dumps({**about, **record}, indent=1) + "\n")


def _expected(stages: Iterable[Stage], folder: Path) -> dict[str, float]:
    """Seconds that each stage should take: what it took last time, else what its author said, else a minute."""
    try:
        last = json.loads((folder / "timings.json").read_text())
    except (OSError, ValueError):
        last = {}
    return {stage.name: last.get(stage.name, (stage.minutes or 1) * 60) for stage in stages}


def _time_left(
    stages: list[Stage],
    state: Mapping[str, str],
    expected: Mapping[str, float],
    started: Mapping[str, float],
    workers: int,
) -> float:
    """Seconds: the longest chain of needs, or all the work spread over the workers, whichever is longer."""
    now = time.monotonic()
    work: dict[str, float] = {}
    chain: dict[str, float] = {}
    for stage in stages:
        spent = now - started[stage.name] if state[stage.name] == "running" else 0.0
        todo = state[stage.name] in ("waiting", "running")
        work[stage.name] = max(1.0, expected[stage.name] - spent) if todo else 0.0
        chain[stage.name] = work[stage.name] + max((chain[need] for need in stage.needs), default=0.0)
    return max(sum(work.values()) / workers, *chain.values())


def _expand(study: str, spec: Mapping[str, Any], expanded: Mapping[str, list[Stage]]) -> list[Stage]:
    notebook = Path(spec["notebook"])
    known = {p.name for p in parameters_of(read_notebook(notebook), notebook)}
    for name, values in spec["grid"].items():
        if not isinstance(values, list) or not values:
            raise InputError(f"the grid of {name!r} is not a list of values")
        if name in spec["parameters"]:
            raise InputError(f"{name!r} is both a parameter and in the grid")
    stages = []
    for values in itertools.product(*spec["grid"].values()):
        label = "-".join([spec["name"], *(re.sub(r"[^A-Za-z0-9_.]+", "_", str(v)) for v in values)])
        place = dict(zip(spec["grid"], values, strict=True))
        given = {**spec["parameters"], **place}
        used = [stage.name for need in spec["needs"] for stage in expanded[need]]
        parameters = {name: _fill(value, expanded, place, used) for name, value in given.items()}
        if "run" in known:
            parameters.setdefault("run", f"{study}-{label}")
        parameters = check_parameters(notebook, parameters)
        run = check_name(parameters.get("run", f"{study}-{label}"))
        stages.append(Stage(label, notebook, parameters, tuple(dict.fromkeys(used)), run, spec["minutes"], place))
    return stages


_REFERENCE = re.compile(r"\$([A-Za-z0-9_-]+)(/.*)?")


def _references(value: Any) -> list[str]:
    return [match[1] for text in _strings(value) if (match := _REFERENCE.fullmatch(text))]


def _fill(value: Any, expanded: Mapping[str, list[Stage]], place: Mapping[str, Any], used: list[str]) -> Any:
    """Put runs in the place of ``$name``, folders in that of ``$name/``, files in that of ``$name/file``; their stages
    are added to ``used``."""
    if isinstance(value, list):
        filled = [(item, _fill(item, expanded, {}, used)) for item in value]
        return [
            one for item, new in filled for one in (new if isinstance(item, str) and isinstance(new, list) else [new])
        ]
    if isinstance(value, dict):
        return {key: _fill(item, expanded, place, used) for key, item in value.items()}
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if not match:
        return value
    alike = [s for s in expanded[match[1]] if all(place[key] == v for key, v in s.grid.items() if key in place)]
    if not alike:
        raise InputError(f"{value}: no run of the stage {match[1]!r} has the values {dict(place)}")
    used += [stage.name for stage in alike]
    runs = [f"{stage.folder}{match[2]}".rstrip("/") if match[2] else stage.run for stage in alike]
    return runs[0] if len(runs) == 1 else runs


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [text for item in value for text in _strings(item)]


def _check_keys(value: Any, types: Mapping[str, Any], where: str) -> None:
    if not isinstance(value, dict):
        raise InputError(f"{where}: write keys and values: {', '.join(types)}")
    for key, item in value.items():
        if key not in types:
            near = get_close_matches(str(key), types, 1)
            hint = f"did you mean {near[0]}?" if near else f"use {', '.join(types)}"
            raise InputError(f"{where}: unknown key {key!r}; {hint}")
        if not isinstance(item, types[key]) or isinstance(item, bool):
            kind = getattr(types[key], "__name__", "number")
            raise InputError(f"{where}: {key!r} takes a {kind}, not {item!r:.60}")
    if isinstance(value.get("workers", 1), int) and value.get("workers", 1) < 1:
        raise InputError(f"{where}: 'workers' is at least 1")


def _content(text: str, own: set[Path]) -> str | None:
    """The hash of what a parameter names, if it names a file or folder (as 01's ``source:path`` does too): of the
    study's own runs (``own``) the keys tell, of another run, by folder or name, its run.json, which every execution
    changes."""
    source, _, place = text.partition(":")
    path = Path(place if place and source in SOURCES else text)
    try:
        if len(path.parts) == 1 and (RUNS / path / "run.json").is_file():
            path = RUNS / path
        if not text or any(path == folder or folder in path.parents for folder in own):
            return None
        if path.parts[:1] == (str(RUNS),):
            path = Path(*path.parts[:2], "run.json")
        return file_hash(path) if path.is_file() else _folder_hash(path) if path.is_dir() and path.name else None
    except OSError:
        return None


def _folder_hash(folder: Path, skip: tuple[str, ...] = ()) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts and p.name not in skip)
    lines = "".join(f"{p.relative_to(folder)} {file_hash(p)}\n" for p in files)
    return hashlib.sha256(lines.encode()).hexdigest()
