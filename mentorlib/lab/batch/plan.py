"""A study file as stages: read, checked, expanded over its grids."""

import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ...core import InputError, did_you_mean, one_line
from ...runs.parameters import Planned
from ...runs.run import check_name
from .parameters import check_parameters, load_yaml, parameters_of, read_notebook, run_check_cell

RUNS, REPORTS = Path("runs"), Path("reports")
MOST_STAGES = 1_000  # of a grid: each is a process, and minutes
_STAGE_KEYS = {
    **{"name": str, "notebook": str, "parameters": dict, "grid": dict, "needs": list},
    "minutes": int | float,
}


@dataclass(frozen=True)
class Stage:
    """One execution of a notebook: what runs, after what, and the run folder it fills."""

    name: str
    notebook: Path
    parameters: dict[str, Any]
    needs: tuple[str, ...]  # names of stages
    run: str
    minutes: float | None  # what its author expects, for the first estimate of the time left
    values: dict[str, Any] = field(default_factory=dict)  # of all its notebook's parameters
    grid: dict[str, Any] = field(default_factory=dict)  # its place in the grid of its stage
    study: str = ""  # the file, from the current directory
    ordered: bool = False  # it comes after others of which it names no run (``needs``) and may read what they write

    @property
    def folder(self) -> Path:
        return RUNS / self.run


@dataclass
class StageStatus:
    """How far a stage has come."""

    stage: Stage
    key: str = ""  # see `keys.stage_keys`
    state: str = "waiting"  # waiting, running, done, failed or skipped
    exit_code: int = 0
    error: str = ""  # the last line of a stage that failed
    seconds: float | None = None  # that it took; None if it has not finished
    older: bool = False  # done with another version of the library


def plan(path: Path) -> tuple[dict[str, Any], list[Stage]]:
    """Read and check a study file: its settings, and its stages in an order in which each follows what it needs."""
    try:
        study = load_yaml(path.read_text(encoding="utf-8"))
    except (IsADirectoryError, PermissionError) as error:
        raise InputError(f"{path}: {error.strerror}; give a study's .yaml file") from None
    except OSError:
        known = {name: str(file) for file in sorted(Path("studies").glob("*.yaml")) for name in (file.stem, str(file))}
        near = get_close_matches(str(path), known, 1)
        hint = f"did you mean {known[near[0]]}?" if near else f"there are {', '.join(sorted(set(known.values())))}"
        raise InputError(f"{path}: no such study file" + (f"; {hint}" if known else "")) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        tabs = "; indent with spaces, not tabs" if "'\\t'" in str(error) else ""
        raise InputError(f"{path}: not YAML: {one_line(error, 200)}{tabs}") from None
    _check_keys(study, {"question": str, "workers": int, "stages": list}, f"{path}")
    study = {"name": check_name(path.stem), "question": "", "workers": 2, "stages": [], **study}
    if study["workers"] < 1:
        raise InputError(f"{path}: 'workers' is at least 1")
    specs: dict[str, dict[str, Any]] = {}
    for number, spec in enumerate(study["stages"], 1):
        where = f"{path}, stage {number}"
        _check_keys(spec, _STAGE_KEYS, where)
        for key in ("name", "notebook"):
            if key not in spec:
                raise InputError(f"{where}: no {key!r}")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", spec["name"]) or spec["name"] in specs:
            raise InputError(f"{where}: the name {spec['name']!r} is taken or has other than letters, digits, - and _")
        keys = [*spec.get("parameters", ()), *spec.get("grid", ()), *spec.get("needs", ())]
        if odd := [key for key in keys if not isinstance(key, str)]:
            raise InputError(f"{where}: {odd[0]!r} is no name: write parameters, grid and needs with names")
        if not 0 <= (spec.get("minutes") or 0) < math.inf:
            raise InputError(f"{where}: 'minutes' takes a number of minutes, not {spec['minutes']!r}")
        specs[spec["name"]] = {"parameters": {}, "grid": {}, "needs": [], "minutes": None, **spec}
    if not specs:
        raise InputError(f"{path}: no stages; list them under stages: (docs/study.md)")

    needs = {name: [*spec["needs"], *_references([spec["parameters"], spec["grid"]])] for name, spec in specs.items()}
    for name in specs:
        for need in set(needs[name]) - specs.keys():
            raise InputError(f"{path}, stage {name!r}: no stage {need!r}; {_hint(need, specs, 'there are')}")
    expanded: dict[str, list[Stage]] = {}  # the stages of each spec, in order of needs
    while left := [name for name in specs if name not in expanded]:
        ready = next((name for name in left if expanded.keys() >= set(needs[name])), None)
        if ready is None:
            raise InputError(f"{path}: stages need each other in a circle: {', '.join(left)}")
        try:
            expanded[ready] = _expand(study["name"], specs[ready], expanded)
        except InputError as error:
            raise InputError(f"{path}, stage {ready!r}: {error}") from None
    stages = [replace(stage, study=os.path.relpath(path)) for group in expanded.values() for stage in group]
    for a, b in itertools.combinations(stages, 2):
        if a.run == b.run or a.name == b.name:
            raise InputError(f"{path}: the stages {a.name!r} and {b.name!r} fill one folder, {a.folder}; rename one")
    return study, stages


