"""Runs tools and model-written code where they can do no harm. Linux only (x86_64, aarch64), as root or not.

Covered: a call cannot open a file outside Python's own library folders (without landlock or bubblewrap: none at
all), write to any file, start a process or thread, open a socket, signal or trace a process, see the caller's
environment or memory, use more memory or time than it is given, flood its output, poison later calls, or hand back
anything but bounded JSON. Seccomp (an allow-list), no_new_privs, dropped capabilities and resource limits do this;
landlock and bubblewrap come on top where the machine has them; ``python -m mentorlib doctor`` tries each of them.
A call's time is the clock's less what it waited for a core (where Linux keeps /proc/PID/schedstat), so that a busy
machine fails no honest call; on one far too busy, the failure is counted as ours, not the model's.

Not covered: bugs of the kernel and of the CPU (side channels), and a caller that runs what the code *says*. File
names and sizes below the library folders can be seen, and with landlock those of any path can be probed. Declared
tools (``isolate=False``) share a process and are trusted with it: one that changes a module retires it, but state
hidden inside C modules (a decimal context, a random seed) lives until the process is recycled, and a tool bent on it
could answer for the calls after it; take ``isolate=True`` for tools you did not write. The limits are each
process's own: together, ``workers`` calls of each kind can fill as many cores and as many times ``memory_mb``.

macOS and Windows have none of these layers: use a Linux machine, or a container there.

Two kinds of worker process, both started by exec with an empty environment, so that nothing of the caller is in
them (see _worker.py): one answers many calls of declared tools and is confined for good; the other is a fork server
that gives free code, and tools with ``isolate``, a confined child of their own for each call.
"""

import contextlib
import json
import os
import queue
import select
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..core import Execution, InputError
from . import worker as _worker
from .validate import check_value

HINTS = {
    "seccomp": "it needs Linux on x86_64 or aarch64 with CONFIG_SECCOMP_FILTER",
    "landlock": "it needs Linux 5.13 or newer, booted with landlock among its LSMs (lsm=landlock,…)",
    "bubblewrap": "install bubblewrap (apt install bubblewrap) and allow user namespaces",
}
RECYCLE = 5_000  # calls after which a worker of declared tools is replaced
PATIENCE = 10  # time limits that a call may take by the clock on a machine too busy to run it
MAX_SOURCE = 1_000_000  # characters of source and arguments of one job
_SCRIPT = os.path.abspath(_worker.__file__)
# Workers ask to die with the thread that started them (Linux ties it to the thread): one that lives as long as we do.
_spawner = ThreadPoolExecutor(1, "sandbox")


@dataclass(frozen=True)
class Job:
    """One thing to run: the function ``name`` of ``source`` with ``arguments``, or free code that sets ``result``.

    ``name`` None means free code, which always gets a process of its own; ``isolate`` asks that for a function too.
    """

    source: str
    name: str | None = None
    arguments: dict[str, Any] | None = None
    isolate: bool = False


@cache
def layers() -> dict[str, bool]:
    """The layers and whether this machine has them, each tried (seccomp, landlock, bubblewrap)."""
    if not sys.platform.startswith("linux"):
        return dict.fromkeys(HINTS, False)
    bubblewrap = False
    if shutil.which("bwrap"):
        probe = [*_bubblewrap(), sys.executable, "-I", "-S", "-c", ""]
        with contextlib.suppress(subprocess.TimeoutExpired):
            bubblewrap = subprocess.run(probe, capture_output=True, timeout=10).returncode == 0
    return {
        "seccomp": _worker.seccomp_available(),
        "landlock": _worker.landlock_abi() > 0,
        "bubblewrap": bubblewrap,
    }


_available = layers  # Sandbox has a parameter and an attribute of that name


def _readable() -> list[str]:
    """Paths a call may read: Python's library, installed packages, and the shared libraries they load."""
    library = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo", "/dev/null"]
    return list(dict.fromkeys([*library, *system]))


