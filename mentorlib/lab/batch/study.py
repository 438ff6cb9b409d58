"""Run a study: notebooks over grids of parameters, in the order of their needs, and a page that holds their reports.

A stage is one execution of a notebook, in its own process. A stage whose key (see `plan.stage_keys`) is the one it was
last finished with is skipped: a killed study goes on where it stopped, and a changed library never mixes old numbers
with new ones.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from ...core import InputError
from ...runs.files import write_text
from ...runs.processes import RUN_LOCK, claim_run, release_run
from ...runs.progress import format_duration
from .plan import REPORTS, Stage, StageStatus, check_stages, plan, stage_keys

TRIES = 3  # of a stage whose worker dies


class Submits(Protocol):
    """A concurrent.futures.Executor or alike: what ``submit`` returns has done(), result() and cancel()."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any: ...


class StudyFailed(RuntimeError):
    """A stage failed. The message is one line; ``report`` is the study's page."""

    def __init__(self, message: str, report: Path):
        super().__init__(message)
        self.report = report


def run_study(
    path: str | Path,
    executor: Submits | None = None,
    workers: int | None = None,
    any_library: bool = False,
    inline: bool = False,
) -> Path:
    """Run the stages of a study file that are not done yet; return the path of ``reports/<study>/index.html``.

    The format of the file is in docs/study.md. Its paths are relative to the current directory; every stage fills
    ``runs/<study>-<stage>``.

    Args:
        path: the study file.
        executor: where stages run: any concurrent.futures.Executor, a dask client's (``client.get_executor()``) or
            submitit's, on machines that share this directory and this Python (docs/cluster.md). By default ``workers``
            at a time here, each with its share of the cores. A stage whose worker dies is run again, twice at most.
        workers: overrides the file's.
        any_library: count stages as done that another version of the library finished, such as hours of training
            before a figure was changed; the page marks them.
        inline: each page holds its scripts; see ``write_study_page``.

    Raises:
        InputError: the file, a notebook or a parameter is wrong (before anything starts), or what a stage reads is;
            the study is running already; a stage's folder belongs to something else.
        StudyFailed: a stage failed. Stages that need it are skipped, the others run, and the page shows all.
    """
    path = Path(path)
    study, stages = plan(path)
    keys, plain = stage_keys(stages)
    statuses = {stage.name: StageStatus(stage, keys[stage.name]) for stage in stages}
    for stage in stages:
        record = _record(stage)
        if record.get("done") == keys[stage.name] or (any_library and record.get("plain") == plain[stage.name]):
            statuses[stage.name].state = "done"
        elif stage.folder.exists():
            _check_owner(stage)
    check_stages(path, (stage for stage in stages if statuses[stage.name].state != "done"))
    folder = REPORTS / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{path} is running already; wait for it or end it") from None
        _run_stages(study["name"], statuses, plain, folder / "timings.json", executor, workers or study["workers"])
        for name, status in statuses.items():
            record = _record(status.stage)
            status.seconds, status.older = record.get("seconds"), record.get("done") not in (None, keys[name])
        from .study_page import write_study_page  # pandas, scipy and plotly: too long to wait for the first line

        report = write_study_page(study, list(statuses.values()), folder, inline)
    failed = [status for status in statuses.values() if status.state == "failed"]
    if failed:
        errors = "; ".join(f"{status.stage.name}: {status.error}" for status in failed)
        if all(status.exit_code == 2 for status in failed):
            raise InputError(errors)
        raise StudyFailed(f"{errors}; the rest is in {report}", report)
    return report