def check_stages(path: Path, stages: Iterable[Stage]) -> None:
    """Execute the check cell of each stage's notebook, once for stages that differ in nothing but run and seed.

    A stage with ``needs`` is left to its own start: it may read what these write, wherever that is.

    Raises:
        InputError: what a cell refused, with the study's file and the stage.
    """
    read, seen = cache(read_notebook), set()
    for stage in stages:
        values = {name: value for name, value in stage.values.items() if name not in ("run", "seed")}
        key = json.dumps([str(stage.notebook), values], sort_keys=True)
        if stage.ordered or key in seen:
            continue
        seen.add(key)
        try:
            run_check_cell(read(stage.notebook), stage.parameters | {"run": Planned(stage.run)})
        except InputError as error:
            raise InputError(f"{path}, stage {stage.name!r}: {error}") from None


def _expand(study: str, spec: Mapping[str, Any], expanded: Mapping[str, list[Stage]]) -> list[Stage]:
    """The stages of a spec: one for every combination of its grid."""
    notebook = Path(spec["notebook"])
    known = {p.name: p.default for p in parameters_of(read_notebook(notebook), notebook)}
    for name, values in spec["grid"].items():
        if not isinstance(values, list) or not values:
            raise InputError(f"the grid of {name!r} is not a list of values")
        if name in spec["parameters"]:
            raise InputError(f"{name!r} is both a parameter and in the grid")
    if (size := math.prod(map(len, spec["grid"].values()))) > MOST_STAGES:
        raise InputError(f"the grid has {size:,} combinations, more than {MOST_STAGES:,}: take values out of it")
    stages = []
    for values in itertools.product(*spec["grid"].values()):
        label = "-".join([spec["name"], *(re.sub(r"[^A-Za-z0-9_.]+", "_", str(v)) for v in values)])
        place = dict(zip(spec["grid"], values, strict=True))
        given = {**spec["parameters"], **place}
        used = [stage.name for need in spec["needs"] for stage in expanded[need]]
        parameters = {name: _fill(value, expanded, place, used) for name, value in given.items()}
        if "run" in known:
            parameters.setdefault("run", f"{study}-{label}")
        parameters = check_parameters(notebook, parameters)
        run = check_name(parameters.get("run", f"{study}-{label}"))
        after, values = tuple(dict.fromkeys(used)), known | parameters
        ordered = bool(spec["needs"])
        stages.append(Stage(label, notebook, parameters, after, run, spec["minutes"], values, place, ordered=ordered))
    return stages


_REFERENCE = re.compile(r"\$([A-Za-z0-9_-]+)(/.*)?")


def _references(value: Any) -> list[str]:
    return [match[1] for text in strings_in(value) if (match := _REFERENCE.fullmatch(text))]


def _fill(value: Any, expanded: Mapping[str, list[Stage]], place: Mapping[str, Any], used: list[str]) -> Any:
    """Replace ``$name`` by runs, ``$name/`` by folders and ``$name/file`` by files; add their stages to ``used``."""
    if isinstance(value, list):
        filled = []
        for item in value:
            new = _fill(item, expanded, {}, used)
            filled += new if isinstance(item, str) and isinstance(new, list) else [new]
        return filled
    if isinstance(value, dict):
        return {key: _fill(item, expanded, place, used) for key, item in value.items()}
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if not match:
        return value
    alike = [s for s in expanded[match[1]] if all(place[key] == v for key, v in s.grid.items() if key in place)]
    if not alike:
        raise InputError(f"{value}: no run of the stage {match[1]!r} has the values {dict(place)}")
    used += [stage.name for stage in alike]
    texts = [f"{stage.folder}{match[2]}".rstrip("/") if match[2] else stage.run for stage in alike]
    runs = [Planned(text, stage.values) for text, stage in zip(texts, alike, strict=True)]
    return runs[0] if len(runs) == 1 else runs


def strings_in(value: Any) -> list[str]:
    """The texts in a parameter's value, however deep."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [text for item in value for text in strings_in(item)]


def _check_keys(value: Any, types: Mapping[str, Any], where: str) -> None:
    if not isinstance(value, dict):
        raise InputError(f"{where}: write keys and values: {', '.join(types)}")
    for key, item in value.items():
        if key not in types:
            raise InputError(f"{where}: unknown key {key!r}; {_hint(key, types, 'use')}")
        if not isinstance(item, types[key]) or isinstance(item, bool):
            kind = getattr(types[key], "__name__", "number")
            raise InputError(f"{where}: {key!r} takes a {kind}, not {item!r:.60}")


def _hint(name: Any, known: Iterable[str], otherwise: str) -> str:
    return did_you_mean(name, known).strip() or f"{otherwise} {', '.join(known)}"
