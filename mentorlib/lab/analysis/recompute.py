"""Record the numbers of an analysis table, and compute recorded numbers again from stored trajectories.

`Run.record` stores aggregates of one file's rows. Differences, divergences and learning speeds come from several runs,
through a function of this package; `record_table` stores them with a query such as
``paired(against='base').difference where suite == 'longer' and method == 'sft'`` over the runs that run.json lists
under ``compares``. `verify_run` computes both kinds again.
"""

import ast
import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from ...core import InputError
from ...rewards.reward import REWARDS
from ...runs.functions import function_file
from ...runs.query import query_rows, select_rows
from ...runs.run import Run
from . import comparison, exploits, load, outcomes, reward_effects, skills, tool_use, training, treatment, ungrounded


class ComparedRuns:
    """The stored rows of several runs; each kind is read once, when a table needs it."""

    def __init__(self, names: Sequence[str], root: Path):
        self.evaluations = cache(lambda: load.evaluations(names, root))
        self.rollouts = cache(lambda: load.rollouts(names, root))
        self.methods = cache(lambda: load.methods(names, root))
        self.metrics = cache(lambda: load.metrics(names, root))
        self.samples = cache(lambda: load.samples(names, root))

    def domains(self, inside: Sequence[str]) -> pd.DataFrame:
        """The evaluations with their domain."""
        return comparison.add_domain(self.evaluations(), inside)

    def subsample(self, groups: int) -> pd.DataFrame:
        """Groups of the rollouts; of the evaluations if there are no rollouts."""
        return load.subsample_groups(self.rollouts() if len(self.rollouts()) else self.evaluations(), groups)


# A query's function name -> the table, from the compared runs and the query's arguments.
TABLES: dict[str, Callable[..., pd.DataFrame]] = {
    "accuracy": lambda runs, **arguments: comparison.accuracy(runs.evaluations(), **arguments),
    "domains": lambda runs, inside: comparison.accuracy(
        comparison.comparable(runs.domains(inside)), by=["domain", "method"]
    ),
    "paired": lambda runs, **arguments: comparison.paired(runs.evaluations(), **arguments),
    "paired_domains": lambda runs, inside, against: comparison.paired_domains(runs.domains(inside), against),
    "arms": lambda runs: treatment.arms(runs.rollouts(), runs.metrics()),
    "treatment": lambda runs, inside, **arguments: treatment.pairs(runs.rollouts(), runs.domains(inside), **arguments),
    "planned": lambda runs, inside, contrasts, margin, **gates: comparison.planned(
        runs.domains(inside),
        contrasts,
        margin,
        treatment.pairs(runs.rollouts(), runs.domains(inside), contrasts, **gates),
    ),
    "pass_at_k": lambda runs, inside: skills.pass_at_k(comparison.add_domain(runs.samples(), inside)),
    "habits": lambda runs: skills.habits(runs.evaluations()),
    "off_reference": lambda runs, groups: tool_use.off_reference(runs.subsample(groups)),
    "tool_jsd": lambda runs: tool_use.tool_jsd(runs.evaluations()),
    "jsd_differences": lambda runs, **arguments: tool_use.jsd_differences(runs.evaluations(), **arguments),
    "tool_overlap": lambda runs: tool_use.tool_overlap(runs.evaluations()),
    "ungrounded_calls": lambda runs: ungrounded.ungrounded_calls(runs.evaluations()),
    "outcome_shares": lambda runs: outcomes.outcome_shares(runs.evaluations()),
    "tuning": lambda runs, suites: comparison.tuning(runs.evaluations(), runs.methods(), suites),
    "learning_speed": lambda runs, **arguments: training.learning_speed(runs.rollouts(), **arguments),
    "exploits": lambda runs: exploits.exploit_summary(exploits.exploit_rates(runs.rollouts())),
    "version_difference_share": lambda runs, groups: reward_effects.version_difference_share(
        *(reward_effects.rescore(runs.subsample(groups), version) for version in ("official", "corrected"))
    ),
    "counterfactual": lambda runs, groups, rewards=(): reward_effects.counterfactual(
        reward_effects.rescore(load.subsample_groups(runs.rollouts(), groups), rewards=[*REWARDS, *_named(rewards)])
    ),
}


