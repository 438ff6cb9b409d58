"""The in-domain suite: word problems over the paper's twelve calculator tools.

A problem is a start and up to three changes of one running value; each step is one or two tool calls.
Many steps have several right tool paths (sum_numbers or repeated add, power or multiply, modulo or the long
way), so that strict and flexible matching can differ. The first variant of a step is what the scripted teacher
prefers: the most direct tool.

Simplified: one name, one kind of thing, and numbers from 0 to 5,000 in each problem.
"""

import inspect
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...core import display_number
from ..tools import calculator as tools

FUNCTIONS: dict[str, Callable[..., Any]] = {f.__name__: f for f in tools.TOOLS}
VALUE = "$value"  # in a step's arguments: the running value; "$1" is the result of the step's first call

Plan = list[tuple[str, dict[str, Any]]]

NAMES = "Mia Ben Ana Tom Lea Max Eva Sam Zoe Leo Ida Jon Amy Kim Ray Sue".split()
THINGS = "apples shells coins books stamps cards eggs pens beads stones cups nuts keys tiles plums figs".split()
BOXES = "boxes bags jars trays crates baskets".split()


@dataclass(frozen=True)
class Step:
    """One change of the running value: its sentence and the right ways to compute it, the teacher's first."""

    kind: str
    sentence: str
    variants: list[Plan]
    numbers: tuple[int, ...]


@dataclass
class Problem:
    """A drafted word problem; ``answer`` comes from running the steps' first variants."""

    steps: list[Step]
    question: str
    answer: Any
    tools: list[str] = field(default_factory=list)

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two problems the same whatever their wording: the kinds of steps and their numbers."""
        return tuple((s.kind, s.numbers) for s in self.steps)


def bind(arguments: dict[str, Any], value: Any, results: list[Any]) -> dict[str, Any]:
    """Put the running value and earlier results of a step in place of ``$value``, ``$1``, ``$2``…"""

    def put(x: Any) -> Any:
        if isinstance(x, list):
            return [put(y) for y in x]
        if x == VALUE:
            return value
        return results[int(x[1:]) - 1] if isinstance(x, str) and x.startswith("$") else x

    return {name: put(x) for name, x in arguments.items()}


def run_plan(plan: Plan, value: Any = None) -> tuple[list[tuple[str, dict[str, Any], Any]], Any]:
    """Run one step's plan in this process (the tools are ours): its calls with results, and the last result."""
    done: list[tuple[str, dict[str, Any], Any]] = []
    for name, arguments in plan:
        bound = bind(arguments, value, [r for _, _, r in done])
        done.append((name, bound, display_number(FUNCTIONS[name](**bound))))
    return done, done[-1][2] if done else value


def right_paths(problem: Problem) -> list[tuple[str, ...]]:
    """The tools called, in order, of each way through a problem that gives its answer when it is run."""
    found = []
    for plans in itertools.product(*(step.variants for step in problem.steps)):
        value: Any = None
        for step, plan in zip(problem.steps, plans, strict=True):
            value = run_plan(plan, value)[1] if plan else step.numbers[0]
        if math.isclose(value, problem.answer, rel_tol=1e-5):  # a policy reads six decimals
            found.append(tuple(name for plan in plans for name, _ in plan))
    return found


def needless(rng: random.Random, offered: list[str], value: Any) -> list[tuple[str, dict[str, Any], Any]]:
    """A call of some offered tool that the problem does not ask for, with its result; none if the tool refuses."""
    name, value = rng.choice(offered), rng.randint(2, 60) if value is None else value
    other = rng.randint(2, 3)
    values = {"a": value, "b": other, "x": value, "digits": other, "numbers": [value, other]}
    arguments = {parameter: values[parameter] for parameter in inspect.signature(FUNCTIONS[name]).parameters}
    try:
        return [(name, arguments, display_number(FUNCTIONS[name](**arguments)))]
    except (ValueError, ArithmeticError):
        return []


def chain(tool: str, numbers: list[Any]) -> Plan:
    """``tool(tool(n1, n2), n3)…`` as a plan."""
    plan: Plan = [(tool, {"a": numbers[0], "b": numbers[1]})]
    for i, n in enumerate(numbers[2:], start=1):
        plan.append((tool, {"a": f"${i}", "b": n}))
    return plan


