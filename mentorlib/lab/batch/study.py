"""A study: notebooks run over grids of parameters, in the order of their needs, and a page that holds their reports.

A stage is one execution of a notebook, in a process of its own. Its key hashes the notebook's cells, the parameters,
the files these name, the keys of the stages it needs, the library's source and shipped student, and the versions of
the packages; a stage whose key is the one it was last finished with is skipped. So a killed study goes on where it
stopped, and a changed library never mixes old numbers with new ones.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from ...core import InputError
from ...runs.files import write_text
from ...runs.progress import format_duration
from .plan import REPORTS, Stage, plan, stage_keys
from .study_page import write_page

TRIES = 3  # of a stage whose worker dies


class Submits(Protocol):
    """A concurrent.futures.Executor, or what submits like one: ``submit`` gives done(), result() and cancel()."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any: ...


class StudyFailed(RuntimeError):
    """A stage failed. The message is one line; ``report`` is the study's page."""

    def __init__(self, message: str, report: Path):
        super().__init__(message)
        self.report = report


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
        about = f"about {format_duration(left)} left" if left else "nothing left to run"
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
                    say(f"{name} failed after {format_duration(seconds)}: {error}")
                else:
                    _note(stage, {"key": keys[name], "seconds": seconds, "done": keys[name], "plain": plain[name]})
                    say(f"{name} done in {format_duration(seconds)}")
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
