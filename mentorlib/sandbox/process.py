"""The caller's side of a worker process: starts it, sends it one job at a time, and checks what it replies."""

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..core import Execution, InputError
from . import layers, worker
from .validate import check_value

RECYCLE = 5_000  # calls after which a worker is replaced
PATIENCE = 10  # time limits that a call may take by the clock on a machine too busy to run it
# Workers end with the thread that started them (Linux ties the parent-death signal to it), so a thread that lives as
# long as this process starts them all.
_starter = ThreadPoolExecutor(1, "sandbox")


class InfrastructureFailure(Exception):
    """The worker failed for a reason outside the job."""


class BrokenWorker(Exception):
    """The worker ended, or sent something else than one reply."""


class Timeout(Exception):
    """The job used up its time."""


class WorkerProcess:
    """One worker process and its two pipes. Used by one thread at a time.

    Args:
        fork: whether each job gets a child process of its own.
        confine: names of the layers to apply.
        memory_mb: address space of each process, in MiB.
        time_limit: seconds that a job may take.
    """

    def __init__(self, *, fork: bool, confine: list[str], memory_mb: int, time_limit: float) -> None:
        settings = {
            "fork": fork,
            "layers": confine,
            "memory_mb": memory_mb,
            "time_limit": time_limit,
            "readable": layers.readable_paths(),
        }
        command = [sys.executable, "-I", "-B", "-X", "utf8", layers.WORKER, json.dumps(settings)]
        self.wrapped = "bubblewrap" in confine
        if self.wrapped:
            command = layers.bubblewrap_command() + command
        environment = {"PATH": os.defpath, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LANG": "C.UTF-8"}
        self.process = _starter.submit(
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
        self.fork, self.time_limit = fork, time_limit
        self.requests, self.replies = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.requests, False)
        os.set_blocking(self.replies, False)
        self.received = bytearray()
        self.nonces = os.urandom(8 * RECYCLE)  # a reply counts only with the number of its call
        self.nonce = bytes(8)
        self.calls = 0
        self.ready = False
        self.reusable = True  # whether it may take a job; not after one that it did not answer as it should
        self.pid = self.process.pid
        self.schedule = -1  # descriptor of /proc/PID/schedstat, where Linux keeps it

    def run(self, job: bytes, declared: bool) -> Execution:
        """Run one job (the body of a request, see worker.py), of a declared tool or of free code.

        Raises:
            InfrastructureFailure: the process could not run it for a reason outside the job.
            InputError: a new process could not confine itself.
        """
        self.reusable = False
        try:
            if not self.ready:
                self._wait_ready()
            if self._receive() is not None or self.received:
                raise BrokenWorker("the call before it left something behind")
            self.nonce = self.nonces[8 * self.calls : 8 * self.calls + 8]
            self.calls += 1
            self._send(worker.frame(self.nonce, b"q", job))
        except BrokenWorker as e:
            raise InfrastructureFailure(str(e)) from None
        start = time.monotonic()
        try:
            kind, body = self._wait(start)
        except Timeout:
            error = f"timed out after {self.time_limit:g} s"
            return Execution(error=error, seconds=time.monotonic() - start, fault="model")
        except BrokenWorker as e:
            status = self._status()
            if self.fork or status in (-signal.SIGKILL, -signal.SIGTERM):  # no job can end it in this way
                raise InfrastructureFailure(str(e)) from None
            how = "spoiled its reply" if status is None else f"ended its process (status {status})"
            return Execution(error=f"the call {how}", seconds=time.monotonic() - start, fault="model")
        self.reusable = kind != b"R" and self.calls < RECYCLE
        if kind == b"s":
            raise InfrastructureFailure(body.decode(errors="replace"))
        return _execution(body, time.monotonic() - start, declared)

    def kill(self) -> None:
        """End the process and all processes of its group."""
        with contextlib.suppress(ProcessLookupError):
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def discard(self) -> None:
        """Kill it and close this end of its pipes: only for the thread that uses the worker."""
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        if self.schedule >= 0:
            os.close(self.schedule)
            self.schedule = -1

    # --- a job's time ----------------------------------------------------------------------------------------------

    def _wait(self, start: float) -> tuple[bytes, bytes]:
        """The reply's kind and body.

        A job's time is the clock's less what it waited for a core, so that a busy machine ends no honest call;
        asleep or computing is its own choice. One that gets no core for long is an infrastructure failure.
        """
        limit = self.time_limit
        measured = 0.1 * limit  # few calls take longer, and only those are worth a look at /proc
        if (reply := self._reply_before(start + measured)) is not None:
            return reply
        first = time.monotonic()
        ran_before, queued_before = self.cpu_times()
        deadline = first + limit - measured
        while (reply := self._reply_before(deadline)) is None:
            now = time.monotonic()
            ran, queued = self.cpu_times()
            used = measured + now - first - max(0.0, queued - queued_before)
            in_time = used < limit
            if not in_time and self.schedule >= 0:  # Linux counts a wait for a core only when it is over
                in_time = measured + max(0.0, ran - ran_before) < limit and self._runnable()
            if not in_time or now - start >= PATIENCE * limit:
                return self._stop(in_time)
            deadline = now + max(0.005, limit - used)
        return reply

    def _stop(self, in_time: bool) -> tuple[bytes, bytes]:
        """End a job: its child process, if it has one. Gives the reply if it comes just now."""
        if self.fork:
            with contextlib.suppress(BrokenWorker):
                self._send(worker.frame(self.nonce, b"k", b""))
                reply = self._reply_before(time.monotonic() + 1)
                if reply is not None and reply[0] != b"t":
                    return reply
                self.reusable = reply is not None and self.calls < RECYCLE
        if in_time:
            raise InfrastructureFailure("this machine is too busy")
        raise Timeout

    def cpu_times(self) -> tuple[float, float]:
        """Seconds that the process and a job's child ran on a core, and that they waited for one."""
        if self.schedule < 0:
            return 0.0, 0.0  # this kernel does not report it: the clock decides
        try:
            times = [os.pread(self.schedule, 100, 0).split()]
        except OSError:
            return 0.0, 0.0  # it ended just now: its pipe will report it
        for child in _children(self.pid) if self.fork else ():
            with contextlib.suppress(OSError):  # it ended just now
                times.append(Path(f"/proc/{child}/schedstat").read_bytes().split())
        return sum(int(ran) for ran, *_ in times) / 1e9, sum(int(queued) for _, queued, *_ in times) / 1e9

    def _runnable(self) -> bool:
        """Whether the process, or a job's child, is on a core or ready for one, not asleep."""
        for pid in [self.pid, *(_children(self.pid) if self.fork else ())]:
            with contextlib.suppress(OSError):  # it ended just now
                if Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] == b"R":
                    return True
        return False

    # --- the pipes -------------------------------------------------------------------------------------------------

    def _wait_ready(self) -> None:
        """Wait until a new process reports that it is confined; InputError if it could not confine itself."""
        reply = self._reply_before(time.monotonic() + 20)
        if reply is None:
            raise BrokenWorker("the worker did not start")
        if reply[0] != b"r":
            raise InputError(f"the sandbox cannot confine its worker ({reply[1].decode(errors='replace')})")
        while inner := _children(self.pid):  # bubblewrap starts two processes above the worker
            self.pid = inner[0]
        with contextlib.suppress(OSError):
            self.schedule = os.open(f"/proc/{self.pid}/schedstat", os.O_RDONLY)
        self.ready = True

    def _send(self, frame: bytes) -> None:
        data = memoryview(frame)
        deadline = time.monotonic() + 5
        try:
            while data:
                try:
                    data = data[os.write(self.requests, data) :]
                except BlockingIOError:
                    if not _poll(self.requests, select.POLLOUT, deadline):
                        raise BrokenWorker("the worker takes no job") from None
        except OSError as e:
            raise BrokenWorker(str(e)) from None

    def _reply_before(self, deadline: float) -> tuple[bytes, bytes] | None:
        """The reply's kind and body, or None if it is not complete at the deadline (time.monotonic)."""
        while _poll(self.replies, select.POLLIN, deadline):
            if (reply := self._receive()) is not None:
                return reply
        return None

    def _receive(self) -> tuple[bytes, bytes] | None:
        """Read what has arrived: kind and body of a reply once it is complete."""
        try:
            part = os.read(self.replies, 65_536)
        except BlockingIOError:
            return None
        if not part:
            raise BrokenWorker("the worker ended")
        self.received += part
        if len(self.received) < 4:
            return None
        size = 4 + struct.unpack_from("=I", self.received)[0]
        nonce = self.received[4:12]
        if size > worker.MAX_REPLY + 13 or len(self.received) > size or nonce != self.nonce[: len(self.received) - 4]:
            raise BrokenWorker("the worker sent something else than one reply")
        if len(self.received) < size:
            return None
        reply = bytes(self.received[12:13]), bytes(self.received[13:])
        self.received.clear()
        return reply

    def _status(self) -> int | None:
        """The exit status of a process that ended just now (negative: the signal); None if it still runs."""
        try:
            status = self.process.wait(0.2)
        except subprocess.TimeoutExpired:
            return None
        return 128 - status if status > 128 and self.wrapped else status  # how bubblewrap passes a signal on