def _bubblewrap() -> list[str]:
    """The command that starts what follows it in namespaces of its own that hold little but Python."""
    executable = os.path.realpath(sys.executable)
    python = [os.path.dirname(sys.executable), os.path.dirname(executable), os.path.join(sys.prefix, "pyvenv.cfg")]
    python.append(os.path.join(sys.base_prefix, "lib"))
    bwrap = str(shutil.which("bwrap"))  # a worker's own PATH is empty of the caller's
    command = [bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--dev", "/dev"]
    for path in [*_readable()[:-1], *python, _SCRIPT]:
        command += ["--ro-bind-try", path, path]
    return [*command, "--chdir", "/"]


class _Gone(Exception):
    """The worker died or misbehaved; says how."""


class _Worker:
    """One worker process and its two pipes. Used by one thread at a time."""

    def __init__(self, sandbox: "Sandbox", fork: bool) -> None:
        settings = {
            "fork": fork,
            "layers": sandbox.layers,
            "memory_mb": sandbox.memory_mb,
            "time_limit": sandbox.time_limit,
            "readable": _readable(),
        }
        command = [sys.executable, "-I", "-B", "-X", "utf8", _SCRIPT, json.dumps(settings)]
        self.wrapped = "bubblewrap" in sandbox.layers
        if self.wrapped:
            command = _bubblewrap() + command
        environment = {"PATH": os.defpath, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LANG": "C.UTF-8"}
        self.process = _spawner.submit(
            subprocess.Popen,
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env=environment,
            start_new_session=True,
        ).result()
        assert self.process.stdin and self.process.stdout
        self.fork = fork
        self.requests, self.replies = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.requests, False)
        os.set_blocking(self.replies, False)
        self.data = bytearray()
        self.calls = 0
        self.ready = False
        self.nonce = b""
        self.nonces = os.urandom(8 * RECYCLE)
        self.pid = self.process.pid
        self.schedule = -1
        self.job = -1  # of the job at hand: its number, when it began, when to look at it,
        self.start = self.deadline = 0.0
        self.first_look: tuple[float, float, float] | None = None  # when it first was, and ``cores`` then,
        self.late: str | None = None  # and why it was told to stop

    def wait_ready(self) -> None:
        """Wait for a new process to say that it is confined; InputError if it could not confine itself."""
        deadline = time.monotonic() + 20
        self.nonce = bytes(8)
        while (reply := self.receive()) is None:
            if not _poll(self.replies, select.POLLIN, deadline):
                raise _Gone("the worker did not start")
        if reply[0] != b"r":
            raise InputError(f"the sandbox cannot confine its worker ({reply[1].decode(errors='replace')})")
        while inner := _children(self.pid):  # bubblewrap has put two processes above ours
            self.pid = inner[0]
        with contextlib.suppress(OSError):
            self.schedule = os.open(f"/proc/{self.pid}/schedstat", os.O_RDONLY)
        self.ready = True

    def begin(self, job: int, body: bytes, limit: float) -> None:
        """Hand a job to the process. Raises _Gone when it cannot take it."""
        if not self.ready:
            self.wait_ready()
        if self.receive() is not None or self.data:
            raise _Gone("the call before it left something behind")
        self.nonce = self.nonces[8 * self.calls : 8 * self.calls + 8]
        self.calls += 1
        self.job, self.late, self.first_look = job, None, None
        self.send(_worker.frame(self.nonce, b"q", body))
        self.start = time.monotonic()
        self.deadline = self.start + limit / 10

    def cores(self) -> tuple[float, float]:
        """Seconds of the process and a call's child: on a core, and ready to run while other processes had the cores.

        Linux counts a wait when it is over: ``waits`` tells of the one at hand.
        """
        if self.schedule < 0:
            return 0.0, 0.0  # /proc does not say: the clock decides
        try:
            found = [os.pread(self.schedule, 100, 0).split()]
        except OSError:
            return 0.0, 0.0  # it ended just now: its pipe will say so
        for child in _children(self.pid) if self.fork else ():
            with contextlib.suppress(OSError):  # it ended just now
                found.append(Path(f"/proc/{child}/schedstat").read_bytes().split())
        return sum(int(ran) for ran, *_ in found) / 1e9, sum(int(queued) for _, queued, *_ in found) / 1e9

    def waits(self) -> bool:
        """Whether the process, or a call's child, is on a core or ready for one, not asleep."""
        for pid in [self.pid, *(_children(self.pid) if self.fork else ())]:
            with contextlib.suppress(OSError):  # it ended just now
                if Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] == b"R":
                    return True
        return False

    def send(self, frame: bytes) -> None:
        """Write to the process. Raises _Gone when it takes nothing."""
        data = memoryview(frame)
        deadline = time.monotonic() + 5
        try:
            while data:
                try:
                    data = data[os.write(self.requests, data) :]
                except BlockingIOError:
                    if not _poll(self.requests, select.POLLOUT, deadline):
                        raise _Gone("the worker takes no job") from None
        except OSError as e:
            raise _Gone(str(e)) from None

    def receive(self) -> tuple[bytes, bytes] | None:
        """Read what is there: (kind, body) once the reply is whole, else None. Raises _Gone."""
        try:
            part = os.read(self.replies, 65_536)
        except BlockingIOError:
            return None
        if not part:
            raise _Gone("the worker ended")
        self.data += part
        if len(self.data) < 4:
            return None
        size = 4 + struct.unpack_from("=I", self.data)[0]
        if (
            size > _worker.MAX_REPLY + 13
            or len(self.data) > size
            or self.data[4:12] != self.nonce[: len(self.data) - 4]
        ):
            raise _Gone("the worker sent something else than one reply")
        if len(self.data) < size:
            return None
        reply = bytes(self.data[12:13]), bytes(self.data[13:])
        self.data.clear()
        return reply

    def status(self) -> int | None:
        """The exit status of a process that ended just now (negative: the signal); None if it lives."""
        try:
            status = self.process.wait(0.2)
        except subprocess.TimeoutExpired:
            return None
        return 128 - status if status > 128 and self.wrapped else status  # how bubblewrap passes a signal on

    def kill(self) -> None:
        """End the process and whatever is in its group."""
        with contextlib.suppress(ProcessLookupError):
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def discard(self) -> None:
        """The same, and close our ends of its pipes: only for the thread that uses the worker."""
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        if self.schedule >= 0:
            os.close(self.schedule)
            self.schedule = -1


