"""A reward that is a plain function in a file of the user's: ``reward=mine.py:brevity``.

    def brevity(trajectory, reference, terms):
        return terms["correct"] - 0.01 * trajectory.n_tokens

The file is the user's own code: it runs in this process, without a sandbox. So it is loaded only where a person names
it (a parameter, an argument), never because stored rows do: rows may come from others. What a model wrote is data to
it.
"""

import hashlib
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import cache
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

from ..core import InputError, Metric, Reference, Trajectory
from .corrected import outcome_terms
from .matching import same_tools
from .score import Terms

TERMS = ("correct", "answered", "gave_up", "clean", "tools")
RewardFunction = Callable[[Trajectory, Reference, dict[str, float]], float]
_FORM = "write it as def {name}(trajectory, reference, terms), returning a number (docs/rewards.md)"


def function_file(text: str) -> str:
    """The file in ``FILE.py:NAME``; "" if the text is of another form."""
    file, _, name = text.rpartition(":")
    return file if file.endswith(".py") and name else ""


def load_function(place: str) -> RewardFunction:
    """The function at ``FILE.py:NAME``. Its file is executed once, and again after it changed.

    Raises:
        InputError: no such file or function, an error in the file, or a function that cannot be called with three
            arguments.
    """
    file, name = function_file(place), place.rpartition(":")[2]
    if not file:
        raise InputError(f"reward={place}: name a file and a function in it, as in reward=mine.py:brevity")
    try:
        source = Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"reward={place}: {file} cannot be read ({error.strerror}); give FILE.py:FUNCTION") from None
    module = _execute(file, source, place)
    if name not in vars(module):
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        near = get_close_matches(name, functions, 1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(functions) or 'no function'}"
        raise InputError(f"reward={place}: {file} has no function {name!r}; {hint}")
    function: Any = getattr(module, name)
    try:
        inspect.signature(function).bind(None, None, None)
    except TypeError:  # also of what is no function at all
        raise InputError(f"reward={place}: {name} takes other arguments: {_FORM.format(name=name)}") from None
    except ValueError:  # a built-in function without a signature
        pass
    return function  # type: ignore[no-any-return]


@cache
def _execute(file: str, source: bytes, place: str) -> ModuleType:
    module = ModuleType(f"mentorlib_reward_{hashlib.sha256(file.encode() + source).hexdigest()[:16]}")
    module.__file__ = file
    sys.modules[module.__name__] = module  # dataclasses and pickle look a class's module up there
    try:
        exec(compile(source, file, "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise InputError(f"reward={place}: {file} does not load: {_describe(error, file)}") from None
    return module


def function_terms(
    trajectory: Trajectory,
    reference: Reference,
    answer: str,
    valid_tools: Sequence[str],
    metric: Metric = "answer",
    *,
    function: RewardFunction,
    place: str,
) -> Terms:
    """One term, named as the function, with what it returns: any finite number.

    The function gets the trajectory, the reference (without calls if there is no teacher) and a dict of `TERMS`, the
    terms of ``exact``. It is not called where the answer cannot be judged.

    Raises:
        InputError: the function raised an error, or returned something else than a finite number.
    """
    outcome = outcome_terms(trajectory, reference, answer, valid_tools, metric, tools=same_tools)
    name = place.rpartition(":")[2]
    if not outcome.judged:
        return Terms({}, outcome.reason, judged=False)
    terms = {term: outcome.values.get(term, 0.0) for term in TERMS}
    task = f" on task {trajectory.task_id}" if trajectory.task_id else ""
    try:
        value: Any = function(trajectory, reference, terms)
    except (Exception, SystemExit) as error:
        said = _describe(error, function_file(place))
        raise InputError(f"reward={place} failed{task}: {said}: mend the function, then run it again") from None
    try:
        number = float(value) if isinstance(value, Real) else math.nan
    except OverflowError:  # of a very large integer
        number = math.inf
    if not math.isfinite(number):
        shown = " ".join(repr(value).split())
        raise InputError(
            f"reward={place} returned {shown:.60}{task}, which is no finite number: return a float, also for a "
            "trajectory without an answer"
        )
    return Terms({name: number}, outcome.reason)


def _describe(error: BaseException, file: str) -> str:
    """An error in one line, with the last line of the file that led to it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    words = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    where = f" (line {lines[-1]})" if lines and lines[-1] else ""
    return f"{type(error).__name__}: {words:.200}{where}".replace(": (", " (")
