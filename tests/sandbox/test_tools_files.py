"""Tools files as people write them: what is taken, what is refused by name, and whose fault a call's failure is."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import get_json_schema

from mentorlib.core import InputError
from mentorlib.data.tools import calculator, lists, retrieval, text, units
from mentorlib.sandbox.pool import Sandbox
from mentorlib.sandbox.toolbox import Toolbox
from mentorlib.sandbox.validate import ToolError

HEAD = """
from __future__ import annotations
import collections.abc, dataclasses, datetime, decimal, enum, fractions, itertools, typing, uuid
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, TypedDict
from typing import Optional as Opt
import numpy as np
from pydantic import BaseModel, Field

class Color(str, Enum):
    RED = "red"
    BLUE = "blue"

class Level(IntEnum):
    LOW = auto()
    HIGH = auto()

@dataclass
class Point:
    x: float
    y: float = 0.0
    tags: list[str] = field(default_factory=list)

@dataclass
class Line(Point):
    to: Opt[Point] = None

class Room(TypedDict):
    width: float
    name: NotRequired[str]

class Pair(NamedTuple):
    a: int
    b: int = 2

class Order(BaseModel):
    n: int = Field(description="how many")
    color: Color = Color.RED

Numbers = list[int]
UserId = NewType("UserId", int)
"""


def tool(hint: str, body: str = "return x", default: str = "") -> str:
    return (
        f'{HEAD}\ndef f(x: {hint}{default}) -> Any:\n    """Do it.\n\n    Args:\n        x: it\n    """\n    {body}\n'
    )


def raw(**arguments: Any) -> str:
    return json.dumps({"name": "f", "arguments": arguments})


def test_the_shipped_tools_have_the_schemas_of_transformers() -> None:
    for module in (calculator, lists, retrieval, text, units):
        schemas = Toolbox.from_functions("x", module.TOOLS).schemas
        assert [json.dumps(s) for s in schemas] == [json.dumps(get_json_schema(f)) for f in module.TOOLS]


COLOR = {"type": "string", "enum": ["red", "blue"]}
POINT = {
    "type": "object",
    "properties": {
        "x": {"type": "number"},
        "y": {"type": "number"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["x"],
}
HINTS = [  # hint, schema, an argument that fits, what the tool sees of it, one that does not fit
    ("Color", COLOR, "red", "(x is Color.RED, x.name)", [True, "RED"], "green"),
    ("Level", {"type": "integer", "enum": [1, 2]}, 2, "x is Level.HIGH", True, 3),
    ("Point", POINT, {"x": 1}, "(x.x + x.y, x.tags)", [1, []], {"y": 1}),
    ("list[Point]", {"type": "array", "items": POINT}, [{"x": 1}], "x[0].x", 1, [{}]),
    (
        "dict[str, Color]",
        {"type": "object", "additionalProperties": COLOR},
        {"a": "red"},
        "x['a'].name",
        "RED",
        {"a": 1},
    ),
    ("Line", None, {"x": 1, "to": {"x": 2}}, "x.to.x", 2, {"x": 1, "to": 3}),
    ("Room", None, {"width": 2}, "x['width']", 2, {"name": "a"}),
    ("Pair", None, {"a": 1}, "x.a + x.b", 3, {"b": 1}),
    ("Order", None, {"n": 1}, "(x.n, x.color.name)", [1, "RED"], {"n": "a"}),
    ("Numbers", {"type": "array", "items": {"type": "integer"}}, [1], "x", [1], ["a"]),
    ("UserId", {"type": "integer"}, 1, "x", 1, "a"),
    ("Annotated[int, 'how many']", {"type": "integer"}, 1, "x", 1, "a"),
    ("typing.Annotated[Color, Field(description='c')]", COLOR, "red", "x.name", "RED", "green"),
    ("Literal['a', 1, True, None]", None, None, "x", None, 2),
    ("Opt[int]", {"type": "integer", "nullable": True}, None, "x", None, "a"),
    ("typing.Optional[Color]", {**COLOR, "nullable": True}, "red", "x.name", "RED", "a"),
    ("typing.Union[int, str, None]", {"type": ["integer", "string"], "nullable": True}, "a", "x", "a", 1.5),
    ("int | Color", None, "red", "x.name", "RED", "green"),
    ("Point | list[Point]", None, [{"x": 3}], "x[0].x", 3, 3),
    ("'int | None'", {"type": "integer", "nullable": True}, 1, "x", 1, "a"),
    ("tuple[int, str]", None, [1, "a"], "type(x).__name__", "tuple", [1]),
    ("tuple[int, ...]", {"type": "array", "items": {"type": "integer"}}, [1, 2, 3], "hash(x) and x", [1, 2, 3], ["a"]),
    ("set[int]", {"type": "array", "items": {"type": "integer"}}, [1, 1], "x == {1}", True, ["a"]),
    ("frozenset[str]", None, ["a"], "type(x).__name__", "frozenset", [1]),
    ("dict[str, int]", {"type": "object", "additionalProperties": {"type": "integer"}}, {"a": 1}, "x", {"a": 1}, 1),
    ("dict[int, str]", None, {"1": "a"}, "x[1]", "a", {"1": 1}),
    ("typing.Sequence[float]", {"type": "array", "items": {"type": "number"}}, [1, 2.5], "sum(x)", 3.5, 1),
    ("collections.abc.Mapping[str, Any]", None, {"a": None}, "x", {"a": None}, []),
    ("object", {}, [1], "x", [1], None),
]


@pytest.mark.parametrize(("hint", "schema", "fits", "seen", "value", "wrong"), HINTS, ids=[h[0] for h in HINTS])
def test_hints_are_taken(
    hint: str, schema: Any, fits: Any, seen: str, value: Any, wrong: Any, sandbox: Sandbox
) -> None:
    box = Toolbox.from_source("t", tool(hint, f"return {seen}"))
    if schema is not None:
        assert box.schemas[0]["function"]["parameters"]["properties"]["x"] == {**schema, "description": "it"}
    execution = box.call(raw(x=fits), sandbox)
    assert (execution.error, execution.value) == (None, value)
    if wrong is not None:
        with pytest.raises(ToolError, match="argument x"):
            box.validate(raw(x=wrong))


def test_what_a_class_refuses_is_the_models_fault(sandbox: Sandbox) -> None:
    checked = """
