"""Reference data sets: parquet in a run, with a card. A row is a task, its toolbox and the teacher's trajectory."""

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from ..core import Call, InputError, Metric, Reference, did_you_mean
from ..runs.files import Row, read_parquet, whole_file
from ..runs.rows import are_messages, is_known_calls
from ..runs.run import Run
from ..sandbox.toolbox import Toolbox
from ..task import Pair, Task
from .check_references import RejectedRow
from .sources.multihop import SEARCH
from .suites.calculator import CALCULATOR
from .suites.retrieval import RETRIEVAL
from .suites.unseen import UNSEEN

TASK_COLUMNS = ["id", "suite", "split", "question", "answer", "metric"]
COLUMNS = [*TASK_COLUMNS, "toolbox", "messages", "calls"]
N_GRAM = 13  # words, as in GPT-3's overlap analysis (arXiv 2005.14165, appendix C)
CONTAMINATION_RULE = (
    f"an evaluation question overlaps when it shares {N_GRAM} words in a row with a training question, or, if it is "
    "shorter, when it is a training question; words are runs of letters and digits, in lower case"
)


def check_ids(pairs: Sequence[Pair]) -> None:
    """Raise InputError if two tasks have the same id."""
    ids = Counter(task.id for task, _ in pairs)
    if len(ids) < len(pairs):
        raise InputError(
            f"two tasks have the id {ids.most_common(1)[0][0]!r}: is a source or suite named twice, or do two sources "
            "have files with the same name?"
        )


