"""Processes that the library starts: they end with their parent, and only one at a time writes a folder."""

import ctypes
import fcntl
import os
import signal
import sys
from pathlib import Path
from typing import IO


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies, so that a killed study or kernel leaves nothing running."""
    if sys.platform.startswith("linux"):
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before the call
            os.kill(os.getpid(), signal.SIGKILL)


def lock_folder(folder: Path) -> IO[str]:
    """Wait until no other process writes this folder, and lock it until the returned file is closed.

    A stage is run again when its worker is lost, but a worker that only lost its connection still writes the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / ".lock", "w")  # noqa: SIM115
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting: another process still writes {folder}", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        pass
    return lock
