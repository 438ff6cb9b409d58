"""Reading trajectories: one as static HTML, many in a browser widget, and a playground for the rewards.

Whatever a model wrote is shown as text: HTML escaped, inside ``<pre>``, with control and direction marks spelled out.
``transcript_html`` needs no widget, so that the HTML report keeps what the notebook shows. A widget always follows
a static figure of the same data.
"""

import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as w
import pandas as pd
from IPython.display import HTML

from ...core import Trajectory
from ...rewards.reward import named
from .. import figures
from ..analysis.outcomes import OUTCOMES
from ..analysis.reward_effects import rescore
from ..analysis.text import link
from ..analysis.token_credit import sampled

LIMIT = 20_000  # characters shown of one text
_BOX = "border:1px solid #8884;border-left:4px solid {};border-radius:4px;padding:6px 10px;margin:6px 0"
_PRE = (
    "white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere;unicode-bidi:plaintext;background:none;color:inherit;"
    "font:12.5px/1.45 ui-monospace,monospace;border:0;margin:2px 0;padding:0"
)
_SIDES = "display:grid;grid-template-columns:repeat(auto-fit,minmax(min(20em,100%),1fr));gap:0 16px"
_TINTS = {"question": "#7F7F7F", "assistant": "#0072B2", "call": "#E69F00", "tool": "#009E73", "error": "#D55E00"}


def escape(value: Any) -> str:
    """Text of a model as HTML that only shows it: escaped, marks spelled out, cut after LIMIT characters."""
    raw = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    shown = "".join(c if c.isprintable() or c in "\n\t" else f"\\u{ord(c):04x}" for c in raw[:LIMIT])
    more = f"\n… {len(raw) - LIMIT:,} more characters" if len(raw) > LIMIT else ""
    return html.escape(shown) + more


def transcript_html(row: Mapping[str, Any] | pd.Series) -> str:
    """One stored row as static, escaped HTML: verdict, question, turns, tool results, the teacher's calls, the reward.

    Student and teacher stand side by side where there is room. Where the row keeps its tokens, they follow folded,
    coloured by log-probability. In: a row of ``analysis.evaluations`` or ``rollouts``, or a stored row as it is.
    """
    row = dict(row)
    facts = [
        row.get("method"),
        row["suite"],
        row["task_id"],
        row.get("outcome"),
        f"stop: {row['stop']}",
    ]
    head = " · ".join(escape(str(f)) for f in facts if isinstance(f, str))
    if isinstance(row.get("where"), str):
        address = html.escape(link(row["where"]))
        head += f" · <a style='text-decoration:underline' href='{address}'>{escape(row['where'])}</a>"
    parts = [f"<div style='font-weight:600;margin-bottom:4px;overflow-wrap:anywhere'>{head}</div>"]
    if isinstance(row.get("question"), str):
        parts.append(_box("question", "question", row["question"]))
    parts.append(f"<div style='{_SIDES}'><div>")
    for message in row["messages"]:
        if message["role"] == "tool":
            failed = str(message.get("content")).startswith("error:")
            parts.append(_box("error" if failed else "tool", "tool result", message.get("content", "")))
            continue
        if str(message.get("content") or "").strip():
            parts.append(_box("assistant", "student", message["content"]))
        for call in message.get("tool_calls") or ():
            parts.append(_box("call", "calls", _call(call["function"])))
    calls = row.get("teacher_calls")
    teacher = calls if isinstance(calls, list) else row["teacher_tools"]
    lines = [_call(c) if isinstance(c, Mapping) else str(c) for c in teacher] or ["(no tool)"]
    gold = f"gold answer: {row['answer']}\n"
    parts.append("</div><div>")
    parts.append(_box("question", "teacher", gold + "\n".join(lines)))
    parts.append("</div></div>")
    if isinstance(row.get("terms"), Mapping):
        weights = row["weights"] if isinstance(row.get("weights"), Mapping) else {}
        sums = [f"{k} {v:g} × {weights.get(k, 1):g}" for k, v in row["terms"].items()]
        total = row.get("total")
        known = total is not None and total == total
        paid = f"{row['reward']}: " + (f"total {total:g} = {' + '.join(sums)}" if known else "not scored")
        paid += f"; advantage {row['advantage']:+.2f}" if isinstance(row.get("advantage"), float) else ""
        parts.append(_box("question", "reward", f"{paid}\n{row.get('reason') or ''}"))
    if isinstance(row.get("tokens"), list):
        parts.append(_tokens(row))
    return f"<article style='margin:0 0 22px;max-width:62em'>{''.join(parts)}</article>"


