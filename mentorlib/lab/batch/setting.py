"""The setting of a comparison: what each method was trained with, on which data, and how long it took."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ...runs.run import Run
from ..analysis.load import NOT_TRAINING, earlier_run

# Parameters that have a column of their own, or that change neither the method nor its training.
_NOT_COMPARED = {
    *NOT_TRAINING,
    *("data", "student", "served", "vllm", "method", "reward", "eval_split"),
    *("steps", "groups", "group_size", "learning_rate"),
}
_EMPTY = ("", "[]", "{}", "None", "false", "0")  # values that say that something is not used


@dataclass(frozen=True)
class Setting:
    """What the page of a study says of its methods.

    ``methods`` has a dict for each: method, seeds (how many, and which), budget and rate (None if not trained), seconds
    (mean of a run) and differing, its values of the parameters named in ``differing``; ``shared`` are those with one
    value for all, if it is not empty.
    ``data`` has a dict for each data set and suite that a method was trained on: name, suite, tasks (0 if unknown)
    and methods; ``temperature`` is the evaluation's, "" if greedy.
    """

    methods: list[dict[str, Any]]
    differing: list[str]
    shared: dict[str, str]
    students: list[str]
    splits: list[str]
    temperature: str
    data: list[dict[str, Any]]


def study_setting(methods: pd.DataFrame, root: Path) -> Setting:
    """The setting of several runs. ``methods`` is that of ``analysis.load.methods``, read from ``root``."""
    every = list(methods["parameters"])
    trained = methods["parameters"].map(lambda p: p.get("method", "none") != "none")
    given = list(methods.loc[trained, "parameters"])
    # What an earlier run was trained with (before_…) shows in the method's budget and name.
    names = sorted({key for p in given for key in p if not key.startswith("before_")} - _NOT_COMPARED)
    values = {name: list(dict.fromkeys(_format(p.get(name)) for p in given)) for name in names}
    differing = [name for name in names if len(values[name]) > 1]
    lines = []
    for method, group in methods.groupby("method", sort=False):
        parameters, learns = group["parameters"].iloc[0], bool(trained[group.index].all())
        lines.append(
            {
                "method": method,
                "seeds": _seeds(group["seed"]),
                "budget": _budget(group["run"].iloc[0], root) if learns else None,
                "rate": f"{parameters.get('learning_rate', 0):g}" if learns else None,
                "differing": [_format(parameters.get(name)) if learns else "–" for name in differing],
                "seconds": group["seconds"].mean(),
            }
        )
    temperatures = {float(p.get("eval_temperature") or 0) for p in every}
    return Setting(
        methods=lines,
        differing=differing,
        shared={name: values[name][0] for name in names if values[name][0] not in _EMPTY and name not in differing},
        students=_unique(every, "student"),
        splits=_unique(every, "eval_split") or ["eval"],
        temperature=" or ".join(f"{t:g}" for t in sorted(temperatures)) if any(temperatures) else "",
        data=_data(methods[trained]),
    )


def _seeds(seeds: Iterable[Any]) -> str:
    """How many seeds, and which: "5 (0 to 4)"."""
    known = sorted(set(seeds))
    if len(known) == 1:
        return f"1 (seed {known[0]})"
    whole = len(known) > 2 and known == list(range(known[0], known[-1] + 1))
    return f"{len(known)} ({f'{known[0]} to {known[-1]}' if whole else ', '.join(map(str, known))})"


def _budget(run: str, root: Path, after: Sequence[Path] = ()) -> str:
    """Optimizer steps x trajectories a step; where training went on from another run's model, that run's first.

    Runs of others may say that each went on from the other: none is told twice (``after``: those told).
    """
    parameters = Run.open(run, root).params
    size = f"{parameters.get('steps')} × {parameters.get('groups', 0) * parameters.get('group_size', 0)}"
    before = earlier_run(parameters, root)
    told = [*after, (root / run).resolve()]
    if not before or "groups" not in before.params or before.path.resolve() in told:
        return size
    return f"{_budget(before.name, before.path.parent, told)}, then {size}"


def _data(trained: pd.DataFrame) -> list[dict[str, Any]]:
    """The data sets and suites that methods were trained on, an earlier run's (before_…) included."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for method, parameters in zip(trained["method"], trained["parameters"], strict=True):
        for before in ("before_", ""):
            path, suite = (str(parameters.get(before + name) or "") for name in ("data", "suite"))
            if path:
                line = {"name": Path(path).name, "suite": suite, "tasks": _training_tasks(Path(path)).get(suite, 0)}
                methods = lines.setdefault((path, suite), line | {"methods": []})["methods"]
                methods += [] if method in methods else [method]
    return list(lines.values())


def _training_tasks(data: Path) -> dict[str, int]:
    try:
        parts = json.loads((data / "tasks.card.json").read_text(encoding="utf-8"))["parts"]
        return {name.removesuffix("/train"): part["tasks"] for name, part in parts.items() if name.endswith("/train")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or not one of this library's
        return {}


def _unique(parameters: Sequence[dict[str, Any]], name: str) -> list[str]:
    return list(dict.fromkeys(_format(p[name]) for p in parameters if name in p))


def _format(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()  # as it is written in a study file
    if isinstance(value, float):
        return f"{value:g}"
    return Path(value).parent.name if isinstance(value, str) and value.endswith("/model") else str(value)
