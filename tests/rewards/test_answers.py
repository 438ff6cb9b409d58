import asyncio
import json
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from math_verify import parse, verify
from math_verify.metric import math_metric
from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig

from mentorlib.rewards import answers, grader
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


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("\\boxed{\\left\\{ x=2 \\right.}. So", ["\\boxed{\\left\\{ x=2 \\right.}"]),
        ("a \\boxed{\\boxed {7}} b \\boxed{}", ["\\boxed{\\boxed {7}}", "\\boxed {7}", "\\boxed{}"]),
        ("\\boxed{5} and \\boxed{6", ["\\boxed{5}"]),
        ("none", []),
    ],
)
def test_box_spans(text: str, boxes: list[str]) -> None:
    assert [text[start:end] for start, end in answers.box_spans(text)] == boxes


def test_boxed_is_linear() -> None:
    """A quadratic search would be killed with the suite."""
    assert boxed("\\boxed{" * 150_000 + "}" * 10) is not None


@pytest.mark.parametrize(
    ("prediction", "gold", "expected"),
    [
        ("42", "42", Verdict(True, "identical")),
        (" (15,-29) ", "(15,-29)", Verdict(True, "identical")),
        ("42", "\\boxed{42}", Verdict(True, "identical")),
        ("$42$", "42", Verdict(True, "identical")),
        ("42.0", "42", Verdict(True, "number")),
        ("\\frac{1}{2}", "0.5", Verdict(True, "number")),
        ("-1/2", "\\frac{1}{-2}", Verdict(True, "number")),
        ("41", "42", Verdict(False, "number")),
        ("0.333333", "1/3", Verdict(True, "number")),
        ("6*7", "42", Verdict(True, "verify")),
        ("\\dfrac{35}{64}", "\\frac{35}{64}", Verdict(True, "number")),
        ("\\dfrac{\\pi}{64}", "\\frac{\\pi}{64}", Verdict(True, "mathruler")),
        ("$x^2+1$", "1+x^2", Verdict(True, "verify")),
        ("east", "west", Verdict(False, "text")),
        ("", "5", Verdict(False, "number")),
        ("\x00\ud800{{", "5", Verdict(False, "number")),
        ("7" * 30_000, "5", Verdict(None, "too long")),
        ("7" * 30_000, "7" * 30_000, Verdict(True, "identical")),
    ],
)
def test_judge(prediction: str, gold: str, expected: Verdict) -> None:
    assert judge(prediction, gold) == expected


def pairs(lines: str) -> list[tuple[str, str]]:
    """``answer | gold`` in each line."""
    return [(answer, gold) for answer, gold in (line.split(" | ") for line in lines.strip().splitlines())]


