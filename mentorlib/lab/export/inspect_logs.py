"""A run as logs of Inspect: one log a suite, and one of the training rollouts."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core import InputError
from ...runs.files import Row, write_text
from ...runs.run import Run, trajectory_files
from ...task import chat_prompt
from ..analysis.load import read_trajectories

KEYS = ("task_id", "question", "answer", "messages")  # what an exported row must have

_STOPS = {"answered": "stop", "gave_up": "stop", "length": "max_tokens"}
_METADATA = (
    *("suite", "split", "stop", "tools", "teacher_tools", "teacher_calls", "n_tokens"),
    *("step", "group", "reward", "total", "terms", "reason", "advantage", "demonstration"),
)


def save_inspect(run: Run, folder: str | Path) -> list[Path]:
    """Write each eval/<suite>.jsonl and rollouts.jsonl as a log of Inspect (its JSON, version 2). Returns the files.

    A row becomes a sample: the question as input, the gold answer as target, the messages with their tool calls, and a
    score (C right, I wrong, N not judged). Several rows of a task become its epochs. The metadata of a training rollout
    has its step and reward. ``inspect view --log-dir FOLDER`` shows the logs; Inspect need not be installed to write
    them. Source: inspect_ai.log.EvalLog, 0.3.

    Raises:
        InputError: the run has no rows.
    """
    files = trajectory_files(run.path)
    if not files:
        raise InputError(f"{run.path}: no eval/*.jsonl and no rollouts.jsonl: nothing was evaluated or sampled")
    written = []
    for file in files:
        # Inspect lists files of this form only, and an underscore separates its parts. run.json may come from others.
        parts = [re.sub(r"[^\w+-]", "-", _created(run)), *(x.replace("_", "-") for x in (file.stem, run.name))]
        text = json.dumps(_log(run, file.stem, read_trajectories(file, KEYS)))
        written.append(write_text(Path(folder) / f"{'_'.join(parts)}.json", text))
    return written


def _created(run: Run) -> str:
    return run.info.get("created") or "1970-01-01T00:00:00+00:00"  # Inspect wants a time


def _log(run: Run, suite: str, rows: list[Row]) -> dict[str, Any]:
    model = f"mentorlib/{run.name}"
    judged = [row["correct"] for row in rows if row.get("correct") is not None]
    share = sum(judged) / len(judged) if judged else 0.0
    error = math.sqrt(share * (1 - share) / len(judged)) if judged else 0.0
    metrics = {name: {"name": name, "value": value} for name, value in {"accuracy": share, "stderr": error}.items()}
    created = _created(run)
    finished = run.info.get("finished") or created
    counts: Counter[str] = Counter()
    samples = []
    for row in rows:
        counts[row["task_id"]] += 1
        samples.append(_sample(row, counts[row["task_id"]], model))
    packages = {"mentorlib": run.info.get("git") or "unknown", **run.info.get("versions", {})}
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": f"{run.name}-{suite}",
            "run_id": run.name,
            "task_id": f"{run.name}-{suite}",
            "created": created,
            "task": suite,
            "dataset": {"name": suite, "samples": len(rows), "sample_ids": list(counts)},
            "model": model,
            "config": {"epochs": max(counts.values(), default=1)},
            "packages": packages,
            "metadata": run.params,
            "scorers": [{"name": "correct"}],
        },
        "plan": {},
        "results": {
            "total_samples": len(rows),
            "completed_samples": len(rows),
            "scores": [{"name": "correct", "scorer": "correct", "scored_samples": len(judged), "metrics": metrics}],
        },
        "stats": {"started_at": created, "completed_at": finished},
        "samples": samples,
    }


def _sample(row: Row, epoch: int, model: str) -> dict[str, Any]:
    messages = [_inspect_message(message) for message in messages_with_call_ids(row)]
    replies = [m for m in messages if m["role"] == "assistant"]
    choices = [{"message": m, "stop_reason": _STOPS.get(row.get("stop", ""), "unknown")} for m in replies[-1:]]
    score = {True: "C", False: "I", None: "N"}[row.get("correct")]
    answer = next((m.get("content") or "" for m in reversed(row["messages"]) if m["role"] == "assistant"), "")
    return {
        "id": row["task_id"],
        "epoch": epoch,
        "input": row["question"],
        "target": str(row["answer"]),
        "messages": messages,
        "output": {"model": model, "choices": choices},
        "scores": {"correct": {"value": score, "answer": answer, "explanation": row.get("stop")}},
        "metadata": {name: row[name] for name in _METADATA if name in row},
    }


def _inspect_message(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] != "assistant":
        return message
    calls = [
        {"id": c["id"], "function": c["function"]["name"], "arguments": c["function"]["arguments"], "type": "function"}
        for c in message["tool_calls"]
    ]
    thought = message.pop("reasoning_content", None)
    content = message["content"]
    if thought:
        content = [{"type": "reasoning", "reasoning": thought}, {"type": "text", "text": content}]
    return message | {"content": content, "tool_calls": calls}


def messages_with_call_ids(row: Row) -> Iterator[dict[str, Any]]:
    """A row's conversation as OpenAI messages, prompt included: each call has an id, which its result repeats.

    Arguments are objects; those that are none stand under the key "arguments".
    """
    yield from chat_prompt(row["question"])
    pending: list[tuple[str | None, str | None]] = []  # id and tool of the last turn's calls that have no result yet
    for turn, message in enumerate(row["messages"]):
        if message["role"] == "tool":
            call_id, name = pending.pop(0) if pending else (None, None)
            yield {"role": "tool", "content": message.get("content") or "", "tool_call_id": call_id, "function": name}
            continue
        calls: list[dict[str, Any]] = []
        for number, call in enumerate(message.get("tool_calls") or ()):
            name, given = call["function"]["name"], call["function"]["arguments"]
            function = {"name": name, "arguments": given if isinstance(given, dict) else {"arguments": given}}
            calls.append({"id": f"{turn}-{number}", "type": "function", "function": function})
        pending = [(call["id"], call["function"]["name"]) for call in calls]
        thought = {k: message[k] for k in ("reasoning_content",) if message.get(k)}
        yield {"role": "assistant", "content": message.get("content") or "", **thought, "tool_calls": calls}
