"""The parameters cell of a notebook: read, and values checked against it before a kernel starts."""

import ast
import contextlib
import io
import json
import re
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from ...core import InputError, did_you_mean, one_line
from ...runs.run import reject_credentials

TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict, "Any": Any}


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: ``steps: int = 200  # optimizer steps``."""

    name: str
    type: str  # as written; of an unannotated line, the type of its default
    default: Any
    help: str


def read_notebook(notebook: str | Path) -> nbformat.NotebookNode:
    """Read an .ipynb file. InputError if it is missing (the nearest name is given) or not a notebook."""
    notebook = Path(notebook)
    if not notebook.is_file():
        known = sorted(str(p) for p in {*notebook.parent.glob("*.ipynb"), *Path("notebooks").glob("*.ipynb")})
        otherwise = "paths are read from this folder: go to the workspace's first"
        hint = did_you_mean(notebook, known, 0.3).strip() or otherwise
        raise InputError(f"{notebook}: no such notebook; {hint}")
    try:
        node = nbformat.read(notebook, as_version=4)
        nbformat.validate(node)
    except Exception as error:  # nbformat raises several kinds, none of them with a common base
        raise InputError(f"{notebook}: not a notebook ({one_line(error, 120)})") from None
    return node


def parameters_of(node: nbformat.NotebookNode, notebook: str | Path = "notebook") -> list[Parameter]:
    """The parameters of a notebook: the assignments in its cell tagged "parameters"; none without such a cell.

    Read from the syntax tree, as papermill's own pattern misses ``int | None`` and defaults that span lines.
    """
    cell = next((c for c in node.cells if "parameters" in c.metadata.get("tags", ())), None)
    source = cell.source if cell else ""
    try:
        lines = ast.parse(source).body
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, tokenize.TokenError):
        raise InputError(f"{notebook}: the parameters cell is not Python") from None
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    parameters = []
    for line in lines:
        target = line.target if isinstance(line, ast.AnnAssign) else getattr(line, "targets", [None])[0]
        if not isinstance(line, ast.AnnAssign | ast.Assign) or not isinstance(target, ast.Name) or line.value is None:
            raise InputError(
                f"{notebook}: write each parameter as `name: type = value  # help`, not {ast.unparse(line)}"
            )
        try:
            default = ast.literal_eval(line.value)
        except ValueError:
            raise InputError(
                f"{notebook}: the default of {target.id} is not a literal: {ast.unparse(line.value)}"
            ) from None
        annotation = line.annotation if isinstance(line, ast.AnnAssign) else None
        written = ast.unparse(annotation) if annotation else "Any" if default is None else type(default).__name__
        parameters.append(Parameter(target.id, written, default, comments.get(line.end_lineno or 0, "")))
    return parameters


def check_parameters(notebook: str | Path, given: Mapping[str, Any], text: bool = False) -> dict[str, Any]:
    """Check values against a notebook's parameters and return them typed.

    Types are int, float (an int fits too), str, bool, None, Any, list[…], dict[…, …] and ``X | Y``; a bool is no int.

    Args:
        notebook: the .ipynb file.
        given: values by parameter name.
        text: the values are strings from a command line: read as YAML where that gives the type (``lr=1e-6``,
            ``suites=[a, b]``, ``reward=null``), and taken literally where the type is str.

    Raises:
        InputError: names the parameter and its type, or for an unknown one the nearest that exists.
    """
    known = {p.name: p for p in parameters_of(read_notebook(notebook), notebook)}
    checked = {}
    for name, value in given.items():
        if name not in known:
            hint = did_you_mean(name, known).strip() or f"it takes {', '.join(known) or 'none'}"
            raise InputError(f"{notebook}: no parameter {name!r}; {hint}")
        parameter = known[name]
        fitting = fitting_values(value, _adapter(parameter), text)
        if not fitting:
            about = f" ({parameter.help})" if parameter.help else ""
            shown = value if text else repr(value)
            raise InputError(
                f"{notebook}: parameter {name} takes {parameter.type}{about}, not {shown:.80}; "
                f"for example {name}={parameter.default!r}"
            )
        reject_credentials(fitting[0])
        checked[name] = fitting[0]
    return checked


def run_check_cell(node: nbformat.NotebookNode, parameters: Mapping[str, Any]) -> None:
    """Execute a notebook's cell tagged "check" in this process, so that a refusal need not wait for a kernel.

    The cell checks the notebook's parameters and does nothing else; it is executed again where the notebook is, so that
    JupyterLab refuses in the same words. It has the names of the parameters cell only. An error other than InputError
    is left to that execution, whose report shows it.

    Raises:
        InputError: what the cell raised.
    """
    cells = [[c.source for c in node.cells if tag in c.metadata.get("tags", ())] for tag in ("parameters", "check")]
    if not cells[1]:
        return
    names: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            exec("\n".join(cells[0]), names)
            names |= parameters
            exec("\n".join(cells[1]), names)
        except InputError:
            raise
        except Exception:
            return


def key_values(words: Iterable[str] | None) -> dict[str, str]:
    """Words of a command line, ``key=value``, as a dict. InputError if one is of another form, or a key comes twice."""
    given: dict[str, str] = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            hint = "; the executed notebook goes into the run's folder, or --output" if word.endswith(".ipynb") else ""
            raise InputError(f"{word!r}: write parameters as key=value{hint}")
        if name in given:
            raise InputError(f"{name!r} is given twice")
        given[name] = value
    return given


def fitting_values(value: Any, adapter: TypeAdapter[Any], text: bool) -> list[Any]:
    """The value as it fits a type: as it is or, from a command line (``text``), read as YAML first; [] if neither."""
    candidates = [value]
    if text:
        with contextlib.suppress(yaml.YAMLError):
            candidates = [load_yaml(value), value]
    return [candidate for candidate in candidates if _fits(adapter, candidate)]


def load_yaml(text: str) -> Any:
    """YAML in which ``1e-6`` is a number, as in YAML 1.2 and in Python. Raises yaml.YAMLError."""
    try:
        value = yaml.load(text, _Yaml)  # a SafeLoader
        json.dumps(value, default=str)  # an anchor can hold itself
    except (ValueError, TypeError, RecursionError) as error:  # such as 2024-13-45, or a key that is a list
        raise yaml.YAMLError(str(error)) from None
    return value


class _Yaml(yaml.SafeLoader):
    pass


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _adapter(parameter: Parameter) -> TypeAdapter[Any]:
    """The strict validator of a parameter's annotation, which may only be made of TYPES, ``[…]`` and ``|``."""
    tree = ast.parse(parameter.type, mode="eval")
    parts = (ast.Expression, ast.Name, ast.Subscript, ast.Tuple, ast.BinOp, ast.BitOr, ast.Constant, ast.Load)
    try:
        if not all(isinstance(node, parts) for node in ast.walk(tree)):
            raise TypeError
        type_ = eval(compile(tree, "annotation", "eval"), {"__builtins__": {}}, TYPES)
        return TypeAdapter(type_, config=ConfigDict(strict=True))
    except (TypeError, NameError, PydanticSchemaGenerationError):
        raise InputError(
            f"parameter {parameter.name} has the type {parameter.type}; "
            "use int, float, str, bool, None, list[…], dict[…, …] or |"
        ) from None


def _fits(adapter: TypeAdapter[Any], value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True
