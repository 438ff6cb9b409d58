"""Training as it goes: the figure, and the interrupt that ends it after a step."""

import json
import signal
from pathlib import Path

import nbformat
import plotly.graph_objects as go
import pytest
from tiny import notebook

from mentorlib import Run
from mentorlib.lab.batch.notebook import run_notebook
from mentorlib.lab.report import live


def test_an_interrupt_while_the_figure_is_drawn_ends_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown: list[str] = []

    def show(fig: go.Figure) -> None:
        if not shown:
            signal.raise_signal(signal.SIGINT)
        shown.append(fig.layout.title.text)

    monkeypatch.setattr(go.Figure, "show", show)
    before = signal.getsignal(signal.SIGINT)
    run = Run("r")
    follow = live.Live(run)
    stops = []
    try:
        for step in (1, 2):
            run.log(step, loss=1 / step)
            stops.append(follow(step, 9, {}))
    finally:
        signal.signal(signal.SIGINT, before)
    assert stops == [False, True] and "Ended after step 2 of 9" in shown[-1]
    assert json.loads(Path("runs/r/results.json").read_text())["stopped_at_step"]["value"] == 2


def test_live_figure_in_batch_is_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = notebook(
        tmp_path / "n.ipynb",
        'run: str = "r"',
        "from mentorlib import Run\nfrom mentorlib.lab.report import live\n"
        "record = Run(run)\nfollow = live.Live(record, every=0)",
        "for step in range(1, 6):\n    record.log(step, loss=1 / step)\n    follow(step, 5, {})",
    )
    run_notebook(source, on_line=lambda line: None)
    node = nbformat.read(tmp_path / "runs" / "r" / "notebook.ipynb", 4)
    figures = [
        o.data
        for c in node.cells
        for o in c.get("outputs", [])
        if "application/vnd.plotly.v1+json" in o.get("data", {})
    ]
    assert len(figures) == 1 and "5 steps" in json.dumps(figures[0])
