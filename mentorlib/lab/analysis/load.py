"""Stored rows of run folders as DataFrames, one row a trajectory.

``evaluations`` and ``rollouts`` read run folders; the other modules take what they return. Columns added to the stored
row (docs/runs.md): ``run``, ``method`` (base, sft, grpo-<reward>), ``seed``, ``where`` (file and line of the
row), and those of ``outcomes.derived_columns``.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...core import InputError
from ...rewards.matching import canonical_json
from ...runs.files import Row, gc_paused, read_rows
from ...runs.rows import wrong_parameter
from ...runs.run import Run, trajectory_files
from ...trainer.checks import WITHOUT_EFFECT
from .outcomes import derived_columns

_KEYS = ("task_id", "suite", "answer", "teacher_tools", "tools", "response", "messages", "calls", "stop", "correct")
_ADDED = (
    *("run", "method", "seed", "where", "outcome"),
    *("n_calls", "n_invented", "precision", "recall", "f1", "agreement"),
)
NOT_TRAINING = (  # parameters that may differ within a method
    *("run", "root", "seed", "eval_suites", "n_eval"),
    *("eval_steps", "eval_samples", "eval_part"),
    *("launcher", "processes", "accelerate_config", *WITHOUT_EFFECT),
)
_TRAINING = ("step", "group", "reward", "total", "terms", "weights", "reason", "advantage")


def evaluations(runs: Sequence[str] = (), root: str | Path = "runs") -> pd.DataFrame:
    """All rows of ``eval/*.jsonl`` of several runs.

    ``runs`` are folder names under ``root``; none means every run there that has rows. Raises InputError if a folder, a
    file's JSON or a required key is missing, or if no run was evaluated.
    """
    frame = read(runs, root, "eval/*.jsonl")
    if frame.empty:
        raise InputError(f"{root}: none of these runs was evaluated (no eval/*.jsonl); run notebook 02_train first")
    return frame


def rollouts(runs: Sequence[str] = (), root: str | Path = "runs") -> pd.DataFrame:
    """All training rollouts (``rollouts.jsonl``) of several runs.

    Runs that sample nothing in training (base, sft) add no rows; the columns are there even if the frame is empty.
    """
    return read(runs, root, "rollouts.jsonl")


def along(runs: Sequence[str] = (), root: str | Path = "runs") -> pd.DataFrame:
    """All rows of evaluations along training (``eval_steps.jsonl``), each with its ``step``; may be empty."""
    return read(runs, root, "eval_steps.jsonl")


def samples(runs: Sequence[str] = (), root: str | Path = "runs") -> pd.DataFrame:
    """All rows sampled after training (``eval/samples/*.jsonl``, several a task); may be empty."""
    return read(runs, root, "eval/samples/*.jsonl")


def metrics(runs: Sequence[str] = (), root: str | Path = "runs") -> pd.DataFrame:
    """What training logged (``metrics.jsonl``): run, method, seed, step, and what the method measures, such as kl.

    The columns step, kl and entropy are there even if no run has them.
    """
    rows = [
        row | {"run": run.run, "method": run.method, "seed": run.seed}
        for run in methods(runs, root).itertuples()
        if (file := Path(root) / str(run.run) / "metrics.jsonl").exists()
        for row in read_rows(file)
    ]
    frame = pd.DataFrame(rows)
    return frame.reindex(columns=[*dict.fromkeys(["run", "method", "seed", "step", "kl", "entropy", *frame.columns])])


def trajectories(runs: Sequence[str] = (), root: str | Path = "runs") -> pd.DataFrame:
    """All stored rows of several runs: ``evaluations``, then ``rollouts``. Raises InputError if there are none."""
    frames = [rows for pattern in ("eval/*.jsonl", "rollouts.jsonl") if len(rows := read(runs, root, pattern))]
    if not frames:
        raise InputError(f"{root}: no trajectories in these runs (eval/*.jsonl, rollouts.jsonl)")
    return pd.concat(frames, ignore_index=True)


def subsample_groups(rows: pd.DataFrame, groups: int) -> pd.DataFrame:
    """About ``groups`` whole groups of ``rollouts``: as many of each run, at least one, evenly spread over its steps.

    Rows of ``evaluations`` have no groups: each counts as one.
    """
    kept = []
    for _, subset in rows.groupby("run", sort=False):
        keys = subset["step"].astype(str) + "/" + subset["group"].astype(str) if "group" in subset else subset["where"]
        names = list(dict.fromkeys(keys))
        share = max(1, groups // rows["run"].nunique())
        chosen = {names[i] for i in np.linspace(0, len(names) - 1, min(share, len(names))).round().astype(int)}
        kept.append(subset[keys.isin(chosen)])
    return pd.concat(kept) if kept else rows


def methods(runs: Sequence[str] = (), root: str | Path = "runs") -> pd.DataFrame:
    """The runs and their methods: columns run, method, seed, parameters (dict), status, seconds (NaN if unknown).

    The method is ``base``, ``sft`` or ``grpo-<reward>``; a run that started from a model that another run trained is
    ``sft+grpo-<reward>`` and so on. Runs of one method that differ in more than their seed get the differing parameters
    in their label (``learning_rate=0.001``; of a switch that is on, its name), so that they are never pooled as seeds;
    data sets that differ in ``seed`` alone are one. Raises InputError if there is no such run.
    """
    root = Path(root)
    names = list(runs) or sorted(p.parent.name for p in root.glob("*/run.json") if trajectory_files(p.parent))
    if not names:
        hint = "run `make study`, or 01_build_data and 02_train, or give others"
        raise InputError(f"{root}: no run folder with rows here: {hint}")
    frame = pd.DataFrame([_describe_run(name, root) for name in names])
    drawn: dict[str, str] = {}  # the first of the data sets that differ in their seed alone: no difference in method
    for parameters, inputs in zip(frame["parameters"], frame.pop("inputs"), strict=True):
        for key in {"data", "before_data"} & parameters.keys():
            data = str(parameters[key])
            parameters[key] = drawn.setdefault(_data_settings(data, root, inputs), data)
    if not runs:
        order = frame["method"].map({"base": "0", "sft": "1"}).fillna(frame["method"])
        frame = frame.loc[order.sort_values(kind="stable").index].reset_index(drop=True)
    for _, group in frame.groupby("method"):
        settings = [{k: v for k, v in p.items() if k not in NOT_TRAINING} for p in group["parameters"]]
        keys = sorted({k for p in settings for k in p}, key=lambda k: (k not in ("suite", "data", "student"), k))
        for key in keys:  # until runs with the same label have the same settings
            labels = frame.loc[group.index, "method"]
            if len(set(zip(labels, map(canonical_json, settings), strict=True))) == labels.nunique():
                break
            shown: dict[str, str] = {}  # a value that is written in several ways, 1 and 1.0, is shown in the first
            written = [shown.setdefault(canonical_json(p.get(key)), _short(p.get(key))) for p in settings]
            if shown.keys() <= {"true", "false", "null"}:  # a switch: its name where it is on
                written = ["" if text != "True" else f" {key}" for text in written]
            else:
                written = [f" {key}={text}" for text in written]
            if len(shown) > 1:
                frame.loc[group.index, "method"] += written
    return frame


