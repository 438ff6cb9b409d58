"""Tables, transcripts and widgets of the notebooks.

What the HTML report needs is static HTML (`linked_table`, `transcripts`, `examples`); widgets need a kernel and always
follow a static figure of the same data. Model output is rendered by `transcript_html` or passes through `escape`.
"""

import html
import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as w
import pandas as pd
import plotly.graph_objects as go
from IPython.display import HTML, display

from ...core import Trajectory
from ...rewards.reward import get_reward
from ...runs.progress import visible
from .. import figures
from ..analysis.outcomes import OUTCOMES
from ..analysis.reward_effects import rescore
from ..analysis.text import link
from .html import PLOTLY
from .transcript import escape, side_by_side_html, transcript_html, verdict_html

# Long tables scroll (their output takes the keyboard's focus in a report). Plotly draws for white paper: where
# JupyterLab or VS Code is dark, a figure is inverted with its hues kept, as a whole report is.
_STYLE = """<style>
.jp-OutputArea-output:has(table.dataTable) { max-height: 24rem; overflow: auto; }
table.dataTable thead th { position: sticky; top: 0; background: var(--jp-layout-color0, #fff); }
table.dataTable.display :is(td, th):not(.dt-type-numeric) { text-align: left; }
@media print { .jp-OutputArea-output:has(table.dataTable) { max-height: none; } }
[data-jp-theme-light="false"] .js-plotly-plot, .vscode-dark .js-plotly-plot { filter: invert(.9) hue-rotate(180deg); }
.jp-Notebook details > summary { cursor: pointer; }
</style>"""

# Strings such as "42,656", "<0.001" and "–" (missing: the lowest) are sorted as the numbers that they are.
_AS_NUMBERS = """function (data, type) {
  if (type !== "sort" && type !== "type") return data;
  const text = String(data).replace(/^(<|&lt;)|,/g, "");
  return text === "–" ? "-" : text.trim() === "" || isNaN(text) ? data : Number(text);
}"""
# A saved table is called as those that have the report's own buttons (report.template), by its place on the page, and
# has one line of names, though pandas puts those of the index below the others.
_FILE = """function (button, table) {
  const all = [...document.querySelectorAll("table:not(.report-facts table)")];
  const page = location.pathname.split("/").pop().replace(/[.](html|ipynb)$/, "");
  return `${page}-table-${all.indexOf(table.table().node()) + 1}`;
}"""
_ONE_HEAD = """function (data) {
  const lines = data.headerStructure;
  const name = i => lines.map(cells => cells[i] ? cells[i].title : "").filter(text => text).join(" ");
  data.headerStructure = [data.header.map((_, i) => ({title: name(i)}))];
}"""


def follow_theme() -> None:
    """Use instead of init_notebook when no sortable table is shown; saves 1 MB a report.

    Figures follow a dark theme.
    """
    display(HTML(_STYLE))


def init_notebook() -> None:
    """Tables are sorted, searched, copied and saved as CSV; long ones scroll; figures follow a dark theme."""
    import itables

    itables.options.paging = False  # print loses no row
    itables.options.classes = "display compact"
    itables.options.style = "table-layout:auto;width:auto;margin:0;caption-side:bottom"
    itables.options.text_in_header_can_be_selected = False  # or a click on a name sorts nothing
    itables.options.columnDefs = [{"targets": "_all", "render": itables.JavascriptFunction(_AS_NUMBERS)}]
    exported = {"customizeData": itables.JavascriptFunction(_ONE_HEAD), "escapeExcelFormula": True}
    itables.options.buttons = [
        {"extend": "copyHtml5", "title": None, "exportOptions": exported},
        {"extend": "csvHtml5", "filename": itables.JavascriptFunction(_FILE), "exportOptions": exported},
    ]
    itables.init_notebook_mode()
    follow_theme()


def sentences(said: Sequence[str]) -> HTML:
    """A list of sentences, escaped, since they may hold names that came with runs."""
    return HTML(f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in said)}</ul>")


