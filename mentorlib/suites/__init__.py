"""The controlled executable-tool benchmark: one suite in domain, and a ladder whose rungs each change one thing.

``generate("calculator", 100, seed=0)`` gives tasks with the scripted teacher's references. Splits never overlap, in
any suite: a problem belongs to the split that the hash of its numbers and kinds of steps says.
"""

import hashlib
import json
import random
from collections.abc import Callable
from typing import Any

from ..core import Call, Execution, InputError, Message, Pair, Reference, Task
from ..toolbox import Toolbox
from ..tools import calculator as calculator_tools
from . import calculator, unseen

SPLITS = {"pretrain": range(0, 50), "train": range(50, 75), "validation": range(75, 80), "eval": range(80, 100)}

CALCULATOR = Toolbox.from_functions("calculator", calculator_tools.TOOLS)
UNSEEN = Toolbox.from_functions("unseen", list(unseen.FUNCTIONS.values()))

Drawn = tuple[str, list[tuple[str, dict[str, Any], Any]], Any, Toolbox, Any]  # question, calls, answer, tools, key


def split_of(key: Any) -> str:
    """The split a problem belongs to, by the hash of its key (kinds of steps and numbers, never its wording)."""
    bucket = int(hashlib.sha256(json.dumps(key).encode()).hexdigest(), 16) % 100
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


def _word_problem(rng: random.Random, **dial: Any) -> Drawn:
    problem = calculator.draw_problem(rng, **dial)
    calls: list[tuple[str, dict[str, Any], Any]] = []
    value: Any = None
    for step in problem.steps:
        if step.variants[0]:
            made, value = calculator.run_plan(step.variants[0], value)
            calls += made
        else:
            value = step.numbers[0]
    return problem.question, calls, problem.answer, CALCULATOR.subset(problem.tools), problem.key


def _unseen(rng: random.Random) -> Drawn:
    question, name, arguments, offered = unseen.draw_problem(rng)
    result = unseen.FUNCTIONS[name](**arguments)
    return question, [(name, arguments, result)], result, UNSEEN.subset(offered), (name, list(arguments.values()))


SUITES: dict[str, Callable[[random.Random], Drawn]] = {
    "calculator": _word_problem,  # in domain: one to four calls, five tools offered
    "longer": lambda rng: _word_problem(rng, calls=(5, 6)),
    "wording": lambda rng: _word_problem(rng, held_out_wording=True),
    "distractors": lambda rng: _word_problem(rng, n_tools=10),
    "unseen": _unseen,
}


def messages_of(calls: list[tuple[str, dict[str, Any], Any]], answer: str) -> list[Message]:
    """Write a teacher's calls as chat turns, one call a turn, then the boxed answer."""
    messages: list[Message] = []
    for name, arguments, result in calls:
        messages.append({"role": "assistant", "content": "", "tool_calls": [Call(name, arguments).message]})
        messages.append({"role": "tool", "name": name, "content": Execution(value=result).text})
    messages.append({"role": "assistant", "content": f"The answer is \\boxed{{{answer}}}."})
    return messages


def generate(suite: str, n: int, seed: int = 0, split: str = "train") -> list[Pair]:
    """Draw n different tasks of a suite's split with the scripted teacher's references.

    Raises:
        InputError: an unknown suite or split, or more tasks than the suite has.
    """
    if suite not in SUITES:
        raise InputError(f"unknown suite {suite!r}: choose one of {', '.join(SUITES)}")
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    rng = random.Random(f"{suite}/{split}/{seed}")
    pairs: list[Pair] = []
    seen: set[str] = set()
    misses = 0
    while len(pairs) < n:
        question, calls, result, toolbox, key = SUITES[suite](rng)
        if question in seen or split_of(key) != split:
            misses += 1
            if misses > 10_000:
                raise InputError(f"suite {suite!r} has only about {len(pairs)} {split} tasks: ask for fewer than {n}")
            continue
        misses = 0
        seen.add(question)
        answer = Execution(value=result).text
        task = Task(f"{suite}-{split}-{seed}-{len(pairs)}", question, answer, toolbox, suite, split)
        reference = Reference(task.id, messages_of(calls, answer), [Call(n, a) for n, a, _ in calls], answer)
        pairs.append((task, reference))
    return pairs
