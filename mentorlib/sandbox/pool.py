"""Runs tools and model-written code where they can do no harm. Linux only (x86_64, aarch64), as root or not.

Covered. A call cannot open a file outside Python's own library folders (without landlock or bubblewrap: no file at
all), write to a file, start a process or thread, open a socket, signal or trace a process, see the caller's
environment or memory, use more memory or time than its limits, flood its output, change the result of a later call,
or return anything but bounded JSON. Seccomp (an allow-list of system calls), no_new_privs, dropped capabilities and
resource limits do this; landlock and bubblewrap are added where the machine has them. ``python -m mentorlib doctor``
tests each of them. A call's time is the clock's less what it waited for a core (where Linux keeps
/proc/PID/schedstat), so that a busy machine fails no honest call; on a machine far too busy, the failure counts as an
infrastructure failure, not as the model's.

Not covered. Bugs of the kernel and of the CPU (side channels), and a caller that executes what a result says. File
names and sizes below the library folders can be seen, and with landlock alone the existence of any path can be
probed. Declared tools (``isolate=False``) share a process and are trusted with it: a call that changes a module
retires the process, but state inside C modules (a decimal context, a random seed) lives until the process is
replaced, and a tool written to do so could answer for the calls after it. Use ``isolate=True`` for tools that you did
not write; those that a data set brings along always are (data/parquet.py). The limits hold for each process:
``workers`` calls of each kind together can fill as many cores and as many times ``memory_mb``.

macOS and Windows have none of these layers: use a Linux machine, or a container there.

There are two kinds of worker process, both started by exec with an empty environment, so that nothing of the caller
is in them (see worker.py). One answers many calls of declared tools and is confined for good. The other is a fork
server: it gives free code, and tools with ``isolate``, a confined child process for each call.
"""

import json
import struct
import sys
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from ..core import Execution, InputError
from .layers import REMEDIES, available_layers
from .process import InfrastructureFailure, WorkerProcess

MAX_SOURCE = 1_000_000  # bytes of source and arguments of one job
NOT_LOADED = "the tools' source does not load: "
CLOSED = "the sandbox is closed: make another one, Sandbox()"


@dataclass(frozen=True)
class Job:
    """What to run: the function ``name`` of ``source`` with ``arguments``, or free code that sets ``result``.

    ``name`` None means free code, which always gets a process for itself; ``isolate`` asks that for a function too.
    """

    source: str
    name: str | None = None
    arguments: dict[str, Any] | None = None
    isolate: bool = False