def glossary(meanings: Mapping[str, str], about: str) -> HTML:
    """A folded list of names with their meanings; ``about`` is the visible line."""
    lines = "".join(f"<li><em>{escape(name)}</em>: {escape(meaning)}</li>" for name, meaning in meanings.items())
    return HTML(f"<details><summary>{escape(about)}</summary><ul>{lines}</ul></details>")


class WithStatic:
    """A widget, and the figure or HTML that takes its place where no kernel runs: in a report.

    Notebooks display it as one output of both kinds; JupyterLab shows the widget.
    """

    def __init__(self, widget: w.Widget, static: str | go.Figure):
        self.widget, self.static = widget, static

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        shown: dict[str, Any] = self.widget._repr_mimebundle_(**options)
        if isinstance(self.static, str):
            return shown | {"text/html": self.static}
        return shown | {PLOTLY: json.loads(self.static.to_json())}


def linked_table(
    table: pd.DataFrame, *, rows: str, columns: str, trajectories: pd.DataFrame | None = None, **filters: str
) -> HTML | WithStatic:
    """A table of numbers, each of which opens the trajectories behind it.

    In a report a number is a link to ``trajectories.html``. In JupyterLab it is a button that shows them below the
    table, if they are given.

    Args:
        table: numbers, or strings such as "62% [55, 69]". Zeros, NaN and dashes open nothing.
        rows: the column of ``trajectories`` that the index holds, such as ``"outcome"``, a filter of the page too.
        columns: the same of the table's columns, such as ``"method"``.
        trajectories: rows of ``analysis.load`` with these two columns; a column may hold lists, such as a row's
            exploits.
        filters: further filters of the page, the same for all cells, such as ``suite="longer"``.
    """
    head = "".join(f"<th scope='col'>{escape(str(c))}</th>" for c in table.columns)
    lines = []
    for name, row in zip(table.index, table.to_numpy(object), strict=True):
        cells = ""
        for column, value in zip(table.columns, row, strict=True):
            text = escape(_cell(value))
            if text not in ("0", "–"):
                address = html.escape(link(**{rows: name, columns: column}, **filters))
                text = f"<a href='{address}'>{text}</a>"
            cells += f"<td style='white-space:nowrap'>{text}</td>"
        lines.append(f"<tr><th scope='row'>{escape(str(name))}</th>{cells}</tr>")
    static = f"<table class='dataframe'><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    if trajectories is None:
        return HTML(static)
    reader, read = _reader(trajectories)
    places = {kind: _places(trajectories[kind]) for kind in (rows, columns)}
    grid: list[w.Widget] = [w.Label(), *(w.Label(str(column)) for column in table.columns)]
    for name, values in zip(table.index, table.to_numpy(object), strict=True):
        grid.append(w.Label(str(name)))
        for column, value in zip(table.columns, values, strict=True):
            found = [i for i in places[rows].get(name, ()) if i in places[columns].get(column, ())]
            grid.append(_number_button(_cell(value), f"{name}, {column}", read, found))
    width = f"max-content repeat({len(table.columns)}, max-content)"
    shown = w.GridBox(grid, layout=w.Layout(grid_template_columns=width, grid_gap="0 12px", overflow="auto"))
    return WithStatic(w.VBox([shown, reader]), static)


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:,}" if value == value else "–"


def _places(column: pd.Series) -> dict[Any, dict[Any, None]]:
    """Where each value of a column is, or each item of its lists: value -> the index, in order."""
    places: dict[Any, dict[Any, None]] = {}
    for index, value in column.items():
        for item in value if isinstance(value, list) else [value]:
            places.setdefault(item, {})[index] = None
    return places


def _number_button(text: str, about: str, read: Any, found: list[Any]) -> w.Widget:
    if not found:
        return w.Label(text)
    style = w.ButtonStyle(button_color="transparent", text_color="var(--jp-content-link-color, #0060a8)")
    button = w.Button(description=text, tooltip=f"read: {about}", style=style, layout=w.Layout(width="auto"))
    button.on_click(lambda _: read(found, about))
    return button