def run_stage(
    command: list[str], label: str, environment: dict[str, str], directory: str, submitted: float
) -> tuple[int, str, float]:
    """Run one stage's process to its end, on any machine, printing its lines behind the label.

    Args:
        command: the process, run in ``directory``.
        label: the stage's name.
        environment: variables that must be the same wherever it runs, such as how many threads share a sum.
        directory: where the study was started; a worker may have been started elsewhere.
        submitted: seconds since 1970. It makes each call unique for executors that keep results by their arguments, as
            dask does; otherwise a stage run again would get its old result.

    Returns the exit code, the last line of stderr, and the seconds it took, without those it waited for a worker.
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
            _print_line(f"[{label}] {line.rstrip()}")
        code = process.wait()
        errors.seek(0)
        lines = [line.strip() for line in errors if line.strip()]
    return code, lines[-1] if lines else f"ended with code {code}", round(time.monotonic() - start, 1)


def _run_stages(
    name: str,
    statuses: dict[str, StageStatus],
    plain: Mapping[str, str],
    timings: Path,
    executor: Submits | None,
    workers: int,
) -> None:
    """Run the stages that wait, each when those it needs are done, until none can run."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // workers))
    environment = {variable: os.environ.get(variable, value) for variable, value in _environment(threads).items()}
    local = ThreadPoolExecutor(workers) if executor is None else None
    pool: Any = local or executor
    expected = _expected(statuses, timings)
    started: dict[str, float] = {}
    tries: dict[str, int] = {}
    running: dict[str, Any] = {}  # a stage's name -> what submit returned
    last_line = 0.0

    def log(text: str) -> None:
        nonlocal last_line
        last_line = time.monotonic()
        done = sum(status.state == "done" for status in statuses.values())
        left = _time_left(statuses, expected, started, workers)
        about = f"about {format_duration(left)} left" if left else "nothing left to run"
        _print_line(f"[{name}] {text} ({done} of {len(statuses)} stages done, {about})")

    def submit(stage: Stage) -> None:
        tries[stage.name] = tries.get(stage.name, 0) + 1
        try:
            arguments = (_command(stage), stage.name, environment, os.getcwd(), time.time())
            running[stage.name] = pool.submit(run_stage, *arguments)
        except Exception as error:  # such as a broken pool's
            running[stage.name] = Future()
            running[stage.name].set_exception(error)

    def collect(status: StageStatus) -> None:
        """Take a stage's result; submit it again if its worker died."""
        stage = status.stage
        try:
            status.exit_code, status.error, seconds = running.pop(stage.name).result()
        except Exception as lost:  # a stage that fails gives an exit code; this is its worker's death
            seconds = round(time.monotonic() - started[stage.name], 1)
            why = f"{type(lost).__name__}: {' '.join(str(lost).split()):.200}".rstrip(": ")
            if tries[stage.name] < TRIES:
                submit(stage)
                log(f"{stage.name} did not come back ({why}) and starts again")
                return
            status.exit_code, status.error = 1, f"did not come back, {TRIES} times ({why})"
        expected[stage.name] = seconds
        record = {"key": status.key, "seconds": seconds}
        if status.exit_code:
            status.state = "failed"
            _write_record(stage, {**record, "error": status.error})
            log(f"{stage.name} failed after {format_duration(seconds)}: {status.error}")
        else:
            status.state, status.error = "done", ""
            _write_record(stage, {**record, "done": status.key, "plain": plain[stage.name]})
            log(f"{stage.name} done in {format_duration(seconds)}")
        write_text(timings, json.dumps(expected, indent=1) + "\n")

    log("goes on" if any(status.state == "done" for status in statuses.values()) else "begins")
    try:
        while True:
            for status in (status for status in statuses.values() if status.state == "waiting"):
                needs = [statuses[need].state for need in status.stage.needs]
                if {"failed", "skipped"} & set(needs):
                    status.state = "skipped"
                elif all(state == "done" for state in needs) and (local is None or len(running) < workers):
                    try:
                        _prepare(status.stage, status.key)
                    except InputError as error:  # another process writes its run
                        status.state, status.exit_code, status.error = "failed", 2, str(error)
                        log(f"{status.stage.name} cannot start: {error}")
                        continue
                    status.state, started[status.stage.name] = "running", time.monotonic()
                    submit(status.stage)
                    log(f"{status.stage.name} starts")
            if not running:
                break
            # Polled one by one: submitit's jobs are not futures that one could wait for. A future is dropped with its
            # result: dask would run the stage again for one still held when the worker that ran it dies.
            ended = [stage for stage, future in running.items() if future.done()]
            for stage in ended:
                collect(statuses[stage])
            if not ended and time.monotonic() > last_line + 30:
                log(f"{', '.join(running)} running")
            elif not ended:
                time.sleep(0.1)
    finally:
        if local:
            local.shutdown(cancel_futures=True)
        for future in running.values():  # none but after an interrupt
            future.cancel()


