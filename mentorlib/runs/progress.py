"""Terminal output: progress, one line at a time, and text from others made safe to print."""

import math
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

EVERY = 4.0  # seconds without a report after which one from inside a batch or a step is due
# Called with (done, all, metrics); returning True stops training. A report from inside a step of training has the
# metric ``inside`` alone, a text.
ProgressCallback = Callable[[int, int, dict[str, Any]], Any]

METRIC_FORMATS = {"loss": "z.3f", "reward": "z.3f", "accuracy": ".0%", "token_accuracy": ".1%", "calls": ".1f"}
METRIC_FORMATS |= {"replies/s": ".1f", "tokens": ",.0f", "tokens/s": ",.1f", "retries": ",", "cost": ".2f"}


def format_duration(seconds: float) -> str:
    """``75`` -> ``1m15s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def visible(text: str) -> str:
    """Text with control and direction marks spelled out (``\\u001b``), so that they cannot steer a terminal or page."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\u{ord(c):04x}" for c in text)


@dataclass
class Sampling:
    """How far sampling is. Engines count in plain numbers; a thread reads them when a line is due (see Ticker)."""

    rows: int  # to sample, in all batches
    done: int = 0  # of them finished
    before: int = 0  # finished when the current batch began
    batch: int = 0  # rows of the current batch
    going: int = 0  # of them not finished
    tokens: int = 0  # sampled so far
    length: int = 0  # tokens of the longest row of the batch
    limit: int = 0  # the most tokens that a row may have
    started: float = field(default_factory=time.monotonic)
    batch_started: float = 0.0
    prompts_done: float = 0.0  # when the batch had its first tokens

    def begin(self, rows: int) -> None:
        """A batch of ``rows`` begins, with its prompts."""
        self.before, self.length = self.done, 0
        self.batch_started = self.prompts_done = time.monotonic()
        self.batch = self.going = rows

    def keep(self, going: int) -> None:
        """Of the batch's rows, ``going`` are not at their end."""
        self.done += self.going - going
        self.going = going

    def step(self, going: int) -> None:
        """Each of the ``going`` rows has got a token."""
        self.keep(going)
        if not self.length:
            self.prompts_done = time.monotonic()
        self.tokens, self.length = self.tokens + going, self.length + 1

    def metrics(self) -> dict[str, Any]:
        """``tokens``, ``tokens/s`` (mean since the start), ``left`` (seconds; None while the first prompts are read).

        The batch at hand is taken to last as long a row as the batches before it. If there is none, or it already lasts
        longer: as long as the share of its rows that are done suggests, or until its longest row reaches the limit,
        whichever is sooner. Batches to come are taken to last as those so far. Before any row is done, ``left`` is the
        most that it can be.
        """
        now = time.monotonic()
        seconds, in_batch, sampling = now - self.started, now - self.batch_started, now - self.prompts_done
        length, going, before = self.length, self.going, self.before  # read once: the engine goes on
        rest = []
        if length > 1:
            rest.append(sampling / (length - 1) * max(0, self.limit - length))
        if ended := self.batch - going:
            rest.append(sampling / ended * going)
        if before and (usual := (seconds - in_batch) / before * self.batch) > in_batch:
            rest = [usual - in_batch]
        left = (seconds + min(rest)) * self.rows / (before + self.batch) - seconds if rest else None
        left = 0.0 if self.done == self.rows else left
        return {"tokens": self.tokens, "tokens/s": self.tokens / max(1e-9, seconds), "left": left}


class Ticker:
    """Calls ``report`` whenever ``EVERY`` seconds have passed without ``restart``, while its ``with`` block runs.

    From a thread of its own: the block may be in a forward pass, or a tool's call, that takes minutes. What fails in
    ``report`` is printed and ends the reports, not the block.
    """

    def __init__(self, report: Callable[[], Any]):
        self.report = report
        self.lock = threading.Lock()  # held during a report, for others that report
        self._ended = threading.Event()
        self._due = math.inf

    def restart(self) -> None:
        """The next report is due in ``EVERY`` seconds."""
        self._due = time.monotonic() + EVERY

    def __enter__(self) -> "Ticker":
        self.restart()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(max(0.0, self._due - time.monotonic())):
            with self.lock:
                if time.monotonic() >= self._due and not self._ended.is_set():
                    self.report()
                    self.restart()


class _Line:
    """A line on stdout that the next one overwrites in place, unless it is the last."""

    def __init__(self) -> None:
        self.width = 0

    def show(self, text: str, last: bool = False) -> None:
        if sys.stdout.isatty() and not last:
            # A carriage return goes back one row, so that the line must fit into one. Jupyter's lines may wrap.
            text = shorten(text, shutil.get_terminal_size().columns - 1)
        sys.stdout.write(text.ljust(self.width) + ("\n" if last else "\r"))
        sys.stdout.flush()
        self.width = 0 if last else len(text)


def shorten(line: str, width: int) -> str:
    """A line of progress in at most ``width`` characters: without its last metrics, but with what is done and left."""
    parts = line.split("  ")
    while len("  ".join(parts)) > width and len(parts) > 2:
        del parts[-2]
    return "  ".join(parts)[:width]


def progress_line(label: str, done: int, total: int, metrics: dict[str, Any], seconds: float) -> str:
    """``label done/total``, the metrics that METRIC_FORMATS knows, and the time: what is left by the metric ``left``.

    Args:
        label: what is counted.
        done, total: how many.
        metrics: by name; ``left`` in seconds, None where only the time so far is known.
        seconds: so far.
    """
    values = [f"{k} {format(metrics[k], form)}" for k, form in METRIC_FORMATS.items() if k in metrics]
    left = metrics.get("left")
    if done >= total:
        clock = format_duration(seconds)
    elif left is None:
        clock = f"reading prompts, {format_duration(seconds)} so far"
    else:
        clock = f"{'' if done else 'at most '}{format_duration(left)} left"
    return "  ".join([f"{label} {done}/{total}", *values, clock])


def progress_printer(label: str, every: float = 2.0) -> Callable[..., None]:
    """A progress callback that prints at most one line in ``every`` seconds, and always the last one.

    In a terminal and in Jupyter each line overwrites the one before; a report keeps the last one.
    """
    start = time.monotonic()
    last = -every
    line = _Line()
    first: tuple[int, float] | None = None  # step and time of the first report: a resumed training starts above 0

    def report(done: int, total: int, metrics: dict[str, Any] | None = None) -> None:
        nonlocal last, first
        metrics = metrics or {}
        now = time.monotonic() - start
        if inside := metrics.get("inside"):  # a Ticker's, which come seconds apart
            line.show(f"{label} step {done + 1}/{total}: {inside}")
            return
        first_step, first_time = first or (0, 0.0)
        first = first or (done, now)
        if done < total and now - last < every:
            return
        last = now
        left = (now - first_time) / max(1, done - first_step) * (total - done)
        line.show(progress_line(label, done, total, {"left": left} | metrics, now), last=done >= total)

    return report


@contextmanager
def waiting(label: str) -> Iterator[None]:
    """Print ``label`` with the time so far every few seconds while the block runs; nothing if it is quick."""
    start = time.monotonic()
    line = _Line()

    def show(last: bool = False) -> None:
        line.show(f"{label}: {format_duration(time.monotonic() - start)}", last)

    with Ticker(show):
        yield
    if line.width:
        show(last=True)