def _reader(rows: pd.DataFrame) -> tuple[w.Widget, Any]:
    """A widget that shows one row of several, and the function that gives it others: (their index, what they are)."""
    number = w.BoundedIntText(value=1, min=1, max=1, description="row", layout=w.Layout(width="160px"))
    count, page = w.Label(), w.HTML()
    chosen: list[Any] = []

    def show(_: Any = None) -> None:
        page.value = transcript_html(rows.loc[chosen[number.value - 1]])

    def read(index: list[Any], about: str) -> None:
        chosen[:] = index
        count.value = f"of {len(index)} that fit: {visible(about)}"
        number.max = len(index)
        number.value = 1
        bar.layout.display = None
        show()

    number.observe(show, names="value")
    bar = w.HBox([number, count], layout=w.Layout(display="none"))
    return w.VBox([bar, page]), read


def transcripts(
    rows: pd.DataFrame | Sequence[Mapping[str, Any]], labels: Sequence[str] = (), folded: bool = False
) -> HTML:
    """Several rows below each other, to display in a notebook: each behind a line with its verdict.

    Args:
        rows: stored rows.
        labels: name them, such as their rows of a table.
        folded: the first is folded, too.
    """
    records = rows.to_dict("records") if isinstance(rows, pd.DataFrame) else list(rows)
    names = [*labels, *[""] * (len(records) - len(labels))]
    shown = [_folded(row, name, not (n or folded)) for n, (row, name) in enumerate(zip(records, names, strict=True))]
    return HTML("".join(shown) or "<p>No such trajectory here.</p>")


def _folded(row: Mapping[str, Any], label: str = "", opened: bool = False) -> str:
    """A transcript behind a line with its verdict and the beginning of its question."""
    question = row["question"] if isinstance(row.get("question"), str) else ""
    line = " · ".join(
        filter(None, [verdict_html(row, label), escape(textwrap.shorten(question, 80, placeholder=" …"))])
    )
    head = f"<details style='margin:2px 0'{' open' if opened else ''}><summary>{line}</summary>"
    return f"{head}{transcript_html(row, headed=False)}</details>"


def examples(rows: pd.DataFrame, each: int = 1) -> HTML:
    """For each outcome but "correct": what it means, how often it came, and ``each`` rows drawn at random, folded."""
    parts = []
    for outcome, meaning in OUTCOMES.items():
        group = rows[rows["outcome"] == outcome]
        if outcome == "correct" or group.empty:
            continue
        share = f"{len(group):,} of {len(rows):,}"
        parts.append(
            f"<p style='margin:8px 0 2px'><strong>{html.escape(outcome)}</strong> ({share}): {html.escape(meaning)}</p>"
        )
        drawn = group.sample(min(each, len(group)), random_state=0)
        parts += [_folded(row) for row in drawn.to_dict("records")]
    return HTML("".join(parts) or "<p>Nothing failed here.</p>")


def side_by_side(rows: pd.DataFrame) -> WithStatic:
    """One task under all methods, a column each. In JupyterLab, menus choose the task; a report shows the first.

    Tasks on which the methods differ come first. Of a method's runs the first that has the task stands for it.

    Args:
        rows: of ``analysis.load.evaluations``.
    """
    firsts = rows.drop_duplicates(["suite", "task_id", "method"])
    tasks: dict[str, dict[str, list[Any]]] = {}  # suite -> task -> index, those that differ first
    for suite, group in firsts.groupby("suite", sort=False):
        by_task = {str(task): list(part.index) for task, part in group.groupby("task_id", sort=False)}
        differ = {task: firsts.loc[index, "correct"].nunique() > 1 for task, index in by_task.items()}
        tasks[str(suite)] = {task: by_task[task] for task in sorted(by_task, key=lambda task: not differ[task])}
    if not tasks:
        return WithStatic(w.HTML(), "<p>No such trajectory here.</p>")
    suite = w.Dropdown(options=[(figures.base.plotly_text(name), name) for name in tasks], description="suite")
    task, page = w.Dropdown(description="task", layout=w.Layout(width="420px")), w.HTML()

    def show(_: Any = None) -> None:
        if task.value is not None:
            page.value = side_by_side_html(firsts.loc[tasks[suite.value][task.value]].to_dict("records"))

    def list_tasks(_: Any = None) -> None:
        of_suite = tasks[suite.value]
        right = {name: int(firsts.loc[index, "correct"].eq(True).sum()) for name, index in of_suite.items()}
        task.options = [
            (visible(f"{name}: {right[name]} of {len(index)} right"), name) for name, index in of_suite.items()
        ]
        task.value = next(iter(of_suite))

    suite.observe(list_tasks, names="value")
    task.observe(show, names="value")
    list_tasks()
    return WithStatic(w.VBox([w.Box([suite, task], layout=w.Layout(flex_flow="row wrap")), page]), page.value)


