"""Reference data sets: parquet in a run with a card. A row is a task, its toolbox and what the teacher did."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from ..core import Call, InputError, Reference
from ..runs.run import Run
from ..sandbox.toolbox import Toolbox
from ..task import Metric, Pair, Task
from .check_references import RejectedRow
from .contamination import RULE, overlapping

COLUMNS = ["id", "suite", "split", "question", "answer", "metric", "toolbox", "messages", "calls"]


def check_ids(pairs: Sequence[Pair]) -> None:
    """InputError if two tasks have one id."""
    ids = Counter(task.id for task, _ in pairs)
    if len(ids) < len(pairs):
        raise InputError(
            f"two tasks have the id {ids.most_common(1)[0][0]!r}: is a source or suite named twice, or have two "
            "sources files of one name?"
        )


def save_tasks(
    run: Run,
    pairs: Iterable[Pair],
    rejected: Iterable[RejectedRow] = (),
    name: str = "tasks",
    sources: Iterable[Mapping[str, Any]] = (),
    teacher: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write ``<name>.parquet``, ``<name>.rejected.jsonl`` and ``<name>.card.json`` into a run; give the card.

    The card: rows in all, kept, rejected by reason; per suite and split the tasks, calls a task and tools used;
    ``contamination``, which evaluation tasks overlap with training questions (see contamination.py); ``sources`` as
    ``sources.read`` describes them; and ``teacher``, what ``distill`` counted where one was sampled.

    Raises:
        InputError: a task's id stands twice.
    """
    pairs, rejected = list(pairs), list(rejected)
    check_ids(pairs)
    frame = pd.DataFrame(
        [
            {
                "id": t.id,
                "suite": t.suite,
                "split": t.split,
                "question": t.question,
                "answer": t.answer,
                "metric": t.metric,
                "toolbox": t.toolbox.to_json(),
                "messages": json.dumps(r.messages),
                "calls": json.dumps([vars(c) for c in r.calls]),
            }
            for t, r in pairs
        ],
        columns=COLUMNS,
    )
    path = run.path / f"{name}.parquet"
    partial = path.with_suffix(".partial")
    frame.to_parquet(partial, index=False)
    partial.rename(path)
    run.write_rows(f"{name}.rejected.jsonl", [vars(r) for r in rejected])
    groups: dict[str, list[Pair]] = {}
    for task, reference in pairs:
        groups.setdefault(f"{task.suite}/{task.split}", []).append((task, reference))
    card = {
        "rows": len(pairs) + len(rejected),
        "kept": len(pairs),
        "rejected": dict(Counter(r.reason for r in rejected).most_common()),
        "parts": {
            part: {
                "tasks": len(inside),
                "calls_per_task": round(sum(len(r.calls) for _, r in inside) / len(inside), 3),
                "tools": dict(Counter(tool for _, r in inside for tool in r.tools).most_common()),
            }
            for part, inside in groups.items()
        },
        "contamination": {"rule": RULE, "parts": _contamination(pairs)},
        "sources": [dict(source) for source in sources],
        **({"teacher": dict(teacher)} if teacher else {}),
    }
    run.write_json(f"{name}.card.json", card)
    return card


def _contamination(pairs: list[Pair]) -> dict[str, dict[str, Any]]:
    """For each suite that is evaluated: how many of its tasks overlap with training questions, and some of them."""
    training = [task.question for task, _ in pairs if task.split == "train"]
    held_out = [task for task, _ in pairs if task.split == "eval"]
    found = overlapping(training, [task.question for task in held_out])
    parts: dict[str, dict[str, Any]] = {}
    for task, overlaps in zip(held_out, found, strict=True):
        part = parts.setdefault(task.suite, {"tasks": 0, "overlap": 0, "first": []})
        part["tasks"] += 1
        part["overlap"] += overlaps
        if overlaps and len(part["first"]) < 5:
            part["first"].append(task.id)
    return parts


def load_tasks(
    path: str | Path, suite: str | None = None, split: str | None = None, n: int | None = None
) -> list[Pair]:
    """Read a reference data set, or a part of it; n takes the first n.

    Raises:
        InputError: no such file, not such a file, a bad row, or no row of that suite and split.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "tasks.parquet"
    try:
        frame = pd.read_parquet(path)
    except FileNotFoundError as e:
        raise InputError(f"{path}: no such data set: run 01_build_data first, or give its run folder") from e
    except (OSError, ValueError) as e:
        raise InputError(f"{path}: no parquet file ({str(e).splitlines()[0][:120]}): run 01_build_data again") from e
    missing = [c for c in COLUMNS if c not in frame.columns]
    if missing:
        raise InputError(f"{path}: lacks column {missing[0]!r}: a reference data set has {', '.join(COLUMNS)}")
    parts = sorted({f"{s}/{p}" for s, p in zip(frame["suite"], frame["split"], strict=True)})
    if suite is not None:
        frame = frame[frame["suite"] == suite]
    if split is not None:
        frame = frame[frame["split"] == split]
    if frame.empty:
        raise InputError(
            f"{path}: no rows of suite {suite!r}, split {split!r}: it holds {', '.join(parts) or 'nothing'}"
        )
    if n is not None:
        frame = frame.head(n)
    boxes: dict[str, Toolbox] = {}
    pairs: list[Pair] = []
    for i, row in zip(frame.index, frame.to_dict("records"), strict=True):
        try:
            for column in ("question", "answer"):
                if not isinstance(row[column], str) or not row[column].strip():  # a missing text is NaN
                    raise InputError(f"no {column}")
            if row["toolbox"] not in boxes:
                boxes[row["toolbox"]] = Toolbox.from_json(row["toolbox"])
            if row["metric"] not in get_args(Metric):
                raise InputError(f"unknown metric {row['metric']!r}")
            if row["metric"] == "calls":
                json.loads(row["answer"])
            named = (row[column] for column in ("suite", "split", "metric"))
            task = Task(row["id"], row["question"], row["answer"], boxes[row["toolbox"]], *named)
            calls = [Call(c["name"], c["arguments"]) for c in json.loads(row["calls"])]
            pairs.append((task, Reference(task.id, json.loads(row["messages"]), calls, task.answer)))
        except (ValueError, KeyError, TypeError) as e:
            raise InputError(f"{path}: row {i} ({row['id']}): {e}: rebuild it with 01_build_data") from e
    return pairs
