"""Training as it goes: one figure that is redrawn as steps end, and a stop that lets the running step finish.

The stop is the notebook's own ■ (interrupt the kernel). A widget's callback would wait until the cell has ended; an
interrupt is a signal, whose handler sets a flag, and training ends after the step. A second interrupt ends it at once.
The sandbox's workers are in sessions of their own, which the signal does not reach. In batch nobody interrupts, and the
last figure stays in the notebook.
"""

import signal
import threading
import time
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from IPython.display import clear_output

from ...core import InputError
from ...runs.progress import ProgressCallback, format_duration
from ...runs.run import Run
from ..analysis.text import percent
from ..analysis.training import early_and_late
from ..figures.base import STOP_COLOURS, TERMS, empty_figure, method_colours, panels, place, plotly_text, style_figure

# Title of a panel, number format, and its lines: key in the metrics, label, colour. Terms and stops are added.
_PANELS: list[tuple[str, str, list[tuple[str, str, str]]]] = [
    ("reward and its terms", ".2f", [("reward", "total", "#000000")]),
    ("rollouts answered correctly", ".0%", [("accuracy", "correct", "#009E73")]),
    ("tokens predicted correctly", ".0%", [("token_accuracy", "token accuracy", "#009E73")]),
    ("loss", ".3f", [("loss", "loss", "#0072B2")]),
    ("zero-variance groups", ".0%", [("zero_variance_groups", "zero-variance groups", "#0072B2")]),
    ("tool calls a rollout", ".1f", [("calls", "calls", "#E69F00")]),
    ("tokens sampled a rollout", ".0f", [("tokens", "tokens", "#CC79A7")]),
    ("how rollouts ended", ".0%", [(name, f"ended: {name}", tint) for name, tint in STOP_COLOURS.items()]),
]


class Live:
    """A progress callback for training: draws the run's metrics, and returns True once the kernel was interrupted.

    Args:
        run: whose metrics.jsonl is drawn.
        report: another callback that is called each step, and within long ones, such as ``progress_printer``.
        every: seconds between two drawings at least; the last step is always drawn.
    """

    def __init__(self, run: Run, report: ProgressCallback | None = None, every: float = 1.0):
        self.run, self.report, self.every = run, report, every
        self._stop = False
        self._drawn = -every
        self._start = time.monotonic()
        self._first: int | None = None  # this process's first step: the rest of a resumed run is estimated from it

    def __call__(self, step: int, steps: int, metrics: dict[str, Any]) -> bool:
        if self.report:
            self.report(step, steps, metrics)
        if "inside" in metrics:  # the step has not ended
            return False
        if self._first is None:
            self._first = step
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, self._interrupted)
        now = time.monotonic() - self._start
        stop = self._stop  # read once: an interrupt while the figure is drawn ends the next step, which is drawn too
        last = stop or step >= steps
        if last or now - self._drawn >= self.every:
            self._drawn = now
            left = 0.0 if last else (steps - step) * now / max(1, step - self._first + 1)
            clear_output(wait=True)  # JupyterLab's plotly does not redraw what an update changes
            live_figure(read_metrics(self.run), steps, left).show()
        if stop and step < steps:
            self.run.record("stopped_at_step", step, n=steps)
        if last and signal.getsignal(signal.SIGINT) == self._interrupted:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return stop

    def _interrupted(self, number: int, frame: object) -> None:
        self._stop = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


def read_metrics(run: Run) -> pd.DataFrame:
    """A run's metrics.jsonl, one row a step; empty if it has none."""
    try:
        return pd.DataFrame(run.read_rows("metrics.jsonl"))
    except InputError:
        return pd.DataFrame()


def live_figure(metrics: pd.DataFrame, steps: int, left: float = 0.0) -> go.Figure:
    """Training by step, a panel for each kind of metric that is there.

    Args:
        metrics: of ``read_metrics``.
        steps: how many were asked for.
        left: seconds that the rest should take; 0 when training has ended.
    """
    if metrics.empty or "step" not in metrics:
        return empty_figure("Nothing to draw: no step of training is done", "method none trains nothing")
    metrics = metrics.sort_values("step")
    colours = method_colours([n.removeprefix("term/") for n in metrics if n.startswith("term/")], TERMS)
    term_lines = [(f"term/{name}", f"term: {name}", tint) for name, tint in colours.items()]
    terms = [key for key, *_ in term_lines]
    shown = []
    for name, form, lines in _PANELS:
        lines = [line for line in [*lines, *(term_lines if lines[0][0] == "reward" else [])] if line[0] in metrics]
        # GRPO's loss is near zero whatever happens: advantages of a group add up to nothing.
        if lines and not (name == "loss" and "reward" in metrics):
            shown.append((name, form, lines))
    done = int(metrics["step"].max())
    fig, height = panels([name for name, _, _ in shown], 3, 150, shared_y=False)
    for n, (name, form, lines) in enumerate(shown):
        stacked = name == "how rollouts ended"
        for key, label, tint in lines:
            fig.add_scatter(
                x=metrics["step"],
                y=metrics[key],
                name=plotly_text(label),
                mode="lines+markers" if done < 4 and not stacked else "lines",
                line={"color": tint, "width": 0.5 if stacked else 2, "dash": "dot" if key in terms else "solid"},
                stackgroup="stops" if stacked else None,
                fillcolor=tint if stacked else None,
                showlegend=len(lines) > 1,
                hovertemplate=f"step %{{x}}: {plotly_text(label)} %{{y:{form}}}<extra></extra>",
                **place(n, fig),
            )
        fig.update_yaxes(tickformat=form, rangemode="tozero", nticks=4, **place(n, fig))
    fig.update_xaxes(range=[min(1, metrics["step"].min()) - 0.5, max(steps, done) + 0.5])
    fig.update_xaxes(title_text="optimizer step")
    return style_figure(fig, _title(metrics, done, steps, left), height + 130, legend=True)


def _title(metrics: pd.DataFrame, done: int, steps: int, left: float) -> str:
    """Progress, and the mean of the main metric over the first and the last quarter of the steps."""
    labels = {"accuracy": "rollouts correct", "token_accuracy": "tokens right", "loss": "loss"}
    key = next(key for key in labels if key in metrics)
    early, late = early_and_late(metrics[key].astype(float))
    change = f"{early:.3f} → {late:.3f}" if key == "loss" else f"{percent(early)} → {percent(late)}"
    progress = f"{done} steps" if done >= steps else f"Ended after step {done} of {steps}"
    if left > 0:
        progress = f"Step {done} of {steps}, {format_duration(left)} left"
    return f"{progress}: {labels[key]} {change} (first and last quarter)"
