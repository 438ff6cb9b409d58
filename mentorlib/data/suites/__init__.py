"""The controlled executable-tool benchmark: one suite in domain, and a ladder whose rungs each change one thing.

``generate("calculator", 100, seed=0)`` gives tasks with the scripted teacher's references. Splits never overlap, in
any suite: a problem belongs to the split that the hash of its numbers and kinds of steps says. docs/benchmark.md has
the ladder as a table, and how to add a suite.
"""

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ...core import Call, Execution, InputError, Message, Reference
from ...sandbox.toolbox import Toolbox
from ...task import Pair, Task
from ..tools import calculator as calculator_tools
from ..tools import retrieval as retrieval_tools
from . import calculator, no_tool, retrieval, unseen

SPLITS = {"pretrain": range(0, 50), "train": range(50, 75), "validation": range(75, 80), "eval": range(80, 100)}

CALCULATOR = Toolbox.from_functions("calculator", calculator_tools.TOOLS)
UNSEEN = Toolbox.from_functions("unseen", list(unseen.FUNCTIONS.values()))
RETRIEVAL = Toolbox.from_functions("retrieval", [*retrieval_tools.TOOLS, *calculator_tools.TOOLS])

DrawnProblem = tuple[
    str, list[tuple[str, dict[str, Any], Any]], Any, Toolbox, Any
]  # question, calls, answer, tools, key


def split_of(key: Any) -> str:
    """The split a problem belongs to, by the hash of its key (kinds of steps and numbers, never its wording)."""
    bucket = int(hashlib.sha256(json.dumps(key).encode()).hexdigest(), 16) % 100
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


def _problem(rng: random.Random, several: bool | None = None, **dial: Any) -> calculator.Problem:
    while True:
        problem = calculator.draw_problem(rng, **dial)
        if several is None or several is (len(set(calculator.right_paths(problem))) > 1):
            return problem


def _word_problem(
    rng: random.Random, varied: bool = False, noise: float = 0.0, several: bool | None = None, **dial: Any
) -> DrawnProblem:
    """A word problem and how its teacher solves it.

    ``varied``: a teacher without preferences, that takes any right way to each step. ``noise``: the chance, at each
    step, that it makes a needless call first. ``several``: only problems with more than one right path (True), or with
    one alone (False).
    """
    problem = _problem(rng, several, **dial)
    calls: list[tuple[str, dict[str, Any], Any]] = []
    value: Any = None
    for step in problem.steps:
        if noise and rng.random() < noise:
            calls += calculator.needless(rng, problem.tools, value)
        if step.variants[0]:
            plan = rng.choice(step.variants) if varied else step.variants[0]
            made, value = calculator.run_plan(plan, value)
            calls += made
        else:
            value = step.numbers[0]
    return problem.question, calls, problem.answer, CALCULATOR.subset(problem.tools), problem.key


def _unseen(rng: random.Random, **dial: Any) -> DrawnProblem:
    question, name, arguments, offered = unseen.draw_problem(rng, **dial)
    result = unseen.FUNCTIONS[name](**arguments)
    return question, [(name, arguments, result)], result, UNSEEN.subset(offered), (name, list(arguments.values()))


def _retrieval(rng: random.Random, **dial: Any) -> DrawnProblem:
    question, hops, answer, documents, key = retrieval.draw_problem(rng, **dial)
    offered = ["search", *rng.sample(CALCULATOR.names, 4)]
    rng.shuffle(offered)
    # The documents travel as source, after the tool's own empty list: a sandbox opens no file.
    toolbox = replace(RETRIEVAL.subset(offered), source=f"{RETRIEVAL.source}\nDOCUMENTS = {documents!r}\n")
    return question, [("search", {"query": query}, found) for query, found in hops], answer, toolbox, key


def _no_tool(rng: random.Random, **dial: Any) -> DrawnProblem:
    question, answer, offered, key = no_tool.draw_problem(rng, **dial)
    return question, [], answer, CALCULATOR.subset(offered), key


