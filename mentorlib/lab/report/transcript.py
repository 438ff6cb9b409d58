"""A stored trajectory as HTML or as plain text.

`transcript_parts` decides what is shown of a row and in which order; `transcript_html`, `side_by_side_html`,
`transcript_text` and the script of the trajectory page (viewer.template) render the same parts. Parts hold raw model
output: each renderer escapes all of it in one place.
"""

import html
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from ...core import Call
from ...rewards.matching import call_key
from ...runs.progress import visible
from ..analysis.outcomes import has_teacher
from ..analysis.text import link
from ..analysis.token_credit import sampled_turns
from ..analysis.ungrounded import ungrounded_arguments

LIMIT = 20_000  # characters shown of one text; the rest is in the file
TOKENS = 4_000  # tokens coloured in one trajectory
_BOX = "border:1px solid #8884;border-left:4px solid {};border-radius:4px;padding:6px 10px;margin:6px 0"
_PRE = (
    "white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere;unicode-bidi:plaintext;background:none;color:inherit;"
    "font:12.5px/1.45 ui-monospace,monospace;border:0;margin:2px 0;padding:0"
)
_COLUMNS = "display:grid;grid-template-columns:repeat(auto-fit,minmax(min(20em,100%),1fr));gap:0 16px"
_COLOURS = {"thought": "#7F7F7F", "student": "#0072B2", "call": "#E69F00", "result": "#009E73", "error": "#D55E00"}


class Part(NamedTuple):
    """One piece of a transcript.

    ``kind`` is facts, question, tools, thought, student, call, result, error, answer, teacher or reward and picks place
    and colour. ``segments`` is the text in pieces, each with a flag: the piece is an ungrounded argument. ``note`` is a
    remark, favourable if ``good``. ``tokens`` are the turn's sampled tokens with their log-probabilities.
    """

    kind: str
    title: str
    segments: list[tuple[str, bool]]
    note: str = ""
    good: bool | None = None
    tokens: list[tuple[str, float]] | None = None

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.segments)


def transcript_parts(row: Mapping[str, Any], limit: int | None = LIMIT) -> list[Part]:
    """The parts of a stored row: facts, question, tools, the student's turns, teacher's calls, gold answer, reward.

    Args:
        row: a row of ``analysis.load`` or a stored row as it is; only messages or response must be there.
        limit: characters of one text; None for no limit.
    """
    text = row.get("question")
    question = text if isinstance(text, str) else ""
    parts = [_facts(row)]
    parts += [Part("question", "question", _plain(question, limit))] if question else []
    if isinstance(row.get("tools"), list):
        parts.append(Part("tools", "tools offered", _plain(", ".join(map(str, row["tools"])) or "none", limit)))
    messages = row.get("messages")
    if not isinstance(messages, list):
        messages = [{"role": "assistant", "content": row.get("response", "")}]
    calls = [c["function"] for m in messages if m["role"] != "tool" for c in m.get("tool_calls") or ()]
    parts += _turns(row, messages, question, limit)
    parts += _teacher(row, calls, limit)
    parts.append(Part("answer", "gold answer", _plain(row.get("answer", ""), limit)))
    if isinstance(row.get("terms"), Mapping):
        parts.append(Part("reward", "reward", _plain(_reward(row), limit)))
    return parts


def transcript_text(row: Mapping[str, Any]) -> str:
    """One stored row as plain text for a terminal: a line or more for each part, control characters spelled out."""
    lines = []
    for part in transcript_parts(row, limit=None):
        if part.kind == "facts":
            lines.append(f"── {' · '.join(filter(None, (part.title, part.note, part.text)))}")
        elif part.text.strip():
            lines.append(f"{part.title:<14}{part.text}{f'  ({part.note})' if part.note else ''}")
    return visible("\n".join(lines))


def headline(row: Mapping[str, Any]) -> str:
    """The headline of a row as plain text: "sample 2 · base · wrong tool · wrong"; sample 0 is left out."""
    facts = _facts(row)
    sample = f"sample {row['sample']:g}" if _is_number(row.get("sample")) and row["sample"] else ""
    method = row["method"] if isinstance(row.get("method"), str) else ""
    return " · ".join(filter(None, [sample, method, facts.title, facts.note]))


def transcript_html(row: "Mapping[str, Any] | pd.Series", headed: bool = True) -> str:
    """One stored row as static HTML: facts, question, student and teacher side by side, reward; its raw text folded.

    The student's calls are shown parsed; the raw text has its tokens coloured by probability, where the row keeps them.
    Without ``headed`` its verdict is left out: it stands in the line that the transcript is folded behind.
    """
    row = dict(row)
    facts, *parts = transcript_parts(row)
    boxes: dict[str, list[str]] = {"top": [], "student": [], "teacher": [], "reward": []}
    for part in parts:
        if part.text.strip():
            place = "teacher" if part.kind in ("answer", "teacher") else "student" if part.kind in _COLOURS else "top"
            boxes["reward" if part.kind == "reward" else place].append(_box(part))
    joined = {place: "".join(inside) for place, inside in boxes.items()}
    return (
        "<article style='margin:0 0 22px;max-width:62em'>"
        f"<div style='margin-bottom:4px;overflow-wrap:anywhere'>{f'{verdict_html(row)}<br>' if headed else ''}"
        f"<small>{_address(row, facts)}</small></div>{joined['top']}"
        f"<div style='{_COLUMNS}'><div>{joined['student']}</div><div>{joined['teacher']}</div></div>"
        f"{joined['reward']}{_raw(row, parts)}</article>"
    )


