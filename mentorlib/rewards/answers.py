r"""Whether an answer is right: the paper's any-of-three, exact for numbers, thread-safe, time-limited, never raising.

The paper accepts an answer that math-verify's metric, math-verify's parse-and-verify or mathruler's grader accepts.
In the release the third is missing without an error: mathruler imports pylatexenc but does not install it, and the
release ignores the ImportError (the golden scores were made this way). Then ``(15,-29)`` is a wrong answer to
``(15,-29)``. ``judge`` asks all three; ``judge(…, official=True)`` asks math-verify alone.

The libraries hang on some texts (``9**9**9**9``), set timeouts by signals, which only the main thread may do, and
swallow exceptions. So numbers and identical texts are decided here, and everything else in one helper process, started
at the first such answer, and killed when an answer takes too long or too much memory. An answer that could not be
judged is an outcome of its own (``correct=None``).

The helper reads model-written text with sympy, whose parser evaluates Python after mathruler's filter (two distinct
letters at most). It has no secrets (a bare environment), may not write files, and is bounded in memory, processor and
wall time; it is not a sandbox.
"""

import atexit
import json
import os
import re
import resource
import subprocess
import sys
import threading
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

TIME_LIMIT = 10.0  # seconds an answer may take in the helper; math-verify gives up on a part after 5
MEMORY_MB = 1024
MAX_LENGTH = 20_000  # characters of an answer; math-verify's patterns are quadratic in it
_STARTUP = 120.0  # seconds for the helper to import sympy on a busy machine


@dataclass(frozen=True)
class Verdict:
    """``correct`` is None when the answer could not be judged; ``how`` is the rule that decided, or why none could.

    Decided: "identical", "number", "mathruler", "metric", "verify", "different".
    Not decided: "timeout", "memory", "too long", "crash", "unavailable".
    """

    correct: bool | None
    how: str

    @property
    def reason(self) -> str:
        """The verdict in words."""
        if self.correct is None:
            return f"the answer could not be judged ({self.how})"
        return "right answer" if self.correct else "wrong answer"


_BOX = re.compile(r"\\boxed\s*\{|\\\\(?!boxed)|\\[{}]|[{}]")


@lru_cache(maxsize=64)  # all rewards of a trajectory read the same turns
def boxed(text: str) -> str | None:
    r"""The content of the last balanced ``\boxed{…}``, None without one; of two nested boxes, the inner one's.

    Escaped braces (``\{``) are text. One pass: the time is linear in the text.
    """
    content: tuple[int, int] | None = None
    open_at: list[int | None] = []  # where a box's content starts; None for a plain brace
    first = text.find("\\boxed")  # most texts have none, or one near the end
    for token in _BOX.finditer(text, first) if first >= 0 else ():
        mark = token.group()
        if mark == "{":
            open_at.append(None)
        elif mark == "}":
            start = open_at.pop() if open_at else None
            if start is not None and (content is None or start > content[0]):
                content = start, token.start()
        elif mark.startswith("\\boxed"):
            open_at.append(token.end())
    return None if content is None else text[slice(*content)]


_WHOLE = "(?:0|[1-9][0-9]{0,14})"  # without leading zeros, some of which sympy cannot read
_DECIMAL = re.compile(rf"-?{_WHOLE}(?:\.[0-9]{{1,6}})?")
_FRACTION = re.compile(rf"(-?)\\frac\{{(-?{_WHOLE})\}}\{{(-?{_WHOLE})\}}|(-?{_WHOLE})/({_WHOLE})")

# How math-verify 0.9.0 finds a number in text (its lazy_expr_regex). Only for short texts, since the patterns
# backtrack. Texts with LaTeX, or with a word that it searches around first, are left to math-verify.
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
    """The value of a plain integer, decimal or fraction; None for what the three libraries may read differently."""
    if _DECIMAL.fullmatch(text):
        return Fraction(text)
    if match := _FRACTION.fullmatch(text):
        sign, a, b, c, d = match.groups()
        denominator = int(b or d)
        return Fraction(int(a or c), denominator) * (-1 if sign else 1) if denominator else None
    return None