# The gold answer alone says how it is compared: a number or LaTeX as mathematics, anything else to the letter.
RIGHT = pairs(r"""
42 apples | 42
**42** | 42
The answer is 42. | 42
\text{The answer is } 42 | 42
x = 42 | 42
6*7 = 42 | 42
24 - 5 = 19 shells | 19
12 = 12.0 | 12
3*4 = 12 = 12 | 12
0.5 = 50% | 50\%
\$1 = 100 | 100
1/3 = 0.33 | 0.33
\frac{1}{3} = 0.33 | 0.33
12.4 \approx 12 | 12
x \approx 42 | 42
42km | 42
42 m2 | 42
70 cm^2 | 70
$6$, $6$ | 6
42% | 42
42 percent | 42
42 | 42\%
42\% | 0.42
36 | \$36
\$1,234.00 | 1234
1 234 | 1234
1{,}234 | 1234
10080 | 10,\!080
3,5 | 3.5
3.5 million | 3500000
3.5 \times 10^6 | 3500000
1.6e-19 | 1.6 \times 10^{-19}
1.6 × 10^-19 | 1.6e-19
6.72e-5 | .0000672
−5 | -5
2/4 | \frac12
1 \frac{1}{2} | 3/2
1\frac{4}{5} | 1.8
-1 1/2 | -1.5
1 1/2 cups | 1.5
42 \mathrm{~km} | 42
42\,\text{km/h} | 42
90 degrees | 90^\circ
70 square centimeters | 70 \text{ square centimeters}
70 | 70 \text{ square centimeters}
\sqrt{1764} | 42
2^{10} | 1024
2**10 | 1024
5! | 120
0.707107 | \frac{\sqrt{2}}{2}
(3,\pi/2) | \left( 3, \frac{\pi}{2} \right)
(15, -29) | (15,-29)
x = (15,-29) | (15,-29)
[1,2, 3.0] | [1, 2, 3]
1,2,3 | 1, 2, 3
{"a":1,"b":2} | {"b": 2, "a": 1}
$\text{Paris}$ | Paris
\text{snake\_case} | snake_case
\#ff0000 | #ff0000
Yes. | yes
true | True
(B) | B
C | \text{(C)}
""")
WRONG = pairs(r"""
2031-05-02 | 2031-02-05
2024 | 2031-05-02
2031-05-02 | 2024
12:45 | 12:30
12:30 | 30
10.0.0.1 | 10.0.0.2
10.0.0.1 | 10
1.2.3 | 1.3.2
v1.10 | v1.1
555-1234 | 555-1235
1.6e-18 | 1.6e-19
1.6 \times 10^{-18} | 1.6 \times 10^{-19}
2e-7 | 1e-7
0 | 1e-7
2^{-31} | 2^{-30}
4-6 | 3-5
1728 | 1331 and 1728
1331 and 1728 | 1728
1331 \text{ and } 1729 | 1331 \text{ and } 1728
1331 \text{ and } 1728 | 1728
12:45 \text{ AM} | 12:45 \text{ PM}
40, 42 | 42
40 or 42 | 42
x=5, x=7 | 7
13=12 | 12
$13 = 12$ | 12
\(13 = 12.0\) | 12
3*4 = 12 = 13 | 13
42 out of 50 | 42
5 m | 5 km
5 | 5 km
5 m | 5\text{ km}
x\text{ m} | x\text{ km}
mama | amam
PARIS | Paris
a  b | a b
ab | a b
#FF0000 | #ff0000
7 | 007
2139 | 02139
no | yes
B | C
(14,-29) | (15,-29)
(15,-29] | (15,-29)
1,3,2 | 1,2,3
9^{10} | 9
42\pi | 42
42 π | 42
11\sqrt{2} | 11\sqrt{3}
11\sqrt{2}+1 | 11\sqrt{2}
x + 42 | 42
2x + 42 | 42
> 42 | 42
42 \pm 1 | 42
42 million | 42
42k | 42
5! | 5
5**5 | 5
€5 | $5
4200% | 42%
1000001 | 1000000
0.3333 | 1/3
1/0 | 0
plum jar | \text{PLUM JAR}
1e999999999 | 5
4 2 | 42
3 4 | 7
14/5 | 1\frac{4}{5}
12 | 1 2
""")


@pytest.mark.parametrize(("answer", "gold"), RIGHT)
def test_right_by_default(answer: str, gold: str) -> None:
    assert judge(answer, gold).correct is True


@pytest.mark.parametrize(("answer", "gold"), WRONG)
def test_wrong_by_default(answer: str, gold: str) -> None:
    """Those above the units were right before: the libraries read a number or a product out of any text."""
    assert judge(answer, gold).correct is False


def test_the_task_says_what_is_compared() -> None:
    assert judge("q + p", "p+q").correct is False and judge("q + p", "p+q", "math").correct is True
    assert judge("-2,1", "1,-2", "math").correct and judge("6+9i", "9i + 6", "math").correct
    assert judge("Even", "\\text{even}", "math").correct and not judge("seat", "east", "math").correct
    assert judge("0042", "42").correct and not judge("0042", "42", "text").correct
    assert judge("42.0", "42", "math").correct and not judge("42.0", "42", "text").correct
    assert not judge("Yes", "yes", "text").correct and judge("\\text{yes}", "yes", "text").correct
    assert judge("The  Lund!", "lund", "words").correct and not judge("The  Lund!", "lund").correct
    assert judge("42", "42", "calls").correct is None
    assert not judge("10.0.0.1", "10.0.0.2", "math").correct and not judge("2031-05-02", "2031-02-05", "math").correct
    assert judge("1728 \\text{ and } 1331", "1331 \\text{ and } 1728", "math").correct