class Sandbox:
    """A pool of confined processes that run jobs. Use it in a ``with`` block, from any number of threads.

    Args:
        workers: processes of each kind, at most; also the number of jobs of a kind that run at the same time.
        time_limit: seconds that a job may take, computing or asleep. Waiting for a core is not counted, but ends the
            job as an infrastructure failure after ten times as long.
        memory_mb: address space of a process, in MiB.
        layers: layers to require besides seccomp, which always is; None takes all that this machine has.

    Raises:
        InputError: not on Linux, a layer that was asked for is missing, or a limit is too small.
    """

    def __init__(
        self,
        workers: int = 2,
        time_limit: float = 1.0,
        memory_mb: int = 512,
        layers: Sequence[str] | None = None,
    ) -> None:
        if sys.platform != "linux":
            raise InputError("the sandbox needs Linux: use a Linux machine, or a container on this one")
        available = available_layers()
        wanted = {"seccomp", *(layers if layers is not None else (name for name in available if available[name]))}
        for name in sorted(wanted):
            if name not in REMEDIES:
                raise InputError(f"sandbox: unknown layer {name!r}: choose among {', '.join(REMEDIES)}")
            if not available[name]:
                raise InputError(f"sandbox: this machine lacks the layer {name}: {REMEDIES[name]}")
        if workers < 1 or not time_limit > 0 or memory_mb < 64:
            raise InputError("sandbox: workers must be at least 1, time_limit above 0, memory_mb at least 64")
        self.workers, self.time_limit, self.memory_mb = workers, time_limit, memory_mb
        self.layers = sorted(wanted)
        self.processes: set[WorkerProcess] = set()  # all that run, idle or busy
        self._closed = False
        self._load_errors: dict[str, str | None] = {}  # of the tools' sources that were tried alone; None: it loads
        # By kind (declared tools, fork server): idle workers, and None for each that may still be started. The last in
        # is the first out, so that a worker is started only when all others are busy.
        self._idle: dict[bool, list[WorkerProcess | None]] = {fork: [None] * workers for fork in (False, True)}
        self._lock = threading.Lock()
        self._freed = {fork: threading.Condition(self._lock) for fork in (False, True)}
        self._threads = ThreadPoolExecutor(2 * workers, "sandbox")

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process. Jobs that run now end as infrastructure failures."""
        with self._lock:
            self._closed = True
            idle = {worker for workers in self._idle.values() for worker in workers if worker is not None}
            self._idle = {fork: [None] * len(workers) for fork, workers in self._idle.items()}
            busy = self.processes - idle
            self.processes -= idle
        for worker in idle:
            worker.discard()
        for worker in busy:
            worker.kill()  # its thread sees the end of the pipe and discards it
        self._threads.shutdown()

    def run(self, job: Job) -> Execution:
        """Run one job. Never raises for what the job does."""
        return self.run_many([job])[0]

    def run_many(self, jobs: Sequence[Job]) -> list[Execution]:
        """Run jobs at the same time, as many as there are workers; their executions in the order of the jobs.

        After an infrastructure failure (a process killed from outside, no memory to fork) a job is tried once more;
        after a second, its execution has ``fault="sandbox"``. That of a tool whose own source fails, whatever the call
        (it does not load, or returns what has no JSON form), has ``fault="tool"``.

        Raises:
            InputError: the sandbox is closed, a process could not confine itself, or a job's arguments are not JSON.
        """
        if self._closed:
            raise InputError(CLOSED)
        executions: list[Execution] = [Execution()] * len(jobs)
        waiting: dict[bool, deque[tuple[int, bytes]]] = {False: deque(), True: deque()}
        for i, job in enumerate(jobs):
            body = _encode(i, job)
            if len(body) > MAX_SOURCE:
                too_long = f"the code is too long: at most {MAX_SOURCE:,} bytes"
                tools = job.name is not None and len(job.source.encode("utf-8", "surrogatepass")) > MAX_SOURCE // 2
                executions[i] = Execution(error=too_long, fault="tool" if tools else "model")
            else:
                waiting[job.isolate or job.name is None].append((i, body))

        def work(fork: bool) -> None:
            while waiting[fork]:
                try:
                    i, body = waiting[fork].popleft()
                except IndexError:  # another thread took the last one
                    return
                executions[i] = self._execute(fork, body, jobs[i])

        # One thread for each worker that has something to do. This thread is one of them: a single job, which is
        # what most callers have, then needs no other.
        kinds = [fork for fork in waiting for _ in range(min(self.workers, len(waiting[fork])))]
        try:
            helpers = [self._threads.submit(work, fork) for fork in kinds[1:]]
        except RuntimeError:  # closed just now
            raise InputError(CLOSED) from None
        try:
            if kinds:
                work(kinds[0])
            for helper in helpers:
                helper.result()
        finally:
            for left in waiting.values():
                left.clear()  # after an error, or an interrupt, the helpers stop, too
        return executions

    def _execute(self, fork: bool, body: bytes, job: Job) -> Execution:
        """Run a job on one worker, and after an infrastructure failure on another."""
        reason = ""
        for _ in range(2):
            try:
                execution = self._attempt(fork, body, job.name is not None)
                return self._blamed(execution, fork, job) if job.name is not None else execution
            except InfrastructureFailure as e:
                reason = str(e)
        return Execution(error=f"the sandbox failed: {reason}", fault="sandbox")

    def _blamed(self, execution: Execution, fork: bool, job: Job) -> Execution:
        """The execution of a declared tool, charged to its source if that fails to load in the same way.

        A call that used up its time, or ended its process, cannot say whether it was still loading.
        """
        error = execution.error or ""
        if execution.fault != "model" or not (error.startswith("timed out") or "its process" in error):
            return execution
        if job.source not in self._load_errors:
            probe = Job(f"{job.source}\n\ndef _load():\n    return None\n", "_load")
            self._load_errors[job.source] = self._attempt(fork, _encode(0, probe), True).error
        if (why := self._load_errors[job.source]) is None:
            return execution
        return replace(execution, error=f"{NOT_LOADED}{why}", fault="tool")

    def _attempt(self, fork: bool, body: bytes, declared: bool) -> Execution:
        with self._lock:
            self._freed[fork].wait_for(lambda: self._idle[fork])
            worker = self._idle[fork].pop()
        try:
            if worker is None:
                worker = self._start(fork)
            execution = worker.run(body, declared)
            if self._closed and execution.error is not None:
                raise InfrastructureFailure("it was closed")
            return execution
        finally:
            with self._lock:
                keep = worker is not None and worker.reusable and not self._closed
                if worker is not None and not keep:
                    self.processes.discard(worker)
                self._idle[fork].append(worker if keep else None)
                self._freed[fork].notify()
            if worker is not None and not keep:
                worker.discard()

    def _start(self, fork: bool) -> WorkerProcess:
        with self._lock:  # so that close() misses no process
            if self._closed:
                raise InfrastructureFailure("it was closed")
            try:
                worker = WorkerProcess(
                    fork=fork, confine=self.layers, memory_mb=self.memory_mb, time_limit=self.time_limit
                )
            except OSError as e:  # no process or memory left to start one
                raise InfrastructureFailure(str(e)) from None
            self.processes.add(worker)
            return worker


def _encode(i: int, job: Job) -> bytes:
    """The body of a request (see worker.py)."""
    try:
        call = json.dumps({"name": job.name, "arguments": job.arguments or {}}).encode()
    except (TypeError, ValueError, RecursionError) as e:
        raise InputError(f"sandbox: the arguments of job {i} are not JSON: {e}") from None
    source = job.source.encode("utf-8", "surrogatepass")
    return struct.pack("=I", len(source)) + source + call
