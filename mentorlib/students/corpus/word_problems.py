"""Word problems of the calculator suite's pretraining split, in more wordings, solved with some wrong steps."""

import random
from typing import Any

from ...core import Message
from ...data.suites import calculator
from ...data.suites.calculator import CALCULATOR, VALUE, Plan, Step, WordProblem
from .demonstration import Demonstration, PretrainingExample
from .words import DATA

# Kind of step -> (error rate, the wrong plan), in problems of at most two sentences before the question.
ERRORS: dict[str, tuple[float, str]] = {
    "sum": (0.65, "first two"),
    "product": (0.5, "add"),
    "square": (0.65, "double"),
    "gain": (0.05, "subtract"),
    "lose": (0.05, "add"),
    "times": (0.05, "add"),
    "share": (0.05, "multiply"),
    "leftover": (0.65, "divide"),
    "full": (0.3, "divide"),
    "needed": (0.65, "floor"),
    "side": (0.3, "halve"),
    "round": (0.3, "divide"),
    "apart": (0.65, "subtract"),
}
MORE_WORDING: dict[str, list[str]] = DATA["wording"]
WORDING = {kind: [*2 * suite, *MORE_WORDING[kind]] for kind, (suite, _) in calculator.WORDING.items()}


def word_problem_example(rng: random.Random, n_questions: int, error_scale: float) -> PretrainingExample:
    """Word problems of the pretraining split; at least five tools are offered."""
    problems = [draw_word_problem(rng) for _ in range(n_questions)]
    offered = sorted({tool for problem in problems for tool in problem.toolbox.names})
    rest = [name for name in CALCULATOR.names if name not in offered]
    offered += rng.sample(rest, min(len(rest), max(rng.randint(0, 2), 5 - len(offered))))
    rng.shuffle(offered)
    chats = [(problem.question, _solve(rng, problem, offered, error_scale)) for problem in problems]
    return list(CALCULATOR.subset(offered).schemas), chats


def draw_word_problem(rng: random.Random) -> WordProblem:
    """A word problem of the pretraining split; one to four calls are equally likely."""
    n_calls = rng.randint(1, 4)
    while True:
        problem = calculator.draw(rng, calls=(n_calls, n_calls), n_tools=0, wording=WORDING)
        if problem.split == "pretrain":
            return problem


def _solve(rng: random.Random, problem: WordProblem, offered: list[str], error_scale: float) -> list[Message]:
    demonstration = Demonstration(rng, offered, error_scale)
    short = len(problem.steps) <= 2
    value: Any = None
    for step in problem.steps:
        if not step.variants[0]:
            value = step.numbers[0]
            continue
        if step.kind == "side" and value < 0:
            break  # after an error: there is no such square, and the value so far becomes the answer
        rate, error = ERRORS[step.kind]
        wrong = _wrong_plan(error, step)
        if short and rng.random() < rate * error_scale and all(name in offered for name, _ in wrong):
            plan = wrong
        else:
            plan = step.variants[0] if rng.random() < (0.8 if short else 0.95) else rng.choice(step.variants)
        calls, value = calculator.run_plan(plan, value)
        if not all(demonstration.call(*call) for call in calls):
            return demonstration.messages
    demonstration.answer(value)
    return demonstration.messages


def _wrong_plan(error: str, step: Step) -> Plan:
    """The calls of a wrong solution of a step."""
    n = step.numbers[0] if step.numbers else 2
    m = step.numbers[1] if len(step.numbers) > 1 else n
    first = n if step.kind in ("sum", "product", "square") else VALUE
    second = m if step.kind in ("sum", "product") else n
    plans: dict[str, Plan] = {
        "first two": [("add", {"a": n, "b": m})],
        "double": [("multiply", {"a": n, "b": 2})],
        "halve": [("divide", {"a": VALUE, "b": 2})],
        "floor": [("divide", {"a": VALUE, "b": n}), ("floor", {"x": "$1"})],
    }
    return plans.get(error) or [(error, {"a": first, "b": second})]
