"""The program of the helper process (grader.py): judges one message at a time with math-verify and mathruler.

grader.py starts it and never imports it: the libraries are for the helper alone. It imports nothing of the package.
"""

import json
import logging
import re
import resource
import socket
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import math_verify.metric
import sympy
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

# mathruler imports pylatexenc, which it does not install, to turn LaTeX into text; without it, it compares the LaTeX.
# Left out here also where it is installed, so that a verdict does not depend on the machine.
_stub = types.ModuleType("pylatexenc")
_stub.__dict__["latex2text"] = types.ModuleType("latex2text")
sys.modules["pylatexenc"] = _stub

from mathruler.grader import grade_answer  # noqa: E402
from mathruler.math_normalize import normalize_answer  # noqa: E402


class Watch(logging.Handler):
    """math-verify swallows its time-outs and memory errors, but logs them."""

    seen: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith("Timeout during"):
            self.seen = "timeout"
        elif record.exc_info and isinstance(record.exc_info[1], MemoryError):
            self.seen = "memory"


watch = Watch()
latex, expression = LatexExtractionConfig(), ExprExtractionConfig()
cache: dict[Any, list[Any]] = {}
math_metric = math_verify.metric.math_metric((latex,), (expression, latex))


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


def rules(prediction: str, gold: str, official: bool) -> Iterator[tuple[str, Callable[[], bool]]]:
    """Each rule that may accept an answer, with its name; the official ones call the libraries as the release does."""
    if official:  # the release asks the metric first; in this order the gold's LaTeX is often not parsed at all
        yield "verify", lambda: parse_and_verify(gold, prediction)
        yield "metric", lambda: metric(gold, prediction)
    else:  # mathruler's first step is cheap, and cannot hang
        yield "mathruler", lambda: normalize_answer(prediction) == normalize_answer(gold)
        yield "verify", lambda: as_formulas(gold, prediction)
        yield "mathruler", lambda: grade_answer(prediction, gold)


def decide(prediction: str, gold: str, official: bool) -> tuple[bool | None, str]:
    """Whether the prediction is right (None if that could not be judged), and the rule that decided."""
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


def serve(end: socket.socket, memory: int) -> None:
    """Answer messages until the parent ends, within ``memory`` MiB."""
    log = logging.getLogger("math_verify")
    log.addHandler(watch)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    math_verify.metric.parse = cached_parse
    start = used()
    resource.setrlimit(resource.RLIMIT_AS, (memory * 2**20, memory * 2**20))
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
        spent = used() - start > memory // 4
        if spent and correct is False:
            correct, how = None, "memory"  # sympy swallows memory errors too: near the limit its "no" proves nothing
        end.sendall(json.dumps({"correct": correct, "how": how, "spent": spent}).encode() + b"\n")


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
