"""What notebook 05 refuses before a study trains anything, or loads any rows."""

from collections.abc import Sequence
from typing import Any

from ..core import InputError


def check_comparison(
    contrasts: Sequence[Sequence[str]],
    margin: float,
    identical_max: float,
    answers_max: float,
    reranked_min: float,
    **others: Any,
) -> None:
    """Check the plan of a comparison: parameters of notebook 05; ``others`` are of other kinds.

    Raises:
        InputError: a contrast is not two methods, the margin is not between 0 and 1, or a gate is no share.
    """
    for contrast in contrasts:
        if isinstance(contrast, str) or len(contrast) != 2 or not all(isinstance(name, str) for name in contrast):
            raise InputError(f"contrasts: {contrast!r} is not two methods; write [method, against]")
    if not 0 < margin < 1:
        raise InputError(f"margin={margin!r}: a share between 0 and 1, such as 0.05 for 5 points")
    gates = {"identical_max": identical_max, "answers_max": answers_max, "reranked_min": reranked_min}
    for name, gate in gates.items():
        if not 0 <= gate <= 1:
            raise InputError(f"{name}={gate!r}: a share between 0 and 1")
