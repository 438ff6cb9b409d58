"""Arithmetic in text, such as ``(5+3)*2``, as calls of the calculator tools in order of evaluation."""

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

from ...core import display_number
from ..problem import ExecutedCall
from .rows import UnusableRow

MAX_LENGTH = 200  # characters: no number in it is too large for a float, no nesting too deep

_OPERATORS: dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("add", operator.add),
    ast.Sub: ("subtract", operator.sub),
    ast.Mult: ("multiply", operator.mul),
    ast.Div: ("divide", operator.truediv),
}


def expression_calls(expression: str, what: str) -> tuple[list[ExecutedCall], Any]:
    """Turn ``(5+3)*2`` into binary calls in order of evaluation, with results as a policy reads them.

    Args:
        expression: with + - * / (or x), parentheses, ``20%``, ``1,200`` and ``$``.
        what: what it is in its row, for the reason: "an annotation".

    Returns:
        The calls, and the value of the whole.

    Raises:
        UnusableRow: it is no arithmetic, or cannot be computed.
    """
    calls: list[ExecutedCall] = []
    text = re.sub(r"(?<=\d),(?=\d{3})", "", expression)  # 1,200
    text = re.sub(r"(\d+(?:\.\d+)?|\.\d+)%", r"(\1/100)", text)  # 20% is a division
    text = re.sub(r"(?<![\d.])0+(?=\d)", "", text)  # 05
    text = re.sub(r"[$\s]", "", text).replace("x", "*")
    try:
        if len(text) > MAX_LENGTH:
            raise ValueError("too long")
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        raise UnusableRow(f"{what} is not arithmetic", expression) from e

    def walk(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() | float() as value):
                return display_number(float(value)) if isinstance(value, float) else value
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -walk(operand)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return walk(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                name, compute = _OPERATORS[type(op)]
                a, b = walk(left), walk(right)
                try:
                    value = display_number(compute(a, b))
                except (ZeroDivisionError, OverflowError) as e:
                    raise UnusableRow(f"{what} cannot be computed", expression) from e
                calls.append((name, {"a": a, "b": b}, value))
                return value
        raise UnusableRow(f"{what} is not arithmetic", expression)

    return calls, walk(tree)
