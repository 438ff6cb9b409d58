"""One line a step on the terminal or in a cell: where it stands, what was measured, the time left."""

import time
from collections.abc import Callable
from typing import Any

SHOWN = {"loss": "z.3f", "reward": "z.3f", "accuracy": ".0%", "token_accuracy": ".1%", "calls": ".1f"}
SHOWN |= {"replies/s": ".1f", "tokens": ",.0f", "retries": ",", "cost": ".2f"}


def lasting(seconds: float) -> str:
    """``75`` -> ``1m15s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def printer(label: str, every: float = 2.0) -> Callable[..., None]:
    """A report for trainers and evaluate: prints at most one line in ``every`` seconds, and always the last."""
    start = time.monotonic()
    last = -every
    first: tuple[int, float] | None = None  # a training that goes on begins with a step that it did not take

    def report(done: int, total: int, metrics: dict[str, Any] | None = None) -> None:
        nonlocal last, first
        now = time.monotonic() - start
        before, began = first or (0, 0.0)
        first = first or (done, now)
        if done < total and now - last < every:
            return
        last = now
        seen = [f"{name} {format(metrics[name], form)}" for name, form in SHOWN.items() if metrics and name in metrics]
        left = lasting((now - began) / max(1, done - before) * (total - done))
        print(
            "  ".join([f"{label} {done}/{total}", *seen, f"{left} left" if done < total else lasting(now)]), flush=True
        )

    return report
