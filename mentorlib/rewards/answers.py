r"""Whether an answer is right: the paper's any-of-three, exact for numbers, safe in threads, never raising.

The paper accepts an answer that math-verify's metric, math-verify's parse-and-verify or mathruler's grader
accepts. In the release the third is silently missing wherever pylatexenc is: mathruler needs it, does not install
it, and the release passes over the import error (the golden scores were made so). Then ``(15,-29)`` is a wrong
answer to ``(15,-29)``. ``judge`` asks all three; ``judge(…, official=True)`` asks math-verify alone.

The libraries hang on some texts (``9**9**9**9``), guard themselves with signals that only the main thread may
set, and swallow what goes wrong. So numbers and identical texts are decided here, and everything else in one
helper process, started at the first such answer, that is killed when an answer takes too long or too much memory.
An answer that could not be judged is an outcome of its own (``correct=None``).

The helper reads model-written text with sympy, whose parser evaluates Python after mathruler's filter (two
distinct letters at most). It holds no secrets (a bare environment), may not write files, and is bounded in
memory, processor and wall time; it is not a sandbox.
"""

import atexit
import contextlib
import json
import os
import re
import resource
import select
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

TIME_LIMIT = 10.0  # seconds an answer may take in the helper; math-verify gives up on a part after 5
MEMORY_MB = 1024
MAX_LENGTH = 20_000  # characters of an answer; math-verify's patterns are quadratic in it
_STARTUP = 120.0  # seconds for the helper to import sympy on a busy machine


@dataclass(frozen=True)
class Verdict:
    """``correct`` is None when the answer could not be judged; ``how`` says which rule decided, or why none could.

    Decided: "identical", "number", "mathruler", "metric", "verify", "different".
    Not decided: "timeout", "memory", "too long", "crash", "unavailable".
    """

    correct: bool | None
    how: str


_BOX = re.compile(r"\\boxed\s*\{|\\\\(?!boxed)|\\[{}]|[{}]")


@lru_cache(maxsize=64)  # the rewards of a transcript all ask
def boxed(text: str) -> str | None:
    r"""What the last balanced ``\boxed{…}`` of the text holds, None without one; the inner of two nested boxes.

    Escaped braces (``\{``) are text. One pass, so that a megabyte of open boxes costs no more than its length.
    """
    found: tuple[int, int] | None = None
    open_at: list[int | None] = []  # where a box's content starts; None for a plain brace
    first = text.find("\\boxed")  # most texts have none, or one near the end
    for token in _BOX.finditer(text, first) if first >= 0 else ():
        mark = token.group()
        if mark == "{":
            open_at.append(None)
        elif mark == "}":
            start = open_at.pop() if open_at else None
            if start is not None and (found is None or start > found[0]):
                found = start, token.start()
        elif mark.startswith("\\boxed"):
            open_at.append(token.end())
    return None if found is None else text[slice(*found)]


_WHOLE = "(?:0|[1-9][0-9]{0,14})"  # sympy stops at some leading zeros, so that they are not for here
_DECIMAL = re.compile(rf"-?{_WHOLE}(?:\.[0-9]{{1,6}})?")
_FRACTION = re.compile(rf"(-?)\\frac\{{(-?{_WHOLE})\}}\{{(-?{_WHOLE})\}}|(-?{_WHOLE})/({_WHOLE})")

# How math-verify 0.9.0 finds a number in text (its lazy_expr_regex), for texts short enough that a search that goes
# back and forth costs nothing. What begins its LaTeX, or a place where it prefers to look, is left to it.
_SHORT = 200
_LATEX = re.compile(r"\$|\\[\[(]|\\boxed|\\frac|\s\[|(?i:answer)")
_EXPRESSION = re.compile(
    r"(?:^|\s|=)(?:\*\*)?-?\(?-?\d[\d.\s+\-*/^()]*[+\-*/^()][\d.\s+\-*/^()]+\)?(?:\*\*)?(?:\.|,|:|\s|\)|\$|$)"
)
_IN_TEXT = re.compile(
    r"(?:^|\s|=)(?:\*\*)?(?:(-?[1-9]\d{0,2}(?:[ ,]\d{3})+)(\.\d+)?|(-?\d+)([.,]\d+)|(\.\d+)|(-?\d+))"
    r"(\s*(?:%|[Pp]ercent|\s*[Pp]ercentage|\s*[Pp]ct))?"
)


def _number(text: str) -> Fraction | None:
    """The value of a plain integer, decimal or fraction; None for anything the three libraries may read otherwise."""
    if _DECIMAL.fullmatch(text):
        return Fraction(text)
    if match := _FRACTION.fullmatch(text):
        sign, a, b, c, d = match.groups()
        below = int(b or d)
        return Fraction(int(a or c), below) * (-1 if sign else 1) if below else None
    return None