def test_no_answer_of_math500_passes_for_another(shared: Path) -> None:
    """And each is right as written in LaTeX's other ways."""
    rows = (shared / "data/math500/math500.jsonl").read_text(encoding="utf-8").splitlines()
    golds = sorted({json.loads(row)["answer"] for row in rows})
    rng = random.Random(0)
    for gold in rng.sample(golds, 150):
        other = rng.choice(golds)
        assert other == gold or not judge(other, gold, "math").correct, (other, gold)
        for written in (f"${gold}$", gold.replace("\\frac", "\\dfrac"), gold.replace(" ", "").replace("\\left", "")):
            assert judge(written.replace("\\right", "") if "\\left" not in written else written, gold, "math").correct


def test_hostile_answers_take_no_time() -> None:
    """What is decided without the helper has no time limit of its own."""
    started = time.monotonic()
    for part in (
        "$",
        "1 ",
        "1,111,",
        "1a",
        "**1** ",
        " \\text{ a}^",
        "\\boxed{",
        "[",
        "\\frac{1}{",
        "1 million ",
        "=1",
        "(1",
    ):
        for gold in ("5", "5\\text{ km}", "abc", "[1,2]"):
            for length in (900, 19_000, 300_000):
                answers._corrected.__wrapped__((part * length)[:length], gold, "answer")
    assert time.monotonic() - started < 20


def test_half_a_message_does_not_outlast_the_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A helper that stops in the middle of a verdict."""
    (tmp_path / "half.py").write_text(
        "import socket, sys, time\n"
        "end = socket.socket(fileno=int(sys.argv[1]))\n"
        "end.sendall(b'\"ready\"\\n')\n"
        "end.recv(1000)\n"
        "end.sendall(b'{\"correct\": ')\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(grader, "_PROGRAM", tmp_path / "half.py")
    monkeypatch.setattr(grader, "helper", grader.Helper())
    started = time.monotonic()
    monkeypatch.setattr(answers, "TIME_LIMIT", 0.5)
    assert judge("\\sqrt{8}+1", "1+\\sqrt{8}") == Verdict(None, "timeout")
    assert time.monotonic() - started < 20


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
        fast = answers._official(prediction, gold)
        if fast is not None:
            decided += 1
            theirs = METRIC([f"\\boxed{{{gold}}}"], [prediction])[0] > 0 or verify(parse(gold), parse(prediction))
            assert fast.correct is theirs, (prediction, gold)
    assert decided > 130


FORMATS = "{}| {} |${}$|x={}|={} |{} apples|{}\\text{{ cm}}|{0}, {0}|{}%|{} percent|({})|\\text{{{}}}|-{}|+{}|{},000"
FORMATS += "|{} 000|0{}|{}.0|{}.|{}5|{}^2|{}+1|answer: {} or 7|{}\n7|**{}**|\\${}|$ {} $|.{}|a {}|{}x|{}: [1]|1 {}"


def test_fast_path_agrees_with_the_helper() -> None:
    """Numbers in many formats against the libraries as the release calls them."""
    rng, decided = random.Random(0), 0
    for _ in range(1500):
        gold, number = rng.choice(NUMBERS), rng.choice([*NUMBERS, "123456789012345", "-05", "1,234", "0.1234567", "٣"])
        prediction = rng.choice(FORMATS.split("|")).format(rng.choice([gold, number]))
        gold = rng.choice([gold, gold, rng.choice(FORMATS.split("|")).format(gold)])
        fast = answers._official(prediction, gold)
        if fast is not None:
            decided += 1
            assert fast.correct is answers._slow(prediction, gold, True).correct, (prediction, gold)
    assert decided > 400


@settings(max_examples=60, deadline=None)
@given(st.fractions(-1000, 1000, max_denominator=50), st.fractions(-1000, 1000, max_denominator=50))
def test_fast_path_on_drawn_fractions(a: object, b: object) -> None:
    fast = answers._official(str(a), str(b))
    if fast is not None:
        assert fast.correct is verify(parse(str(b)), parse(str(a)))


def test_time_limit_and_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(answers, "TIME_LIMIT", 1.0)
        assert judge("9**9**9**9", "x^2") == Verdict(None, "timeout")
    assert judge("$2x$", "x+x", "math").correct is True


def test_an_answer_that_timed_out_is_asked_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may have been busy; an answer that is hopeless does not cost its time for ever."""
    asked: list[str] = []
    outcomes: list[tuple[bool | None, str]] = [(None, "timeout"), (True, "verify"), *[(None, "timeout")] * 2]
    monkeypatch.setattr(grader.helper, "ask", lambda prediction, *_: asked.append(prediction) or outcomes.pop(0))
    assert [judge("$x+x+5$", "2x+5", "math").correct for _ in range(3)] == [None, True, True]
    assert [judge("$x+x+6$", "2x+6", "math").how for _ in range(3)] == ["timeout"] * 3
    assert asked == ["x+x+5"] * 2 + ["x+x+6"] * 2


