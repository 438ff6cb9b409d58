"""Score stored rows (JSON Lines) under other rewards than they were sampled for: no training, no model."""

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core import Call, InputError, Reference, Trajectory, tool_messages
from .reward import REWARDS, named
from .table import CALCULATOR_TOOLS, NEEDS_CALLS, NEEDS_RESULTS, RELEASED


def score_file(
    path: str | Path,
    out: str | Path | None = None,
    rewards: Sequence[str] | None = None,
    version: str = "corrected",
    valid_tools: Sequence[str] | None = None,
) -> dict[str, int]:
    """Score stored rows (JSON Lines), so that another reward can be asked about rollouts without training.

    A row holds ``response`` (the text after the prompt), ``answer`` and ``teacher_tools`` (names); it may hold
    ``teacher_calls`` (``[{"name", "arguments"}]``), ``teacher_results`` (texts), ``tools`` (the names offered),
    ``prompt`` and ``stop``, and any other key. A run's rollouts are such rows. ``strict``, ``toolrl`` and
    ``count`` need ``teacher_calls``, ``credit`` needs ``teacher_results``: a row goes without what it has not the
    keys for, unless that was asked for by name. Each row counts as a group of its own.

    Args:
        path: the rows.
        out: where each row goes with ``scores`` {reward: {"total", "terms", "reason"}}; by default under its name in
            a folder ``scored`` beside it, where no notebook takes it for rows of the run. ``total`` is None where the
            answer could not be judged or the run failed.
        rewards: names; by default all of the version.
        version: "corrected" or "official". The official one reads ``prompt`` too, as the release does.
        valid_tools: for rows without ``tools``; by default the calculator's twelve.

    Returns:
        Counts: "rows", "scored", "rejected" (in OUT.rejected.jsonl with line and reason), "unjudged", and
        "in_part" (scored, but not by strict, toolrl or credit).

    Raises:
        InputError: an argument is wrong, or the file cannot be read.
    """
    source = Path(path)
    target = Path(out) if out is not None else source.parent / "scored" / source.name
    for path in (source, target):
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give a file")
    if target.resolve() == source.resolve():
        raise InputError(f"{target}: would overwrite the rows it is made from; give another name")
    if version == "official" and valid_tools is not None:
        raise InputError("valid_tools: the release knows only the calculator's twelve; leave it out, or use corrected")
    names = list(rewards or (RELEASED if version == "official" else REWARDS))
    chosen = [named(name, version) for name in names]
    counts = {"rows": 0, "scored": 0, "rejected": 0, "unjudged": 0, "in_part": 0}
    rejected_path = target.with_name(target.name + ".rejected.jsonl")
    started = time.monotonic()
    told = started
    try:
        lines = source.open("rb")
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}); give a JSON Lines file") from error
    if out is None:
        target.parent.mkdir(exist_ok=True)
    with lines, _Atomic(target) as scored, _Atomic(rejected_path, drop_empty=True) as rejected:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            counts["rows"] += 1
            try:
                row, trajectory, reference = _parse_row(line, version)
                lacking = _lacking(row, reference)
                wanted = [reward for reward in chosen if reward.name not in lacking]
                if rewards and len(wanted) < len(chosen):
                    raise InputError(next(lacking[name] for name in names if name in lacking))
                counts["in_part"] += len(wanted) < len(chosen)
                offered = row.get("tools", CALCULATOR_TOOLS if valid_tools is None else valid_tools)
                results = {
                    reward.name: reward(trajectory, reference, answer=row["answer"], valid_tools=offered)
                    for reward in wanted
                }
            except InputError as error:
                counts["rejected"] += 1
                text = line.decode("utf-8", "replace").rstrip("\r\n")
                rejected.write(json.dumps({"line": number, "reason": str(error), "text": text}) + "\n")
                continue
            counts["scored"] += 1
            counts["unjudged"] += any(not score.judged for score in results.values())
            row["scores"] = {
                name: {
                    # The release counts as wrong what it cannot judge, so that its total stands.
                    "total": score.total if score.judged or version == "official" else None,
                    "terms": score.terms,
                    "reason": score.reason,
                }
                for name, score in results.items()
            }
            scored.write(json.dumps(row) + "\n")
            if time.monotonic() - told > 10:
                told = time.monotonic()
                print(f"{source.name}: {counts['rows']} rows in {told - started:.0f} s", file=sys.stderr)
    return counts


