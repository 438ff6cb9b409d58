import asyncio
import json
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from math_verify import parse, verify
from math_verify.metric import math_metric
from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig

from mentorlib.rewards import answers
from mentorlib.rewards.answers import Verdict, boxed, judge


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("so \\boxed{5}.", "5"),
        ("\\boxed{1} then \\boxed{2}", "2"),
        ("\\boxed{\\boxed{7}}", "7"),
        ("\\boxed {3}", "3"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{5} and \\boxed{6", "5"),
        ("\\boxed{\\left\\{ x \\right.}", "\\left\\{ x \\right."),
        ("}} \\boxed{4} {{", "4"),
        ("\\boxed{}", ""),
        ("\\\\boxed{5}", "5"),  # as a policy that escapes for JSON writes it
        ("\\{ \\boxed{5}", "5"),
        ("\\boxed 5", None),
        ("\\boxed{5", None),
        ("\\boxedx{5}", None),
        ("", None),
    ],
)
def test_boxed(text: str, inside: str | None) -> None:
    assert boxed(text) == inside


def test_boxed_is_linear() -> None:
    """A quadratic search would be killed with the suite."""
    assert boxed("\\boxed{" * 150_000 + "}" * 10) is not None


@pytest.mark.parametrize(
    ("prediction", "gold", "expected"),
    [
        ("42", "42", Verdict(True, "identical")),
        (" (15,-29) ", "(15,-29)", Verdict(True, "identical")),
        ("42.0", "42", Verdict(True, "number")),
        ("\\frac{1}{2}", "0.5", Verdict(True, "number")),
        ("-1/2", "\\frac{1}{-2}", Verdict(True, "number")),
        ("41", "42", Verdict(False, "number")),
        ("0.333333", "1/3", Verdict(True, "verify")),  # too close for the fast path: math-verify rounds
        ("\\dfrac{35}{64}", "\\frac{35}{64}", Verdict(True, "mathruler")),
        ("42", "\\boxed{42}", Verdict(True, "verify")),
        ("$x+1$", "1+x", Verdict(True, "metric")),
        ("$42$", "42", Verdict(True, "number")),
        ("x=42", "42", Verdict(True, "number")),
        ("40, 42", "42", Verdict(True, "number")),
        ("42 apples", "41", Verdict(False, "different")),  # left to mathruler, not the fast path
        ("04/2", "4/2", Verdict(False, "different")),  # sympy's parser stops at the leading zero
        ("east", "west", Verdict(False, "different")),
        ("", "5", Verdict(False, "different")),
        ("\x00\ud800{{", "5", Verdict(False, "different")),
        ("7" * 30_000, "5", Verdict(None, "too long")),
    ],
)
def test_judge(prediction: str, gold: str, expected: Verdict) -> None:
    assert judge(prediction, gold) == expected


def test_golden_rows(shared: Path) -> None:
    """A golden row's sparse score holds the verdict of the release's judge; the first 500 rows that have an answer."""
    rows = [json.loads(line) for line in (shared / "golden/official_rewards.jsonl").read_text().splitlines()]
    checked = 0
    for row in rows[:500]:
        box = boxed(row["response"])
        if row["response"].endswith("<|im_end|>") and row["response"].count("\\boxed") == 1 and box and box.strip():
            assert judge(box, row["answer"], official=True).correct is (row["scores"]["sparse"] == 1.0), row["id"]
            checked += 1
    assert checked > 250


NUMBERS = ["0", "-0", "5", "05", "50", "0.5", "5.0", "1/2", "-\\frac{1}{2}", "\\frac{-2}{4}", "10/2", "1/3", "0.333333"]
METRIC = math_metric((LatexExtractionConfig(),), (ExprExtractionConfig(), LatexExtractionConfig()))


def test_fast_path_agrees_with_math_verify() -> None:
    """What the fast path decides on numbers, math-verify alone decides the same (so mathruler can only agree)."""
    decided = 0
    for prediction, gold in product(NUMBERS, NUMBERS):
        fast = answers._fast(prediction, gold, official=True)
        if fast is not None:
            decided += 1
            theirs = METRIC([f"\\boxed{{{gold}}}"], [prediction])[0] > 0 or verify(parse(gold), parse(prediction))
            assert fast.correct is theirs, (prediction, gold)
    assert decided > 130