def test_threads() -> None:
    """math-verify itself raises off the main thread; here eight threads at once get the right verdicts."""
    pairs = [(f"${n}x+{n}$", f"{n}(x+1)") for n in range(2, 18)] + [(f"${n}y$", f"{n + 1}y") for n in range(2, 18)]
    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(lambda pair: judge(*pair, "math").correct, pairs))
    assert verdicts == [True] * 16 + [False] * 16


def test_async(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a coroutine judge runs in a thread, and the event loop stays free meanwhile."""

    async def all_at_once() -> tuple[list[bool | None], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        clock = asyncio.create_task(tick())
        asked = [asyncio.to_thread(judge, f"${n}z+1$", f"1+{n}z", "math") for n in range(2, 8)]
        asked.append(asyncio.to_thread(judge, "9**9**9**9", "x^3"))
        verdicts = await asyncio.gather(*asked)
        clock.cancel()
        return [verdict.correct for verdict in verdicts], ticks

    monkeypatch.setattr(answers, "TIME_LIMIT", 3.0)
    verdicts, ticks = asyncio.run(all_at_once())
    assert verdicts == [True] * 6 + [None] and ticks > 10


def test_a_killed_helper_is_reported_and_replaced() -> None:
    assert judge("$3+y$", "y+3", "math").correct is True
    process = grader.helper.process
    assert process is not None
    process.kill()
    process.wait()
    assert judge("$4+y$", "y+4", "math") == Verdict(None, "crash")
    assert judge("$4+y$", "y+4", "math").correct is True  # a crash is not remembered


def test_the_helper_is_bounded() -> None:
    assert judge("$5+y$", "y+5", "math").correct is True
    process = grader.helper.process
    assert process is not None
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    assert str(grader.MEMORY_MB * 2**20) in limits
    assert "HF_TOKEN" not in Path(f"/proc/{process.pid}/environ").read_text()


def test_a_helper_that_does_not_start_is_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grader, "helper", grader.Helper())
    monkeypatch.setattr(grader.sys, "executable", "/nonexistent/python")
    assert judge("$6+y$", "y+6", "math") == Verdict(None, "unavailable")


def test_after_a_fork() -> None:
    """A forked child gets a helper of its own, also when another thread of the parent holds the first."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with grader.helper.lock:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        correct = judge("$7+y$", "y+7", "math").correct
        grader.helper.stop()
        os._exit(0 if correct else 1)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
