"""Scores stored rows (JSON Lines) under other rewards than they were sampled for: no training, no model."""

import codecs
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..core import InputError
from ..runs.files import is_stream, whole_file
from ..runs.progress import visible
from .official import CALCULATOR_TOOLS
from .reward import OFFICIAL, REWARDS, Reward, get_reward
from .score import Score
from .stored_rows import ended, parse_row, stored_reference, stored_trajectory


def score_file(
    path: str | Path,
    out: str | Path | None = None,
    rewards: Sequence[str | Reward] | None = None,
    version: str = "corrected",
    valid_tools: Sequence[str] | None = None,
) -> dict[str, int]:
    """Score stored rows under several rewards. A run's rollouts are such rows; docs/rewards.md lists their keys.

    Each row is a group of its own. A row without ``teacher_calls`` or ``teacher_results`` is scored by the rewards that
    do not need them, or rejected if ``rewards`` lists one that does.

    Args:
        path: the rows, one JSON object a line; a pipe is read once and needs ``out``.
        out: the same rows with ``scores`` {reward: {"total", "terms", "reason"}}; by default a file of the same name
            in a folder ``scored`` beside it, which no notebook reads as rows of the run. ``total`` is None where the
            answer could not be judged or the infrastructure failed. The file appears only when complete; a device or
            pipe is written as rows are scored, and what is rejected then goes to stderr.
        rewards: names, or Reward objects; by default all of the version.
        version: "corrected" or "official". The official one reads ``prompt`` too, as the release does.
        valid_tools: names of the tools offered, for rows without ``tools``; by default the calculator's twelve.

    Returns:
        Counts: "rows", "scored", "rejected" (in OUT.rejected.jsonl with line and reason), "unjudged",
        "in_part" (scored, but not by all rewards), and "seem_cut" (without an end token, and without a key that says
        how they ended: scored as cut off).

    Raises:
        InputError: an argument is wrong, or a file cannot be read or written.
    """
    source = Path(path)
    if out is None and is_stream(source):
        raise InputError(
            f"{source}: a pipe or device has no folder for its scores; say where to write them: -o OUT.jsonl"
        )
    target = Path(out) if out is not None else source.parent / "scored" / source.name
    rejected_target = target.with_name(target.name + ".rejected.jsonl")
    for file in (source, target):
        if file.is_dir():
            raise InputError(f"{file}: is a folder; give a file")
    if out is not None and not target.parent.is_dir():
        raise InputError(
            f"{target}: cannot be written: there is no folder {target.parent}; make it, or give another place"
        )
    if not is_stream(target) and target.exists() and source.exists() and target.samefile(source):
        raise InputError(f"{target}: would overwrite the rows it is made from; give another name")
    if version == "official" and valid_tools is not None:
        raise InputError("valid_tools: the release knows only the calculator's twelve; leave it out, or use corrected")
    chosen = [get_reward(name, version) for name in rewards or (OFFICIAL if version == "official" else REWARDS)]
    offered = CALCULATOR_TOOLS if valid_tools is None else valid_tools
    counts = {"rows": 0, "scored": 0, "rejected": 0, "unjudged": 0, "in_part": 0, "seem_cut": 0}
    started = reported = time.monotonic()
    try:
        lines = source.open("rb")
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}); give a JSON Lines file") from error
    with lines, ExitStack() as files:
        scored = files.enter_context(whole_file(target))
        rejected = None
        for number, line in enumerate(lines, 1):
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not line.strip():
                continue
            counts["rows"] += 1
            try:
                row, scores = _score_row(line, chosen, bool(rewards), version, offered)
                scored.write(_to_json(row) + b"\n")
            except ValueError as error:  # an InputError among them
                counts["rejected"] += 1
                text = line.decode("utf-8", "replace").rstrip("\r\n")
                if is_stream(target):  # which has no place beside it
                    print(visible(f"{source}, line {number}: {error}"), file=sys.stderr)
                    continue
                rejected = rejected or files.enter_context(whole_file(rejected_target))
                rejection = {"line": number, "reason": str(error), "text": text}
                rejected.write(json.dumps(rejection).encode() + b"\n")
                continue
            counts["scored"] += 1
            counts["unjudged"] += any(not score.judged for score in scores)
            counts["in_part"] += len(scores) < len(chosen)
            counts["seem_cut"] += ended(row) is None
            if time.monotonic() - reported > 10:
                reported = time.monotonic()
                print(f"{source.name}: {counts['rows']} rows in {reported - started:.0f} s", file=sys.stderr)
        if not counts["rejected"] and not is_stream(target):
            rejected_target.unlink(missing_ok=True)  # an earlier run's
    return counts


def _score_row(
    line: bytes, rewards: list[Reward], all_of_them: bool, version: str, valid_tools: Sequence[str]
) -> tuple[dict[str, Any], list[Score]]:
    """The row with ``scores``, and the scores by all rewards that it has the keys for."""
    row = parse_row(line)
    reference = stored_reference(row)
    trajectory = stored_trajectory(row)
    if version == "official" and isinstance(row.get("prompt"), str):
        trajectory.response = row["prompt"] + trajectory.response
    scores = {}
    for reward in rewards:
        if missing := reward.missing(reference):
            if all_of_them:
                raise InputError(f"reward {reward.name}: the row has {missing}: give it teacher_{reward.needs}")
        else:
            offered, metric = row.get("tools", valid_tools), row.get("metric", "answer")
            scores[reward.name] = reward(
                trajectory, reference, answer=row["answer"], valid_tools=offered, metric=metric
            )
    row["scores"] = {
        name: {
            # The release counts as wrong what it cannot judge, so that its total stands.
            "total": score.total if score.judged or version == "official" else None,
            "terms": score.terms,
            "reason": score.reason,
        }
        for name, score in scores.items()
    }
    return row, list(scores.values())


def _to_json(row: Mapping[str, Any]) -> bytes:
    """The row as JSON. InputError names the key that cannot be written."""
    try:
        return json.dumps(row, allow_nan=False).encode()
    except (ValueError, RecursionError):
        for key, value in row.items():
            try:
                json.dumps(value, allow_nan=False)
            except ValueError:
                raise InputError(f"{key}: holds NaN or an infinity, which JSON has not; give null instead") from None
            except RecursionError:
                raise InputError(f"{key}: nested too deeply; leave it out") from None
        raise