def side_by_side_html(rows: Sequence[Mapping[str, Any]]) -> str:
    """One task under several methods as static HTML: the question and the teacher once, then a column for each row.

    Args:
        rows: stored rows of one task, such as one a method; there is at least one.
    """
    above, columns = [], []
    for number, row in enumerate(rows):
        facts, *parts = transcript_parts(dict(row))
        if not number:
            given = [part for part in parts if part.kind in ("question", "tools", "teacher", "answer")]
            above = [_box(part._replace(note="") if part.kind == "teacher" else part) for part in given]
        inside = "".join(_box(p) for p in parts if p.text.strip() and (p.kind in _COLOURS or p.kind == "reward"))
        head = f"{verdict_html(row)}<br><small>{_address(row, facts)}</small>"
        columns.append(f"<section><div style='overflow-wrap:anywhere'>{head}</div>{inside}{_raw(row, parts)}</section>")
    grid = _COLUMNS.replace("20em", "15em")
    return f"<article><div style='{grid}'>{''.join(above)}</div><div style='{grid}'>{''.join(columns)}</div></article>"


def verdict_html(row: Mapping[str, Any], label: str = "") -> str:
    """The headline of a row with a mark for right or wrong; ``label`` stands before it, such as its name in a table."""
    judged = _facts(row).good
    mark = {True: ("#00694c", "✓"), False: ("#b84a00", "✗"), None: ("#7F7F7F", "?")}[judged]
    text = " · ".join(filter(None, [label, headline(row)]))
    return f"<strong><span style='color:{mark[0]}'>{mark[1]}</span> {escape(text)}</strong>"


def _address(row: Mapping[str, Any], facts: Part) -> str:
    """The facts, and a link to the trajectory's own page if it lies in a file."""
    if not isinstance(row.get("where"), str):
        return escape(facts.text)
    address = html.escape(link(row["where"]))
    return f"{escape(facts.text)} · <a style='text-decoration:underline' href='{address}'>{escape(row['where'])}</a>"


def _raw(row: Mapping[str, Any], parts: Sequence[Part]) -> str:
    """What the student wrote, token by token if the row keeps tokens, folded."""
    texts = [_coloured(part.tokens) for part in parts if part.tokens]
    note = " (tokens; orange: improbable)"
    if not texts:
        note, text = "", row.get("response")
        texts = [f"<pre style='{_PRE}'>{escape(_plain(text, LIMIT)[0][0])}</pre>"] if isinstance(text, str) else []
    return f"<details><summary>raw text{note}</summary>{'<hr>'.join(texts)}</details>" if texts else ""


def escape(text: str) -> str:
    """Escape model output for HTML; control characters are spelled out."""
    return html.escape(visible(text))


def _call_segments(call: Mapping[str, Any], ungrounded: set[str], limit: int | None = None) -> list[tuple[str, bool]]:
    arguments = call.get("arguments")
    if arguments is None:
        return _plain(call["name"], limit)
    if not isinstance(arguments, Mapping):
        return _plain(f"{call['name']}({arguments})", limit)
    pieces = [(f"{call['name']}(", False)]
    for number, (key, value) in enumerate(arguments.items()):
        pieces.append((f"{', ' if number else ''}{key}=", False))
        pieces.append((json.dumps(value, ensure_ascii=False), key in ungrounded))
    pieces.append((")", False))
    whole = "".join(text for text, _ in pieces)
    return pieces if limit is None or len(whole) <= limit else _plain(whole, limit)


def _facts(row: Mapping[str, Any]) -> Part:
    judged: dict[Any, bool] = {True: True, False: False}
    correct = judged.get(row.get("correct"))  # None and NaN: not judged
    outcome = row["outcome"] if isinstance(row.get("outcome"), str) else ""
    facts = [str(row[key]) for key in ("suite", "task_id") if row.get(key) is not None]
    facts += [f"stop: {row['stop']}"] if row.get("stop") is not None else []
    facts += [f"{row['n_tokens']:g} tokens"] if _is_number(row.get("n_tokens")) else []
    facts += [f"{key} {row[key]:g}" for key in ("step", "group", "sample") if _is_number(row.get(key))]
    verdict = {True: "right", False: "wrong", None: "not judged"}[correct]
    return Part("facts", outcome, [(" · ".join(facts), False)], "" if outcome == "correct" else verdict, correct)


