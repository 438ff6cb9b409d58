"""Run the stages of a study on an executor, each in a process of its own and when those it needs are done."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from ...core import InputError, one_line
from ...runs.files import write_text
from ...runs.progress import format_duration
from .plan import Stage, StageStatus
from .stage_folder import prepare_folder, write_record

TRIES = 3  # of a stage whose worker dies


class Submits(Protocol):
    """A concurrent.futures.Executor or alike: what ``submit`` returns has done(), result() and cancel()."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any: ...


class Schedule:
    """The stages of a study, from the first that can run to the last.

    Args:
        name: the study's.
        statuses: all stages by name, in an order in which each follows what it needs; their states change.
        plain: the keys without the library in them, see `keys.stage_keys`.
        timings: a file of the seconds that each stage took, for the next estimate of the time left.
        executor: where they run; by default ``workers`` at a time here.
        workers: for the default executor and the estimate.
    """

    def __init__(
        self,
        name: str,
        statuses: dict[str, StageStatus],
        plain: Mapping[str, str],
        timings: Path,
        executor: Submits | None,
        workers: int,
    ) -> None:
        self._name, self._statuses, self._plain, self._timings = name, statuses, plain, timings
        self._local = ThreadPoolExecutor(workers) if executor is None else None
        self._executor: Any = self._local or executor
        self._workers = workers
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // workers))
        self._environment = {key: os.environ.get(key, value) for key, value in _environment(threads).items()}
        self._expected = _expected(statuses, timings)
        self._started: dict[str, float] = {}
        self._tries: dict[str, int] = {}
        self._running: dict[str, Any] = {}  # a stage's name -> what submit returned
        self._last_line = 0.0

    def run(self) -> None:
        """Run the stages that wait, until none can run."""
        self._log("goes on" if any(status.state == "done" for status in self._statuses.values()) else "begins")
        try:
            while True:
                self._start()
                if not self._running:
                    break
                # Polled one by one: submitit's jobs are not futures that one could wait for. A future is dropped with
                # its result: dask would run the stage again for one still held when the worker that ran it dies.
                ended = [name for name, future in self._running.items() if future.done()]
                for name in ended:
                    self._collect(self._statuses[name])
                if not ended and time.monotonic() > self._last_line + 30:
                    self._log(f"{', '.join(self._running)} running")
                elif not ended:
                    time.sleep(0.1)
        finally:
            if self._local:
                self._local.shutdown(cancel_futures=True)
            for future in self._running.values():  # none but after an interrupt
                future.cancel()

    def _start(self) -> None:
        """Start the stages whose needs are done, as far as there are workers; skip those whose needs failed."""
        for status in (status for status in self._statuses.values() if status.state == "waiting"):
            needs = [self._statuses[need].state for need in status.stage.needs]
            if {"failed", "skipped"} & set(needs):
                status.state = "skipped"
            elif all(state == "done" for state in needs) and not (self._local and len(self._running) >= self._workers):
                try:
                    prepare_folder(status.stage, status.key)
                except InputError as error:  # another process writes its run
                    status.state, status.exit_code, status.error = "failed", 2, str(error)
                    self._log(f"{status.stage.name} cannot start: {error}")
                    continue
                status.state, self._started[status.stage.name] = "running", time.monotonic()
                self._submit(status.stage)
                self._log(f"{status.stage.name} starts")

    def _submit(self, stage: Stage) -> None:
        self._tries[stage.name] = self._tries.get(stage.name, 0) + 1
        try:
            arguments = (_command(stage), stage.name, self._environment, os.getcwd(), time.time())
            self._running[stage.name] = self._executor.submit(run_stage, *arguments)
        except Exception as error:  # such as a broken pool's
            self._running[stage.name] = Future()
            self._running[stage.name].set_exception(error)

    def _collect(self, status: StageStatus) -> None:
        """Take a stage's result; submit it again if its worker died."""
        stage = status.stage
        try:
            status.exit_code, status.error, seconds = self._running.pop(stage.name).result()
        except Exception as lost:  # a stage that fails gives an exit code; this is its worker's death
            seconds = round(time.monotonic() - self._started[stage.name], 1)
            why = f"{type(lost).__name__}: {one_line(lost, 200)}"
            if self._tries[stage.name] < TRIES:
                self._submit(stage)
                self._log(f"{stage.name} did not come back ({why}) and starts again")
                return
            status.exit_code, status.error = 1, f"did not come back, {TRIES} times ({why})"
        self._expected[stage.name] = seconds
        record = {"key": status.key, "seconds": seconds}
        if status.exit_code:
            status.state = "failed"
            write_record(stage, {**record, "error": status.error})
            self._log(f"{stage.name} failed after {format_duration(seconds)}: {status.error}")
        else:
            status.state, status.error = "done", ""
            write_record(stage, {**record, "done": status.key, "plain": self._plain[stage.name]})
            self._log(f"{stage.name} done in {format_duration(seconds)}")
        write_text(self._timings, json.dumps(self._expected, indent=1) + "\n")

    def _log(self, text: str) -> None:
        self._last_line = time.monotonic()
        done = sum(status.state == "done" for status in self._statuses.values())
        left = self._time_left()
        about = f"about {format_duration(left)} left" if left else "nothing left to run"
        _print_line(f"[{self._name}] {text} ({done} of {len(self._statuses)} stages done, {about})")

    def _time_left(self) -> float:
        """Seconds: the longest chain of needs, or all the work spread over the workers, whichever is longer."""
        now = time.monotonic()
        work: dict[str, float] = {}
        chain: dict[str, float] = {}
        for name, status in self._statuses.items():
            spent = now - self._started[name] if status.state == "running" else 0.0
            todo = status.state in ("waiting", "running")
            work[name] = max(1.0, self._expected[name] - spent) if todo else 0.0
            chain[name] = work[name] + max((chain[need] for need in status.stage.needs), default=0.0)
        return max(sum(work.values()) / self._workers, *chain.values())


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


def _command(stage: Stage) -> list[str]:
    words = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in stage.parameters.items()]
    return [
        *(sys.executable, "-m", "mentorlib", "run", str(stage.notebook), *words),
        *("--output", str(stage.folder), "--attached"),
    ]


def _environment(threads: str) -> dict[str, str]:
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "MKL_DYNAMIC": "FALSE",  # as many threads on a busy machine: another split of a sum rounds differently
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait slow the other stage down several times
        "KMP_BLOCKTIME": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _expected(statuses: Mapping[str, StageStatus], timings: Path) -> dict[str, float]:
    """Seconds that each stage should take: what it took last time, else what its author expects, else a minute."""
    try:
        last = json.loads(timings.read_text())
    except (OSError, ValueError):
        last = {}
    return {name: last.get(name, (status.stage.minutes or 1) * 60) for name, status in statuses.items()}


def _print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")  # in one call: stages that print at once would mix their lines
    sys.stdout.flush()