def _children(pid: int) -> list[int]:
    """The processes that this one started; none where /proc does not say."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _poll(fd: int, event: int, deadline: float) -> bool:
    """Whether ``fd`` became ready before the deadline (time.monotonic)."""
    poller = select.poll()
    poller.register(fd, event)
    return bool(poller.poll(max(0.0, deadline - time.monotonic()) * 1000))


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


_read = json.JSONDecoder(parse_constant=_refuse).decode


def _execution(body: bytes, seconds: float) -> Execution:
    """A reply's JSON as an Execution. The process may be hostile: believes nothing."""
    try:
        reply = _read(body.decode())
        value, stdout, error = reply["value"], reply["stdout"], reply["error"]
        if not isinstance(stdout, str) or not isinstance(error, str | None):
            raise ValueError("it has the wrong form")
        stdout = stdout[: _worker.MAX_STDOUT].encode("utf-8", "replace").decode()
        if error is None:
            check_value(value)
            if len(body) > _worker.MAX_VALUE and len(json.dumps(value)) > _worker.MAX_VALUE:
                raise ValueError("it is too large")  # the worker measures it too, but this one was forged
            return Execution(value, stdout, None, seconds)
        error = " ".join(error.encode("utf-8", "replace").decode().split())[:500] or "error"
        return Execution(None, stdout, error, seconds, "model")
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        return Execution(error=f"the result cannot be read: {e}", seconds=seconds, fault="model")


