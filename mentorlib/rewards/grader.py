"""The helper process that asks math-verify and mathruler about an answer: time-limited, bounded, replaced when needed.

The libraries hang on some texts (``9**9**9**9``), set timeouts by signals, which only the main thread may do, and
swallow exceptions. So they run in one helper process, started at the first answer that needs them, and killed when an
answer takes too long or too much memory.

The helper reads model-written text with sympy, whose parser evaluates Python after mathruler's filter (two distinct
letters at most). It has no secrets (a bare environment), may not write files, and is bounded in memory, processor and
wall time; it is not a sandbox. This file is also its program, and so imports nothing of the package.
"""

import atexit
import json
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

MEMORY_MB = 1024
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
                # -P: this file's folder must not be on the path, where its modules' names would hide other packages.
                [sys.executable, "-P", str(Path(__file__).resolve()), str(end.fileno())],
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


def _serve(end: socket.socket) -> None:
    """The helper: judges one message at a time, officially with the libraries exactly as the release calls them."""
    import logging
    import types

    # mathruler imports pylatexenc, which it does not install, to turn LaTeX into text; without it, it compares the
    # LaTeX. Left out here also where it is installed, so that a verdict does not depend on the machine.
    stub = types.ModuleType("pylatexenc")
    stub.__dict__["latex2text"] = types.ModuleType("latex2text")
    sys.modules["pylatexenc"] = stub

    import math_verify.metric
    import sympy
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
    from mathruler.grader import grade_answer
    from mathruler.math_normalize import normalize_answer

    class Watch(logging.Handler):
        """math-verify swallows its time-outs and memory errors, but logs them."""

        seen: str | None = None

        def emit(self, record: logging.LogRecord) -> None:
            if str(record.msg).startswith("Timeout during"):
                self.seen = "timeout"
            elif record.exc_info and isinstance(record.exc_info[1], MemoryError):
                self.seen = "memory"

    watch = Watch()
    log = logging.getLogger("math_verify")
    log.addHandler(watch)
    log.setLevel(logging.DEBUG)
    log.propagate = False

    latex, expression = LatexExtractionConfig(), ExprExtractionConfig()
    cache: dict[Any, list[Any]] = {}

    def cached_parse(text: str, targets: tuple[Any, ...]) -> list[Any]:
        """Parsing is most of the work. Many answers share a gold, and the rules parse the same answer."""
        # The order of the targets matters only where both end at the same place, which takes the word "answer".
        key = text, targets if re.search("answer", text, re.IGNORECASE) else frozenset(targets)
        if key in cache:
            return cache[key]
        expressions: list[Any] = parse(text, targets)
        if watch.seen is None and len(cache) < 10_000:
            cache[key] = expressions
        return expressions

    math_verify.metric.parse = cached_parse
    math_metric = math_verify.metric.math_metric((latex,), (expression, latex))

    def metric(gold: str, prediction: str) -> bool:
        answer = cached_parse(prediction, (expression, latex))
        return bool(answer) and math_metric([f"\\boxed{{{gold}}}"], [prediction])[0] > 0

    def parse_and_verify(gold: str, prediction: str) -> bool:
        answer = cached_parse(prediction, (latex, expression))
        return bool(answer) and verify(cached_parse(gold, (latex, expression)), answer)

    def as_formulas(gold: str, prediction: str) -> bool:
        """Both read as formulas as a whole; the release searches them for some number, so that 9^{10} is 9."""
        wanted, given = (cached_parse(f"${text.replace('**', '^')}$", (latex,)) for text in (gold, prediction))
        if not (wanted and given and verify(wanted, given)):
            return False
        sides = wanted[0], given[0]
        if not all(isinstance(side, sympy.Expr) and side.is_number for side in sides):
            return True
        # math-verify rounds to six decimals, which makes all small numbers equal.
        a, b = (complex(sympy.N(side)) for side in sides)
        size = min(abs(a), abs(b))
        return size >= 1e-3 or abs(a - b) <= size * 5e-6

    def rules(prediction: str, gold: str, official: bool) -> Any:
        if official:  # the release asks the metric first; in this order the gold's LaTeX is often not parsed at all
            yield "verify", lambda: parse_and_verify(gold, prediction)
            yield "metric", lambda: metric(gold, prediction)
        else:  # mathruler's first step is cheap, and cannot hang
            yield "mathruler", lambda: normalize_answer(prediction) == normalize_answer(gold)
            yield "verify", lambda: as_formulas(gold, prediction)
            yield "mathruler", lambda: grade_answer(prediction, gold)

    def decide(prediction: str, gold: str, official: bool) -> tuple[bool | None, str]:
        watch.seen = None
        for how, rule in rules(prediction, gold, official):
            try:
                if rule():
                    return True, how
            except MemoryError:
                watch.seen = "memory"
            except Exception:
                pass  # as in the release: a grader that fails on a text does not accept it
        return (False, "different") if watch.seen is None else (None, watch.seen)

    def used() -> int:
        """Peak memory in MiB. getrusage's begins with the peak of the process that started this one."""
        with open("/proc/self/status") as status:
            kilobytes = next((int(line.split()[1]) for line in status if line.startswith("VmHWM:")), None)
        return (kilobytes or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) // 1024

    start = used()
    size = MEMORY_MB * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    end.sendall(b'"ready"\n')
    for line in end.makefile("rb"):  # ends with the parent
        prediction, gold, official, limit = json.loads(line)
        # If the parent dies while this runs, the kernel ends it.
        cpu = resource.getrusage(resource.RUSAGE_SELF)
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu.ru_utime + cpu.ru_stime + limit) + 2, hard))
        correct, how = decide(prediction, gold, official)
        spent = used() - start > MEMORY_MB // 4
        if spent and correct is False:
            correct, how = None, "memory"  # sympy swallows memory errors too: near the limit its "no" proves nothing
        end.sendall(json.dumps({"correct": correct, "how": how, "spent": spent}).encode() + b"\n")


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