def _environment(threads: str) -> dict[str, str]:
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "MKL_DYNAMIC": "FALSE",  # as many threads on a busy machine: another split of a sum rounds differently
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait slow the other stage down several times
        "KMP_BLOCKTIME": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _check_owner(stage: Stage) -> None:
    """InputError if the folder of a stage that is to run is not this study's."""
    study = _record(stage).get("study", stage.study)
    if study != stage.study or not (stage.folder / "stage.json").exists():
        owner = f"of {study}" if study != stage.study else "not of this study"
        raise InputError(f"{stage.folder} exists and is {owner}; remove it, or rename this study's file or its stage")


def _print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")  # in one call: stages that print at once would mix their lines
    sys.stdout.flush()


def _command(stage: Stage) -> list[str]:
    words = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in stage.parameters.items()]
    return [
        *(sys.executable, "-m", "mentorlib", "run", str(stage.notebook), *words),
        *("--output", str(stage.folder), "--attached"),
    ]


def _prepare(stage: Stage, key: str) -> None:
    """Make the stage's folder: an interrupted stage's is kept, so that training resumes; another key empties it.

    A server's replies stay: they may have cost money and are looked up by the hash of their request.

    Raises:
        InputError: another process writes the run.
    """
    if _record(stage).get("key") not in (None, key):
        claim_run(stage.folder)
        for old in [p for p in stage.folder.iterdir() if p.name not in ("replies.jsonl", ".lock", RUN_LOCK)]:
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            else:
                old.unlink()
        release_run(stage.folder)
    stage.folder.mkdir(parents=True, exist_ok=True)
    _write_record(stage, {"key": key})


def _record(stage: Stage) -> dict[str, Any]:
    """stage.json: the key it last began with, and once finished ``done`` and ``plain`` (keys) and ``seconds``."""
    try:
        record: dict[str, Any] = json.loads((stage.folder / "stage.json").read_text())
    except (OSError, ValueError):
        return {}
    if not (stage.folder / "report.html").exists():
        record.pop("done", None)
        record.pop("plain", None)
    return record


def _write_record(stage: Stage, record: Mapping[str, Any]) -> None:
    about = {"study": stage.study, "stage": stage.name}
    write_text(stage.folder / "stage.json", json.dumps({**about, **record}, indent=1) + "\n")


def _expected(statuses: Mapping[str, StageStatus], timings: Path) -> dict[str, float]:
    """Seconds that each stage should take: what it took last time, else what its author expects, else a minute."""
    try:
        last = json.loads(timings.read_text())
    except (OSError, ValueError):
        last = {}
    return {name: last.get(name, (status.stage.minutes or 1) * 60) for name, status in statuses.items()}


def _time_left(
    statuses: Mapping[str, StageStatus], expected: Mapping[str, float], started: Mapping[str, float], workers: int
) -> float:
    """Seconds: the longest chain of needs, or all the work spread over the workers, whichever is longer."""
    now = time.monotonic()
    work: dict[str, float] = {}
    chain: dict[str, float] = {}
    for name, status in statuses.items():
        spent = now - started[name] if status.state == "running" else 0.0
        todo = status.state in ("waiting", "running")
        work[name] = max(1.0, expected[name] - spent) if todo else 0.0
        chain[name] = work[name] + max((chain[need] for need in status.stage.needs), default=0.0)
    return max(sum(work.values()) / workers, *chain.values())
