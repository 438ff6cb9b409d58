"""A notebook's parameters, written once: in its parameters cell."""

from collections.abc import Iterable, Mapping
from typing import Any

from ..core import InputError


class Planned(str):
    """A run, or a folder or file in it, that a stage of a study will have made: it need not be there yet.

    What is checked before the study begins leaves its content to the check at its own stage.
    """

    def __new__(cls, text: str, parameters: Mapping[str, Any] | None = None) -> "Planned":
        planned = super().__new__(cls, text)
        planned.parameters = dict(parameters or {})  # those of the stage
        return planned

    parameters: dict[str, Any]


def notebook_parameters(namespace: Mapping[str, Any], exclude: Iterable[str] = ()) -> dict[str, Any]:
    """The annotated names of a notebook (``steps: int = 30``) with their present values.

    Call it as ``notebook_parameters(globals())`` after the parameters cell. Python keeps the names that a cell
    annotates; papermill's injected cell, or an edit in JupyterLab, only changes their values. So ``Run(**parameters)``
    needs no second list of names (nanoGPT collects its configuration from globals() in the same way, by type).

    Args:
        namespace: the notebook's globals().
        exclude: parameters that are not part of a run's identity, such as how many requests a server gets at once.

    Raises:
        InputError: the namespace has no annotated names.
    """
    names = namespace.get("__annotations__")
    if names is None and "__annotate__" in namespace:  # Python 3.14 computes annotations on demand
        names = namespace["__annotate__"](1)
    if not names:
        raise InputError("no annotated parameters here: write each as `name: type = value` in the parameters cell")
    left_out = set(exclude)
    return {name: namespace[name] for name in names if name not in left_out}
