"""The controlled executable-tool benchmark: one suite in domain, and a ladder whose rungs each change one thing.

Each module of this folder is one suite or several variants of one: it has a dict ``SUITES`` from names to functions
``draw(rng, **options) -> Problem``. To add a suite, add a file here, or name a function in a file of your own:
``FILE.py:FUNCTION``. docs/benchmark.md lists the suites.
"""

import importlib
import inspect
import pkgutil
import random
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ...core import Execution, InputError, did_you_mean
from ...runs.functions import describe_error, function_file, load_function
from ...sandbox.toolbox import Toolbox
from ...task import Pair, Task
from ..problem import SPLITS, Problem, reference_from_calls


def load_suites() -> dict[str, Callable[..., Problem]]:
    """The suites of all modules in this folder, by name."""
    suites: dict[str, Callable[..., Problem]] = {}
    for module in pkgutil.iter_modules(__path__):
        suites |= importlib.import_module(f"{__name__}.{module.name}").SUITES
    return suites


SUITES = load_suites()
_FORM = "write it as def {name}(rng, ...), returning a Problem (docs/benchmark.md)"


def suite_function(suite: str) -> Callable[..., Problem]:
    """The function that draws a suite's problems: of a name in SUITES, or at ``FILE.py:FUNCTION``.

    Raises:
        InputError: no such suite (the nearest name is given), file or function, or a function with a suite's name.
    """
    if function_file(suite) or suite.endswith(".py"):
        draw: Callable[..., Problem] = load_function(suite, kind="suite", form=_FORM, arguments=1)
        if suite_name(suite) in SUITES:
            raise InputError(
                f"suite={suite}: {suite_name(suite)!r} is a built-in suite: give the function another name"
            )
        return draw
    if suite not in SUITES:
        choice = f"{', '.join(SUITES)} or FILE.py:FUNCTION"
        raise InputError(f"unknown suite {suite!r}: {did_you_mean(suite, SUITES)}choose one of {choice}")
    return SUITES[suite]


def suite_name(suite: str) -> str:
    """The suite's name in its tasks: as given, or its function's."""
    return suite.rpartition(":")[2] if function_file(suite) else suite


def check_suite(suite: str, options: Mapping[str, Any] | None = None) -> None:
    """Check the name of a suite and the options of its draw function.

    Raises:
        InputError: as suite_function; no such option (the nearest name is given), or a value of another type or range.
    """
    draw = suite_function(suite)
    known = [name for name in inspect.signature(draw).parameters if name != "rng"]
    try:
        types = get_type_hints(getattr(draw, "func", draw))
    except Exception:  # evaluates all hints, also those of names that only a type checker knows
        types = {}
    for name, value in (options or {}).items():
        if name not in known:
            has = ", ".join(known) or "none"
            raise InputError(f"suite {suite!r} has no option {name!r}: {did_you_mean(name, known)}it has {has}")
        try:
            fitting = TypeAdapter(types.get(name, Any)).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].lower()
            raise InputError(f"suite {suite!r}, option {name}={value!r}: {reason}") from None
        if isinstance(fitting, tuple) and not 1 <= fitting[0] <= fitting[-1]:
            raise InputError(f"suite {suite!r}, option {name}={value!r}: give the fewest and the most, from 1 up")


def generate(suite: str, n: int, seed: int = 0, split: str = "train", **options: Any) -> list[Pair]:
    """Draw n different tasks of a suite's split with the scripted teacher's references.

    A problem's key decides its split, so that no problem is in two splits, in any suite.

    Args:
        suite: a name in SUITES, or FILE.py:FUNCTION, whose tasks' suite is called as the function.
        n: number of tasks.
        seed: of the random generator.
        split: a name in SPLITS.
        options: of the suite's draw function, as in ``generate("longer", 100, calls=(7, 8))``; part of the tasks' ids.

    Raises:
        InputError: an unknown suite or split, an option that the suite has not, or more tasks than it has; or a
            function in a file that raised an error or returned something else.
    """
    check_suite(suite, options)
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    draw, place, suite = suite_function(suite), suite, suite_name(suite)
    rng = random.Random(f"{suite}/{split}/{seed}")
    name = "-".join([suite, split, str(seed), *(f"{key}={value}" for key, value in options.items())])
    pairs: list[Pair] = []
    seen: set[str] = set()
    misses = 0
    while len(pairs) < n:
        problem, bucket = _draw(draw, place, rng, options)
        if problem.question in seen or bucket != split:
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


def _wrong_field(problem: Problem) -> str:
    """The first field that a task could not be made of, and what it must be; "" if there is none."""
    if not isinstance(problem.question, str) or not problem.question.strip():
        return "question is not a text"
    if not isinstance(problem.toolbox, Toolbox):
        return "toolbox is not a Toolbox"
    is_sequence = isinstance(problem.calls, list | tuple)
    for call in problem.calls if is_sequence else [None]:
        if not (isinstance(call, list | tuple) and len(call) == 3 and isinstance(call[0], str)) or not isinstance(
            call[1], dict
        ):
            return "calls is not a list of (name, arguments as a dict, result)"
    for name, value in [("answer", problem.answer), *(("a call's result", call[2]) for call in problem.calls)]:
        try:
            Execution(value=value).text  # noqa: B018
        except Exception as error:
            return f"{name} cannot be written as text ({describe_error(error, '')})"
    return ""


def _draw(
    draw: Callable[..., Problem], place: str, rng: random.Random, options: Mapping[str, Any]
) -> tuple[Problem, str]:
    """A problem and its split; an error in a user's function becomes one line."""
    try:
        problem = draw(rng, **options)
        if isinstance(problem, Problem):
            bucket = problem.split
            if not (wrong := _wrong_field(problem)):
                return problem, bucket
    except (Exception, SystemExit) as error:
        if isinstance(error, InputError):
            raise
        if not (file := function_file(place)):
            raise InputError(
                f"suite {place!r} draws no task with {dict(options)}: {describe_error(error, '')}; give other options"
            ) from None
        raise InputError(f"suite={place} failed: {describe_error(error, file)}: fix it, then run it again") from None
    if isinstance(problem, Problem):
        raise InputError(f"suite={place} returned a Problem with a wrong field: {wrong}: fix it, then run it again")
    shown = " ".join(repr(problem).split())
    raise InputError(
        f"suite={place} returned {shown:.60}, which is no Problem: {_FORM.format(name=place.rpartition(':')[2])}"
    )
