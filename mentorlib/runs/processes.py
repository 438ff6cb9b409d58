"""Processes that the library starts: they end with their parent, and only one at a time writes a folder."""

import ctypes
import fcntl
import math
import os
import platform
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from ..core import InputError
from .files import describe_os_error, make_folder


def die_with_parent(starter: int = 0) -> None:
    """Ask Linux to kill this process when its parent dies, so that a killed study or kernel leaves nothing running.

    ``starter`` is the process that started it, if it is known: it may have died before this call, while this process
    imported torch, say.
    """
    if sys.platform.startswith("linux"):
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent or (starter and not Path(f"/proc/{starter}").exists()):  # it died before the call
            os.kill(os.getpid(), signal.SIGKILL)


def lock_folder(folder: Path, patience: float = math.inf, name: str = ".lock") -> IO[str]:
    """Wait until no other process writes this folder, and lock it until the returned file is closed.

    A stage is run again when its worker is lost, but a worker that only lost its connection still writes the folder.

    Args:
        folder: is made if it is missing.
        patience: seconds to wait.
        name: of the lock's file in the folder, which holds who has the lock.

    Raises:
        InputError: another process has the lock for longer than ``patience``.
    """
    make_folder(folder)
    begun, said = time.monotonic(), False
    while True:
        try:
            lock = open(folder / name, "a+")  # noqa: SIM115
        except OSError as error:
            raise InputError(describe_os_error(error, folder)) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read() or "another process"
            lock.close()
            if time.monotonic() - begun >= patience:
                raise InputError(
                    f"{folder} is being written by {holder}: wait until it ends (in JupyterLab: until its last cell "
                    "has run, or restart its kernel), or choose another run name"
                ) from None
            if not said and patience == math.inf:
                print(f"waiting: {holder} still writes {folder}", flush=True)
                said = True
            time.sleep(0.1)
            continue
        except OSError:  # a file system without locks
            return lock
        if _is_file(lock, folder / name):  # else it was removed, with its folder or by its holder, in between
            with suppress(OSError):  # a full disk: the lock holds without the name
                os.ftruncate(lock.fileno(), 0)
                os.write(lock.fileno(), f"process {os.getpid()} on {platform.node()}".encode())
            return lock
        lock.close()
        make_folder(folder)


def unlock_folder(lock: IO[str]) -> None:
    """Give a lock back and remove its file."""
    if _is_file(lock, Path(lock.name)):
        os.unlink(lock.name)
    lock.close()


def _is_file(opened: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(opened.fileno()), os.stat(path))
    except OSError:
        return False


RUN_LOCK = ".writer"
# After a kill, the kernel of a notebook ends within a second or two; until then it still has its run's lock.
RUN_PATIENCE = 5.0  # seconds
_claimed: dict[str, IO[str]] = {}  # the runs that this process writes, by path


def claim_run(folder: Path) -> None:
    """Make this process the one that writes a run's folder, until `release_run` or its end. Idempotent.

    The processes that a training launches, and Run.open, take no claim: they belong to the process that has it.

    Raises:
        InputError: another process writes it.
    """
    key = os.path.realpath(folder)
    lock = _claimed.get(key)
    if lock is None or not _is_file(lock, folder / RUN_LOCK):  # the folder may have been removed and made again
        _claimed[key] = lock_folder(folder, RUN_PATIENCE, RUN_LOCK)


def release_run(folder: Path) -> None:
    """Let other processes write a run's folder."""
    lock = _claimed.pop(os.path.realpath(folder), None)
    if lock:
        unlock_folder(lock)
