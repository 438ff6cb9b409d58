"""Word problems of the calculator suite's pretraining split, in more wordings, solved with some wrong steps.

Three of five wrong steps call the right tool with a wrong argument, the others the wrong tool. A step with several
right tool paths is solved by each of them equally often, in short problems. In one of ten examples the tools carry
drawn names.
"""

import random
from dataclasses import dataclass
from typing import Any

from ...data.suites import calculator
from ...data.suites.calculator import CALCULATOR, VALUE, Plan, Step, WordProblem
from ...data.suites.renamed import draw_names
from .demonstration import Demonstration, PretrainingExample
from .invented import HELD_OUT
from .words import ADJECTIVES, DATA, NOUNS

RENAMED_RATE = 0.1  # the tools of an example, and their parameters, carry drawn names
VARIANT_RATES = (1.0, 0.6)  # any right variant of a step, not the most direct: in short problems, in longer ones


@dataclass(frozen=True)
class Slips:
    """How often a step goes wrong, and how: by a wrong tool, or by a wrong argument of the most direct tool."""

    tool_rate: float
    tool: str
    argument_rate: float
    argument: str


# By kind of step. Some kinds are hardly ever done right, so that all of a student's rollouts of a task can be wrong.
SLIPS: dict[str, Slips] = {
    "sum": Slips(0.12, "first two", 0.2, "short"),
    "product": Slips(0.38, "add", 0.59, "repeated"),
    "square": Slips(0.12, "double", 0.2, "swapped"),
    "gain": Slips(0.03, "subtract", 0.05, "repeated"),
    "lose": Slips(0.03, "add", 0.05, "swapped"),
    "times": Slips(0.03, "add", 0.05, "repeated"),
    "share": Slips(0.03, "multiply", 0.05, "swapped"),
    "leftover": Slips(0.38, "divide", 0.59, "swapped"),
    "full": Slips(0.38, "divide", 0.59, "stale"),
    "needed": Slips(0.38, "floor", 0.59, "stale"),
    "side": Slips(0.12, "halve", 0.2, "stale"),
    "round": Slips(0.12, "divide", 0.2, "stale"),
    "apart": Slips(0.38, "subtract", 0.59, "stale"),
}
TOOL_WORDS = [word for word in (*NOUNS, *ADJECTIVES) if word not in HELD_OUT]  # that drawn names are made of
MORE_WORDING: dict[str, list[str]] = DATA["wording"]
WORDING = {
    kind: [*2 * suite, *MORE_WORDING[kind], *3 * DATA["literal"].get(kind, [])]
    for kind, (suite, _) in calculator.WORDING.items()
}


def word_problem_example(rng: random.Random, n_questions: int, error_scale: float) -> PretrainingExample:
    """Word problems of the pretraining split; at least five tools are offered."""
    problems = [draw_word_problem(rng) for _ in range(n_questions)]
    offered = sorted({tool for problem in problems for tool in problem.toolbox.names})
    rest = [name for name in CALCULATOR.names if name not in offered]
    offered += rng.sample(rest, min(len(rest), max(rng.randint(0, 2), 5 - len(offered))))
    rng.shuffle(offered)
    toolbox = CALCULATOR.subset(offered)
    names = draw_names(rng, TOOL_WORDS) if rng.random() < RENAMED_RATE else None
    shown = names.toolbox(toolbox) if names else toolbox
    chats = []
    for problem in problems:
        calls, answer = solve(rng, problem, offered, error_scale)
        demonstration = Demonstration(rng, shown.names, error_scale)
        renamed = [(*(names.call(name, given) if names else (name, given)), result) for name, given, result in calls]
        if all(demonstration.call(*call) for call in renamed):
            demonstration.answer(answer)
        chats.append((problem.question, demonstration.messages))
    return list(shown.schemas), chats


def draw_word_problem(rng: random.Random) -> WordProblem:
    """A word problem of the pretraining split with one to six calls, more often few."""
    n_calls = rng.choice([1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 6])
    while True:
        problem = calculator.draw(rng, calls=(n_calls, n_calls), n_tools=0, wording=WORDING)
        if problem.split == "pretrain":
            return problem


def solve(
    rng: random.Random, problem: WordProblem, offered: list[str], error_scale: float = 1.0
) -> tuple[list[calculator.ExecutedCall], Any]:
    """The calls of a demonstrated solution with their results, and its answer.

    Args:
        rng: random generator.
        problem: what to solve.
        offered: names of the tools offered; a slip to another tool is not made.
        error_scale: factor of the slips' and variants' rates.
    """
    calls: list[calculator.ExecutedCall] = []
    value: Any = None
    earlier: Any = None  # the running value before the last change
    for step in problem.steps:
        if not step.variants[0]:
            value = step.numbers[0]
            continue
        if step.kind == "side" and value < 0:
            break  # after a slip: there is no such square, and the value so far becomes the answer
        slips = SLIPS[step.kind]
        chance = rng.random() / error_scale if error_scale else 1.0
        plan = _right_plan(rng, step, VARIANT_RATES[len(problem.steps) > 2] * error_scale)
        if chance < slips.tool_rate:
            wrong = _wrong_tool(slips.tool, step)
            plan = wrong if all(name in offered for name, _ in wrong) else plan
        elif chance < slips.tool_rate + slips.argument_rate:
            plan = _wrong_argument(slips.argument, step, earlier)
        try:
            done, result = calculator.run_plan(plan, value)
        except ArithmeticError:  # a slip after a slip divides by zero
            break
        calls += done
        earlier, value = value, result
    return calls, value


def _right_plan(rng: random.Random, step: Step, variant_rate: float) -> Plan:
    return rng.choice(step.variants) if rng.random() < variant_rate else step.variants[0]


def _wrong_tool(slip: str, step: Step) -> Plan:
    """The calls of a wrong solution with another tool."""
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
    return plans.get(slip) or [(slip, {"a": first, "b": second})]


def _wrong_argument(slip: str, step: Step, earlier: Any) -> Plan:
    """The calls of the most direct solution with a wrong argument in the last or only call.

    ``short``: a list lacks its last number. ``swapped``: the operands change places. ``repeated``: the second operand
    is taken twice. ``stale``: the last call takes the number from before instead of the newest one: the running value
    instead of the first call's result, or the value before the last change; without one, a square for a square root.
    """
    *before, (name, arguments) = step.variants[0]
    if slip == "short":
        return [*before, (name, {"numbers": arguments["numbers"][:-1]})]
    if slip == "stale" and before:
        return [*before, (name, {**arguments, "x": VALUE})]
    if slip == "stale" and earlier is not None:
        return [(name, {key: earlier if value == VALUE else value for key, value in arguments.items()})]
    if "b" not in arguments:  # a square root without an earlier value
        return [("power", {"a": VALUE, "b": 2})]
    a, b = arguments["a"], arguments["b"]
    return [(name, {"a": b, "b": a if slip == "swapped" else b})]