# Each draws one problem from a source of chance; its other arguments are the suite's dial.
SUITES: dict[str, Callable[..., DrawnProblem]] = {
    "calculator": _word_problem,  # in domain: one to four calls, five tools offered
    "longer": partial(_word_problem, calls=(5, 6)),
    "longest": partial(_word_problem, calls=(7, 8)),  # no rung of the ladder: where the student hardly ever succeeds
    "wording": partial(_word_problem, held_out_wording=True),
    "distractors": partial(_word_problem, n_tools=10),
    "unseen": _unseen,
    "retrieval": _retrieval,
    "no_tool": _no_tool,
}


def messages_of(calls: list[tuple[str, dict[str, Any], Any]], answer: str) -> list[Message]:
    """Write a teacher's calls as chat turns, one call a turn, then the boxed answer."""
    messages: list[Message] = []
    for name, arguments, result in calls:
        messages.append({"role": "assistant", "content": "", "tool_calls": [Call(name, arguments).message]})
        messages.append({"role": "tool", "name": name, "content": Execution(value=result).text})
    messages.append({"role": "assistant", "content": f"The answer is \\boxed{{{answer}}}."})
    return messages


def generate(suite: str, n: int, seed: int = 0, split: str = "train", **dial: Any) -> list[Pair]:
    """Draw n different tasks of a suite's split with the scripted teacher's references.

    Args:
        suite: a name in SUITES.
        n: how many.
        seed: of what is drawn.
        split: a name in SPLITS.
        dial: how hard, by the suite's own parameter, as in ``generate("longer", 100, calls=(7, 8))``.

    Raises:
        InputError: an unknown suite or split, or more tasks than the suite has.
    """
    if suite not in SUITES:
        raise InputError(f"unknown suite {suite!r}: choose one of {', '.join(SUITES)}")
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    rng = random.Random(f"{suite}/{split}/{seed}")
    name = "-".join([suite, split, str(seed), *(f"{key}={value}" for key, value in dial.items())])
    pairs: list[Pair] = []
    seen: set[str] = set()
    misses = 0
    while len(pairs) < n:
        question, calls, result, toolbox, key = SUITES[suite](rng, **dial)
        if question in seen or split_of(key) != split:
            misses += 1
            if misses > 10_000:
                raise InputError(f"suite {suite!r} has only about {len(pairs)} {split} tasks: ask for fewer than {n}")
            continue
        misses = 0
        seen.add(question)
        answer = Execution(value=result).text
        task = Task(f"{name}-{len(pairs)}", question, answer, toolbox, suite, split)
        reference = Reference(task.id, messages_of(calls, answer), [Call(n, a) for n, a, _ in calls], answer)
        pairs.append((task, reference))
    return pairs


def several_paths(
    n: int = 1000, seed: int = 0, split: str = "train", varied: bool = False, noise: float = 0.0, **dial: Any
) -> dict[str, float]:
    """Shares of the calculator problems that ``generate`` draws which have more than one right path, by execution.

    What the teacher does with a problem (``varied``, ``noise``) changes nothing here.

    ``paths``: more than one sequence of tools leads to the answer, so that ``strict`` can punish a right path.
    ``tool sets``: more than one set of tools does, so that ``exact`` can. Both are lower bounds: only the variants of
    each step are tried, not other orders of arguments or steps.
    """
    rng = random.Random(f"calculator/{split}/{seed}")
    drawn: list[list[tuple[str, ...]]] = []
    while len(drawn) < n:
        problem = _problem(rng, **dial)
        if split_of(problem.key) == split:
            drawn.append(calculator.right_paths(problem))
    return {
        "paths": sum(len(set(paths)) > 1 for paths in drawn) / n,
        "tool sets": sum(len({frozenset(path) for path in paths}) > 1 for paths in drawn) / n,
    }