def _parsed(text: str) -> list[Fraction] | None:
    """What math-verify's parse reads in a text, a number or nothing; None where only math-verify can tell.

    In ``x=42``, ``42 apples`` and ``40, 42`` it reads 42, the last number that follows a space, "=" or nothing.
    """
    if len(text) > _SHORT or not text.isascii():
        return None
    bare = text.strip()
    if (number := _number(bare)) is not None:
        return [number]
    if _LATEX.search(text):
        inner = _number(bare[1:-1]) if bare[:1] == bare[-1:] == "$" else None
        return None if inner is None else [inner]
    if _EXPRESSION.search(text):
        return None
    found = _IN_TEXT.findall(text)
    if not found:
        return []
    thousands, decimals, whole, part, fraction, integer, percent = found[-1]
    digits = (thousands or whole or integer or "0").replace(",", "").replace(" ", "")
    number = _number(digits + (decimals or part or fraction).replace(",", "."))
    return None if percent or number is None else [number]


@lru_cache(maxsize=10_000)
def _fast(prediction: str, gold: str, official: bool) -> Verdict | None:
    """The verdict where it needs no library, and only where the libraries surely agree."""
    if not official and prediction.strip() == gold.strip():  # mathruler's rule; math-verify cannot read every text
        return Verdict(True, "identical")
    said = _parsed(prediction)
    if said is None:
        return None
    if not said:  # nothing read is equal to nothing
        return Verdict(False, "different") if official else None
    value = _number(gold.strip())
    if said == ([value] if value is not None else _parsed(gold)):
        return Verdict(True, "number")
    # Closer numbers are equal or not by rounding to six places, which is math-verify's to say; and mathruler has its
    # own way with a number in a text.
    if value is not None and abs(said[0] - value) > Fraction(1, 10_000):
        return Verdict(False, "number") if official or _number(prediction.strip()) is not None else None
    return None


def judge(prediction: str, gold: str, official: bool = False, time_limit: float = TIME_LIMIT) -> Verdict:
    r"""Whether ``prediction`` (what a box holds) is the answer ``gold`` (itself boxed or not). Never raises.

    ``official`` leaves mathruler out, as it is in the release's own installation. Safe in any thread; slow answers
    wait for one another (one helper a process). In a coroutine call it through ``asyncio.to_thread``, since it may
    block for ``time_limit`` seconds.
    """
    if len(prediction) + len(gold) > MAX_LENGTH:
        same = not official and prediction.strip() == gold.strip()
        return Verdict(True, "identical") if same else Verdict(None, "too long")
    if (verdict := _fast(prediction, gold, official)) is not None:
        return verdict
    try:
        return _slow(prediction, gold, official, time_limit)
    except _Unjudged as error:
        return Verdict(None, str(error))


class _Unjudged(Exception):
    """The helper failed for a reason that need not hold the next time, so that the outcome is not remembered."""


@lru_cache(maxsize=10_000)
def _slow(prediction: str, gold: str, official: bool, time_limit: float) -> Verdict:
    return _helper.ask(prediction, gold, official, time_limit)