FORMATS = "{}| {} |${}$|x={}|={} |{} apples|{}\\text{{ cm}}|{0}, {0}|{}%|{} percent|({})|\\text{{{}}}|-{}|+{}|{},000"
FORMATS += "|{} 000|0{}|{}.0|{}.|{}5|{}^2|{}+1|answer: {} or 7|{}\n7|**{}**|\\${}|$ {} $|.{}|a {}|{}x|{}: [1]|1 {}"


def test_fast_path_agrees_with_the_helper() -> None:
    """Numbers in many formats, in both versions, against the libraries as the helper calls them."""
    rng, decided = random.Random(0), 0
    for _ in range(1500):
        gold, number = rng.choice(NUMBERS), rng.choice([*NUMBERS, "123456789012345", "-05", "1,234", "0.1234567", "٣"])
        prediction = rng.choice(FORMATS.split("|")).format(rng.choice([gold, number]))
        gold = rng.choice([gold, gold, rng.choice(FORMATS.split("|")).format(gold)])
        for official in (True, False):
            fast = answers._fast(prediction, gold, official)
            if fast is not None:
                decided += 1
                assert fast.correct is answers._slow(prediction, gold, official, 10.0).correct, (prediction, gold)
    assert decided > 600


@settings(max_examples=60, deadline=None)
@given(st.fractions(-1000, 1000, max_denominator=50), st.fractions(-1000, 1000, max_denominator=50))
def test_fast_path_on_drawn_fractions(a: object, b: object) -> None:
    fast = answers._fast(str(a), str(b), official=True)
    if fast is not None:
        assert fast.correct is verify(parse(str(b)), parse(str(a)))


def test_time_limit_and_recovery() -> None:
    assert judge("9**9**9**9", "3", time_limit=1.0) == Verdict(None, "timeout")
    assert judge("$2x$", "x+x").correct is True


def test_threads() -> None:
    """math-verify itself raises off the main thread; here eight threads at once get the right verdicts."""
    pairs = [(f"${n}x+{n}$", f"{n}(x+1)") for n in range(2, 18)] + [(f"${n}y$", f"{n + 1}y") for n in range(2, 18)]
    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(lambda pair: judge(*pair).correct, pairs))
    assert verdicts == [True] * 16 + [False] * 16


def test_async() -> None:
    """In a coroutine judge runs in a thread, and the event loop stays free meanwhile."""

    async def all_at_once() -> tuple[list[bool | None], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        clock = asyncio.create_task(tick())
        asked = [asyncio.to_thread(judge, f"${n}z+1$", f"1+{n}z") for n in range(2, 8)]
        asked.append(asyncio.to_thread(judge, "9**9**9**9", "7", time_limit=1.0))
        verdicts = await asyncio.gather(*asked)
        clock.cancel()
        return [verdict.correct for verdict in verdicts], ticks

    verdicts, ticks = asyncio.run(all_at_once())
    assert verdicts == [True] * 6 + [None] and ticks > 10


def test_a_killed_helper_is_reported_and_replaced() -> None:
    assert judge("$3+y$", "y+3").correct is True
    process = answers._helper.process
    assert process is not None
    process.kill()
    process.wait()
    assert judge("$4+y$", "y+4") == Verdict(None, "crash")
    assert judge("$4+y$", "y+4").correct is True  # a crash is not remembered


def test_the_helper_is_bounded() -> None:
    assert judge("$5+y$", "y+5").correct is True
    process = answers._helper.process
    assert process is not None
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    assert str(answers.MEMORY_MB * 2**20) in limits
    assert "HF_TOKEN" not in Path(f"/proc/{process.pid}/environ").read_text()


def test_a_helper_that_does_not_start_is_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_helper", answers._Helper())
    monkeypatch.setattr(answers.sys, "executable", "/nonexistent/python")
    assert judge("$6+y$", "y+6") == Verdict(None, "unavailable")


def test_after_a_fork() -> None:
    """A forked child gets a helper of its own, also when another thread of the parent holds the first."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with answers._helper.lock:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        correct = judge("$7+y$", "y+7").correct
        answers._helper.stop()
        os._exit(0 if correct else 1)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
