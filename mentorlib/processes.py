"""Processes that we start: none outlives who started it, and one at a time fills a folder."""

import ctypes
import fcntl
import os
import signal
import sys
from pathlib import Path
from typing import IO


def end_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies, so that a killed study or kernel leaves nothing running."""
    if sys.platform.startswith("linux"):
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before the call
            os.kill(os.getpid(), signal.SIGKILL)


def alone_in(folder: Path) -> IO[str]:
    """Wait until no other process fills this folder; it is ours until the file given back is closed.

    A stage is run again when its worker is lost, but a worker that was only out of reach still works on it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / ".lock", "w")  # noqa: SIM115
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waits: another process still fills {folder}", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        pass
    return lock
