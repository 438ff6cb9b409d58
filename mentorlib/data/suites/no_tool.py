"""The ladder's "no_tool" rung: no tool that is offered fits, and the question is easy enough to answer by head.

Against in domain, only the tools offered change: sentences, names and things are the in-domain ones, and so are the
tools, but of the twelve only those five that change a single number are there. None of them gives the answer from
the numbers of the question. The scripted teacher makes no call and answers.

Simplified: head sums are plus and minus up to 30. That the policy *could* add them up is taken for granted.
"""

import random
from typing import Any

from .calculator import NAMES, THINGS, WORDING

OFFERED = ["floor", "ceil", "round_number", "sqrt", "abs_value"]


def draw_problem(rng: random.Random, steps: tuple[int, int] = (1, 2)) -> tuple[str, int, list[str], tuple[Any, ...]]:
    """Draw one head sum: question, answer, names of the tools offered, key (as a word problem's).

    Args:
        rng: the source of chance.
        steps: fewest and most changes of the first number (the difficulty dial).
    """
    words = {"name": rng.choice(NAMES), "things": rng.choice(THINGS)}
    value = rng.randint(2, 10)
    parts = [rng.choice(WORDING["have"][0]).format(n=value, **words)]
    key: list[tuple[str, tuple[int]]] = [("have", (value,))]
    for _ in range(rng.randint(*steps)):
        n = rng.randint(1, 9)
        kind = rng.choice(["gain", "lose"]) if value > n else "gain"
        value += n if kind == "gain" else -n
        parts.append(rng.choice(WORDING[kind][0]).format(n=n, **words))
        key.append((kind, (n,)))
    parts.append(rng.choice(WORDING["ask"][0]).format(**words))
    shown = [n for _, (n,) in key]
    if value in shown or value**2 in shown:  # a tool would give it: abs_value(3) is 3, sqrt(9) is 3
        return draw_problem(rng, steps)
    return " ".join(parts), value, rng.sample(OFFERED, len(OFFERED)), tuple(key)
