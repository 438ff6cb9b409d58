"""The ladder's "unseen" rung: text, unit and list tools that occur neither in pretraining nor in distillation.

One call a problem: the suite tests whether a policy can read a schema that it has never seen.
"""

import random
from collections.abc import Callable
from typing import Any

from ...sandbox.toolbox import Toolbox
from ..problem import Problem
from ..tools import lists, text, units

FUNCTIONS: dict[str, Callable[..., Any]] = {f.__name__: f for f in [*text.TOOLS, *units.TOOLS, *lists.TOOLS]}
UNSEEN = Toolbox.from_functions("unseen", list(FUNCTIONS.values()))
WORDS = "plum jar cup tile star lake moon bird road tree fish lamp coat door ring sand wind gold".split()


def draw(rng: random.Random, n_tools: int = 5) -> Problem:
    """Draw a problem that one call solves.

    Args:
        rng: random generator.
        n_tools: number of tools offered, the right one among them.
    """
    name = rng.choice(list(FUNCTIONS))
    words = " ".join(rng.sample(WORDS, rng.randint(1, 3)))
    other = rng.choice(WORDS)
    n = rng.randint(2, 12)
    values = [rng.randint(1, 60) for _ in range(rng.randint(3, 5))]
    listed = ", ".join(map(str, values))
    problems: dict[str, tuple[str, dict[str, Any]]] = {
        "count_letters": (f'How many letters are in "{words}"?', {"text": words}),
        "count_words": (f'How many words are in "{words}"?', {"text": words}),
        "reverse_text": (f'Write "{words}" backwards.', {"text": words}),
        "upper_text": (f'Write "{words}" in capitals.', {"text": words}),
        "repeat_text": (f'Write "{other}" {n % 4 + 2} times.', {"text": other, "times": n % 4 + 2}),
        "join_texts": (f'Write "{words}" and "{other}" as one.', {"first": words, "second": other}),
        "hours_to_minutes": (f"How many minutes are {n} hours?", {"hours": n}),
        "weeks_to_days": (f"How many days are {n} weeks?", {"weeks": n}),
        "meters_to_centimeters": (f"How many centimeters are {n} meters?", {"meters": n}),
        "dozens_to_pieces": (f"How many pieces are {n} dozens?", {"dozens": n}),
        "largest": (f"What is the largest value of {listed}?", {"values": values}),
        "smallest": (f"What is the smallest value of {listed}?", {"values": values}),
        "count_values": (f"How many values are {listed}?", {"values": values}),
        "last_value": (f"What is the last value of {listed}?", {"values": values}),
    }
    question, arguments = problems[name]
    offered = [*rng.sample([f for f in FUNCTIONS if f != name], n_tools - 1), name]
    rng.shuffle(offered)
    result = FUNCTIONS[name](**arguments)
    return Problem(
        question, [(name, arguments, result)], result, UNSEEN.subset(offered), (name, list(arguments.values()))
    )


SUITES = {"unseen": draw}
