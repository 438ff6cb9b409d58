"""A run for trackio: its metrics, and a trace of each rollout."""

import json
from typing import Any

from ...core import InputError
from ...runs.files import read_rows
from ...runs.run import Run, trajectory_files
from ..analysis.load import read_trajectories
from .inspect_logs import KEYS, messages_with_call_ids


def save_trackio(run: Run, project: str = "mentorlib") -> int:
    """Log a run's metrics to trackio, and each training rollout and held-out row as a trace. Returns how many traces.

    Training rollouts are logged at their step, held-out rows one step after the last. ``trackio show`` shows them. They
    are stored on this machine (in TRACKIO_DIR) unless trackio's own settings name another place.

    Raises:
        InputError: trackio is not installed.
    """
    try:
        import trackio
    except ImportError:
        raise InputError("trackio is not installed: pip install trackio") from None
    file = run.path / "metrics.jsonl"
    metrics = {row["step"]: row for row in (read_rows(file) if file.exists() else ())}
    after = max(metrics, default=0) + 1
    traces: dict[int, dict[str, list[Any]]] = {}
    for file in trajectory_files(run.path):
        for row in read_trajectories(file, KEYS):
            metadata = {k: v for k, v in row.items() if isinstance(v, str | int | float)}
            metadata = {k: v for k, v in metadata.items() if k not in ("response", "question")}
            trace = trackio.Trace([_openai_message(message) for message in messages_with_call_ids(row)], metadata)
            traces.setdefault(row.get("step", after), {}).setdefault(file.stem, []).append(trace)
    trackio.init(project=project, name=run.name, config=run.params)
    for step in sorted({*metrics, *traces}):
        numbers = {k: v for k, v in metrics.get(step, {}).items() if isinstance(v, int | float) and k != "step"}
        trackio.log(numbers | traces.get(step, {}), step=step)
    trackio.finish()
    return sum(len(rows) for step in traces.values() for rows in step.values())


_KEPT = ("role", "content", "reasoning_content", "tool_call_id")


def _openai_message(message: dict[str, Any]) -> dict[str, Any]:
    """The message as OpenAI's API writes it: arguments as JSON text, no empty fields."""
    kept = {k: v for k, v in message.items() if k in _KEPT and v is not None}
    if calls := message.get("tool_calls"):
        functions = [call["function"] | {"arguments": json.dumps(call["function"]["arguments"])} for call in calls]
        kept["tool_calls"] = [call | {"function": f} for call, f in zip(calls, functions, strict=True)]
    return kept
