"""The in-domain suite: word problems over the paper's twelve calculator tools.

A problem is a start and up to three changes of a running value; each step is one or two tool calls. Many steps have
several right tool paths (sum_numbers or repeated add, power or multiply, modulo or divide-floor-multiply-subtract), so
that strict and flexible matching can differ. The first variant of a step, the most direct tool, is the scripted
teacher's choice.

Simplified: each problem has one name, one kind of thing, and numbers from 0 to 5,000.
"""

import inspect
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...core import InputError, display_number
from ...sandbox.toolbox import Toolbox
from ..problem import ExecutedCall, Problem
from ..tools import calculator as tools

CALCULATOR = Toolbox.from_functions("calculator", tools.TOOLS)
FUNCTIONS: dict[str, Callable[..., Any]] = {f.__name__: f for f in tools.TOOLS}
DRAWS = 100_000  # for one problem; two to five seconds
VALUE = "$value"  # in a step's arguments: the running value; "$1" is the result of the step's first call

Plan = list[tuple[str, dict[str, Any]]]  # calls before they are executed: tool name, arguments

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


@dataclass(frozen=True)
class WordProblem(Problem):
    """A problem with its steps, whose variants give every right path."""

    steps: list[Step]


def run_plan(plan: Plan, value: Any = None) -> tuple[list[ExecutedCall], Any]:
    """Execute a step's plan in this process (the tools are the library's): calls with results, and the last result.

    Args:
        plan: its arguments may name the running value (``$value``) and earlier results (``$1``, ``$2``).
        value: the running value.
    """
    calls: list[ExecutedCall] = []
    places: dict[str, Any] = {VALUE: value}
    for i, (name, arguments) in enumerate(plan, start=1):
        bound = {
            key: [_substitute(item, places) for item in x] if isinstance(x, list) else _substitute(x, places)
            for key, x in arguments.items()
        }
        places[f"${i}"] = display_number(FUNCTIONS[name](**bound))
        calls.append((name, bound, places[f"${i}"]))
    return calls, calls[-1][2] if calls else value


def _substitute(argument: Any, places: dict[str, Any]) -> Any:
    return places[argument] if isinstance(argument, str) else argument


def right_paths(steps: list[Step], answer: Any) -> list[tuple[str, ...]]:
    """The tool names, in order, of each combination of the steps' variants whose execution gives the answer."""
    paths = []
    for plans in itertools.product(*(step.variants for step in steps)):
        value: Any = None
        for step, plan in zip(steps, plans, strict=True):
            value = run_plan(plan, value)[1] if plan else step.numbers[0]
        if math.isclose(value, answer, rel_tol=1e-5):  # a policy reads six decimals
            paths.append(tuple(name for plan in plans for name, _ in plan))
    return paths


def several_paths(n: int = 1000, seed: int = 0, split: str = "train", **options: Any) -> dict[str, float]:
    """Shares of the calculator problems that ``generate`` draws which have more than one right path, by execution.

    Args:
        n, seed, split: as for generate.
        options: of ``draw``; those of the teacher (varied, noise) are ignored.

    Returns:
        ``paths``: more than one sequence of tools leads to the answer, so that ``strict`` can reject a right path.
        ``tool sets``: more than one set of tools does, so that ``exact`` can. Both are lower bounds: only the variants
        of each step are tried, not other orders of arguments or steps.
    """
    rng = random.Random(f"calculator/{split}/{seed}")
    options = {key: value for key, value in options.items() if key not in ("varied", "noise")}
    drawn: list[list[tuple[str, ...]]] = []
    while len(drawn) < n:
        problem = draw(rng, **options)
        if problem.split == split:
            drawn.append(right_paths(problem.steps, problem.answer))
    return {
        "paths": sum(len(set(paths)) > 1 for paths in drawn) / n,
        "tool sets": sum(len({frozenset(path) for path in paths}) > 1 for paths in drawn) / n,
    }


def needless_call(rng: random.Random, offered: list[str], value: Any) -> list[ExecutedCall]:
    """A call of an offered tool that the problem does not need, with its result; [] if the tool raises."""
    name, value = rng.choice(offered), rng.randint(2, 60) if value is None else value
    other = rng.randint(2, 3)
    values = {"a": value, "b": other, "x": value, "digits": other, "numbers": [value, other]}
    arguments = {parameter: values[parameter] for parameter in inspect.signature(FUNCTIONS[name]).parameters}
    try:
        return [(name, arguments, display_number(FUNCTIONS[name](**arguments)))]
    except (ValueError, ArithmeticError):
        return []


def _sum(numbers: list[Any]) -> Plan:
    """The plan ``add(add(n1, n2), n3)…``"""
    plan: Plan = [("add", {"a": numbers[0], "b": numbers[1]})]
    for i, n in enumerate(numbers[2:], start=1):
        plan.append(("add", {"a": f"${i}", "b": n}))
    return plan


# Sentences of each kind of step: (for pretraining and distillation, held out for the "wording" rung).
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