def _turns(
    row: Mapping[str, Any], messages: list[Mapping[str, Any]], question: str, limit: int | None
) -> Iterator[Part]:
    """What the student wrote and called and what the tools gave back, in order."""
    ungrounded: dict[int, set[str]] = {}
    if question:
        for index, _, argument, _ in ungrounded_arguments({**row, "messages": messages}):
            ungrounded.setdefault(index, set()).add(argument)
    token_turns = sampled_turns(row) if isinstance(row.get("tokens"), list) else iter(())
    left, index = TOKENS, 0
    for message in messages:
        content = message.get("content") or ""
        if message["role"] == "tool":
            failed = str(content).startswith("error:")
            kind, title = ("error", "tool error") if failed else ("result", "tool result")
            yield Part(kind, title, _plain(content, limit))
            continue
        tokens = next(token_turns, None)
        tokens = tokens and [(text, 0.0 if p != p else p) for text, p in tokens]  # NaN, of unknown probability: plain
        if tokens and len(tokens) > left:
            tokens = [*tokens[:left], (f"… {len(tokens) - left:,} more tokens", 0.0)]
        left -= min(left, len(tokens or ()))
        if thought := message.get("reasoning_content"):
            yield Part("thought", "student's thought", _plain(thought, limit))
        yield Part("student", "student", _plain(content, limit), tokens=tokens)
        for call in message.get("tool_calls") or ():
            marked = ungrounded.get(index, set())
            note, good = ("ungrounded argument", False) if marked else ("", None)
            yield Part("call", "call", _call_segments(call["function"], marked, limit), note, good)
            index += 1


def _teacher(row: Mapping[str, Any], calls: list[Mapping[str, Any]], limit: int | None) -> Iterator[Part]:
    """The teacher's calls, or its tools where the row has only those, each with whether the student made it."""
    made = Counter(call_key(Call(call["name"], call["arguments"])) for call in calls)
    names = {call["name"] for call in calls}
    stored = row.get("teacher_calls")
    if not isinstance(stored, list):
        stored = [{"name": name, "arguments": None} for name in row.get("teacher_tools") or ()]
    keys = [call_key(Call(call["name"], call["arguments"])) for call in stored]
    others = {name for name, _ in made - Counter(keys)}  # tools of calls that are none of the teacher's
    for call, key in zip(stored, keys, strict=True):
        if call["arguments"] is not None and made[key]:
            made[key] -= 1
            note, good = "the student made this call", True
        elif call["name"] not in names:
            note, good = "not called by the student", False
        elif call["arguments"] is None:
            note, good = "the student called this tool", True
        elif call["name"] in others:
            note, good = "the student called it with other arguments", False
        else:
            note, good = "the student did not make this call", False
        yield Part("teacher", "teacher call", _call_segments(call, set(), limit), note, good)
    if not stored:
        yield Part("teacher", "teacher call", [("no tool" if has_teacher(row) else "no teacher", False)])


def _reward(row: Mapping[str, Any]) -> str:
    """Name and total, a table of the terms, the advantage and the reason."""
    weights = row["weights"] if isinstance(row.get("weights"), Mapping) else {}
    total, advantage = row.get("total"), row.get("advantage")
    lines = [f"{row.get('reward', 'reward')}: " + (f"total {total:.3f}" if _is_number(total) else "not scored")]
    lines[0] += f", advantage in its group {advantage:+.2f}" if _is_number(advantage) else ""
    if _is_number(row.get("demonstration")):
        lines[0] += f"; not in the loss: the reference took its place, with an advantage of {row['demonstration']:+.2f}"
    width = max([4, *(len(str(name)) for name in row["terms"])])
    lines.append(f"{'term':<{width}}  {'value':>7} {'weight':>7} {'product':>8}")
    for name, value in row["terms"].items():
        weight = weights.get(name, 1.0)
        lines.append(f"{name:<{width}}  {value:>7.3f} {weight:>7.2f} {value * weight:>8.3f}")
    return "\n".join([*lines, *([str(row["reason"])] if row.get("reason") else [])])


def _plain(value: Any, limit: int | None) -> list[tuple[str, bool]]:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if limit is not None and len(text) > limit:
        text = f"{text[:limit]}\n… {len(text) - limit:,} more characters"
    return [(text, False)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _box(part: Part) -> str:
    note = f" <small>({escape(part.note)})</small>" if part.note else ""
    marked = "border-bottom:2px dotted #D55E00"
    text = "".join(f"<span style='{marked}'>{escape(t)}</span>" if odd else escape(t) for t, odd in part.segments)
    return (
        f"<div style='{_BOX.format(_COLOURS.get(part.kind, '#7F7F7F'))}'>"
        f"<small style='opacity:.7'>{part.title}</small>{note}<pre style='{_PRE}'>{text}</pre></div>"
    )


def _coloured(tokens: list[tuple[str, float]]) -> str:
    spans = [
        f"<span style='background:rgba(213,94,0,{0.75 * (1 - math.exp(min(p, 0.0))):.2f})'>{escape(token)}</span>"
        for token, p in tokens
    ]
    return f"<pre style='{_PRE}'>{''.join(spans)}</pre>"