class Sandbox:
    """A pool of confined processes that run jobs. Use it in a ``with``; from as many threads as you like.

    Args:
        workers: processes of each kind, at most; jobs that run at the same time.
        time_limit: seconds that a job may take, computing or asleep; waiting for a core is not counted, but ends
            the job as a failure of ours after ten times as long.
        memory_mb: address space of a process, in MiB.
        layers: layers to require besides seccomp, which always is; None takes all that this machine has.

    Raises:
        InputError: not on Linux, or a layer that was asked for is missing.
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
        have = _available()
        wanted = {"seccomp", *(layers if layers is not None else (name for name, there in have.items() if there))}
        for name in sorted(wanted):
            if name not in HINTS:
                raise InputError(f"sandbox: unknown layer {name!r}: choose among {', '.join(HINTS)}")
            if not have[name]:
                raise InputError(f"sandbox: this machine lacks the layer {name}: {HINTS[name]}")
        if workers < 1 or not time_limit > 0 or memory_mb < 64:
            raise InputError("sandbox: workers must be at least 1, time_limit above 0, memory_mb at least 64")
        self.workers, self.time_limit, self.memory_mb = workers, time_limit, memory_mb
        self.layers = sorted(wanted)
        self._lock = threading.Lock()
        self._idle: dict[bool, list[_Worker]] = {False: [], True: []}
        # The right to use one worker, or to start it: a queue's wait costs less than a condition's or semaphore's.
        self._rights: dict[bool, queue.SimpleQueue[None]] = {False: queue.SimpleQueue(), True: queue.SimpleQueue()}
        for rights in self._rights.values():
            for _ in range(workers):
                rights.put(None)
        self._all: set[_Worker] = set()
        self._closed = False

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process. Jobs that run now end as faults of the sandbox."""
        with self._lock:
            self._closed = True
            idle = self._idle[False] + self._idle[True]
            busy = self._all - set(idle)
            self._all -= set(idle)
            self._idle = {False: [], True: []}
        for worker in idle:
            worker.discard()
        for worker in busy:
            worker.kill()  # its thread then discards it

    def run(self, job: Job) -> Execution:
        """Run one job. Never raises for what the job does."""
        return self.run_many([job])[0]

    def run_many(self, jobs: Sequence[Job]) -> list[Execution]:
        """Run jobs at the same time, as many as there are workers; their executions in the order of the jobs.

        A failure of ours (a process killed from outside, no memory to fork) is tried once more, then told by
        ``fault="sandbox"``.

        Raises:
            InputError: the sandbox is closed, a process could not confine itself, or a job's arguments are not JSON.
        """
        if self._closed:
            raise InputError("the sandbox is closed: make another one, Sandbox()")
        done: list[Execution | None] = [None] * len(jobs)
        tried = [0] * len(jobs)
        waiting: dict[bool, deque[int]] = {False: deque(), True: deque()}
        bodies: list[bytes] = []
        for i, job in enumerate(jobs):
            try:
                body = json.dumps({"name": job.name, "arguments": job.arguments or {}}).encode()
            except (TypeError, ValueError, RecursionError) as e:
                raise InputError(f"sandbox: the arguments of job {i} are not JSON: {e}") from None
            source = job.source.encode("utf-8", "surrogatepass")
            body = struct.pack("=I", len(source)) + source + body
            bodies.append(body)
            if len(body) > MAX_SOURCE:
                done[i] = Execution(error=f"the code is too long: at most {MAX_SOURCE:,} bytes", fault="model")
            else:
                waiting[job.isolate or job.name is None].append(i)
        busy: dict[int, _Worker] = {}  # by reply pipe
        poller = select.poll()

        def ours(i: int, kind: bool, why: str) -> None:
            tried[i] += 1
            if tried[i] < 2 and not self._closed:
                waiting[kind].append(i)
            else:
                done[i] = Execution(error=f"the sandbox failed: {why}", fault="sandbox")

        def release(worker: _Worker, keep: bool) -> None:
            poller.unregister(worker.replies)
            del busy[worker.replies]
            self._give(worker, keep)

        def finish_late(worker: _Worker, now: float) -> None:
            if worker.late:
                ours(worker.job, worker.fork, worker.late)
            else:
                why, seconds = f"timed out after {self.time_limit:g} s", now - worker.start
                done[worker.job] = Execution(error=why, seconds=seconds, fault="model")

        try:
            while busy or waiting[False] or waiting[True]:
                for kind, jobs_left in waiting.items():
                    while jobs_left:
                        try:
                            if (worker := self._take(kind, wait=not busy)) is None:
                                break
                        except (OSError, _Gone) as e:  # no process or memory left to start one, or closed just now
                            ours(jobs_left.popleft(), kind, str(e))
                            continue
                        i = jobs_left.popleft()
                        busy[worker.replies] = worker
                        poller.register(worker.replies, select.POLLIN)
                        try:
                            worker.begin(i, bodies[i], self.time_limit)
                        except _Gone as e:
                            release(worker, keep=False)
                            ours(i, kind, str(e))
                if not busy:
                    continue
                deadline = min(worker.deadline for worker in busy.values())
                events = poller.poll(max(0.0, deadline - time.monotonic()) * 1000 + 1)
                now = time.monotonic()
                for fd, _ in events:
                    worker = busy[fd]
                    i = worker.job
                    try:
                        reply = worker.receive()
                        if reply is None:
                            continue
                        release(worker, keep=reply[0] != b"R" and worker.calls < RECYCLE)
                        if reply[0] == b"s":
                            ours(i, worker.fork, reply[1].decode(errors="replace"))
                        elif reply[0] == b"t":
                            finish_late(worker, now)
                        else:
                            done[i] = _execution(reply[1], now - worker.start)
                    except _Gone as e:
                        status = worker.status()
                        release(worker, keep=False)
                        if worker.fork or status in (-signal.SIGKILL, -signal.SIGTERM) or self._closed:
                            ours(i, worker.fork, str(e))
                        else:
                            how = "spoiled its reply" if status is None else f"ended its process (status {status})"
                            done[i] = Execution(error=f"the call {how}", seconds=now - worker.start, fault="model")
                for worker in [*busy.values()]:
                    if now >= worker.deadline and self._expired(worker, now):
                        release(worker, keep=False)
                        finish_late(worker, now)
        finally:
            for worker in [*busy.values()]:
                release(worker, keep=False)
        return [execution for execution in done if execution is not None]

    def _expired(self, worker: _Worker, now: float) -> bool:
        """Whether to end this worker, its deadline past. Else sets the next deadline.

        A call's time is the clock's less what it spent waiting for a core, so that a busy machine ends no honest
        call; asleep or computing is its own choice. One that gets no core for long is our failure.
        """
        if worker.late is not None:
            return True  # the fork server was told, and does not answer
        seconds = now - worker.start
        if worker.first_look is None:  # a tenth of the limit is over, which few calls take; measured from here on
            worker.first_look = now, *worker.cores()
            worker.deadline = now + 0.9 * self.time_limit
            return False
        then, *before = worker.first_look
        ran, queued = (max(0.0, b - a) for a, b in zip(before, worker.cores(), strict=True))
        used = 0.1 * self.time_limit + now - then - queued
        honest = used < self.time_limit
        if not honest and worker.schedule >= 0:
            honest = 0.1 * self.time_limit + ran < self.time_limit and worker.waits()
        if honest and seconds < PATIENCE * self.time_limit:
            worker.deadline = now + max(0.005, self.time_limit - used)
            return False
        worker.late = "this machine is too busy" if honest else ""
        worker.deadline = now + 1
        if worker.fork:
            with contextlib.suppress(_Gone):
                worker.send(_worker.frame(worker.nonce, b"k", b""))
                return False
        return True

    def _take(self, kind: bool, wait: bool) -> _Worker | None:
        """An idle worker, or a new one where there are fewer than allowed, or None (``wait``: wait for one)."""
        try:
            self._rights[kind].get(block=wait)
        except queue.Empty:
            return None
        try:
            with self._lock:
                if self._idle[kind]:
                    return self._idle[kind].pop()
                if self._closed:
                    raise _Gone("it was closed")
            worker = _Worker(self, kind)
            with self._lock:
                if not self._closed:
                    self._all.add(worker)
                    return worker
            worker.discard()
            raise _Gone("it was closed")
        except BaseException:
            self._rights[kind].put(None)
            raise

    def _give(self, worker: _Worker, keep: bool) -> None:
        """Take a worker back, or end it."""
        with self._lock:
            keep = keep and not self._closed
            if keep:
                self._idle[worker.fork].append(worker)
            else:
                self._all.discard(worker)
        if not keep:
            worker.discard()
        self._rights[worker.fork].put(None)
