"""Progress: what a line says, how often it comes, and what stays of it."""

import io
import re
import time

import pytest

from mentorlib.runs import progress
from mentorlib.runs.progress import Sampling, Ticker, progress_line, progress_printer, waiting


class Clock:
    """A clock that only the test moves."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(progress, "time", self)

    def monotonic(self):
        return self.now


def test_the_time_left_is_bounded_by_the_limit_then_told_by_rows_and_earlier_batches(monkeypatch):
    clock = Clock(monkeypatch)
    tally = Sampling(30, started=clock.now)
    tally.begin(10)
    clock.now += 6
    assert tally.metrics() == {"tokens": 0, "tokens/s": 0.0, "left": None}  # the prompts
    tally.limit = 100
    for _ in range(20):
        tally.step(10)
    clock.now += 3.8  # 19 tokens a row since the prompts: 16 s to the limit; 25.8 s a batch, three batches
    assert tally.metrics() == {"tokens": 200, "tokens/s": pytest.approx(200 / 9.8), "left": pytest.approx(67.6)}
    tally.step(5)
    assert tally.done == 5 and tally.metrics()["left"] == pytest.approx(13.6 * 3 - 9.8)  # half of the rows in 3.8 s
    clock.now += 10.2
    tally.keep(0)
    assert tally.done == 10 and tally.metrics()["left"] == pytest.approx(40)  # 20 s a batch
    tally.begin(10)
    clock.now += 5
    assert tally.done == 10 and tally.metrics()["left"] == pytest.approx(35)  # before its first token
    for going in (10, 4, 0):
        tally.step(going)
    tally.begin(10)
    tally.keep(0)
    assert tally.done == 30 and tally.metrics()["left"] == 0


@pytest.mark.parametrize(
    ("done", "metrics", "said"),
    [
        (0, {"tokens": 0, "tokens/s": 0.0, "left": None}, "tokens 0  tokens/s 0.0  reading prompts, 9s so far"),
        (0, {"tokens": 1234, "tokens/s": 35.04, "left": 80.2}, "tokens 1,234  tokens/s 35.0  at most 1m20s left"),
        (7, {"tokens": 1234, "tokens/s": 35.04, "left": 80.2}, "tokens 1,234  tokens/s 35.0  1m20s left"),
        (9, {"tokens": 1234, "tokens/s": 35.04, "left": 0.0}, "tokens 1,234  tokens/s 35.0  9s"),
    ],
)
def test_what_a_line_says(done, metrics, said):
    assert progress_line("evaluate", done, 9, metrics, 9.2) == f"evaluate {done}/9  {said}"


def test_a_line_overwrites_the_one_before_and_the_last_one_stays(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    report = progress_printer("grpo")
    for step, metrics in ((0, {"inside": "rollouts 3/64"}), (1, {"loss": 0.5}), (2, {"loss": 9.0}), (3, {})):
        report(step, 3, metrics)  # a step's line is not held back by one from inside it, but by another step's
        clock.now += 1.5
    written = capsys.readouterr().out
    assert [line.rstrip(" ") for line in re.split("(?<=[\r\n])", written)] == [
        "grpo step 1/3: rollouts 3/64\r",
        "grpo 1/3  loss 0.500  3s left\r",
        "grpo 3/3  4s                 \n",
        "",
    ]


def test_a_line_fits_into_the_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    report = progress_printer("evaluate", every=0)
    report(1, 3, {"tokens": 12345, "tokens/s": 10.0, "left": 5.0})
    report(2, 3)
    report(2, 3, {"inside": f"rollouts {'9' * 50}"})
    report(3, 3, {"tokens": 12345, "tokens/s": 10.0})  # the last stays, and may wrap
    lines = re.split("(?<=[\r\n])", terminal.getvalue())
    assert lines[0] == "evaluate 1/3  tokens 12,345  5s left\r" and lines[1].split() == "evaluate 2/3 0s left".split()
    assert all(len(line) <= 40 and line.endswith("\r") for line in lines[:3])
    assert lines[3].startswith("evaluate 3/3  tokens 12,345  tokens/s 10.0") and lines[3].endswith("\n")


def test_a_ticker_reports_every_so_often_and_not_when_others_did(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.3)
    times: list[float] = []
    begun = time.monotonic()
    with Ticker(lambda: times.append(time.monotonic())):
        time.sleep(1.0)
    ended = len(times)
    gaps = [b - a for a, b in zip([begun, *times], times, strict=False)]
    assert 1 <= ended <= 3 and min(gaps) >= 0.3
    with Ticker(lambda: times.append(time.monotonic())) as ticker:
        for _ in range(20):
            time.sleep(0.03)
            with ticker.lock:
                ticker.restart()
    time.sleep(0.4)
    assert len(times) == ended


def test_a_report_that_fails_does_not_end_what_it_reports(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.1)
    failed = []
    monkeypatch.setattr("threading.excepthook", lambda args: failed.append(args.exc_value))
    with Ticker(lambda: {}["loss"]):
        time.sleep(0.5)
    assert [str(e) for e in failed] == ["'loss'"]


def test_waiting_says_nothing_of_what_is_quick(monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.4)
    with waiting("loading nano"):
        pass
    assert capsys.readouterr().out == ""
    with waiting("loading nano"):
        time.sleep(0.6)
    assert capsys.readouterr().out in ("loading nano: 0s\rloading nano: 1s\n", "loading nano: 1s\rloading nano: 1s\n")