class _Helper:
    """One child process that judges; killed and started anew whenever it does not answer as agreed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, prediction: str, gold: str, official: bool, time_limit: float) -> Verdict:
        with self.lock:
            try:
                if self.process is None:
                    self.start()
                self.send([prediction, gold, official, time_limit])
                answer = self.receive(time_limit)
            except TimeoutError:
                self.stop()
                return Verdict(None, "timeout")
            except (OSError, ValueError, EOFError) as error:
                self.stop()
                raise _Unjudged("unavailable" if isinstance(error, _NoStart) else "crash") from error
            except BaseException:
                self.stop()  # an interrupted exchange would answer the next question with this one's verdict
                raise
            if answer.get("spent"):
                self.stop()
            return Verdict(answer["correct"], answer["how"])

    def start(self) -> None:
        keep = ("PATH", "LD_LIBRARY_PATH", "LANG", "HOME")
        environment = {key: os.environ[key] for key in keep if key in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        try:
            # -P: this file's folder must not go on the path, its names would hide other packages'.
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).resolve())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # a Ctrl-C is for the parent
            )
            self.receive(_STARTUP)
        except (OSError, ValueError, EOFError) as error:
            raise _NoStart(str(error)) from error

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # unsent bytes to a dead child
                    stream.close()
        process.wait()

    def send(self, message: Any) -> None:
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write(_frame(message))
        self.process.stdin.flush()

    def receive(self, seconds: float) -> dict[str, Any]:
        assert self.process is not None and self.process.stdout is not None
        pipe, deadline, data = self.process.stdout.fileno(), time.monotonic() + seconds, b""
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while len(data) < 4 or len(data) < 4 + struct.unpack(">I", data[:4])[0]:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise TimeoutError
            chunk = os.read(pipe, 65_536)
            if not chunk:
                raise EOFError
            data += chunk
        answer: dict[str, Any] = json.loads(data[4:])
        return answer


class _NoStart(OSError):
    """The helper did not come up."""


def _frame(message: Any) -> bytes:
    data = json.dumps(message).encode()
    return struct.pack(">I", len(data)) + data


_helper = _Helper()


def _forget() -> None:
    """After a fork the helper, and perhaps a held lock, belong to the parent."""
    global _helper
    _helper = _Helper()


os.register_at_fork(after_in_child=_forget)
atexit.register(lambda: _helper.stop())


def _serve() -> None:
    """The helper: judge what comes in, one frame at a time, with the libraries exactly as the release calls them."""
    import logging
    import types

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the libraries print must not reach the frames

    # mathruler imports pylatexenc, which it does not install, to turn LaTeX into text; without, it compares the LaTeX.
    # Left out here also where it is installed, so that a verdict does not depend on the machine.
    stub = types.ModuleType("pylatexenc")
    stub.__dict__["latex2text"] = types.ModuleType("latex2text")
    sys.modules["pylatexenc"] = stub

    from math_verify import parse, verify
    from math_verify.errors import TimeoutException
    from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig
    from math_verify.utils import timeout
    from mathruler.grader import grade_answer
    from mathruler.math_normalize import normalize_answer

    latex, expression = LatexExtractionConfig(), ExprExtractionConfig()

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

    read: dict[tuple[str, Any], list[Any]] = {}

    def parsed(text: str, targets: Any) -> list[Any]:
        """Parsing is most of the work. Many answers share a gold, and both rules read the same answer."""
        if (text, targets) in read:
            return read[text, targets]
        found: list[Any] = parse(text, targets)
        if watch.seen is None and len(read) < 10_000:
            read[text, targets] = found
        return found

    def write(found: list[Any]) -> None:
        for one in found:
            str(one)

    def metric(bare: str, prediction: str) -> bool:
        """math-verify's metric, which fails on what has no gold or cannot be written out; with the gold remembered."""
        # The metric prefers expressions to LaTeX where both end at one place, which takes the word "answer".
        prefer_expressions = re.search("answer", prediction, re.IGNORECASE)
        answer = parsed(prediction, (expression, latex) if prefer_expressions else (latex, expression))
        if not answer:
            return False  # nothing read is equal to nothing: spares the gold
        gold = parsed(f"\\boxed{{{bare}}}", (latex,))
        if not verify(gold, answer):
            return False
        with contextlib.suppress(TimeoutException):
            timeout(2)(write)(answer + gold)
        return True

    def parse_and_verify(bare: str, prediction: str) -> bool:
        answer = parsed(prediction, (latex, expression))
        return bool(answer) and bool(verify(parsed(bare, (latex, expression)), answer))

    def rules(prediction: str, gold: str, official: bool) -> Any:
        inner = boxed(gold) if "\\boxed{" in gold else None
        bare = gold if inner is None else inner
        if not official:  # mathruler's first step: cheap, and it cannot hang
            yield "mathruler", lambda: normalize_answer(prediction) == normalize_answer(gold)
        # The release asks the metric first; this way round the gold's LaTeX is often not needed at all.
        yield "verify", lambda: parse_and_verify(bare, prediction)
        yield "metric", lambda: metric(bare, prediction)
        if not official:
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
                pass  # as the release does: a grader that fails on a text does not accept it
        return (False, "different") if watch.seen is None else (None, watch.seen)

    def used() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    start = used()
    size = MEMORY_MB * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers.write(_frame({"ready": True}))
    answers.flush()
    while len(head := sys.stdin.buffer.read(4)) == 4:
        prediction, gold, official, limit = json.loads(sys.stdin.buffer.read(struct.unpack(">I", head)[0]))
        # Should the parent die while this runs, the kernel ends it.
        cpu = resource.getrusage(resource.RUSAGE_SELF)
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu.ru_utime + cpu.ru_stime + limit) + 2, hard))
        correct, how = decide(prediction, gold, official)
        spent = used() - start > MEMORY_MB // 4
        if spent and correct is False:
            correct, how = None, "memory"  # sympy swallows memory errors too; having come near, it is not to be trusted
        answers.write(_frame({"correct": correct, "how": how, "spent": spent}))
        answers.flush()


if __name__ == "__main__":
    _serve()