def _parsed(text: str) -> list[Fraction] | None:
    """What math-verify's parse reads in a text: [number], or [] for nothing; None where only math-verify can tell.

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
    numbers = _IN_TEXT.findall(text)
    if not numbers:
        return []
    thousands, decimals, whole, part, fraction, integer, percent = numbers[-1]
    digits = (thousands or whole or integer or "0").replace(",", "").replace(" ", "")
    number = _number(digits + (decimals or part or fraction).replace(",", "."))
    return None if percent or number is None else [number]


@lru_cache(maxsize=10_000)
def _fast(prediction: str, gold: str, official: bool) -> Verdict | None:
    """The verdict where it needs no library: only where all libraries are known to agree."""
    if not official and prediction.strip() == gold.strip():  # mathruler's rule; math-verify cannot read every text
        return Verdict(True, "identical")
    parsed = _parsed(prediction)
    if parsed is None:
        return None
    if not parsed:  # an answer in which nothing is read is never equal
        return Verdict(False, "different") if official else None
    value = _number(gold.strip())
    if parsed == ([value] if value is not None else _parsed(gold)):
        return Verdict(True, "number")
    # Closer numbers may be equal after math-verify's rounding to six places; and mathruler reads a number inside a
    # text differently.
    if value is not None and abs(parsed[0] - value) > Fraction(1, 10_000):
        return Verdict(False, "number") if official or _number(prediction.strip()) is not None else None
    return None


def judge(prediction: str, gold: str, official: bool = False, time_limit: float = TIME_LIMIT) -> Verdict:
    r"""Whether ``prediction`` (the content of a box) is the answer ``gold`` (itself boxed or not). Never raises.

    ``official`` leaves mathruler out, as in the release's own installation. Safe in any thread; slow answers wait for
    one another (one helper a process). In a coroutine call it through ``asyncio.to_thread``, since it may block for
    ``time_limit`` seconds.
    """
    if len(prediction) + len(gold) > MAX_LENGTH:
        same = not official and prediction.strip() == gold.strip()
        return Verdict(True, "identical") if same else Verdict(None, "too long")
    if (verdict := _fast(prediction, gold, official)) is not None:
        return verdict
    try:
        return _slow(prediction, gold, official, time_limit)
    except _HelperFailed as error:
        return Verdict(None, str(error))


class _HelperFailed(Exception):
    """The helper did not start or broke. Raised past the cache, since the same answer may be judged the next time."""


@lru_cache(maxsize=10_000)
def _slow(prediction: str, gold: str, official: bool, time_limit: float) -> Verdict:
    return _helper.ask(prediction, gold, official, time_limit)


class _Helper:
    """One child process that judges; killed when it does not answer as agreed, and started again when needed.

    Messages are JSON, never pickles, which a hostile answer could use to run code in this process.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, prediction: str, gold: str, official: bool, time_limit: float) -> Verdict:
        with self.lock:
            try:
                if self.process is None:
                    self.start()
                self.pipe.send_bytes(json.dumps([prediction, gold, official, time_limit]).encode())
                answer = self.receive(time_limit)
            except TimeoutError:
                self.stop()
                return Verdict(None, "timeout")
            except (OSError, ValueError, EOFError) as error:
                self.stop()
                raise _HelperFailed("crash") from error
            except BaseException:
                self.stop()  # after an interrupted exchange the next answer would get this one's verdict
                raise
            if answer["spent"]:
                self.stop()
            return Verdict(answer["correct"], answer["how"])

    def start(self) -> None:
        keep = ("PATH", "LD_LIBRARY_PATH", "LANG", "HOME")
        environment = {key: os.environ[key] for key in keep if key in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self.pipe, end = Pipe()
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
            raise _HelperFailed("unavailable") from error

    def receive(self, seconds: float) -> dict[str, Any]:
        if not self.pipe.poll(seconds):
            raise TimeoutError
        answer: dict[str, Any] = json.loads(self.pipe.recv_bytes())
        return answer

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            self.pipe.close()


_helper = _Helper()


def _new_helper() -> None:
    """After a fork the helper, and perhaps a held lock, belong to the parent."""
    global _helper
    _helper = _Helper()


os.register_at_fork(after_in_child=_new_helper)
atexit.register(lambda: _helper.stop())


def _serve(pipe: Connection) -> None:
    """The helper: judges one message at a time, with the libraries exactly as the release calls them."""
    import logging
    import types

    # mathruler imports pylatexenc, which it does not install, to turn LaTeX into text; without it, it compares the
    # LaTeX. Left out here also where it is installed, so that a verdict does not depend on the machine.
    stub = types.ModuleType("pylatexenc")
    stub.__dict__["latex2text"] = types.ModuleType("latex2text")
    sys.modules["pylatexenc"] = stub

    import math_verify.metric
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

    def metric(bare: str, prediction: str) -> bool:
        answer = cached_parse(prediction, (expression, latex))
        return bool(answer) and math_metric([f"\\boxed{{{bare}}}"], [prediction])[0] > 0

    def parse_and_verify(bare: str, prediction: str) -> bool:
        answer = cached_parse(prediction, (latex, expression))
        return bool(answer) and verify(cached_parse(bare, (latex, expression)), answer)

    def rules(prediction: str, gold: str, official: bool) -> Any:
        inner = boxed(gold) if "\\boxed{" in gold else None
        bare = gold if inner is None else inner
        if not official:  # mathruler's first step: cheap, and it cannot hang
            yield "mathruler", lambda: normalize_answer(prediction) == normalize_answer(gold)
        # The release asks the metric first; in this order the gold's LaTeX is often not parsed at all.
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
                pass  # as in the release: a grader that fails on a text does not accept it
        return (False, "different") if watch.seen is None else (None, watch.seen)

    def used() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    start = used()
    size = MEMORY_MB * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe.send_bytes(json.dumps("ready").encode())
    while True:
        try:
            prediction, gold, official, limit = json.loads(pipe.recv_bytes())
        except EOFError:  # the parent has ended
            return
        # If the parent dies while this runs, the kernel ends it.
        cpu = resource.getrusage(resource.RUSAGE_SELF)
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu.ru_utime + cpu.ru_stime + limit) + 2, hard))
        correct, how = decide(prediction, gold, official)
        spent = used() - start > MEMORY_MB // 4
        if spent and correct is False:
            correct, how = None, "memory"  # sympy swallows memory errors too: near the limit its "no" proves nothing
        pipe.send_bytes(json.dumps({"correct": correct, "how": how, "spent": spent}).encode())


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