def _describe_run(name: str, root: Path) -> dict[str, Any]:
    run = Run.open(name, root)
    info, parameters = run.info, run.params
    if wrong := wrong_parameter(parameters):
        raise InputError(f"{run.path / 'run.json'}: parameter {wrong}; give other runs, or remove its folder")
    attempts = [info.get("created"), *(again.get("time") for again in info.get("reopened", []))]
    started, ended = (pd.Timestamp(time) if time else pd.NaT for time in (attempts[-1], info.get("finished")))
    method, parameters, inputs = _method(parameters), dict(parameters), dict(info.get("inputs") or {})
    if before := earlier_run(parameters, root):  # compare its settings too
        method = f"{_method(before.params)}+{method}"
        parameters["student"] = before.params.get("student")
        parameters |= {f"before_{k}": v for k, v in before.params.items() if k not in NOT_TRAINING}
        inputs |= before.info.get("inputs") or {}
    seconds = (ended - started).total_seconds()
    described = {"run": name, "method": method, "seed": parameters.get("seed", 0), "parameters": parameters}
    described["inputs"] = inputs  # of this run and of the one that trained its student
    return described | {"status": info.get("status", ""), "seconds": seconds}


def earlier_run(parameters: Mapping[str, Any], root: Path) -> Run | None:
    """The run that trained the model from which a run of these parameters started; None if there is none.

    Its folder is where the parameters say or, if the runs were moved, under ``root``.
    """
    student = Path(str(parameters.get("student")))
    folder = student.parent if os.path.exists(student.parent) else root / student.parent.name
    if student.name != "model" or not os.path.exists(folder / "run.json"):
        return None
    run = Run.open(folder.name, folder.parent)
    return run if run.params.get("method", "none") != "none" else None


