"""Tables, transcripts and widgets of the notebooks.

What the HTML report needs is static HTML (`linked_table`, `transcripts`, `examples`); widgets need a kernel and always
follow a static figure of the same data. Model output is rendered by `transcript_html` or passes through `escape`.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as w
import pandas as pd
from IPython.display import HTML

from ...core import Trajectory
from ...rewards.reward import get_reward
from .. import figures
from ..analysis.outcomes import OUTCOMES
from ..analysis.reward_effects import rescore
from ..analysis.text import link
from .transcript import escape, transcript_html


def linked_table(table: pd.DataFrame, *, rows: str, columns: str, **filters: str) -> HTML:
    """A table of numbers, each a link to the trajectories behind it.

    Args:
        table: numbers, or strings such as "62% [55, 69]". Zeros, NaN and dashes are not linked.
        rows: the filter of the trajectory page that the index holds, such as ``"outcome"``.
        columns: the same of the columns, such as ``"method"``.
        filters: further filters, the same for all cells, such as ``suite="longer"``.
    """
    head = "".join(f"<th scope='col'>{escape(str(c))}</th>" for c in table.columns)
    lines = []
    for name, row in zip(table.index, table.to_numpy(object), strict=True):
        cells = ""
        for column, value in zip(table.columns, row, strict=True):
            text = escape(value if isinstance(value, str) else f"{value:,}" if value == value else "–")
            if text not in ("0", "–"):
                address = html.escape(link(**{rows: name, columns: column}, **filters))
                text = f"<a href='{address}'>{text}</a>"
            cells += f"<td style='white-space:nowrap'>{text}</td>"
        lines.append(f"<tr><th scope='row'>{escape(str(name))}</th>{cells}</tr>")
    return HTML(
        f"<table class='dataframe'><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )


def transcripts(rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> HTML:
    """Several rows below each other, to display in a notebook."""
    records = rows.to_dict("records") if isinstance(rows, pd.DataFrame) else rows
    return HTML("".join(transcript_html(row) for row in records) or "<p>No such trajectory here.</p>")


def examples(rows: pd.DataFrame, each: int = 1, seed: int = 0) -> HTML:
    """For each outcome but "correct": what it means, how often it came, and ``each`` rows drawn by seed."""
    parts = []
    for outcome, meaning in OUTCOMES.items():
        group = rows[rows["outcome"] == outcome]
        if outcome == "correct" or group.empty:
            continue
        parts.append(f"<h3>{html.escape(outcome)} ({len(group)} of {len(rows)})</h3><p>{html.escape(meaning)}</p>")
        drawn = group.sample(min(each, len(group)), random_state=seed)
        parts += [transcript_html(row) for row in drawn.to_dict("records")]
    return HTML("".join(parts) or "<p>Nothing failed here.</p>")


def trajectory_browser(rows: pd.DataFrame) -> w.Widget:
    """Read rows of ``analysis.load`` one by one, filtered by suite, method, outcome and tool called."""
    tools = {index: {call["name"] for call in calls} for index, calls in rows["calls"].items()}
    values = {
        "suite": dict.fromkeys(rows["suite"]),
        "method": dict.fromkeys(rows["method"]),
        "outcome": [o for o in OUTCOMES if o in set(rows["outcome"])],
        "tool": sorted(set().union(*tools.values())),
    }
    menus = {
        name: w.Dropdown(options=[("all", ""), *((figures.base.plotly_text(v), v) for v in choices)], description=name)
        for name, choices in values.items()
    }
    number = w.BoundedIntText(value=1, min=1, max=max(1, len(rows)), description="row")
    count, page = w.Label(), w.HTML()
    matching: list[Any] = []

    def show(_: Any = None) -> None:
        empty = "<p>No trajectory fits these filters.</p>"
        page.value = transcript_html(rows.loc[matching[number.value - 1]]) if matching else empty

    def filter_rows(_: Any = None) -> None:
        keep = pd.Series(True, index=rows.index)
        for column in ("suite", "method", "outcome"):
            if menus[column].value:
                keep &= rows[column] == menus[column].value
        tool = menus["tool"].value
        matching[:] = [index for index in rows.index[keep] if not tool or tool in tools[index]]
        count.value = f"of {len(matching)} that fit ({len(rows)} in all)"
        number.max = max(1, len(matching))
        number.value = 1
        show()

    for menu in menus.values():
        menu.observe(filter_rows, names="value")
    number.observe(show, names="value")
    filter_rows()
    return w.VBox([w.Box([*menus.values(), number, count], layout=w.Layout(flex_flow="row wrap")), page])


def playground(row: Mapping[str, Any] | pd.Series, version: str = "corrected") -> w.Widget:
    """Edit a response and see at once how every reward scores it, with the numbers of ``reward_effects.reward_terms``.

    Args:
        row: a stored row, for its question, gold answer, teacher and tools.
        version: of the rewards, corrected or official.
    """
    row = dict(row)
    editor = w.Textarea(value=row["response"], layout=w.Layout(width="100%", height="220px"), continuous_update=False)
    restore = w.Button(description="restore", tooltip="put the stored response back")
    # Not an Output widget: in batch, nbclient handles one on the socket on which it awaits the cell's reply, and may
    # miss that reply and hang.
    table = w.HTML()

    def score(_: Any = None) -> None:
        table.value = terms_html(score_response(row, editor.value, version))

    editor.observe(score, names="value")
    restore.on_click(lambda _: setattr(editor, "value", row["response"]))
    score()
    hint = w.HTML("<small>Edit the response, then click elsewhere: it is read and scored again.</small>")
    return w.VBox([hint, editor, restore, table])


def score_response(
    row: Mapping[str, Any] | pd.Series, response: str | None = None, version: str = "corrected"
) -> pd.DataFrame:
    """``reward_effects.rescore`` of one row, with ``response`` in place of the stored one if given."""
    row = dict(row)
    if response is not None:
        changed = Trajectory.from_response(response, str(row["task_id"]))
        row |= {"response": response, "messages": changed.messages, "stop": changed.stop}
    return rescore(pd.DataFrame([row]), version)


def terms_html(scored: pd.DataFrame) -> str:
    """The terms of every reward on one trajectory (``score_response``) as an escaped HTML table.

    A bar shows the total as a share of the reward's maximum.
    """
    wide = pd.DataFrame(list(scored["terms"]), index=list(scored["reward"])).assign(total=list(scored["total"]))
    most = [get_reward(reward).maximum for reward in scored["reward"]]
    shares = [max(0.0, total / top) for total, top in zip(scored["total"], most, strict=True)]
    wide["of the maximum"] = [
        f"<div style='background:{figures.base.colour(f'grpo-{name}')};height:12px;width:{120 * share:.0f}px'></div>"
        for name, share in zip(scored["reward"], shares, strict=True)
    ]
    wide["reason"] = [escape(reason) for reason in scored["reason"]]
    with pd.option_context("display.max_colwidth", None):
        return wide.to_html(float_format="{:.3f}".format, na_rep="", border=0, escape=False)
