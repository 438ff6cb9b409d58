"""A run as logs for Inspect."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core import InputError
from ...runs.files import Row, read_rows, write_text
from ...runs.run import Run
from ...task import chat_prompt

# --- Inspect: one log a suite, and one of the training rollouts ---

_STOPS = {"answered": "stop", "gave_up": "stop", "length": "max_tokens"}


def save_inspect(run: Run, folder: str | Path) -> list[Path]:
    """Write each eval/<suite>.jsonl and rollouts.jsonl as a log of Inspect (its JSON, version 2); give the files.

    A row becomes a sample: the question as input, the gold answer as target, the messages with their tool calls, and a
    score (C right, I wrong, N not judged); further rows of a task are its further epochs. A training rollout has its
    step and what it was paid in its metadata. ``inspect view --log-dir FOLDER`` shows them; Inspect need not be
    installed to write them. Raises InputError if there is no row. Source: inspect_ai.log.EvalLog, 0.3.
    """
    files = [*sorted(run.path.glob("eval/*.jsonl")), *run.path.glob("rollouts.jsonl")]
    if not files:
        raise InputError(f"{run.path}: neither eval/*.jsonl nor rollouts.jsonl: nothing was evaluated or sampled")
    written = []
    for file in files:
        # Inspect lists files of this form only, and takes an underscore for the end of a part.
        parts = [run.info["created"].replace(":", "-"), *(x.replace("_", "-") for x in (file.stem, run.name))]
        text = json.dumps(_log(run, file.stem, read_rows(file)))
        written.append(write_text(Path(folder) / f"{'_'.join(parts)}.json", text))
    return written


def _log(run: Run, suite: str, rows: list[Row]) -> dict[str, Any]:
    model = f"mentorlib/{run.name}"
    judged = [row["correct"] for row in rows if row.get("correct") is not None]
    share = sum(judged) / len(judged) if judged else 0.0
    error = math.sqrt(share * (1 - share) / len(judged)) if judged else 0.0
    metrics = {name: {"name": name, "value": value} for name, value in {"accuracy": share, "stderr": error}.items()}
    created, finished = run.info["created"], run.info["finished"] or run.info["created"]
    counts: Counter[str] = Counter()
    samples = []
    for row in rows:
        counts[row["task_id"]] += 1
        samples.append(_sample(row, counts[row["task_id"]], model))
    packages = {"mentorlib": run.info["git"] or "unknown", **run.info["versions"]}
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
    messages = list(_messages(row))
    said = [m for m in messages if m["role"] == "assistant"]
    score = {True: "C", False: "I", None: "N"}[row.get("correct")]
    facts = (
        *("suite", "split", "stop", "tools", "teacher_tools", "teacher_calls", "n_tokens"),
        *("step", "group", "reward", "total", "terms", "reason", "advantage"),
    )
    choices = [{"message": said[-1], "stop_reason": _STOPS.get(row.get("stop", ""), "unknown")}] if said else []
    return {
        "id": row["task_id"],
        "epoch": epoch,
        "input": row["question"],
        "target": str(row["answer"]),
        "messages": messages,
        "output": {"model": model, "choices": choices},
        "scores": {
            "correct": {"value": score, "answer": said[-1]["content"] if said else "", "explanation": row.get("stop")}
        },
        "metadata": {name: row[name] for name in facts if name in row},
    }


def _messages(row: Row) -> Iterator[dict[str, Any]]:
    """A row's conversation from the question on, each tool call with an id that its result repeats."""
    yield from chat_prompt(row["question"])
    waiting: list[dict[str, Any]] = []
    for place, message in enumerate(row["messages"]):
        if message["role"] == "tool":
            call = waiting.pop(0) if waiting else {}
            yield {
                "role": "tool",
                "content": message["content"],
                "tool_call_id": call.get("id"),
                "function": call.get("function"),
            }
            continue
        waiting = []
        for number, call in enumerate(message.get("tool_calls") or ()):
            name, given = call["function"]["name"], call["function"]["arguments"]
            given = given if isinstance(given, dict) else {"arguments": given}
            waiting.append({"id": f"{place}-{number}", "function": name, "arguments": given, "type": "function"})
        yield {"role": "assistant", "content": message.get("content") or "", "tool_calls": list(waiting)}
