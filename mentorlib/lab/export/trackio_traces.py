"""A run as traces for trackio."""

import json
from typing import Any

from ...core import InputError
from ...runs.files import read_rows
from ...runs.run import Run
from .inspect_logs import _messages

# --- trackio: metrics and a trace a rollout, by step ---


def save_trackio(run: Run, project: str = "mentorlib") -> int:
    """Log a run to trackio: its metrics, and each training rollout and held-out row as a trace; give the traces.

    Training rollouts stand at their step, held-out rows after the last one. Read them with ``trackio show``. Raises
    InputError if trackio is not installed. It writes to this machine (TRACKIO_DIR), unless told otherwise by its own
    settings.
    """
    try:
        import trackio
    except ImportError:
        raise InputError("trackio is not installed: pip install trackio") from None
    file = run.path / "metrics.jsonl"
    metrics = {row["step"]: row for row in (read_rows(file) if file.exists() else ())}
    after = max(metrics, default=0) + 1
    traces: dict[int, dict[str, list[Any]]] = {}
    for file in [*run.path.glob("rollouts.jsonl"), *sorted(run.path.glob("eval/*.jsonl"))]:
        for row in read_rows(file):
            facts = {
                k: v for k, v in row.items() if isinstance(v, str | int | float) and k not in ("response", "question")
            }
            trace = trackio.Trace([_openai(message) for message in _messages(row)], facts)
            traces.setdefault(row.get("step", after), {}).setdefault(file.stem, []).append(trace)
    trackio.init(project=project, name=run.name, config=run.params)
    for step in sorted({*metrics, *traces}):
        numbers = {k: v for k, v in metrics.get(step, {}).items() if isinstance(v, int | float) and k != "step"}
        trackio.log(numbers | traces.get(step, {}), step=step)
    trackio.finish()
    return sum(len(found) for step in traces.values() for found in step.values())


def _openai(message: dict[str, Any]) -> dict[str, Any]:
    """A message of `_messages` as OpenAI writes it."""
    calls = [
        {
            "id": call["id"],
            "type": "function",
            "function": {"name": call["function"], "arguments": json.dumps(call["arguments"])},
        }
        for call in message.get("tool_calls", ())
    ]
    kept = {k: v for k, v in message.items() if k in ("role", "content", "tool_call_id") and v is not None}
    return kept | ({"tool_calls": calls} if calls else {})
