"""Numbers of tables in a run's results, each with the query that gives it, and every recorded number computed again.

``Run.record`` keeps numbers that are aggregates of one file's rows. Differences, divergences and learning speeds come
from several runs at once, through a function of ``analysis``; ``record_table`` keeps them with a query such as
``paired(against='base').difference where suite == 'longer' and method == 'sft'`` over the runs that the comparing run
names in its run.json. ``verify`` computes both kinds again, from the stored trajectories alone.
"""

import ast
import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import pandas as pd

from ...core import InputError
from ...runs.query import query_rows, select_rows
from ...runs.run import Run
from . import comparison, exploits, load, reward_effects, tool_use, training

Rows = Callable[[], pd.DataFrame]

# name -> (evaluations, rollouts, the compared runs) -> table; arguments are the query's
TABLES: dict[str, Callable[..., pd.DataFrame]] = {
    "accuracy": lambda held, made, runs, **a: comparison.accuracy(held(), **a),
    "domains": lambda held, made, runs, inside: comparison.accuracy(
        comparison.comparable(comparison.domains(held(), inside)), by=["domain", "method"]
    ),
    "paired": lambda held, made, runs, **a: comparison.paired(held(), **a),
    "paired_domains": lambda held, made, runs, inside, against: comparison.paired_domains(
        comparison.domains(held(), inside), against
    ),
    "other_ways": lambda held, made, runs, groups: tool_use.off_reference(_thin(made, held, groups)),
    "tool_jsd": lambda held, made, runs: tool_use.tool_jsd(held()),
    "tool_use": lambda held, made, runs: tool_use.tool_use(held()),
    "nowhere": lambda held, made, runs: tool_use.ungrounded_calls(held()),
    "shares": lambda held, made, runs: comparison.shares(held()),
    "tuning": lambda held, made, runs, suites: comparison.tuning(held(), runs(), suites),
    "speed": lambda held, made, runs, **a: training.speed(made(), **a),
    "exploits": lambda held, made, runs: exploits.exploit_summary(exploits.exploit_rates(made())),
    "partings": lambda held, made, runs, groups: reward_effects.version_difference_share(*_both(made, held, groups)),
    "counterfactual": lambda held, made, runs, groups: reward_effects.counterfactual(
        reward_effects.rescore(load.subsample_groups(made(), groups))
    ),
}


def _thin(made: Rows, held: Rows, groups: int) -> pd.DataFrame:
    return load.subsample_groups(made() if len(made()) else held(), groups)


def _both(made: Rows, held: Rows, groups: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = _thin(made, held, groups)
    return reward_effects.rescore(rows, "official"), reward_effects.rescore(rows)


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
    """Record a column of a table, a result a row, under ``<key>/<by>/<by>``, so that ``verify`` can compute it again.

    Args:
        run: the run that compares.
        runs: names of the runs that the table is of; the same for all tables of a comparing run.
        table: what the function gave; ``low`` and ``high``, if there, are recorded as the interval, ``tasks`` or ``n``
            as the count.
        value: the column to record.
        by: the columns that tell the rows apart.
        query: the function's name in TABLES.
        key: what the results are called; by default the column.
        arguments: what it was called with beside the rows; plain values.

    Raises:
        InputError: a function that is not in TABLES, or tables of other runs than before.
    """
    if query not in TABLES:
        raise InputError(f"no table {query!r}; there are {', '.join(TABLES)}")
    run.compares(list(runs))
    call = f"{query}({', '.join(f'{k}={v!r}' for k, v in arguments.items())}).{value}"
    count = next((column for column in ("tasks", "n") if column in table), None)
    entries = {}
    for row in table.to_dict("records"):
        place = " and ".join(f"{column} == {row[column]!r}" for column in by)
        entries["/".join([key or value, *(str(row[column]) for column in by)])] = {
            "value": row[value],
            "ci": (row["low"], row["high"]) if {"low", "high"} <= row.keys() else None,
            "n": int(row[count]) if count else None,
            "rows": "runs",
            "query": f"{call} where {place}",
        }
    run.record_many(entries)


def verify_run(run: Run) -> list[dict[str, Any]]:
    """Compute every result of a run again. One {key, value, recomputed, ok} a result; ok is None without a query."""
    tables = _Tables(run)
    checked = []
    for key, entry in run.results.items():
        again: Any = None
        ok: bool | None = None
        if entry["rows"] == "runs":
            found = tables.row(entry["query"])
            again = found.get(entry["query"].partition(" where ")[0].rpartition(".")[2])
            interval = entry["ci"] or ()
            ok = _close(entry["value"], again) and all(map(_close, interval, (found.get("low"), found.get("high"))))
        elif entry["rows"] is not None:
            again, n = query_rows(run.read_rows(entry["rows"]), entry["query"])
            ok = _close(entry["value"], again) and entry["n"] in (None, n)
        checked.append({"key": key, "value": entry["value"], "recomputed": again, "ok": ok})
    return checked


class _Tables:
    """The tables that a run's queries ask for; rows are read once, and each table is made once."""

    def __init__(self, run: Run):
        names, root = run.info.get("compares", []), run.path.parent
        self.held = cache(lambda: load.evaluations(names, root))
        self.made = cache(lambda: load.rollouts(names, root))
        self.runs = cache(lambda: load.methods(names, root))
        self.table = cache(self._table)

    def _table(self, call: str) -> list[dict[str, Any]]:
        match ast.parse(call, mode="eval").body:
            case ast.Call(ast.Name(name), [], keywords) if name in TABLES:
                arguments = {str(k.arg): ast.literal_eval(k.value) for k in keywords}
                return TABLES[name](self.held, self.made, self.runs, **arguments).to_dict("records")
        raise InputError(f"query {call!r}: no such table; there are {', '.join(TABLES)}")

    def row(self, query: str) -> dict[str, Any]:
        """The one row that a query means; {} if it is there no more."""
        call, _, place = query.partition(" where ")
        found = select_rows(self.table(call.rpartition(".")[0]), place) if place else []
        return found[0] if len(found) == 1 else {}


def _close(a: Any, b: Any) -> bool:
    """Equal, or numbers equal but for rounding; NaN was written as null."""
    missing = [x is None or x != x for x in (a, b)]
    if any(missing):
        return all(missing)
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) if isinstance(a, int | float) else bool(a == b)
