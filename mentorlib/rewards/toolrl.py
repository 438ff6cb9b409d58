"""The correctness part of ToolRL (arXiv 2504.13958, section 3.3)."""

from collections.abc import Sequence

from ..core import Call, Metric, Reference, Trajectory
from .corrected import compare_tools, read_attempt
from .matching import canonical_json, tool_names
from .score import Terms


def toolrl_terms(
    trajectory: Trajectory, reference: Reference, answer: str, valid_tools: Sequence[str], metric: Metric
) -> Terms:
    """``format``, ``offset`` (always 1), and ``names``, ``parameters``, ``values`` over ToolRL's S_max.

    The last three add up to R_max / S_max, which is 1 for the teacher's own calls in any order. All calls of the
    trajectory count. Whether the answer is right does not enter.
    """
    attempt = read_attempt(trajectory, valid_tools)
    well_formed = trajectory.ended and attempt.answer is not None and not attempt.malformed
    student, teacher = trajectory.calls, reference.calls
    used, wanted = tool_names(student), tool_names(teacher)
    names = len(used & wanted) / len(used | wanted) if used | wanted else 1.0
    largest = 1 + len(teacher) + sum(len(call.arguments) for call in teacher)
    parameters, values = _match_arguments([call for call in student if call.name in wanted], teacher)
    terms = {"format": float(well_formed), "offset": 1.0}
    terms |= {"names": names / largest, "parameters": parameters / largest, "values": values / largest}
    return Terms(terms, attempt.describe(compare_tools(attempt, reference)))


def _match_arguments(student: list[Call], teacher: list[Call]) -> tuple[float, float]:
    """ToolRL's two sums over the calls matched one to one, same tool only, so that the sum of both is largest."""
    from scipy.optimize import linear_sum_assignment  # here: it takes half a second to import

    if not student:
        return 0.0, 0.0
    golds = [_comparable(call) for call in teacher]
    candidates = [_comparable(call) for call in student]
    pairs = [[_compare(gold, candidate) for candidate in candidates] for gold in golds]
    rows, columns = linear_sum_assignment([[sum(pair) for pair in row] for row in pairs], maximize=True)
    matched = [pairs[row][column] for row, column in zip(rows, columns, strict=True)]
    return sum(pair[0] for pair in matched), sum(pair[1] for pair in matched)


def _comparable(call: Call) -> Call:
    return Call(call.name, {name: canonical_json(value) for name, value in call.arguments.items()})


def _compare(gold: Call, candidate: Call) -> tuple[float, float]:
    """(argument names in both over names in either, number of the gold's arguments given with the same value)."""
    if gold.name != candidate.name:
        return 0.0, 0.0
    given, wanted = candidate.arguments, gold.arguments
    either = given.keys() | wanted.keys()
    shared = len(given.keys() & wanted.keys()) / len(either) if either else 1.0
    return shared, float(sum(given.get(name) == value for name, value in wanted.items()))
