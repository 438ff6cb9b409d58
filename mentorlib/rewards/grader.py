"""The helper process that asks math-verify and mathruler about an answer: time-limited, bounded, replaced when needed.

The libraries hang on some texts (``9**9**9**9``), set timeouts by signals, which only the main thread may do, and
swallow exceptions. So they run in one helper process, started at the first answer that needs them, and killed when an
answer takes too long or too much memory.

The helper reads model-written text with sympy, whose parser evaluates Python after mathruler's filter (two distinct
letters at most). It has no secrets (a bare environment), may not write files, and is bounded in memory, processor and
wall time; it is not a sandbox. Its program is judge_process.py.
"""

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

MEMORY_MB = 1024
_PROGRAM = Path(__file__).resolve().with_name("judge_process.py")
_STARTUP = 120.0  # seconds for the helper to import sympy on a busy machine
_LONGEST = 1_000  # bytes of a verdict


class HelperFailed(Exception):
    """The helper did not start ("unavailable") or broke ("crash"); the same answer may be judged the next time."""


class Helper:
    """One child process that judges; killed when it does not answer as agreed, and started again when needed.

    Messages are lines of JSON, never pickles, which a hostile answer could use to run code in this process.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, prediction: str, gold: str, official: bool, time_limit: float) -> tuple[bool | None, str]:
        """Whether the prediction is right (None if that could not be judged), and the rule that decided.

        Raises:
            HelperFailed: the helper did not start or broke.
        """
        with self.lock:
            try:
                if self.process is None:
                    self.start()
                self.socket.settimeout(time_limit)
                self.socket.sendall(json.dumps([prediction, gold, official, time_limit]).encode() + b"\n")
                answer = self.receive(time_limit)
            except TimeoutError:
                self.stop()
                return None, "timeout"
            except (OSError, ValueError, EOFError) as error:
                self.stop()
                raise HelperFailed("crash") from error
            except BaseException:
                self.stop()  # after an interrupted exchange the next answer would get this one's verdict
                raise
            if answer["spent"]:
                self.stop()
            return answer["correct"], answer["how"]

    def start(self) -> None:
        keep = ("PATH", "LD_LIBRARY_PATH", "LANG", "HOME")
        environment = {key: os.environ[key] for key in keep if key in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self.socket, end = socket.socketpair()
        try:
            self.process = subprocess.Popen(
                # -P: the program's folder must not be on the path, where its modules' names would hide other packages.
                [sys.executable, "-P", str(_PROGRAM), str(end.fileno()), str(MEMORY_MB)],
                pass_fds=[end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # a Ctrl-C is for the parent
            )
            end.close()
            self.receive(_STARTUP)
        except (OSError, ValueError, EOFError) as error:
            raise HelperFailed("unavailable") from error

    def receive(self, seconds: float) -> dict[str, Any]:
        """The next message, if all of it comes within the time. Raises TimeoutError, EOFError, ValueError."""
        deadline = time.monotonic() + seconds
        line = b""
        while not line.endswith(b"\n"):
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError
            self.socket.settimeout(left)
            part = self.socket.recv(_LONGEST)
            if not part:
                raise EOFError
            line += part
            if len(line) > _LONGEST:
                raise ValueError("the helper's message is too long")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            self.socket.close()


helper = Helper()


def _new_helper() -> None:
    """After a fork the helper, and perhaps a held lock, belong to the parent."""
    global helper
    helper = Helper()


os.register_at_fork(after_in_child=_new_helper)
atexit.register(lambda: helper.stop())