class _Atomic:
    """A text file that appears under its name only when all of it is written."""

    def __init__(self, path: Path, drop_empty: bool = False) -> None:
        self.path, self.drop_empty = path, drop_empty
        self.part = path.with_name(f".{path.name}.{os.getpid()}.part")

    def __enter__(self) -> "_Atomic":
        try:
            self.file = self.part.open("w", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); give another place") from error
        self.empty = True
        return self

    def write(self, text: str) -> None:
        self.empty = False
        self.file.write(text)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.file.close()
        if kind is not None:
            self.part.unlink(missing_ok=True)
        elif self.empty and self.drop_empty:
            self.part.unlink()
            self.path.unlink(missing_ok=True)  # an earlier run's
        else:
            os.replace(self.part, self.path)


def _lacking(row: dict[str, Any], reference: Reference) -> dict[str, str]:
    """The rewards that a row has not the keys for, and what to do about it."""
    lacking: dict[str, str] = {}
    if reference.calls and not row.get("teacher_calls"):
        lacking |= dict.fromkeys(NEEDS_CALLS, "strict, toolrl and count compare calls: give the row teacher_calls")
    if reference.calls and "teacher_results" not in row:
        lacking |= dict.fromkeys(NEEDS_RESULTS, "credit compares what calls gave: give the row teacher_results")
    return lacking


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):  # would be written back as Infinity, which is not JSON
        raise ValueError(f"{text} is too large a number")
    return number


def _parse_row(line: bytes, version: str) -> tuple[dict[str, Any], Trajectory, Reference]:
    """One stored row, checked. Raises InputError with what is wrong and what to give."""
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not a JSON object in UTF-8: {error}") from error
    if not isinstance(row, dict):
        raise InputError("not a JSON object: give one object a line")
    for key in ("response", "answer"):
        if not isinstance(row.get(key), str):
            raise InputError(f"{key}: {'missing' if key not in row else 'not a text'}; give a string")
    for key, needed in (("teacher_tools", True), ("tools", False)):
        value = row.get(key)
        if (needed or key in row) and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
            raise InputError(f"{key}: {'missing' if key not in row else 'not a list of names'}; give a list of strings")
    if not isinstance(row.get("prompt", ""), str | list):
        raise InputError("prompt: give a string, or leave it out")
    calls = [Call(name, {}) for name in row["teacher_tools"]]
    if (given := row.get("teacher_calls")) is not None:
        if not isinstance(given, list) or not all(
            isinstance(call, dict) and isinstance(call.get("name"), str) and isinstance(call.get("arguments"), dict)
            for call in given
        ):
            raise InputError('teacher_calls: not a list of {"name", "arguments"}; mend it, or leave it out')
        if given and {call["name"] for call in given} != set(row["teacher_tools"]):
            raise InputError("teacher_calls: names other tools than teacher_tools; make them agree")
        calls = [Call(call["name"], call["arguments"]) for call in given] or calls
    results = row.get("teacher_results", [])
    if not isinstance(results, list) or not all(isinstance(text, str) for text in results):
        raise InputError("teacher_results: not a list of texts; mend it, or leave it out")
    text = row["response"]
    if version == "official" and isinstance(row.get("prompt"), str):
        text = row["prompt"] + text
    trajectory = Trajectory.from_response(text, str(row.get("task_id", "")))
    if row.get("stop") == "infrastructure":
        trajectory.stop = "infrastructure"
    return row, trajectory, Reference(trajectory.task_id, tool_messages(results), calls, row["answer"])
