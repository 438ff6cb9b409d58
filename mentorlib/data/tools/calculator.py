"""The paper's twelve calculator tools (MENTOR, appendix; names as in the official reward functions)."""

import math
from collections.abc import Callable
from typing import Any


def add(a: float, b: float) -> float:
    """Add two numbers.

    Args:
        a: first number
        b: second number
    """
    return a + b


def subtract(a: float, b: float) -> float:
    """Subtract the second number from the first.

    Args:
        a: first number
        b: second number
    """
    return a - b


def multiply(a: float, b: float) -> float:
    """Multiply two numbers.

    Args:
        a: first number
        b: second number
    """
    return a * b


def divide(a: float, b: float) -> float:
    """Divide the first number by the second.

    Args:
        a: first number
        b: second number
    """
    return a / b


def sum_numbers(numbers: list[float]) -> float:
    """Add up a list of numbers.

    Args:
        numbers: the numbers
    """
    return sum(numbers)


def floor(x: float) -> int:
    """Round a number down.

    Args:
        x: the number
    """
    return math.floor(x)


def ceil(x: float) -> int:
    """Round a number up.

    Args:
        x: the number
    """
    return math.ceil(x)


def round_number(x: float, digits: int) -> float:
    """Round a number to some decimals.

    Args:
        x: the number
        digits: how many decimals
    """
    return round(x, digits)


def power(a: float, b: float) -> float:
    """Raise the first number to the power of the second.

    Args:
        a: first number
        b: second number
    """
    return a**b


def sqrt(x: float) -> float:
    """Take the square root of a number.

    Args:
        x: the number
    """
    return math.sqrt(x)


def abs_value(x: float) -> float:
    """Drop the sign of a number.

    Args:
        x: the number
    """
    return abs(x)


def modulo(a: float, b: float) -> float:
    """Find the remainder of the first number divided by the second.

    Args:
        a: first number
        b: second number
    """
    return a % b


TOOLS: list[Callable[..., Any]] = [
    add,
    subtract,
    multiply,
    divide,
    sum_numbers,
    floor,
    ceil,
    round_number,
    power,
    sqrt,
    abs_value,
    modulo,
]