@dataclass
class Checked:
    n: int
    def __post_init__(self):
        if self.n < 0: raise ValueError("n below 0")

Numbers ="""
    source = tool("Checked").replace("Numbers =", checked)
    execution = Toolbox.from_source("t", source).call(raw(x={"n": -1}), sandbox)
    assert execution.fault == "model" and str(execution.error).startswith("ValueError: n below 0")


@pytest.mark.parametrize(
    ("hint", "says"),
    [
        ("np.ndarray", "np.ndarray is not a plain type: use int, float, str, bool, list"),
        ("datetime.datetime", "datetime.datetime is not a plain type"),
        ("bytes", "bytes is not a plain type"),
        ("Callable[[int], int]", "Callable[[int], int] is not a plain type"),
        ("Plain", "Plain is a class whose fields cannot be read: make it a dataclass"),
        ("Tree", "Tree refers to itself"),
        ("Bad", "JSON has texts, numbers, true, false and null only"),
        ("Literal[b'a']", "JSON has texts"),
        ("dict[tuple[int], str]", "has keys that JSON has not"),
        ("'int |'", "is not a type"),
        ("Unknown", "Unknown is not a plain type"),
    ],
)
def test_hints_are_refused_by_name(hint: str, says: str) -> None:
    classes = (
        "class Plain:\n    pass\n\n@dataclass\nclass Tree:\n    inner: list[Tree]\n\nclass Bad(Enum):\n    A = (1, 2)\n"
    )
    with pytest.raises(InputError, match="tool f, argument x: .*" + re.escape(says)) as error:
        Toolbox.from_source("t", tool(hint).replace("Numbers =", classes + "\nNumbers ="))
    assert "\n" not in str(error.value)


def test_a_default_of_none_takes_null() -> None:
    box = Toolbox.from_source("t", tool("int", default=" = None"))
    assert box.validate(raw(x=None)) and box.validate(raw(x=1)) and box.validate(raw())


DOCSTRINGS = {
    "google": """
    Args:
        x (int): the first
            of two
        y: the second

    Returns:
        both""",
    "google, nested types": """
    Args:
        x (dict[str, tuple(int)], optional): the first of two
        y (int, optional): the second""",
    "google, other names": """
    Arguments:
      x: the first of two
      y: the second

    Examples:
      f: no""",
    "numpy": """
    Parameters
    ----------
    x : int, optional
        the first
        of two
    y
        the second

    Returns
    -------
    int
        both""",
    "sphinx": """
    :param x: the first
        of two
    :param int y: the second
    :type x: int
    :returns: both
    :raises ValueError: never""",
    "epytext": """
    @param x: the first of two
    @param y: the second
    @return: both""",
}


@pytest.mark.parametrize("style", DOCSTRINGS)
def test_docstrings_of_any_style(style: str) -> None:
    source = f'def f(x: int, y: int = 0) -> int:\n    """Do it.\n{DOCSTRINGS[style]}\n    """\n    return x'
    function = Toolbox.from_source("t", source).schemas[0]["function"]
    assert function["description"] == "Do it."
    described = {name: part["description"] for name, part in function["parameters"]["properties"].items()}
    assert described == {"x": "the first of two", "y": "the second"}


def test_an_argument_without_a_line_is_refused_with_the_mend() -> None:
    for source, says in [
        ('def f(x: int):\n    """Do it."""', "argument x has no line in the docstring: add `x: what it is` to `Args:`"),
        ("def f(x: int): ...", "tool f: it has no docstring"),
        ('def f(x):\n    """Do it."""', "argument x is missing a type hint: write it as `x: float`"),
        ('def f(**x: int):\n    """Do it."""', "it takes * or ** arguments, which a call cannot name: take a list or"),
    ]:
        with pytest.raises(InputError, match=re.escape(says)):
            Toolbox.from_source("t", source)


ONE = 'def {name}() -> int:\n    """Do it."""\n    return 1\n'


@pytest.mark.parametrize(
    "around",
    ["if True:", "try:\n    import nothing\nexcept ImportError:", "with open('/dev/null'):", "for _ in 'a':"],
)
def test_definitions_under_statements_are_tools(around: str, sandbox: Sandbox) -> None:
    source = around + "\n" + "".join(f"    {line}\n" for line in ONE.format(name="f").splitlines())
    if around.startswith("if"):
        source += "else:\n" + "".join(f"    {line}\n" for line in ONE.format(name="f").splitlines())
    source += 'if __name__ == "__main__":\n    def main(): ...\n    main()\n'
    box = Toolbox.from_source("t", source)
    assert box.names == ["f"] and box.call(raw(), sandbox).value == 1


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            "async " + ONE.format(name="f"),
            "tool f is an async function, and calls are not awaited: write it with `def`",
        ),
        ("if True:\n    async def f(): ...", "tool f is an async function"),
        ("f = lambda x: x", "tool f is a lambda, without hints and docstring: write it with `def`, or name it _f"),
        ("f: object = lambda x: x", "tool f is a lambda"),
        (ONE.format(name="g") + "f = g", "tool f is made by `g`"),
        ("import functools\nf = functools.partial(print, 1)", "tool f is made by `functools.partial(print, 1)`"),
        (
            'class A:\n    def f(self):\n        """Do."""',
            "class A: its method f is not a tool: write it as a function",
        ),
        ("if a:\n    def f(x: int): ...\nelse:\n    def f(): ...", "tool f is defined twice, with different arguments"),
    ],
)
def test_what_looks_like_a_tool_and_is_none_is_refused(source: str, says: str) -> None:
    with pytest.raises(InputError, match="toolbox t: " + re.escape(says)):
        Toolbox.from_source("t", source)
    assert Toolbox.from_source("t", "_f = lambda x: x\nadd = 3\n" + ONE.format(name="f")).names == ["f"]


RESULTS = [
    ("np.int64(3)", 3),
    ("np.float32(0.5)", 0.5),
    ("np.bool_(True)", True),
    ("np.arange(4).reshape(2, 2)", [[0, 1], [2, 3]]),
    ("{np.int64(1): np.float64(2)}", {"1": 2.0}),
    ("decimal.Decimal('1.5')", 1.5),
    ("decimal.Decimal('1E+30')", 10**30),
    ("fractions.Fraction(3, 4)", 0.75),
    ("fractions.Fraction(4, 2)", 2),
    ("{3, 1, 2}", [1, 2, 3]),
    ("frozenset({'b', 'a'})", ["a", "b"]),
    ("datetime.datetime(2031, 5, 2, 12)", "2031-05-02T12:00:00"),
    ("datetime.date(2031, 5, 2)", "2031-05-02"),
    ("datetime.timedelta(hours=1)", "1:00:00"),
    ("Point(1, tags=['a'])", {"x": 1, "y": 0.0, "tags": ["a"]}),
    ("Pair(1)", [1, 2]),
    ("Order(n=1)", {"n": 1, "color": "red"}),
    ("Color.RED", "red"),
    ("Level.HIGH", 2),
    ("[Color.BLUE, {1, 2}]", ["blue", [1, 2]]),
    ("range(3)", [0, 1, 2]),
    ("(i * i for i in range(3))", [0, 1, 4]),
    ("{'a': 1}.values()", [1]),
    ("collections.deque([1])", [1]),
    ("Path('a/b')", "a/b"),
    ("uuid.UUID(int=1)", "00000000-0000-0000-0000-000000000001"),
]


@pytest.mark.parametrize(("returned", "value"), RESULTS, ids=[r[0] for r in RESULTS])
def test_results_are_converted(returned: str, value: Any, sandbox: Sandbox) -> None:
    execution = Toolbox.from_source("t", tool("int", f"return {returned}")).call(raw(x=1), sandbox)
    assert (execution.error, execution.value) == (None, value) and type(execution.value) is type(value)


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize(
    ("source", "fault", "says"),
    [
        (tool("int", "return b'a'"), "tool", "the result is of type bytes: return a number, text, list or dict"),
        (tool("int", "return [object()]"), "tool", "the result is of type object"),
        (tool("int", "return f"), "tool", "the result is of type function"),
        (tool("int", "return {(1, 2): 3}"), "tool", "the result has a key of type tuple"),
        (tool("int").replace("import numpy as np", "import nosuch"), "tool", "No module named 'nosuch'"),
        (tool("int") + "del f\n", "tool", "defines no function 'f'"),
        (tool("int") + "import time\ntime.sleep(9)\n", "tool", "does not load: timed out after"),
        (tool("int") + "import os\nos._exit(3)\n", "tool", "does not load: "),
        (tool("int", "import time\n    time.sleep(9)"), "model", "timed out after"),
        (tool("int", "import os\n    os._exit(3)"), "model", "its process"),
        (tool("int", "return (-8) ** 0.5"), "model", "complex"),  # of the numbers that it was given
        (tool("int", "return float('nan')"), "model", "not a finite number"),
        (tool("int", "return itertools.count()"), "model", "too large"),
        (tool("int", "raise ValueError('x')"), "model", "ValueError: x"),
    ],
)  # fmt: skip
def test_a_fault_of_the_tools_file_is_not_charged_to_the_model(
    source: str, fault: str, says: str, isolate: bool, sandbox: Sandbox
) -> None:
    execution = Toolbox.from_source("t", source, isolate=isolate).call(raw(x=1), sandbox)
    assert execution.fault == fault and says in str(execution.error)


def test_positional_only_arguments_are_passed(sandbox: Sandbox) -> None:
    lines = "Do it.\n\n    Args:\n        x: a\n        y: b\n        z: c\n"
    head = "def f(x: int, y: int = 2, /, z: int = 3) -> list:"
    box = Toolbox.from_source("t", f'{head}\n    """{lines}    """\n    return [x, y, z]')
    assert box.call(raw(x=1), sandbox).value == [1, 2, 3]
    assert box.call(raw(z=5, y=4, x=1), sandbox).value == [1, 4, 5]
    assert box.call(raw(x=1, z=0), sandbox).value == [1, 2, 0]


def test_functions_may_use_these_hints(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tool("'Line | None'", "return x.to.x").replace("from __future__ import annotations", "")
    (tmp_path / "made_for_this_test.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("made_for_this_test")
    box = Toolbox.from_functions("t", [module.f])
    assert box.call(raw(x={"x": 1, "to": {"x": 7}}), sandbox).value == 7
    for function in (lambda x: x, len, json.JSONEncoder().encode):
        with pytest.raises(InputError, match=r"define it with `def`|plain functions"):
            Toolbox.from_functions("t", [function])