def save_tasks(
    run: Run,
    pairs: Iterable[Pair],
    rejected: Iterable[RejectedRow] = (),
    sources: Iterable[Mapping[str, Any]] = (),
    teacher: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write ``tasks.parquet``, ``tasks.rejected.jsonl`` and ``tasks.card.json`` into a run; return the card.

    The card: rows in total, kept, rejected by reason; per suite and split the tasks, calls a task and tools used;
    ``contamination``, the evaluation tasks that overlap with training questions; ``sources`` as ``read_sources``
    describes them; and ``teacher``, what ``distill`` counted if one was sampled.

    Raises:
        InputError: two tasks have the same id, or there is no task; what was rejected, and why, is written before.
    """
    pairs, rejected = list(pairs), list(rejected)
    check_ids(pairs)
    run.write_rows("tasks.rejected.jsonl", [vars(r) for r in rejected])
    reasons = dict(Counter(r.reason for r in rejected).most_common())
    if not pairs:
        counts = ", ".join(f"{count} x {reason}" for reason, count in reasons.items()) or "there was none"
        raise InputError(
            f"{run.path}: no task was kept: {counts:.300}; read tasks.rejected.jsonl there, then give other suites, "
            "sources or another teacher"
        )
    rows = [
        {
            **{column: getattr(task, column) for column in TASK_COLUMNS},
            "toolbox": task.toolbox.to_json(),
            "messages": json.dumps(reference.messages),
            "calls": json.dumps([vars(call) for call in reference.calls]),
        }
        for task, reference in pairs
    ]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    with whole_file(run.path / "tasks.parquet") as file:
        frame.to_parquet(file, index=False)
    groups: dict[str, list[Pair]] = {}
    for task, reference in pairs:
        groups.setdefault(f"{task.suite}/{task.split}", []).append((task, reference))
    card = {
        "rows": len(pairs) + len(rejected),
        "kept": len(pairs),
        "rejected": reasons,
        "parts": {
            part: {
                "tasks": len(members),
                "calls_per_task": round(sum(len(r.calls) for _, r in members) / len(members), 3),
                "tools": dict(Counter(tool for _, r in members for tool in r.tools).most_common()),
            }
            for part, members in groups.items()
        },
        "contamination": {"rule": CONTAMINATION_RULE, "parts": _contamination(pairs)},
        "sources": [dict(source) for source in sources],
        **({"teacher": dict(teacher)} if teacher else {}),
    }
    run.write_json("tasks.card.json", card)
    return card


def overlapping(training: Iterable[str], questions: Iterable[str]) -> list[bool]:
    """Whether each question shares an n-gram with the training questions (``CONTAMINATION_RULE``)."""
    known = {gram for text in training for gram in _n_grams(text)}
    return [not known.isdisjoint(_n_grams(text)) for text in questions]


def _n_grams(text: str) -> Iterable[tuple[str, ...]]:
    """All runs of N_GRAM words, or the whole of a shorter text."""
    words = re.findall(r"\w+", text.lower())
    return (tuple(words[i : i + N_GRAM]) for i in range(max(1, len(words) - N_GRAM + 1)))


def _contamination(pairs: list[Pair]) -> dict[str, dict[str, Any]]:
    """For each evaluation suite: how many of its tasks overlap with training questions, and the first five ids."""
    training = [task.question for task, _ in pairs if task.split == "train"]
    held_out = [task for task, _ in pairs if task.split == "eval"]
    parts: dict[str, dict[str, Any]] = {}
    for task, overlaps in zip(held_out, overlapping(training, [task.question for task in held_out]), strict=True):
        part = parts.setdefault(task.suite, {"tasks": 0, "overlap": 0, "first": []})
        part["tasks"] += 1
        part["overlap"] += overlaps
        if overlaps and len(part["first"]) < 5:
            part["first"].append(task.id)
    return parts


def load_tasks(
    path: str | Path, suite: str | None = None, split: str | None = None, n: int | None = None
) -> list[Pair]:
    """Read a reference data set.

    Args:
        path: the parquet file, or the folder of its run.
        suite, split: only tasks of these.
        n: only the first n of them.

    Raises:
        InputError: no such file, not a reference data set, a bad row, or no row of that suite and split.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "tasks.parquet"
    if not path.exists():
        known = sorted(str(file.parent) for file in Path("runs").glob("*/tasks.parquet"))
        hint = f"there are {', '.join(known)}: give one of them (data=)" if known else "run 01_build_data first"
        raise InputError(f"{path}: no such data set; {hint}, or give a run folder of 01_build_data")
    try:
        rows = read_parquet(path)
    except InputError as e:
        raise InputError(f"{e}: run 01_build_data again") from e
    missing = [c for c in COLUMNS if rows and c not in rows[0]]
    if missing:
        raise InputError(f"{path}: lacks column {missing[0]!r}: a reference data set has {', '.join(COLUMNS)}")
    parts = sorted({f"{row['suite']}/{row['split']}" for row in rows})
    chosen = [(i, row) for i, row in enumerate(rows) if suite in (None, row["suite"]) and split in (None, row["split"])]
    if not chosen:
        hint = did_you_mean(f"{suite}/{split}", parts)
        raise InputError(
            f"{path}: no rows of suite {suite!r}, split {split!r}: {hint}it holds {', '.join(parts) or 'nothing'}"
        )
    toolboxes: dict[str, Toolbox] = {}
    pairs: list[Pair] = []
    for i, row in chosen[:n]:
        try:
            pairs.append(_pair(row, toolboxes))
        except (ValueError, KeyError, TypeError, RecursionError) as e:
            raise InputError(f"{path}: row {i} ({row['id']}): {e}: rebuild it with 01_build_data") from e
    return pairs


def _pair(row: Row, toolboxes: dict[str, Toolbox]) -> Pair:
    """A row as a task and its reference; rows share toolboxes."""
    for column in ("id", "suite", "split", "question", "answer"):
        if not isinstance(row[column], str) or not row[column].strip():
            raise InputError(f"no {column}")
    if row["toolbox"] not in toolboxes:
        box = Toolbox.from_json(row["toolbox"])
        toolboxes[row["toolbox"]] = replace(box, isolate=not _is_shipped(box.source))
    if row["metric"] not in get_args(Metric):
        raise InputError(f"unknown metric {row['metric']!r}")
    if row["metric"] == "calls":
        json.loads(row["answer"])
    labels = (row[column] for column in ("suite", "split", "metric"))
    task = Task(row["id"], row["question"], row["answer"], toolboxes[row["toolbox"]], *labels)
    calls, messages = json.loads(row["calls"]), json.loads(row["messages"])
    for column, checked, expected in (
        ("calls", calls is not None and is_known_calls(calls), 'a list of {"name", "arguments"}'),
        ("messages", are_messages(messages), "a list of messages with a role, a text and calls"),
    ):
        if not checked:
            raise InputError(f"{column} is not {expected}")
    json.dumps(messages, ensure_ascii=False, allow_nan=False).encode()  # half a surrogate is no text of any tokenizer
    return task, Reference(task.id, messages, [Call(c["name"], c["arguments"]) for c in calls], task.answer)


def _is_shipped(source: str) -> bool:
    """Whether a data set's tools are the package's own, which alone share a worker: another call costs 2 ms more.

    The suites add to their toolbox's source only the documents of a search (a literal), or functions that pass their
    arguments on to a tool under another name.
    """
    for own in (CALCULATOR, UNSEEN, RETRIEVAL, SEARCH):
        added = source.removeprefix(own.source) if source.startswith(own.source) else "another source"
        names = "|".join(own.names)
        if re.fullmatch(rf"(\n\ndef \w+\(([\w, ]*)\):\n    return ({names})\(\2\)\n)*", added):
            return True
        if added.startswith(start := "\nDOCUMENTS = "):
            with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                ast.literal_eval(added.removeprefix(start))
                return True
    return False
