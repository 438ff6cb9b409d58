"""Stored trajectories as one HTML page that needs neither Jupyter nor a network: filter, read, link.

The page holds a small index of all rows and the rows themselves packed (gzip, base64) a hundred at a time; a browser
unpacks those it shows. What would make the page heavy goes into scripts beside it, of a few megabytes each, which it
loads when it needs them. Its address takes a fragment: ``#run/eval/longer.jsonl:12`` opens that line of that file,
``#?method=sft&outcome=wrong tool`` filters (see ``analysis.link``).
"""

import base64
import gzip
import html
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...core import InputError
from ...runs.files import gc_paused, write_text
from ..analysis.exploits import exploits
from ..analysis.load import evaluations, methods, rollouts
from ..analysis.tool_use import ungrounded_arguments
from ..figures.base import OUTCOME_COLOURS

LIMIT = 20_000  # characters of one text on the page; the rest is in the file
TOKENS = 4_000  # tokens of one trajectory that are coloured
CHUNK = 100  # rows that are packed together
HEAVY = 4_000_000  # characters of packed rows: more than these go into files beside the page
FROM_NOWHERE = "from nowhere"
_TEMPLATE = Path(__file__).with_name("viewer.template")


@gc_paused()
def write(
    file: str | Path,
    rows: pd.DataFrame | Iterable[pd.DataFrame],
    title: str,
    views: Mapping[str, Mapping[str, str]] | None = None,
) -> Path:
    """Write the page of ``rows`` and give its path back; rows that make it heavy, into ``<stem>-<n>.js`` beside it.

    Args:
        file: the page.
        rows: of ``analysis.evaluations``, ``rollouts`` or ``trajectories``, shown in their order; or several such.
        title: of the page.
        views: name -> {run: method}: the runs that the page shows, and what it calls their methods, when its address
            ends in ``?name``.
    """
    file = Path(file)
    index: list[dict[str, Any]] = []
    packed: list[str] = []
    waiting: list[dict[str, Any]] = []
    for frame in [rows] if isinstance(rows, pd.DataFrame) else rows:
        for row in frame.to_dict("records"):
            waiting.append(_detail(row))
            index.append(_line(row, waiting[-1]))
            if len(waiting) == CHUNK:
                packed.append(_packed(waiting))
                waiting = []
    packed += [_packed(waiting)] if waiting else []
    files: list[list[int]] = []  # which chunks each script beside the page holds
    if sum(map(len, packed)) > HEAVY:
        size = HEAVY
        for chunk, text in enumerate(packed):
            if size + len(text) > HEAVY:
                files.append([])
                size = 0
            files[-1].append(chunk)
            size += len(text)
    for n, chunks in enumerate(files, 1):
        lines = "".join(f'packed[{chunk}]="{packed[chunk]}";\n' for chunk in chunks)
        write_text(file.with_name(f"{file.stem}-{n}.js"), lines)
    data = {
        "columns": {name: _coded([line[name] for line in index]) for name in _COLUMNS},
        "lists": {name: _coded_lists([line[name] for line in index]) for name in ("tool", "exploit", "flag")},
        "line": [line["line"] for line in index],
        "chunk": CHUNK,
        "files": [f"{file.stem}-{n}.js" for n, chunks in enumerate(files, 1) for _ in chunks],
        "colours": OUTCOME_COLOURS,
        "views": views or {},
    }
    inside = "" if files else "".join(f'packed[{chunk}]="{text}";\n' for chunk, text in enumerate(packed))
    text = _TEMPLATE.read_text(encoding="utf-8").replace("@title@", html.escape(title))
    return write_text(file, text.replace("@index@", _packed(data)).replace("@chunks@", inside))


def write_runs(
    file: str | Path,
    runs: Sequence[str],
    root: str | Path = "runs",
    views: Mapping[str, Mapping[str, str]] | None = None,
) -> Path:
    """Write the page of every trajectory of several runs: evaluated first, then those of training.

    InputError if none of them has any.
    """
    found = methods(runs, root)
    names = list(found["run"])
    title = f"Trajectories of {', '.join(names) if len(names) < 8 else f'{len(names)} runs'}"
    return write(file, _frames(dict(zip(names, found["method"], strict=True)), Path(root)), title, views)


def _frames(labels: Mapping[str, str], root: Path) -> Iterator[pd.DataFrame]:
    """The rows of runs, one run's at a time: those of a long study do not fit into memory at once."""
    found = False
    for pattern, read in (("eval/*.jsonl", evaluations), ("rollouts.jsonl", rollouts)):
        for run, method in labels.items():
            if list((root / run).glob(pattern)):
                found = True
                yield read([run], root).assign(method=method)
    if not found:
        raise InputError(f"{root}: no trajectories in these runs (eval/*.jsonl, rollouts.jsonl)")


