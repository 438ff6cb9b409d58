"""Runs tools and model-written code where they can do no harm. Linux only (x86_64, aarch64), as root or not.

Covered: a call cannot open a file outside Python's own library folders (without landlock or bubblewrap: none at
all), write to any file, start a process or thread, open a socket, signal or trace a process, see the caller's
environment or memory, use more memory or time than it is given, flood its output, poison later calls, or hand back
anything but bounded JSON. Seccomp (an allow-list), no_new_privs, dropped capabilities and resource limits do this;
landlock and bubblewrap come on top where the machine has them.

Not covered: bugs of the kernel and of the CPU (side channels), and a caller that runs what the code *says*. File
names and sizes below the library folders can be seen, and with landlock those of any path can be probed. Declared
tools (``isolate=False``) share a process: a tool that changes a module retires it, but state hidden inside C
modules (a decimal context, a random seed) lives until the process is recycled; take ``isolate=True`` for tools you
did not write. macOS and Windows have none of these layers: use a Linux machine, or a container there.

Two kinds of worker process, both started by exec with an empty environment, so that nothing of the caller is in
them (see _worker.py): one answers many calls of declared tools and is confined for good; the other is a fork server
that gives free code, and tools with ``isolate``, a confined child of their own for each call.
"""

import contextlib
import json
import math
import os
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
from typing import Any

from . import _worker
from .core import Execution, InputError

HINTS = {
    "seccomp": "it needs Linux on x86_64 or aarch64 with CONFIG_SECCOMP_FILTER",
    "landlock": "it needs Linux 5.13 or newer, booted with landlock among its LSMs (lsm=landlock,…)",
    "bubblewrap": "install bubblewrap (apt install bubblewrap) and allow user namespaces",
}
RECYCLE = 5_000  # calls after which a worker of declared tools is replaced
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
        if "bubblewrap" in sandbox.layers:
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

    def wait_ready(self) -> None:
        """Wait for a new process to say that it is confined; InputError if it could not confine itself."""
        deadline = time.monotonic() + 20
        self.nonce = bytes(8)
        while (reply := self.receive()) is None:
            if not _poll(self.replies, select.POLLIN, deadline):
                raise _Gone("the worker did not start")
        if reply[0] != b"r":
            raise InputError(f"the sandbox cannot confine its worker ({reply[1].decode(errors='replace')})")
        self.ready = True

    def send(self, body: bytes) -> None:
        """Hand a job to the process. Raises _Gone when it cannot take it."""
        if not self.ready:
            self.wait_ready()
        self.calls += 1
        self.nonce = os.urandom(8)
        data = memoryview(_worker.frame(self.nonce, b"q", body))
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
            part = os.read(self.replies, 1 << 20)
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
        return 128 - status if status > 128 else status  # bubblewrap passes a signal on as 128 + its number

    def kill(self) -> None:
        """End the process and whatever is in its group."""
        with contextlib.suppress(ProcessLookupError):
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()


def _poll(fd: int, event: int, deadline: float) -> bool:
    """Whether ``fd`` became ready before the deadline (time.monotonic)."""
    poller = select.poll()
    poller.register(fd, event)
    return bool(poller.poll(max(0.0, deadline - time.monotonic()) * 1000))


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def check_value(value: Any, depth: int = _worker.MAX_DEPTH) -> None:
    """ValueError if a parsed JSON value holds what does not survive the next step: infinity, depth, lone surrogates."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("it holds a number that is not finite")
    elif isinstance(value, str):
        value.encode()  # UnicodeEncodeError is a ValueError
    elif isinstance(value, list | dict):
        if depth == 0:
            raise ValueError(f"it is nested deeper than {_worker.MAX_DEPTH}")
        for item in value if isinstance(value, list) else [*value, *value.values()]:
            check_value(item, depth - 1)


def _execution(body: bytes, seconds: float) -> Execution:
    """A reply's JSON as an Execution. The process may be hostile: believes nothing."""
    try:
        reply = json.loads(body.decode(), parse_constant=_refuse)
        value, stdout, error = reply["value"], reply["stdout"], reply["error"]
        if not isinstance(stdout, str) or not isinstance(error, str | None):
            raise ValueError("it has the wrong form")
        stdout = stdout[: _worker.MAX_STDOUT].encode("utf-8", "replace").decode()
        if error is None:
            check_value(value)
            return Execution(value, stdout, None, seconds)
        error = " ".join(error.encode("utf-8", "replace").decode().split())[:500] or "error"
        return Execution(None, stdout, error, seconds, "model")
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        return Execution(error=f"the result cannot be read: {e}", seconds=seconds, fault="model")