# Wordings: (seen in pretraining and distillation, kept for the ladder's "wording" rung).
WORDING: dict[str, tuple[list[str], list[str]]] = {
    "have": (["{name} has {n} {things}."], ["There are {n} {things} on a table that belongs to {name}."]),
    "sum": (
        ["{name} finds {ns} {things}.", "{name} gets {ns} {things} on different days."],
        ["On one day after the other {name} brings home {ns} {things}."],
    ),
    "product": (
        ["{name} has {n} {boxes} with {m} {things} each.", "{name} buys {n} {boxes} of {m} {things}."],
        ["Each of the {n} {boxes} that {name} owns holds {m} {things}."],
    ),
    "square": (
        ["{name} lays {things} in a square with {n} on each side.", "{name} makes {n} rows of {n} {things}."],
        ["A square of {things}, {n} long and just as wide, is what {name} puts down."],
    ),
    "gain": (["{name} gets {n} more.", "{name} buys {n} more."], ["A friend hands over another {n}."]),
    "lose": (["{name} loses {n} of them.", "{name} gives away {n}."], ["A thief takes {n} from {name}."]),
    "times": (
        ["Then there are {n} times as many.", "The number grows {n} times."],
        ["After a while the amount is {n} times what it was."],
    ),
    "share": (
        ["{n} friends share them equally.", "They are split into {n} equal parts, and one part is kept."],
        ["An equal portion goes to each of {n} people."],
    ),
    "leftover": (
        ["They are packed in {boxes} of {n}. How many {things} are left over?"],
        ["{boxes} that hold {n} are filled to the top. What number of {things} does not fit?"],
    ),
    "full": (
        ["They are packed in {boxes} of {n}. How many {boxes} are full?"],
        ["One of the {boxes} holds {n}. What number of them can be filled to the top?"],
    ),
    "needed": (
        ["They are packed in {boxes} of {n}. How many {boxes} are needed?"],
        ["One of the {boxes} holds {n}. What is the least number of them that takes everything?"],
    ),
    "side": (
        ["They are laid in a square. How many {things} are on each side?"],
        ["All of them form a square. How long is its edge in {things}?"],
    ),
    "round": (
        ["{n} friends share them. How many does each get, rounded to {m} decimals?"],
        ["What is a portion for one of {n} people, to {m} decimals?"],
    ),
    "apart": (
        ["A friend has {n}. How far apart are the two numbers?"],
        ["Another person owns {n}. By what number do the two differ?"],
    ),
    "ask": (
        ["How many {things} are there now?", "How many {things} is that?"],
        ["What is the final number of {things}?"],
    ),
}


