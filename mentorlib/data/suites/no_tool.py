"""The ladder's "no_tool" rung: none of the offered tools helps, and the question is easy enough for mental arithmetic.

Only the offered tools differ from the in-domain suite: sentences, names and things are the same, but only the five
calculator tools that change a single number are offered. None of them gives the answer from the numbers of the
question. The scripted teacher makes no call and answers.

Simplified: sums of numbers up to 19. That a policy can add them up is assumed; the shipped student was pretrained on
such sums (of the pretraining split).
"""

import random

from ..problem import Problem
from .calculator import CALCULATOR, NAMES, THINGS, WORDING

OFFERED = ["floor", "ceil", "round_number", "sqrt", "abs_value"]


def draw(rng: random.Random, steps: tuple[int, int] = (1, 2), wording: dict[str, list[str]] | None = None) -> Problem:
    """Draw a short addition and subtraction problem.

    Args:
        rng: random generator.
        steps: fewest and most changes of the first number.
        wording: sentences of each kind of step, instead of the calculator suite's own.
    """
    sentences_of = wording or {kind: texts for kind, (texts, _) in WORDING.items()}
    while True:
        words = {"name": rng.choice(NAMES), "things": rng.choice(THINGS)}
        value = rng.randint(2, 9)
        sentences = [rng.choice(sentences_of["have"]).format(n=value, **words)]
        key: list[tuple[str, tuple[int]]] = [("have", (value,))]
        for _ in range(rng.randint(*steps)):
            n = rng.randint(1, 5)
            kind = rng.choice(["gain", "lose"]) if value > n else "gain"
            value += n if kind == "gain" else -n
            sentences.append(rng.choice(sentences_of[kind]).format(n=n, **words))
            key.append((kind, (n,)))
        sentences.append(rng.choice(sentences_of["ask"]).format(**words))
        shown = [n for _, (n,) in key]
        if value in shown or value**2 in shown:  # a tool would give the answer: abs_value(3) is 3, sqrt(9) is 3
            continue
        return Problem(" ".join(sentences), [], value, CALCULATOR.subset(rng.sample(OFFERED, len(OFFERED))), tuple(key))


SUITES = {"no_tool": draw}