class Sandbox:
    """A pool of confined processes that run jobs. Use it in a ``with``; from as many threads as you like.

    Args:
        workers: processes of each kind, at most; jobs that run at the same time.
        time_limit: seconds that a job may take.
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
        self._change = threading.Condition()
        self._idle: dict[bool, list[_Worker]] = {False: [], True: []}
        self._count = {False: 0, True: 0}
        self._all: set[_Worker] = set()
        self._closed = False

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process. Jobs that run now end as faults of the sandbox."""
        with self._change:
            self._closed = True
            everyone = list(self._all)
            self._change.notify_all()
        for worker in everyone:
            worker.kill()

    def run(self, job: Job) -> Execution:
        """Run one job. Never raises for what the job does."""
        return self.run_many([job])[0]

    def run_many(self, jobs: Sequence[Job]) -> list[Execution]:
        """Run jobs at the same time, as many as there are workers; their executions in the order of the jobs.

        A failure of ours (a process killed from outside, no memory to fork) is tried once more, then told by
        ``fault="sandbox"``.
        """
        done: list[Execution | None] = [None] * len(jobs)
        tried = [0] * len(jobs)
        waiting: dict[bool, deque[int]] = {False: deque(), True: deque()}
        bodies: list[bytes] = []
        for i, job in enumerate(jobs):
            body = json.dumps({"source": job.source, "name": job.name, "arguments": job.arguments or {}}).encode()
            bodies.append(body)
            if len(body) > MAX_SOURCE:
                done[i] = Execution(error=f"the code is too long: at most {MAX_SOURCE:,} bytes", fault="model")
            else:
                waiting[job.isolate or job.name is None].append(i)
        busy: dict[int, tuple[_Worker, int, float]] = {}  # reply pipe -> worker, job, start
        poller = select.poll()

        def ours(i: int, kind: bool, why: str) -> None:
            tried[i] += 1
            if tried[i] < 2:
                waiting[kind].append(i)
            else:
                done[i] = Execution(error=f"the sandbox failed: {why}", fault="sandbox")

        def release(worker: _Worker, keep: bool) -> None:
            poller.unregister(worker.replies)
            del busy[worker.replies]
            self._give(worker, keep)

        try:
            while busy or waiting[False] or waiting[True]:
                for kind, queue in waiting.items():
                    while queue:
                        try:
                            if (worker := self._take(kind, wait=not busy)) is None:
                                break
                        except OSError as e:  # no process or memory left to start one
                            ours(queue.popleft(), kind, str(e))
                            continue
                        i = queue.popleft()
                        busy[worker.replies] = (worker, i, time.monotonic())
                        poller.register(worker.replies, select.POLLIN)
                        try:
                            worker.send(bodies[i])
                            busy[worker.replies] = (worker, i, time.monotonic())
                        except _Gone as e:
                            release(worker, keep=False)
                            ours(i, kind, str(e))
                if not busy:
                    continue
                # The fork server keeps the limit itself; should it not answer, we end it a second later.
                deadline = min(start + self.time_limit + worker.fork for worker, _, start in busy.values())
                events = poller.poll(max(0.0, deadline - time.monotonic()) * 1000 + 1)
                now = time.monotonic()
                for fd, _ in events:
                    worker, i, start = busy[fd]
                    try:
                        reply = worker.receive()
                        if reply is None:
                            continue
                        release(worker, keep=reply[0] != b"R" and worker.calls < RECYCLE)
                        if reply[0] == b"s":
                            ours(i, worker.fork, reply[1].decode(errors="replace"))
                        else:
                            done[i] = _execution(reply[1], now - start)
                    except _Gone as e:
                        status = worker.status()
                        release(worker, keep=False)
                        if worker.fork or status in (-signal.SIGKILL, -signal.SIGTERM) or self._closed:
                            ours(i, worker.fork, str(e))
                        else:
                            how = "spoiled its reply" if status is None else f"ended its process (status {status})"
                            done[i] = Execution(error=f"the call {how}", seconds=now - start, fault="model")
                for worker, i, start in [*busy.values()]:
                    if now - start > self.time_limit + worker.fork:
                        release(worker, keep=False)
                        why = f"timed out after {self.time_limit:g} s"
                        done[i] = Execution(error=why, seconds=now - start, fault="model")
        finally:
            for worker, _, _ in [*busy.values()]:
                release(worker, keep=False)
        return [execution for execution in done if execution is not None]

    def _take(self, kind: bool, wait: bool) -> _Worker | None:
        """An idle worker, or a new one where there are fewer than allowed, or None (``wait``: wait for one)."""
        with self._change:
            while True:
                if self._closed:
                    raise RuntimeError("the sandbox is closed")
                if self._idle[kind]:
                    return self._idle[kind].pop()
                if self._count[kind] < self.workers:
                    self._count[kind] += 1
                    break
                if not wait:
                    return None
                self._change.wait()
        try:
            worker = _Worker(self, kind)
        except BaseException:
            with self._change:
                self._count[kind] -= 1
                self._change.notify()
            raise
        with self._change:
            self._all.add(worker)
        return worker

    def _give(self, worker: _Worker, keep: bool) -> None:
        """Take a worker back, or end it."""
        with self._change:
            if keep and not self._closed:
                self._idle[worker.fork].append(worker)
            else:
                self._count[worker.fork] -= 1
                self._all.discard(worker)
            self._change.notify()
        if not keep:
            worker.kill()
