"""The query language of results: ``aggregate(expression) where condition`` over rows.

An interpreter of a few Python expressions, because queries come with archives from other people. pandas.eval runs
methods (``correct.to_csv('file')``) and has no ``terms['tool']``, ``len()`` or ``'add' in tools``; DuckDB's SQL reads
files, and would not read the queries that are already recorded.
"""

import ast
import math
import operator
import statistics
from collections.abc import Callable
from typing import Any

from ..core import InputError
from .files import Row

_AGGREGATES: dict[str, Callable[[list[Any]], Any]] = {
    **{"mean": statistics.fmean, "median": statistics.median, "sum": math.fsum},
    **{"min": min, "max": max, "count": len},
}
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    **{ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Is: operator.is_, ast.IsNot: operator.is_not},
    **{ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge},
    **{ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b, ast.Not: operator.not_},
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv},
    **{ast.USub: operator.neg},
}
_OF_NONE = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot)  # the other operators give None for an operand of None


def query_rows(rows: list[Row], query: str) -> tuple[Any, int]:
    """Compute e.g. ``mean(correct)`` or ``mean(stop == 'answered') where suite == 'calculator' and step >= 10``.

    The aggregate is mean, median, sum, min, max or count of a Python expression over each row: columns,
    ``terms['tool']``, constants, comparisons, and / or / not, + - * /, len(). A column or key that a row lacks is None,
    which and, or and not take as unknown, as SQL does.
    Rows whose expression is None (such as an answer that could not be judged) or that fail the condition are left out.

    Returns:
        The value, None if no row is left, and the number of rows behind it.

    Raises:
        InputError: any other query, or an unknown column.
    """
    text, _, condition = query.partition(" where ")
    call = _parse(text, query)
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in _AGGREGATES):
        raise InputError(f"query {query!r}: begin with one of {', '.join(_AGGREGATES)}(…)")
    aggregate = call.func.id
    if call.keywords or len(call.args) > 1 or (not call.args and aggregate != "count"):
        raise InputError(f"query {query!r}: {aggregate} takes one expression")
    expression = call.args[0] if call.args else ast.Constant(True)
    _check_columns(expression, rows, query)
    results = _evaluate_rows(expression, select_rows(rows, condition) if condition.strip() else rows, query)
    values = [value for value in results if value is not None]
    if not values and aggregate != "count":
        return None, 0
    try:
        return _AGGREGATES[aggregate](values), len(values)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"query {query!r}: {error}") from None


def select_rows(rows: list[Row], condition: str) -> list[Row]:
    """The rows for which a condition of the query language holds, e.g. ``not correct and 'add' in tools``."""
    expression = _parse(condition, condition)
    _check_columns(expression, rows, condition)
    holds = _evaluate_rows(expression, rows, condition)
    return [row for row, hold in zip(rows, holds, strict=True) if hold]


def _parse(text: str, query: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(f"query {query!r}: write aggregate(expression) where condition") from None


def _check_columns(node: ast.expr, rows: list[Row], query: str) -> None:
    columns = {column for row in rows for column in row}
    for name in (part.id for part in ast.walk(node) if isinstance(part, ast.Name)):
        if rows and name not in columns | {"len"}:
            raise InputError(f"query {query!r}: no column {name!r}; the rows have {', '.join(sorted(columns))}")


def _evaluate_rows(node: ast.expr, rows: list[Row], query: str) -> list[Any]:
    try:
        return [_evaluate(node, row) for row in rows]
    except (ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise InputError(f"query {query!r}: {error}") from None


def _evaluate(node: ast.expr, row: Row) -> Any:
    match node:
        case ast.Constant(value):
            return value
        case ast.Name(column):
            return row.get(column)
        case ast.List(items) | ast.Tuple(items):
            return [_evaluate(item, row) for item in items]
        case ast.Call(ast.Name("len"), [value], []):
            return len(_evaluate(value, row) or ())
        case ast.Subscript(container, key):
            try:
                return _evaluate(container, row)[_evaluate(key, row)]
            except (LookupError, TypeError):
                return None
        case ast.BoolOp(op, items):
            decides = isinstance(op, ast.Or)  # what one item suffices to give
            unknown = False
            for item in items:
                value = _evaluate(item, row)
                if value is not None and bool(value) == decides:
                    return decides
                unknown |= value is None
            return None if unknown else not decides
        case ast.UnaryOp(op, value) if type(op) in _OPERATORS:
            operands = [_evaluate(value, row)]
        case ast.Compare(left, [op], [right]) | ast.BinOp(left, op, right) if type(op) in _OPERATORS:
            operands = [_evaluate(left, row), _evaluate(right, row)]
        case _:
            raise ValueError(f"{ast.unparse(node)!r} is outside the query language")
    if any(value is None for value in operands) and not isinstance(op, _OF_NONE):
        return None
    if isinstance(op, ast.operator) and not all(isinstance(value, int | float) for value in operands):
        raise TypeError(f"{ast.unparse(node)!r} takes numbers")  # 'a' * 10**9 fills the memory
    return _OPERATORS[type(op)](*operands)