def _children(pid: int) -> list[int]:
    """Child processes; none where /proc does not list them."""
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


_decode = json.JSONDecoder(parse_constant=_refuse).decode


def _execution(body: bytes, seconds: float, declared: bool) -> Execution:
    """A reply's JSON as an Execution. A hostile job may have forged it, so everything is checked again.

    Where a declared tool's own source failed, the fault is not the model's.
    """
    try:
        reply = _decode(body.decode())
        value, stdout, error = reply["value"], reply["stdout"], reply["error"]
        if not isinstance(stdout, str) or not isinstance(error, str | None):
            raise ValueError("it has the wrong form")
        stdout = stdout[: worker.MAX_STDOUT].encode("utf-8", "replace").decode()
        if error is None:
            check_value(value)
            if len(body) > worker.MAX_VALUE and len(json.dumps(value)) > worker.MAX_VALUE:
                raise ValueError("it is too large")
            return Execution(value, stdout, None, seconds)
        error = " ".join(error.encode("utf-8", "replace").decode().split())[:500] or "error"
        if declared and reply.get("tool") is True:
            return Execution(None, stdout, error, seconds, "tool")
        return Execution(None, stdout, error, seconds, "model")
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        return Execution(error=f"the result cannot be read: {e}", seconds=seconds, fault="model")