def _named(rewards: Sequence[str]) -> Sequence[str]:
    """Rewards that a query names, unless one is a file's function: results may come from others, with their runs."""
    for name in map(str, rewards):
        if function_file(name):
            raise InputError(f"a result names the reward {name}; files are not executed to verify results")
    return rewards


def record_table(
    run: Run,
    runs: Iterable[str],
    table: pd.DataFrame,
    value: str,
    by: Sequence[str],
    query: str,
    key: str = "",
    **arguments: Any,
) -> None:
    """Record a column of a table, one result a row, under ``<key>/<by>/<by>``.

    Args:
        run: the run that compares.
        runs: names of the compared runs; the same for all tables of a run.
        table: one row a result; columns ``low`` and ``high`` are recorded as the interval, ``tasks`` or ``n`` as the
            count.
        value: the column to record.
        by: the columns that identify a row. A row about a reward that is a function in a file is recorded without a
            query, since `verify_run` executes nobody's file.
        query: the function's name in TABLES.
        key: the results' name; by default the column.
        arguments: the function's arguments beside the rows; plain values.

    Raises:
        InputError: no such function in TABLES, or the run compared other runs before.
    """
    if query not in TABLES:
        raise InputError(f"no table {query!r}; there are {', '.join(TABLES)}")
    run.compares(list(runs))
    call = f"{query}({', '.join(f'{k}={v!r}' for k, v in arguments.items())}).{value}"
    count = next((column for column in ("tasks", "n") if column in table), None)
    entries = {}
    for row in table.to_dict("records"):
        own = any(function_file(str(row.get(column))) for column in ("reward", "trained"))
        condition = " and ".join(f"{column} == {row[column]!r}" for column in by)
        entries["/".join([key or value, *(str(row[column]) for column in by)])] = {
            "value": row[value],
            "ci": (row["low"], row["high"]) if {"low", "high"} <= row.keys() else None,
            "n": int(row[count]) if count else None,
            "rows": None if own else "runs",
            "query": None if own else f"{call} where {condition}",
        }
    run.record_many(entries)


def verify_run(run: Run) -> list[dict[str, Any]]:
    """Compute every result of a run again.

    Returns:
        One {key, value, recomputed, ok} a result; ok is None for a result without a query.

    Raises:
        InputError: a query or the rows cannot be read.
    """
    runs = ComparedRuns(run.info.get("compares", []), run.path.parent)
    table = cache(lambda call: _table(call, runs))
    checked = []
    for key, entry in run.results.items():
        value: Any = None
        ok: bool | None = None
        if entry["rows"] == "runs":
            call, _, condition = entry["query"].partition(" where ")
            function, _, column = call.rpartition(".")
            rows = select_rows(table(function), condition) if condition else []
            row = rows[0] if len(rows) == 1 else {}
            value = row.get(column)
            interval = entry["ci"] or ()
            ok = _close(entry["value"], value) and all(map(_close, interval, (row.get("low"), row.get("high"))))
        elif entry["rows"] is not None:
            if not (run.path / entry["rows"]).resolve().is_relative_to(run.path.resolve().parent):
                raise InputError(f"{run.path}: {key} names rows elsewhere ({entry['rows']}), which are not the run's")
            value, n = query_rows(run.read_rows(entry["rows"]), entry["query"])
            ok = _close(entry["value"], value) and entry["n"] in (None, n)
        checked.append({"key": key, "value": entry["value"], "recomputed": value, "ok": ok})
    return checked


def _table(call: str, runs: ComparedRuns) -> list[dict[str, Any]]:
    """The rows of a table, from a call such as ``paired(against='base')``, whose arguments are literals."""
    try:
        match ast.parse(call, mode="eval").body:
            case ast.Call(ast.Name(name), [], keywords) if name in TABLES:
                arguments = {str(k.arg): ast.literal_eval(k.value) for k in keywords}
                return TABLES[name](runs, **arguments).to_dict("records")
    except InputError:
        raise
    except (SyntaxError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, MemoryError) as error:
        raise InputError(f"query {call!r}: {error}") from None
    raise InputError(f"query {call!r}: no such table; there are {', '.join(TABLES)}")


def _close(a: Any, b: Any) -> bool:
    """Equal up to rounding; NaN was stored as null."""
    missing = [x is None or x != x for x in (a, b)]
    if any(missing):
        return all(missing)
    try:
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) if isinstance(a, int | float) else bool(a == b)
    except (TypeError, OverflowError):  # a query of others may give a list, or more digits than a float has
        return False
