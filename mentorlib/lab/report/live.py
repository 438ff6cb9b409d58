"""Training as it goes: one figure that is redrawn each step, and a stop that lets the step at hand finish.

The stop is the one that every notebook has: the ■ of the toolbar (interrupt the kernel). While a cell trains, a
widget's callback has to wait for it, but an interrupt is a signal: the handler sets a flag, and training ends after the
step, with the model as it is then. A second interrupt ends it at once. Workers of the sandbox have sessions of their
own, which the signal does not reach. Executed by papermill there is nobody to interrupt, and what stays in the notebook
is the last figure: the same code.
"""

import signal
import threading
import time
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from IPython.display import clear_output
from plotly.subplots import make_subplots

from ...core import InputError
from ...runs.progress import ProgressCallback, format_duration
from ...runs.run import Run
from ..analysis.text import percent
from ..figures.base import STOP_COLOURS, empty_figure, plotly_text, style_figure, term_colour


class Live:
    """A report for ``train``: shows the run's metrics as a figure, and gives True once the kernel was interrupted.

    Args:
        run: whose metrics.jsonl is drawn.
        every: seconds between two drawings at least; the last step is always drawn.
        report: told each step too, such as ``progress.printer``.
    """

    def __init__(self, run: Run, report: "ProgressCallback | None" = None, every: float = 1.0):
        self.run, self.report, self.every = run, report, every
        self._stop = False
        self._drawn = -every
        self._start = time.monotonic()
        self._began: int | None = None  # a resumed run's time left comes from what this process did

    def __call__(self, step: int, steps: int, metrics: dict[str, Any]) -> bool:
        if self.report:
            self.report(step, steps, metrics)
        if self._began is None:
            self._began = step
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, self._interrupted)
        now = time.monotonic() - self._start
        stop = self._stop  # asked once: an interrupt that comes while the figure is drawn ends the next step, drawn too
        last = stop or step >= steps
        if last or now - self._drawn >= self.every:
            self._drawn = now
            left = 0.0 if last else (steps - step) * now / max(1, step - self._began + 1)
            clear_output(wait=True)  # JupyterLab's plotly does not redraw what an update changes
            figure(curves(self.run), steps, left).show()
        if stop and step < steps:
            self.run.record("stopped_at_step", step, n=steps)
        if last and signal.getsignal(signal.SIGINT) == self._interrupted:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return stop

    def _interrupted(self, number: int, frame: object) -> None:
        self._stop = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


def curves(run: Run) -> pd.DataFrame:
    """A run's metrics.jsonl, one row a step; empty if it has none."""
    try:
        return pd.DataFrame(run.read_rows("metrics.jsonl"))
    except InputError:
        return pd.DataFrame()


def figure(metrics: pd.DataFrame, steps: int, left: float = 0.0) -> go.Figure:
    """Training by step: own reward and its terms (or the loss), accuracy, dead groups, calls, length, stops.

    In: ``curves`` of a run. ``steps`` is how many were asked for, ``left`` the seconds that the rest should take.
    """
    if metrics.empty or "step" not in metrics:
        return empty_figure("Nothing to draw: no step of training is done", "method none trains nothing")
    metrics = metrics.sort_values("step")
    terms = [name for name in metrics if name.startswith("term/")]
    stops = [name for name in STOP_COLOURS if name in metrics]
    panels: list[tuple[str, list[tuple[str, str, str]], str]] = [
        ("own reward and its terms", [("reward", "total", "#000000")], ".2f"),
        ("rollouts answered correctly", [("accuracy", "correct", "#009E73")], ".0%"),
        ("tokens predicted correctly", [("token_accuracy", "token accuracy", "#009E73")], ".0%"),
        ("loss", [("loss", "loss", "#0072B2")], ".3f"),
        ("groups that teach nothing", [("zero_variance_groups", "groups without spread", "#0072B2")], ".0%"),
        ("tool calls a rollout", [("calls", "calls", "#E69F00")], ".1f"),
        ("tokens sampled a rollout", [("tokens", "tokens", "#CC79A7")], ".0f"),
        ("how rollouts ended", [(name, f"ended: {name}", STOP_COLOURS[name]) for name in stops], ".0%"),
    ]
    panels[0][1].extend((name, f"term: {name.removeprefix('term/')}", term_colour(i)) for i, name in enumerate(terms))
    panels = [(name, [x for x in lines if x[0] in metrics], form) for name, lines, form in panels]
    if "reward" in metrics:  # its loss is near zero whatever happens: advantages add up to nothing
        panels = [panel for panel in panels if panel[0] != "loss"]
    panels = [panel for panel in panels if panel[1]]
    done = int(metrics["step"].max())
    fig = make_subplots(
        rows=len(panels),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.22 / max(1, len(panels) - 1) if len(panels) > 1 else 0,
        subplot_titles=[plotly_text(name) for name, _, _ in panels],
    )
    for row, (name, lines, form) in enumerate(panels, 1):
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
                row=row,
                col=1,
            )
        fig.update_yaxes(tickformat=form, rangemode="tozero", nticks=4, row=row, col=1)
    fig.update_xaxes(range=[min(1, metrics["step"].min()) - 0.5, max(steps, done) + 0.5])
    fig.update_xaxes(title_text="optimizer step", row=len(panels), col=1)
    return style_figure(fig, _title(metrics, done, steps, left), 200 + 110 * len(panels), legend=True)


def _title(metrics: pd.DataFrame, done: int, steps: int, left: float) -> str:
    n = max(1, len(metrics) // 4)
    key, what = next(
        pair
        for pair in (("accuracy", "rollouts correct"), ("token_accuracy", "tokens right"), ("loss", "loss"))
        if pair[0] in metrics
    )
    early, late = metrics[key].head(n).mean(), metrics[key].tail(n).mean()
    said = f"{percent(early)} → {percent(late)}" if key != "loss" else f"{early:.3f} → {late:.3f}"
    if left > 0:
        where = f"Step {done} of {steps}, {format_duration(left)} left"
    else:
        where = f"{done} steps" if done >= steps else f"Ended after step {done} of {steps}"
    return f"{where}: {what} {said}"
