"""Stored trajectories as one HTML page that needs neither Jupyter nor a network: filter, read, link.

The page holds an index of all rows and the rows' transcript parts packed (gzip, base64) by CHUNK; the browser unpacks
those it shows. Beyond HEAVY characters they go into scripts beside the page, loaded when needed. The address takes a
fragment: ``#run/eval/longer.jsonl:12`` opens that line of that file, ``#task=run/eval/longer.jsonl:12`` shows that
line's task under all methods, ``#?method=sft&outcome=wrong tool`` filters (see ``analysis.text.link``), and
``#?method=sft&against=base`` filters rows whose verdict differs from another method's on the same task.
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
from ...runs.files import gc_paused, is_stream, write_text
from ..analysis.exploits import find_exploits
from ..analysis.load import evaluations, methods, rollouts
from ..figures.base import OUTCOME_COLOURS
from .transcript import LIMIT, Part, transcript_parts

CHUNK = 100  # rows that are packed together
HEAVY = 4_000_000  # characters of packed rows: more than these go into files beside the page
_TEMPLATE = Path(__file__).with_name("viewer.template")
_COLUMNS = (
    *("file", "run", "phase", "suite", "method", "seed", "verdict", "outcome", "step", "question", "task", "sample"),
    *("reward", "tokens", "calls"),
)
_LISTS = ("tool", "exploit", "flag")


@gc_paused()
def write_trajectories(
    file: str | Path,
    rows: pd.DataFrame | Iterable[pd.DataFrame],
    title: str,
    views: Mapping[str, Mapping[str, str]] | None = None,
    study: str = "",
) -> Path:
    """Write the page of ``rows``, and if they are many, ``<stem>-<n>.js`` beside it; return the page's path.

    Args:
        file: the page.
        rows: one frame or several of ``analysis.load``, shown in their order.
        title: of the page.
        views: name -> {run: method}: with the address ``?name``, the page shows these runs, and a link's ``method=``
            is one of these names. What the page calls a method is in ``rows``, however it is opened.
        study: whose page, ``index.html``, lies beside this one: it gets a link.
    """
    file = Path(file)
    index: list[dict[str, Any]] = []
    packed: list[str] = []
    waiting: list[list[Part]] = []
    for frame in [rows] if isinstance(rows, pd.DataFrame) else rows:
        for row in frame.to_dict("records"):
            waiting.append(_parts(row))
            index.append(_index_entry(row, waiting[-1]))
            if len(waiting) == CHUNK:
                packed.append(_pack(waiting))
                waiting = []
    packed += [_pack(waiting)] if waiting else []
    scripts = [f'packed[{chunk}]="{text}";\n' for chunk, text in enumerate(packed)]
    files: list[str] = []  # for each chunk, the script beside the page that holds it
    if sum(map(len, scripts)) > HEAVY:
        if is_stream(file):
            raise InputError(f"{file}: so many trajectories need files beside the page; give a file")
        beside: list[str] = []
        for script in scripts:
            if not beside or len(beside[-1]) + len(script) > HEAVY:
                beside.append("")
            beside[-1] += script
            files.append(f"{file.stem}-{len(beside)}.js")
        for name, text in zip(dict.fromkeys(files), beside, strict=True):
            write_text(file.with_name(name), text)
    data = {
        "columns": {name: _encode([entry[name] for entry in index]) for name in _COLUMNS},
        "lists": {name: _encode_lists([entry[name] for entry in index]) for name in _LISTS},
        "line": [entry["line"] for entry in index],
        "chunk": CHUNK,
        "files": files,
        "colours": OUTCOME_COLOURS,
        "views": views or {},
    }
    back = f'<p class="keys"><a href="index.html">study {html.escape(study)}</a></p>' if study else ""
    page = _TEMPLATE.read_text(encoding="utf-8").replace("@back@", back).replace("@title@", html.escape(title))
    page = page.replace("@index@", _pack(data)).replace("@chunks@", "" if files else "".join(scripts))
    return write_text(file, page)


def write_trajectories_of_runs(
    file: str | Path,
    runs: Sequence[str],
    root: str | Path = "runs",
    views: Mapping[str, Mapping[str, str]] | None = None,
    study: str = "",
) -> Path:
    """Write the page of every trajectory of several runs (none: of all): evaluated ones first, then training's.

    Raises:
        InputError: none of them has any.
    """
    frame = methods(runs, root)
    names = list(frame["run"])
    title = f"Trajectories of {', '.join(names) if len(names) < 8 else f'{len(names)} runs'}"
    labels = dict(zip(names, frame["method"], strict=True))
    return write_trajectories(file, _frames(labels, Path(root)), title, views, study)


def _frames(labels: Mapping[str, str], root: Path) -> Iterator[pd.DataFrame]:
    """The rows of runs, one run's at a time: those of a long study do not fit into memory at once."""
    empty = True
    for pattern, read in (("eval/*.jsonl", evaluations), ("rollouts.jsonl", rollouts)):
        for run, method in labels.items():
            if list((root / run).glob(pattern)):
                empty = False
                yield read([run], root).assign(method=method)
    if empty:
        raise InputError(f"{root}: no trajectories in these runs (eval/*.jsonl, rollouts.jsonl)")


def _parts(row: Mapping[str, Any]) -> list[Part]:
    """A row's parts, and where it keeps no tokens its text as it was written."""
    parts, text = transcript_parts(row), row.get("response")
    if isinstance(text, str) and not any(part.tokens for part in parts):
        parts.append(Part("raw", "raw text", [(text[:LIMIT], False)]))
    return parts


def _index_entry(row: Mapping[str, Any], parts: Sequence[Part]) -> dict[str, Any]:
    """What the list and the filters need of a row."""
    file, _, line = str(row["where"]).rpartition(":")
    question = row.get("question")
    return {
        "file": file,
        "line": int(line),
        "run": str(row["run"]),
        "phase": "evaluation" if "/eval/" in file else "training",
        "suite": str(row["suite"]),
        "method": str(row["method"]),
        "seed": _number(row.get("seed")),
        "verdict": parts[0].note or "right",
        "outcome": str(row["outcome"]),
        "step": _number(row.get("step")),
        "sample": _number(row.get("sample")),
        "reward": _number(row.get("total")),
        "tokens": _number(row.get("n_tokens")),
        "calls": len(row["calls"]),
        "tool": sorted({str(call["name"])[:80] for call in row["calls"]}),
        "exploit": find_exploits(row),
        "flag": sorted({part.note for part in parts if part.kind == "call" and part.note}),
        "question": question[:90] if isinstance(question, str) else "",
        "task": str(row["task_id"])[:60],
    }


def _number(value: Any) -> float | None:
    """A finite number, whole ones as integers; None for anything else."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else round(value, 4)


def _encode(values: Sequence[Any]) -> dict[str, Any]:
    codes = {value: code for code, value in enumerate(dict.fromkeys(values))}
    return {"values": list(codes), "codes": [codes[value] for value in values]}


def _encode_lists(values: Sequence[Sequence[Any]]) -> dict[str, Any]:
    codes = {value: code for code, value in enumerate(sorted({item for items in values for item in items}))}
    return {"values": list(codes), "codes": [[codes[item] for item in items] for items in values]}


def _pack(value: Any) -> str:
    return base64.b64encode(gzip.compress(json.dumps(value, allow_nan=False).encode(), 6, mtime=0)).decode()
