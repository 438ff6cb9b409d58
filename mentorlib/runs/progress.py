"""Progress as one line at a time: steps done, metrics, time left."""

import time
from collections.abc import Callable
from typing import Any

ProgressCallback = Callable[[int, int, dict[str, Any]], Any]  # step, steps, metrics; returning True stops training

METRIC_FORMATS = {"loss": "z.3f", "reward": "z.3f", "accuracy": ".0%", "token_accuracy": ".1%", "calls": ".1f"}
METRIC_FORMATS |= {"replies/s": ".1f", "tokens": ",.0f", "retries": ",", "cost": ".2f"}


def format_duration(seconds: float) -> str:
    """``75`` -> ``1m15s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def progress_printer(label: str, every: float = 2.0) -> Callable[..., None]:
    """A progress callback that prints at most one line in ``every`` seconds, and always the last one."""
    start = time.monotonic()
    last = -every
    first: tuple[int, float] | None = None  # step and time of the first report: a resumed training starts above 0

    def report(done: int, total: int, metrics: dict[str, Any] | None = None) -> None:
        nonlocal last, first
        now = time.monotonic() - start
        first_step, first_time = first or (0, 0.0)
        first = first or (done, now)
        if done < total and now - last < every:
            return
        last = now
        values = [f"{k} {format(metrics[k], form)}" for k, form in METRIC_FORMATS.items() if metrics and k in metrics]
        left = (now - first_time) / max(1, done - first_step) * (total - done)
        clock = f"{format_duration(left)} left" if done < total else format_duration(now)
        print("  ".join([f"{label} {done}/{total}", *values, clock]), flush=True)

    return report
