"""A reward that is a plain function in a file of the user's: ``reward=mine.py:brevity``.

    def brevity(trajectory, reference, terms):
        return terms["correct"] - 0.01 * trajectory.n_tokens

What a model wrote is data to it. ``runs.functions`` loads it.
"""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from numbers import Real
from typing import Any

from ..core import InputError, Metric, Reference, Trajectory
from ..runs.functions import describe_error, function_file
from .corrected import outcome_terms
from .matching import same_tools
from .score import Terms

LARGEST = 1_000_000  # training normalises rewards in 32 bits
TERMS = ("correct", "answered", "gave_up", "clean", "tools")
RewardFunction = Callable[[Trajectory, Reference, dict[str, float]], float]
FORM = "write it as def {name}(trajectory, reference, terms), returning a number (docs/rewards.md)"


def function_terms(
    trajectory: Trajectory,
    reference: Reference,
    answer: str,
    valid_tools: Sequence[str],
    metric: Metric,
    *,
    function: RewardFunction,
    place: str,
) -> Terms:
    """One term, named as the function, with what it returns: a number up to a million, or down to minus that.

    The function gets copies of the trajectory and of the reference (without calls if there is no teacher), and a dict
    of `TERMS`, the terms of ``exact``. It is not called where the answer cannot be judged.

    Raises:
        InputError: the function raised an error, or returned something else than such a number.
    """
    outcome = outcome_terms(trajectory, reference, answer, valid_tools, metric, tools=same_tools)
    name = place.rpartition(":")[2]
    if not outcome.judged:
        return Terms({}, outcome.reason, judged=False)
    terms = {term: outcome.values.get(term, 0.0) for term in TERMS}
    task = f" on task {trajectory.task_id}" if trajectory.task_id else ""
    try:
        value: Any = function(deepcopy(trajectory), deepcopy(reference), terms)
        shown = " ".join(repr(value).split())
    except (Exception, SystemExit) as error:
        said = describe_error(error, function_file(place))
        raise InputError(f"reward={place} failed{task}: {said}: fix the function, then run it again") from None
    try:
        number = float(value) if isinstance(value, Real) else math.nan
    except Exception:  # of a very large integer, or a type of the user's
        number = math.nan
    if not abs(number) <= LARGEST:
        raise InputError(
            f"reward={place} returned {shown:.60}{task}, which is no number up to {LARGEST:,}: return a float, also "
            "for a trajectory without an answer"
        )
    return Terms({name: number}, outcome.reason)
