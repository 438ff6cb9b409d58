"""The controlled executable-tool benchmark: one suite in domain, and a ladder whose rungs each change one thing.

Each module of this folder is one suite or several variants of one: it has a dict ``SUITES`` from names to functions
``draw(rng, **options) -> Problem``. To add a suite, add a file. docs/benchmark.md lists the suites.
"""

import importlib
import pkgutil
import random
from collections.abc import Callable
from typing import Any

from ...core import Execution, InputError
from ...task import Pair, Task
from ..problem import SPLITS, Problem, reference_from_calls


def load_suites() -> dict[str, Callable[..., Problem]]:
    """The suites of all modules in this folder, by name."""
    suites: dict[str, Callable[..., Problem]] = {}
    for module in pkgutil.iter_modules(__path__):
        suites |= importlib.import_module(f"{__name__}.{module.name}").SUITES
    return suites


SUITES = load_suites()


def generate(suite: str, n: int, seed: int = 0, split: str = "train", **options: Any) -> list[Pair]:
    """Draw n different tasks of a suite's split with the scripted teacher's references.

    A problem's key decides its split, so that no problem is in two splits, in any suite.

    Args:
        suite: a name in SUITES.
        n: number of tasks.
        seed: of the random generator.
        split: a name in SPLITS.
        options: of the suite's draw function, as in ``generate("longer", 100, calls=(7, 8))``; part of the tasks' ids.

    Raises:
        InputError: an unknown suite or split, or more tasks than the suite has.
    """
    if suite not in SUITES:
        raise InputError(f"unknown suite {suite!r}: choose one of {', '.join(SUITES)}")
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    rng = random.Random(f"{suite}/{split}/{seed}")
    name = "-".join([suite, split, str(seed), *(f"{key}={value}" for key, value in options.items())])
    pairs: list[Pair] = []
    seen: set[str] = set()
    misses = 0
    while len(pairs) < n:
        problem = SUITES[suite](rng, **options)
        if problem.question in seen or problem.split != split:
            misses += 1
            if misses > 10_000:
                raise InputError(f"suite {suite!r} has only about {len(pairs)} {split} tasks: ask for fewer than {n}")
            continue
        misses = 0
        seen.add(problem.question)
        answer = Execution(value=problem.answer).text
        task = Task(f"{name}-{len(pairs)}", problem.question, answer, problem.toolbox, suite, split, problem.metric)
        pairs.append((task, reference_from_calls(task.id, problem.calls, answer)))
    return pairs
