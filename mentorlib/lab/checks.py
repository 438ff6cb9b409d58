"""Check notebook 05's parameters before a study trains anything or rows are loaded."""

from collections.abc import Sequence
from typing import Any

from ..core import InputError, did_you_mean
from ..runs.parameters import Planned


def check_comparison(
    runs: Sequence[str],
    contrasts: Sequence[Sequence[str]],
    margin: float,
    identical_max: float,
    answers_max: float,
    reranked_min: float,
    **others: Any,
) -> None:
    """Check the plan of a comparison: parameters of notebook 05; ``others`` are of other kinds.

    Raises:
        InputError: a contrast is not two methods, or a name in it is nearly, but not, that of a method which this study
            will train; the margin is not between 0 and 1, or a gate is no share.
    """
    for contrast in contrasts:
        if isinstance(contrast, str) or len(contrast) != 2 or not all(isinstance(name, str) for name in contrast):
            raise InputError(f"contrasts: {contrast!r} is not two methods; write [method, against]")
    planned = [run.parameters for run in runs if isinstance(run, Planned)]
    planned = planned if len(planned) == len(runs) else []  # the others' methods are not read
    kinds = {"none": "base", "sft": "sft", "gkd": "gkd"}  # as in analysis.load, which takes a second to import
    known = {kinds.get(p.get("method", "none"), f"grpo-{p.get('reward')}") for p in planned}
    for name in (name for contrast in contrasts for name in contrast):
        kind = name.partition(" ")[0].rpartition("+")[2]  # without what else differs, and what came before it
        if kind not in known and (hint := did_you_mean(kind, known, 0.8)):
            raise InputError(f"contrasts: {name!r} is no method of these runs: {hint.strip()}")
    if not 0 < margin < 1:
        raise InputError(f"margin={margin!r}: a share between 0 and 1, such as 0.05 for 5 points")
    gates = {"identical_max": identical_max, "answers_max": answers_max, "reranked_min": reranked_min}
    for name, gate in gates.items():
        if not 0 <= gate <= 1:
            raise InputError(f"{name}={gate!r}: a share between 0 and 1")