def _draw_step(
    rng: random.Random, kind: str, value: Any, words: dict[str, str], sentences: dict[str, list[str]]
) -> Step | None:
    """Draw one step of a kind on a running value; None if the value does not suit the kind (no divisor, no square)."""
    n, m = rng.randint(2, 60), rng.randint(2, 12)
    ns: list[int] = []
    numbers: tuple[int, ...]
    variants: list[Plan]
    if kind == "have":
        variants, numbers = [[]], (n,)
    elif kind == "sum":
        ns = [rng.randint(2, 40) for _ in range(rng.randint(3, 4))]
        variants, numbers = [[("sum_numbers", {"numbers": list(ns)})], _sum(list(ns))], tuple(ns)
    elif kind == "product":
        n = rng.randint(2, 6)
        variants = [[("multiply", {"a": n, "b": m})], [("sum_numbers", {"numbers": [m] * n})], _sum([m] * n)]
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
        variants, numbers = [[("multiply", {"a": VALUE, "b": n})], _sum([VALUE] * n)], (n,)
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


def draw(
    rng: random.Random,
    *,
    calls: tuple[int, int] = (1, 4),
    n_tools: int = 5,
    held_out_wording: bool = False,
    wording: dict[str, list[str]] | None = None,
    several: bool | None = None,
    varied: bool = False,
    noise: float = 0.0,
) -> WordProblem:
    """Draw a word problem and solve it as the scripted teacher does.

    Args:
        rng: random generator.
        calls: fewest and most calls of the direct path; each further call halves the probability.
        n_tools: fewest tools offered; those of every right path are always among them.
        held_out_wording: use the sentences that pretraining and distillation never show.
        wording: sentences of each kind of step, instead of the suite's own.
        several: only problems with more than one right path (True), or with exactly one (False).
        varied: the teacher chooses uniformly among the right variants of a step, instead of the most direct.
        noise: probability, at each step, that the teacher makes a needless call first.
    """
    sentences = wording or {kind: texts[held_out_wording] for kind, texts in WORDING.items()}
    for _ in range(DRAWS):
        drawn = _draw_steps(rng, calls, sentences)
        if drawn is None:
            continue
        steps, answer, words = drawn
        parts = [s.sentence for s in steps]
        if steps[-1].kind not in ENDS:
            parts.append(rng.choice(sentences["ask"]).format(**words))
        needed = {tool for s in steps for plan in s.variants for tool, _ in plan}
        others = [name for name in FUNCTIONS if name not in needed]
        rng.shuffle(others)
        offered = sorted(needed) + others[: max(0, n_tools - len(needed))]
        rng.shuffle(offered)
        if several is None or several is (len(set(right_paths(steps, answer))) > 1):
            break
    else:
        raise InputError(f"no such problem in {DRAWS:,} draws: several={several} with calls={calls}: give fewer calls")
    executed = _teacher_calls(rng, steps, offered, varied, noise)
    key = tuple((s.kind, s.numbers) for s in steps)
    return WordProblem(" ".join(parts), executed, answer, CALCULATOR.subset(offered), key, steps)


def _draw_steps(
    rng: random.Random, calls: tuple[int, int], sentences: dict[str, list[str]]
) -> tuple[list[Step], Any, dict[str, str]] | None:
    """Steps, their last value and the words used; None if the steps miss the number of calls or the range of values."""
    target = rng.choices(range(calls[0], calls[1] + 1), [2.0**-i for i in range(calls[1] - calls[0] + 1)])[0]
    words = {"name": rng.choice(NAMES), "things": rng.choice(THINGS), "boxes": rng.choice(BOXES)}
    steps: list[Step] = []
    value: Any = None
    n_calls = 0
    kind: str | None = rng.choice(STARTS)
    while kind:
        step = _draw_step(rng, kind, value, words, sentences)
        if step is None:
            break
        steps.append(step)
        n_calls += len(step.variants[0])
        value = run_plan(step.variants[0], value)[1] if step.variants[0] else step.numbers[0]
        kind = None
        if n_calls < target and step.kind not in ENDS:
            kind = rng.choice(ENDS if rng.random() < 0.6 and target - n_calls <= 2 else CHANGES)
    if n_calls != target or not 0 <= value < 5000 or len(str(value)) > 8:
        return None
    return steps, value, words


def _teacher_calls(
    rng: random.Random, steps: list[Step], offered: list[str], varied: bool, noise: float
) -> list[ExecutedCall]:
    """The scripted teacher's calls with their results."""
    executed: list[ExecutedCall] = []
    value: Any = None
    for step in steps:
        if noise and rng.random() < noise:
            executed += needless_call(rng, offered, value)
        if step.variants[0]:
            calls, value = run_plan(rng.choice(step.variants) if varied else step.variants[0], value)
            executed += calls
        else:
            value = step.numbers[0]
    return executed


SUITES = {
    "calculator": draw,  # in domain: one to four calls, at least five tools offered
    "longer": partial(draw, calls=(5, 6)),
    "longest": partial(draw, calls=(7, 8)),  # no rung of the ladder: a suite on which the student rarely succeeds
    "wording": partial(draw, held_out_wording=True),
    "distractors": partial(draw, n_tools=10),
}