def _draw(
    rng: random.Random, kind: str, value: Any, words: dict[str, str], sentences: dict[str, list[str]]
) -> Step | None:
    """Draw one step of a kind on a running value; None where its numbers would not come out well."""
    n, m = rng.randint(2, 60), rng.randint(2, 12)
    ns: list[int] = []
    numbers: tuple[int, ...]
    variants: list[Plan]
    if kind == "have":
        variants, numbers = [[]], (n,)
    elif kind == "sum":
        ns = [rng.randint(2, 40) for _ in range(rng.randint(3, 4))]
        variants, numbers = [[("sum_numbers", {"numbers": list(ns)})], chain("add", list(ns))], tuple(ns)
    elif kind == "product":
        n = rng.randint(2, 6)
        variants = [[("multiply", {"a": n, "b": m})], [("sum_numbers", {"numbers": [m] * n})], chain("add", [m] * n)]
        numbers = (n, m)
    elif kind == "square":
        n = rng.randint(3, 15)
        variants, numbers = [[("power", {"a": n, "b": 2})], [("multiply", {"a": n, "b": n})]], (n,)
    elif kind == "gain":
        variants = [[("add", {"a": VALUE, "b": n})], [("sum_numbers", {"numbers": [VALUE, n]})]]
        numbers = (n,)
    elif kind == "lose":
        if value <= n:
            return None
        variants, numbers = [[("subtract", {"a": VALUE, "b": n})]], (n,)
    elif kind == "times":
        n = rng.randint(2, 5)
        variants, numbers = [[("multiply", {"a": VALUE, "b": n})], chain("add", [VALUE] * n)], (n,)
    elif kind == "share":
        divisors = [d for d in range(2, 10) if value % d == 0 and value > d]
        if not divisors:
            return None
        n = rng.choice(divisors)
        variants, numbers = [[("divide", {"a": VALUE, "b": n})]], (n,)
    elif kind in ("leftover", "full", "needed"):
        if value <= m or value % m == 0:
            return None
        n = m
        quotient: Plan = [("divide", {"a": VALUE, "b": n})]
        long_way: Plan = [
            *quotient,
            ("floor", {"x": "$1"}),
            ("multiply", {"a": "$2", "b": n}),
            ("subtract", {"a": VALUE, "b": "$3"}),
        ]
        variants = {
            "leftover": [[("modulo", {"a": VALUE, "b": n})], long_way],
            "full": [[*quotient, ("floor", {"x": "$1"})]],
            "needed": [[*quotient, ("ceil", {"x": "$1"})]],
        }[kind]
        numbers = (n,)
    elif kind == "side":
        if not 3 <= value**0.5 <= 30 or (value**0.5) % 1:
            return None
        variants, numbers = [[("sqrt", {"x": VALUE})], [("power", {"a": VALUE, "b": 0.5})]], ()
    elif kind == "round":
        n, m = rng.randint(3, 9), rng.randint(1, 2)
        if value * 10**m % n == 0:
            return None
        variants = [[("divide", {"a": VALUE, "b": n}), ("round_number", {"x": "$1", "digits": m})]]
        numbers = (n, m)
    else:  # apart: the friend has more, so that the sign matters
        n = value + n
        variants = [
            [("subtract", {"a": VALUE, "b": n}), ("abs_value", {"x": "$1"})],
            [("subtract", {"a": n, "b": VALUE})],
        ]
        numbers = (n,)
    text = rng.choice(sentences[kind])
    listed = ", ".join(map(str, ns[:-1])) + f" and {ns[-1]}" if ns else ""
    return Step(kind, text.format(n=n, m=m, ns=listed, **words), variants, numbers)


STARTS = ["have", "have", "sum", "product", "square"]
CHANGES = ["gain", "lose", "times", "share"]
ENDS = ["leftover", "full", "needed", "side", "round", "apart"]


def draw_problem(
    rng: random.Random,
    *,
    calls: tuple[int, int] = (1, 4),
    n_tools: int = 5,
    held_out_wording: bool = False,
    wording: dict[str, list[str]] | None = None,
) -> Problem:
    """Draw a word problem.

    Args:
        rng: the source of chance.
        calls: fewest and most calls of the teacher's path (the difficulty dial); short ones are likelier.
        n_tools: tools offered at least; those of every right path are always among them.
        held_out_wording: use the wordings that pretraining and distillation never show.
        wording: sentences of each kind of step, in place of the suite's own.
    """
    sentences = wording or {kind: texts[held_out_wording] for kind, texts in WORDING.items()}
    while True:
        target = rng.choices(range(calls[0], calls[1] + 1), [2.0**-i for i in range(calls[1] - calls[0] + 1)])[0]
        words = {"name": rng.choice(NAMES), "things": rng.choice(THINGS), "boxes": rng.choice(BOXES)}
        steps: list[Step] = []
        value: Any = None
        used = 0
        kinds = [rng.choice(STARTS)]
        while kinds:
            step = _draw(rng, kinds.pop(), value, words, sentences)
            if step is None:
                break
            steps.append(step)
            used += len(step.variants[0])
            value = run_plan(step.variants[0], value)[1] if step.variants[0] else step.numbers[0]
            if used < target and step.kind not in ENDS:
                kinds = [rng.choice(ENDS if rng.random() < 0.6 and target - used <= 2 else CHANGES)]
        if used != target or not 0 <= value < 5000 or len(str(value)) > 8:
            continue
        parts = [s.sentence for s in steps]
        if steps[-1].kind not in ENDS:
            parts.append(rng.choice(sentences["ask"]).format(**words))
        needed = {tool for s in steps for plan in s.variants for tool, _ in plan}
        others = [name for name in FUNCTIONS if name not in needed]
        rng.shuffle(others)
        offered = sorted(needed) + others[: max(0, n_tools - len(needed))]
        rng.shuffle(offered)
        return Problem(steps, " ".join(parts), value, offered)