_COLUMNS = ("file", "run", "phase", "suite", "method", "outcome", "step", "question", "task")


def _line(row: Mapping[str, Any], shown: Mapping[str, Any]) -> dict[str, Any]:
    """What the index knows of a row."""
    file, _, line = str(row["where"]).rpartition(":")
    step = row.get("step")
    return {
        "file": file,
        "line": int(line),
        "run": str(row["run"]),
        "phase": "evaluation" if "/eval/" in file else "training",
        "suite": str(row["suite"]),
        "method": str(row["method"]),
        "outcome": str(row["outcome"]),
        "step": int(step) if isinstance(step, int | float) and step == step else None,
        "tool": sorted({str(call["name"])[:80] for call in row["calls"]}),
        "exploit": shown["exploits"],
        "flag": [FROM_NOWHERE] if shown["nowhere"] else [],
        "question": shown["question"][:90],
        "task": str(row["task_id"])[:60],
    }


def _detail(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of a row, with texts cut at LIMIT."""
    nowhere: dict[int, list[str]] = {}
    for call, _, argument, _ in ungrounded_arguments(row):
        nowhere.setdefault(call, []).append(argument)
    calls = row.get("teacher_calls")
    teacher = calls if isinstance(calls, list) else [{"name": n, "arguments": None} for n in row["teacher_tools"]]
    question, correct = row.get("question"), row["correct"]
    detail: dict[str, Any] = {
        "question": _cut(question if isinstance(question, str) else ""),
        "messages": [
            {"role": m["role"], "content": _cut(m.get("content") or "")}
            | {"calls": [_call(c["function"]) for c in m.get("tool_calls") or ()] if m["role"] != "tool" else []}
            for m in row["messages"]
        ],
        "teacher": [_call(call) for call in teacher],
        "answer": _cut(row["answer"]),
        "offered": [str(name) for name in row["tools"]],
        "stop": str(row["stop"]),
        "n_tokens": _number(row.get("n_tokens")),
        "correct": None if correct is None or correct != correct else bool(correct),
        "exploits": exploits(row),
        "nowhere": nowhere,
        "group": _number(row.get("group")),
    }
    if isinstance(row.get("tokens"), list):
        detail["tokens"] = _turns(row["tokens"], row["logprobs"])
    if isinstance(row.get("terms"), Mapping):
        weights = row["weights"] if isinstance(row.get("weights"), Mapping) else {}
        detail |= {
            "reward": str(row.get("reward")),
            "terms": [[str(k), float(v), float(weights.get(k, 1.0))] for k, v in row["terms"].items()],
            "total": _number(row.get("total")),
            "advantage": _number(row.get("advantage")),
            "reason": _cut(row.get("reason") or ""),
        }
    return detail


def _turns(tokens: Sequence[str], logprobs: Sequence[float | None]) -> list[list[list[Any]]]:
    """The sampled tokens by turn, each [text, log-probability]."""
    turns: list[list[list[Any]]] = []
    own = False
    for token, logprob in list(zip(tokens, logprobs, strict=True))[:TOKENS]:
        if logprob is not None:
            if not own:
                turns.append([])
            turns[-1].append([token, logprob])
        own = logprob is not None
    return turns


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    arguments = call["arguments"]
    if not isinstance(arguments, Mapping):
        return {"name": _cut(call["name"]), "arguments": None if arguments is None else {"": _cut(arguments)}}
    big = len(json.dumps(arguments)) > LIMIT
    return {"name": _cut(call["name"]), "arguments": {"": _cut(arguments)} if big else dict(arguments)}


def _cut(value: Any) -> str:
    said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return said if len(said) <= LIMIT else f"{said[:LIMIT]}\n… {len(said) - LIMIT:,} more characters"


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _coded(values: Sequence[Any]) -> dict[str, Any]:
    codes = {value: code for code, value in enumerate(dict.fromkeys(values))}
    return {"values": list(codes), "codes": [codes[value] for value in values]}


def _coded_lists(values: Sequence[Sequence[Any]]) -> dict[str, Any]:
    codes = {value: code for code, value in enumerate(sorted({item for own in values for item in own}))}
    return {"values": list(codes), "codes": [[codes[item] for item in own] for own in values]}


def _packed(value: Any) -> str:
    return base64.b64encode(gzip.compress(json.dumps(value).encode(), 6, mtime=0)).decode()