def _data_settings(data: str, root: Path, inputs: Mapping[str, Any]) -> str:
    """What a data set was built with, but for the seed of its training tasks; its folder if nobody knows.

    From the run that it is, or else from what the runs that use it recorded of it (``inputs`` of run.json).
    """
    folder = Path(data) if os.path.exists(data) else root / Path(data).name  # False of too long a name, too
    if os.path.exists(folder / "run.json"):
        parameters = Run.open(folder).info.get("parameters") or {}
    else:
        parameters = inputs.get(str(Path(data))) or {}
    return canonical_json({k: v for k, v in parameters.items() if k not in ("run", "root", "seed")} or data)


def _method(parameters: Mapping[str, Any]) -> str:
    kind = parameters.get("method", "none")
    return {"none": "base", "grpo": f"grpo-{parameters.get('reward')}"}.get(kind, str(kind))


def _short(value: Any) -> str:
    return str(value).rstrip("/").removesuffix("/model").rsplit("/", 1)[-1].removesuffix(".parquet")


def read_trajectories(file: Path, keys: Sequence[str] = _KEYS) -> list[Row]:
    """The rows of a file, which must have these keys. InputError as `read_rows`, or if a row lacks one."""
    rows = read_rows(file)
    for number, row in enumerate(rows, 1):
        if missing := [key for key in keys if key not in row]:
            raise InputError(
                f"{file}, line {number}: no key {missing[0]!r}; not a row that mentorlib wrote; remove the line"
            )
    return rows


@gc_paused()
def read(runs: Sequence[str], root: str | Path, pattern: str) -> pd.DataFrame:
    """The rows of the files that match ``pattern`` in several runs' folders; may be empty."""
    rows: list[dict[str, Any]] = []
    for run in methods(runs, root).itertuples():
        for path in sorted((Path(root) / str(run.run)).glob(pattern)):
            for number, row in enumerate(read_trajectories(path), 1):
                where = f"{path.relative_to(root).as_posix()}:{number}"
                added = {"run": run.run, "method": run.method, "seed": run.seed, "where": where}
                unknown: Any = None if row["teacher_tools"] else []  # of a row that an older library wrote
                rows.append({"teacher_calls": unknown} | row | added | derived_columns(row))
    columns = [*_KEYS, *_ADDED, "sample", "n_tokens", *(_TRAINING if pattern == "rollouts.jsonl" else ())]
    frame = pd.DataFrame(rows)
    if rows:  # pandas would write NaN for None, which says that no teacher did the task
        frame["teacher_calls"] = pd.Series([row["teacher_calls"] for row in rows], frame.index, dtype=object)
    return frame.reindex(columns=[*dict.fromkeys([*columns, *frame.columns])])