def linked(table: pd.DataFrame, *, rows: str, columns: str, **filters: str) -> HTML:
    """A table of numbers, each a link to the trajectories behind it.

    ``rows`` and ``columns`` say what the table's are called on the trajectories' page (``rows="outcome",
    columns="method"``); ``filters`` are the same for all cells (``suite="longer"``). Zeros, NaN and dashes link to
    nothing.
    """
    head = "".join(f"<th scope='col'>{escape(str(c))}</th>" for c in table.columns)
    lines = []
    for name, row in zip(table.index, table.to_numpy(object), strict=True):
        cells = ""
        for column, value in zip(table.columns, row, strict=True):
            said = escape(value if isinstance(value, str) else f"{value:,}" if value == value else "–")
            address = html.escape(link(**{rows: name, columns: column}, **filters))
            there = value not in (0, "–") and value == value
            inside = f"<a href='{address}'>{said}</a>" if there else said
            cells += f"<td style='white-space:nowrap'>{inside}</td>"
        lines.append(f"<tr><th scope='row'>{escape(str(name))}</th>{cells}</tr>")
    return HTML(
        f"<table class='dataframe'><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )


def _tokens(row: Mapping[str, Any]) -> str:
    turns = []
    for turn in sampled(row):
        spans = [
            f"<span style='background:rgba(213,94,0,{0.75 * (1 - math.exp(p)):.2f})'>{escape(token)}</span>"
            for token, p in turn[:1000]
        ]
        turns.append(f"<pre style='{_PRE}'>{''.join(spans)}</pre>")
    inside = "<hr>".join(turns)
    return f"<details><summary>tokens by probability (the more orange, the less sure)</summary>{inside}</details>"


def transcripts(rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> HTML:
    """Several rows below each other, to display in a notebook."""
    records = rows.to_dict("records") if isinstance(rows, pd.DataFrame) else rows
    return HTML("".join(transcript_html(row) for row in records) or "<p>No such trajectory here.</p>")


def examples(rows: pd.DataFrame, each: int = 1, seed: int = 0) -> HTML:
    """For each outcome but "correct": what it means, how often it came, and ``each`` rows drawn by seed."""
    parts = []
    for outcome, meaning in OUTCOMES.items():
        own = rows[rows["outcome"] == outcome]
        if outcome == "correct" or own.empty:
            continue
        parts.append(f"<h3>{html.escape(outcome)} ({len(own)} of {len(rows)})</h3><p>{html.escape(meaning)}</p>")
        parts += [transcript_html(r) for r in own.sample(min(each, len(own)), random_state=seed).to_dict("records")]
    return HTML("".join(parts) or "<p>Nothing failed here.</p>")


def trajectory_browser(rows: pd.DataFrame) -> w.Widget:
    """Read rows one by one, filtered by suite, method, outcome and tool called. In: rows of ``analysis``."""
    tools = sorted({call["name"] for calls in rows["calls"] for call in calls})
    suite, method, outcome, tool = (
        w.Dropdown(options=[("all", ""), *((figures.base.text(v), v) for v in values)], description=name)
        for name, values in (
            ("suite", dict.fromkeys(rows["suite"])),
            ("method", dict.fromkeys(rows["method"])),
            ("outcome", [o for o in OUTCOMES if o in set(rows["outcome"])]),
            ("tool", tools),
        )
    )
    number = w.BoundedIntText(value=1, min=1, max=max(1, len(rows)), description="row")
    count, page = w.Label(), w.HTML()
    found: list[Any] = []

    def show(_: Any = None) -> None:
        page.value = (
            transcript_html(rows.loc[found[number.value - 1]]) if found else "<p>No trajectory fits these filters.</p>"
        )

    def filter_rows(_: Any = None) -> None:
        keep = pd.Series(True, index=rows.index)
        for column, choice in (("suite", suite), ("method", method), ("outcome", outcome)):
            if choice.value:
                keep &= rows[column] == choice.value
        if tool.value:
            keep &= rows["calls"].map(lambda calls: any(call["name"] == tool.value for call in calls))
        found[:] = rows.index[keep]
        count.value = f"of {len(found)} that fit ({len(rows)} in all)"
        number.max = max(1, len(found))
        number.value = 1
        show()

    for choice in (suite, method, outcome, tool):
        choice.observe(filter_rows, names="value")
    number.observe(show, names="value")
    filter_rows()
    bar = w.Box([suite, method, outcome, tool, number, count], layout=w.Layout(flex_flow="row wrap"))
    return w.VBox([bar, page])


def playground(row: Mapping[str, Any] | pd.Series, version: str = "corrected") -> w.Widget:
    """Edit a response and see what every reward makes of it at once: the numbers of ``figures.terms``, live.

    In: a stored row, for its question, gold answer, teacher and tools; ``version`` corrected or official.
    """
    row = dict(row)
    editor = w.Textarea(value=row["response"], layout=w.Layout(width="100%", height="220px"), continuous_update=False)
    again = w.Button(description="as it was", tooltip="put the stored response back")
    # No Output widget: executed in batch, nbclient answers one over the socket it awaits the cell's reply on, and may
    # then miss that reply and wait for ever.
    terms = w.HTML()

    def score(_: Any = None) -> None:
        terms.value = terms_html(rescored(row, editor.value, version))

    editor.observe(score, names="value")
    again.on_click(lambda _: setattr(editor, "value", row["response"]))
    score()
    hint = w.HTML("<small>Edit the response, then click elsewhere: it is read and scored again.</small>")
    return w.VBox([hint, editor, again, terms])


def rescored(
    row: Mapping[str, Any] | pd.Series, response: str | None = None, version: str = "corrected"
) -> pd.DataFrame:
    """``rescoring.rescore`` of one row, with another response in its place if one is given."""
    row = dict(row)
    if response is not None:
        changed = Trajectory.from_response(response, str(row["task_id"]))
        row |= {"response": response, "messages": changed.messages, "stop": changed.stop}
    return rescore(pd.DataFrame([row]), version)


def terms_html(scored: pd.DataFrame) -> str:
    """The terms of every reward on one trajectory, as an escaped HTML table. In: ``rescored``.

    A bar shows the total as a share of the most that the reward pays.
    """
    terms = list(dict.fromkeys(term for own in scored["terms"] for term in own))
    wide = pd.DataFrame(
        [[own.get(t, None) for t in terms] for own in scored["terms"]], index=list(scored["reward"]), columns=terms
    ).assign(total=list(scored["total"]))
    most = [named(reward).maximum for reward in scored["reward"]]
    shares = [max(0.0, total / top) for total, top in zip(scored["total"], most, strict=True)]
    wide["of the most"] = [
        f"<div style='background:{figures.base.colour(f'grpo-{name}')};height:12px;width:{120 * share:.0f}px'></div>"
        for name, share in zip(scored["reward"], shares, strict=True)
    ]
    wide["reason"] = [escape(reason) for reason in scored["reason"]]
    with pd.option_context("display.max_colwidth", None):
        return wide.to_html(float_format="{:.3f}".format, na_rep="", border=0, escape=False)


def _call(call: Mapping[str, Any]) -> str:
    arguments = call["arguments"]
    inside = (
        ", ".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in arguments.items())
        if isinstance(arguments, Mapping)
        else arguments
    )
    return f"{call['name']}({inside})"


def _box(kind: str, title: str, body: Any) -> str:
    label = f"<small style='opacity:.7'>{title}</small>"
    return f"<div style='{_BOX.format(_TINTS[kind])}'>{label}<pre style='{_PRE}'>{escape(body)}</pre></div>"