def playground(row: Mapping[str, Any] | pd.Series) -> WithStatic:
    """Edit a response and see at once how every reward scores it; a report has ``reward_terms`` of the stored one.

    A response whose calls are not in Hermes's format can be read and not edited.

    Args:
        row: a stored row, for its question, gold answer, teacher and tools.
    """
    row = dict(row)
    scored = score_response(row)
    editor = w.Textarea(value=row["response"], layout=w.Layout(width="auto", height="260px"), continuous_update=False)
    how = "Edit the response, then click elsewhere: it is read and scored again."
    read = [vars(call) for call in Trajectory.from_response(row["response"]).calls]
    if read != list(row["calls"]):  # an edit would be read as ChatML with Hermes's calls
        editor.disabled, how = True, "Not to be edited here: this model writes calls in another format than Hermes."
    restore = w.Button(description="restore", tooltip="put the stored response back")
    # Not an Output widget: in batch, nbclient handles one on the socket on which it awaits the cell's reply, and may
    # miss that reply and hang.
    table = w.HTML(layout=w.Layout(overflow="auto"))

    def score(_: Any = None) -> None:
        edited = editor.value if editor.value != row["response"] else None
        table.value = terms_html(score_response(row, edited))

    editor.observe(score, names="value")
    restore.on_click(lambda _: setattr(editor, "value", row["response"]))
    score()
    hint = w.HTML(f"<small>{how}</small>")
    task = w.HTML(f"<small>{escape(str(row.get('question', '')))} <b>Gold: {escape(str(row['answer']))}</b></small>")
    # Side by side where there is room, so that an edit and its result are on one screen.
    sides = [w.VBox([editor, w.HBox([restore, hint])], layout=w.Layout(flex="1 1 340px")), table]
    widget = w.VBox([task, w.Box(sides, layout=w.Layout(flex_flow="row wrap", grid_gap="0 16px"))])
    return WithStatic(widget, figures.reward_effects.reward_terms(scored))


def score_response(row: Mapping[str, Any] | pd.Series, response: str | None = None) -> pd.DataFrame:
    """``reward_effects.rescore`` of one row, with ``response`` in place of the stored one if given."""
    row = dict(row)
    if response is not None:
        changed = Trajectory.from_response(response, str(row["task_id"]))
        row |= {"response": response, "messages": changed.messages, "stop": changed.stop}
    return rescore(pd.DataFrame([row]))


def terms_html(scored: pd.DataFrame) -> str:
    """The total of every reward on one trajectory (``score_response``) and its terms, as an escaped HTML table.

    A bar shows the total as a share of the reward's maximum; the terms and the reason are in a line's tooltip, too.
    """
    lines = []
    for score in scored.itertuples():
        share = max(0.0, float(score.total) / get_reward(str(score.reward)).maximum)
        tint = figures.base.colour(f"grpo-{score.reward}")
        terms = " · ".join(f"{name} {value:.3g}" for name, value in score.terms.items())
        bar = f"<div style='background:{tint};height:10px;width:{80 * share:.0f}px'></div>"
        lines.append(
            f"<tr title='{escape(str(score.reason))}'><th scope='row'>{escape(str(score.reward))}</th>"
            f"<td>{score.total:.3f}</td><td style='min-width:84px'>{bar}</td>"
            f"<td style='text-align:left'>{escape(terms)}<br><small>{escape(str(score.reason))}</small></td></tr>"
        )
    head = "<th scope='col'>reward</th><th scope='col'>total</th><th scope='col'>of its maximum</th>"
    head += "<th scope='col' style='text-align:left'>terms; reason</th>"
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f"<table class='dataframe' style='line-height:1.25;font-size:12px'>{body}</table>"
