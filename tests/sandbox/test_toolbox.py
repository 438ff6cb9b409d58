"""The toolbox: validation of calls, its error texts, and tools made of functions and foreign source."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from math import sqrt as root
from typing import Any, Literal, Optional

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mentorlib.core import Call, InputError
from mentorlib.sandbox.pool import Sandbox
from mentorlib.sandbox.toolbox import Toolbox, call_many
from mentorlib.sandbox.validate import ToolError

SCALE = {"pair": (2, 0.5)}


def helper(x: float) -> float:
    return other(x) + root(16) + SCALE["pair"][0]


def other(x: float) -> float:
    return helper(x - 1) if x > 100 else math.floor(x)


def price(amount: float, kind: Literal["in", "out"], note: Optional[str] = None, parts: list[int] = []) -> float:  # noqa: B006, UP045
    """Say a price.

    Args:
        amount: how much
        kind: which way
        note: a remark
        parts: some parts
    """
    return helper(amount) if kind == "in" else re.sub("a", "b", note or "a")  # type: ignore[return-value]


def any_of(a: int | str, b: dict[str, int], c: tuple[int, str], d: bool = True) -> list[Any]:
    """Take all sorts.

    Args:
        a: this
        b: that
        c: pair
        d: flag
    """
    return [a, b, c, d]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as box:
        yield box


@pytest.fixture(scope="module")
def tools() -> Toolbox:
    return Toolbox.from_functions("prices", [price, any_of])


def raw(name: str, **arguments: Any) -> str:
    return json.dumps({"name": name, "arguments": arguments})


def test_functions_carry_what_they_use(tools: Toolbox, sandbox: Sandbox) -> None:
    assert tools.names == ["price", "any_of"]
    assert "import pytest" not in tools.source and "from math import sqrt as root" in tools.source
    assert tools.call(raw("price", amount=3.7, kind="in"), sandbox).value == 3 + 4 + 2
    assert tools.call(raw("price", amount=1, kind="out", note="aa"), sandbox).value == "bb"
    assert tools.call(raw("any_of", a=1, b={"x": 1}, c=[1, "y"]), sandbox).value == [1, {"x": 1}, [1, "y"], True]


def test_functions_that_cannot_be_carried() -> None:
    def made(x: int) -> Any:
        """Make.

        Args:
            x: it
        """
        return PATTERN.match(x)  # noqa: F821

    assert Toolbox.from_functions("made", [made])  # what is undefined fails in the call, not here
    globals()["PATTERN"] = re.compile("a")
    try:
        with pytest.raises(InputError, match="PATTERN: a tool uses this module-level Pattern"):
            Toolbox.from_functions("made", [made])
    finally:
        del globals()["PATTERN"]
    with pytest.raises(InputError, match="tool helper: "):
        Toolbox.from_functions("bare", [helper])  # no docstring
    with pytest.raises(InputError, match="scaled: it uses k of the function that made it"):
        Toolbox.from_functions("made", [scaled_by(2)])
    globals()["SHELF"] = ["a long text"] * 50_000
    try:
        with pytest.raises(InputError, match=r"source is 750,\d+ bytes long, most of them SHELF: at most 500,000"):
            Toolbox.from_functions("kb", [find])
    finally:
        del globals()["SHELF"]


LIMIT = 3


class Box:
    LIMIT = LIMIT


def boxed_limit(x: int) -> int:
    """Limit.

    Args:
        x: it
    """
    return Box.LIMIT + x


def test_a_class_may_set_a_name_that_it_reads_and_a_local_function_call_itself(sandbox: Sandbox) -> None:
    assert Toolbox.from_functions("limits", [boxed_limit]).call(raw("boxed_limit", x=1), sandbox).value == 4

    def fact(x: int) -> int:
        """Factorial.

        Args:
            x: it
        """
        return x * fact(x - 1) if x else 1

    assert Toolbox.from_functions("facts", [fact]).call(raw("fact", x=3), sandbox).value == 6


def scaled_by(k: int) -> Any:
    def scaled(x: int) -> int:
        """Scale.

        Args:
            x: it
        """
        return k * x

    return scaled


def find(query: str) -> list[str]:
    """Find.

    Args:
        query: it
    """
    return [text for text in SHELF if query in text]  # noqa: F821


def area(width: float, height: float = 2) -> float:
    """Area.

    Args:
        width: metres
        height: metres
    """
    product = width * height
    return product


def test_a_tools_own_names_are_not_those_of_its_module(sandbox: Sandbox) -> None:
    globals().update(width=object(), product=object())
    try:
        box = Toolbox.from_functions("rooms", [area])
    finally:
        del globals()["width"], globals()["product"]
    assert box.call(raw("area", width=3), sandbox).value == 6


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (raw("add"), "no tool named 'add'; there are: price, any_of"),
        (raw("price", amount="3", kind="in"), 'argument amount of price: expected a number, got "3"'),
        (raw("price", amount=True, kind="in"), "argument amount of price: expected a number, got true"),
        (raw("price", amount=None, kind="in"), "argument amount of price: expected a number, got null"),
        (raw("price", kind="in"), "argument amount of price is missing: expected a number"),
        (raw("price", amount=1, kind="up"), 'argument kind of price: expected one of "in", "out", got "up"'),
        (raw("price", amount=1, kind="in", note=2), "argument note of price: expected a text or null, got 2"),
        (raw("price", amount=1, kind="in", parts=[1, 2.0]), "argument parts[1] of price: expected an integer, got 2.0"),
        (raw("price", amount=1, kind="in", parts={}), "expected a list whose items are each an integer, got {}"),
        (raw("price", amount=1, kind="in", x=1), 'price has no argument "x"; it takes: amount, kind, note, parts'),
        (raw("any_of", a=1.5, b={}, c=[1, "y"]), "argument a of any_of: expected an integer or a text, got 1.5"),
        (raw("any_of", a=1, b={"k": "v"}, c=[1, "y"]), 'argument b.k of any_of: expected an integer, got "v"'),
        (raw("any_of", a=1, b={"k\nl": "v"}, c=[]), 'argument b."k\\nl" of any_of: expected an integer, got "v"'),
        (raw("any_of", a=1, b={"k" * 9999: "v"}, c=[]), 'argument b."kkk'),
        (raw("any_of", a=1, b={}, c=[1]), "argument c of any_of: expected 2 items, got 1"),
        ('{"name": "price", "arguments": {"amount": NaN, "kind": "in"}}', "the call holds NaN"),
        ('{"name": "price", "arguments": {"amount": 1e999, "kind": "in"}}', "not finite"),
        ('{"name": "price", "arguments": {"amount": 1, "amount": 2, "kind": "in"}}', 'the key "amount" stands twice'),
        ('{"name": "price", "arguments": {"amount": 1' + "0" * 1000 + "}}", "an integer of 1001 digits"),
        ('{"name": "price", "arguments": {"amount": ' + "[" * 100 + "]" * 100 + "}}", "nested deeper than 32"),
        ('{"name": "price", "arguments": ' + "[" * 20_000 + "}}", "nested too deep"),
        ('{"name": "price", "arguments": {"note": "\\ud800"}}', "surrogate"),
        ('{"name": "price", "arguments": {}' + " " * 70_000 + "}", "characters long: at most 65,536"),
        (
            '{"name": "price", "arguments": "amount=1"}',
            '`arguments` must be an object by argument name, got "amount=1"',
        ),
        ('{"name": "price"}', "`arguments` must be an object"),
        ('{"name": "price", "arguments": {}, "id": 1}', 'the keys name and arguments only, got "id"'),
        ('{"name": 1, "arguments": {}}', 'a call must be {"name": "…", "arguments": {…}}'),
        ("[]", "a call must be"),
        ("price(1)", "the call is not JSON: Expecting value at character 1"),
        ("", "the call is not JSON"),
    ],
)
def test_errors_say_what_was_wrong(tools: Toolbox, text: str, says: str) -> None:
    with pytest.raises(ToolError, match=re.escape(says)) as caught:
        tools.validate(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_call_that_fits(tools: Toolbox) -> None:
    call = tools.validate(raw("price", amount=10**50, kind="in", note=None))
    assert call == Call("price", {"amount": 10**50, "kind": "in", "note": None})


def test_a_batch_is_in_order(tools: Toolbox, sandbox: Sandbox) -> None:
    one = tools.subset(["any_of"])
    calls = [(tools, raw("price", amount=i, kind="in")) for i in range(20)]
    calls[3], calls[7] = (tools, "nonsense"), (one, raw("price", amount=1, kind="in"))
    got = call_many(calls, sandbox)
    assert [e.value for i, e in enumerate(got) if i not in (3, 7)] == [i + 6 for i in range(20) if i not in (3, 7)]
    assert got[3].fault == got[7].fault == "model"
    assert got[7].error == "no tool named 'price'; there are: any_of"
    assert call_many([], sandbox) == []


def test_round_trip_and_subset(tools: Toolbox) -> None:
    assert Toolbox.from_json(tools.to_json()) == replace(tools, isolate=True)
    assert tools.subset(["any_of", "price"]).names == ["any_of", "price"]
    with pytest.raises(InputError, match="toolbox prices: no tool named 'x'"):
        tools.subset(["x"])
    for text in ("{", "[]", '{"nom": 1}'):
        with pytest.raises(InputError, match="not a toolbox's JSON"):
            Toolbox.from_json(text)


FOREIGN = '''
import os
open("pwned", "w")
os.environ["PWNED"] = "1"

def area(width: float, unit: "Optional[str]" = None, *, kind: typing.Literal["a", "b"] = "a") -> float:
    """Find an area.

    Args:
        width: how wide
        unit: which unit
        kind: which kind
    """
    return width * width

def _private(x):
    return x
'''


def test_foreign_source_is_read_not_run(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
    monkeypatch.chdir(tmp_path)
    box = Toolbox.from_source("foreign", FOREIGN)
    assert not list(tmp_path.iterdir()) and box.isolate and box.names == ["area"]
    assert box.schemas[0]["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "width": {"type": "number", "description": "how wide"},
            "unit": {"type": "string", "nullable": True, "description": "which unit"},
            "kind": {"type": "string", "enum": ["a", "b"], "description": "which kind"},
        },
        "required": ["width"],
    }
    assert "Error: [Errno" in str(box.call(raw("area", width=2), sandbox).error)  # now it ran, confined
    clean = Toolbox.from_source(
        "clean", "def twice(n: int):\n    return 2 * n", [{"name": "twice", "parameters": None}]
    )
    assert clean.validate('{"name": "twice", "arguments": {}}') == Call("twice", {})
    wide = f'def f(x: int):\n    """Find.{" " * 200_000}It.\n\n    Args:\n        x: it\n    """'  # took minutes
    assert Toolbox.from_source("wide", wide).schemas[0]["function"]["description"] == "Find. It."
    bfcl = {"name": "twice", "parameters": {"type": "dict", "properties": {"n": {"type": "float"}}, "required": ["n"]}}
    clean = Toolbox.from_source("clean", "def twice(n: int):\n    return 2 * n", [bfcl])
    assert clean.call(raw("twice", n=1.5), sandbox).value == 3.0


@pytest.mark.parametrize(
    ("source", "schemas", "says"),
    [
        ("def f(:", None, "toolbox bad: the source is not Python: invalid syntax"),
        ("-" * 200_000 + "1", None, "the source is not Python: MemoryError"),
        ("\0", None, "not Python"),
        ("def f(x):\n    '''F.'''", None, "toolbox bad: tool f: argument x is missing a type hint"),
        (
            "def f(x: os.system('true')):\n    '''F.'''",
            None,
            "tool f, argument x: os.system('true') is not a plain type: use int, float, str,",
        ),
        (f"def f(x: int):\n    '''{'word ' * 3000}'''", None, "its docstring is 14,999 characters long"),
        ("def f(*x: int):\n    '''F.'''", None, "it takes * or ** arguments"),
        ("x = 1", [{"name": "f"}], "toolbox bad: the source defines no function 'f', which a schema names"),
        ("def f(): ...", [{"function": 3}], 'toolbox bad: not a tool\'s schema: {"function": 3}'),
        ("def f(): ...", [{"name": "f", "parameters": {"type": "integr"}}], 'unknown type "integr"'),
        (
            "def f(): ...",
            [{"name": "f", "parameters": {"properties": [1]}}],
            "`properties` of the schema must be a dict",
        ),
        ("def f(): ...", [{"name": "f", "parameters": {"properties": {"a": 1}}}], "expected a schema, got 1"),
    ],
)
def test_foreign_source_that_is_refused(source: str, schemas: Any, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        Toolbox.from_source("bad", source, schemas)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from("ab"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
types = st.sampled_from(["integer", "number", "string", "boolean", "array", "object", "null"])
schemas = st.recursive(
    st.fixed_dictionaries({"type": types | st.lists(types, min_size=1, max_size=2)})
    | st.fixed_dictionaries({"enum": st.lists(values, min_size=1, max_size=3)})
    | st.just({}),
    lambda inner: (
        st.fixed_dictionaries({"type": st.just("array"), "items": inner})
        | st.fixed_dictionaries({"type": st.just("array"), "prefixItems": st.lists(inner, min_size=1, max_size=2)})
        | st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)})
        | st.fixed_dictionaries({"type": st.just("object"), "additionalProperties": inner})
        | st.builds(
            lambda properties, required: {"type": "object", "properties": properties, "required": required},
            st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
            st.lists(st.sampled_from("abc"), unique=True, max_size=2),
        )
    ),
    max_leaves=5,
)


def strict(schema: Any) -> Any:
    """The toolbox's rules as a JSON schema: no undeclared key, tuples of exactly their length."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {k: v if k in ("enum", "const", "required") else strict(v) for k, v in schema.items() if k != "properties"}
    if "properties" in schema:
        made |= {"properties": {k: strict(v) for k, v in schema["properties"].items()}, "additionalProperties": False}
    if "prefixItems" in schema:
        made |= {"minItems": len(schema["prefixItems"]), "maxItems": len(schema["prefixItems"])}
    return made


# Without coercion 2.0 is no integer; JSON schema, which knows only numbers, says it is.
checker = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
    "integer", lambda _, x: isinstance(x, int) and not isinstance(x, bool)
)
Reference = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=checker)


@given(schema=schemas, value=values)
@example(schema={"enum": [{"a": False}]}, value={"a": 0})
@example(schema={"const": [True]}, value=[1])
@settings(max_examples=500, deadline=None)
def test_the_validator_agrees_with_jsonschema(schema: dict[str, Any], value: Any) -> None:
    parameters = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
    box = Toolbox.from_source("t", "def f(x): ...", [{"name": "f", "parameters": parameters}])
    text = raw("f", x=value)
    try:
        call = box.validate(text)
    except ToolError as e:
        assert not Reference(strict(schema)).is_valid(value), e
        assert "\n" not in str(e)
    else:
        assert Reference(strict(schema)).is_valid(value)
        assert json.dumps(call.arguments) == json.dumps({"x": value})


@given(st.text(max_size=200) | st.recursive(values, st.lists).map(json.dumps))
@settings(max_examples=300, deadline=None)
def test_no_text_breaks_the_validation(text: str) -> None:
    box = Toolbox.from_source("t", "def f(x): ...", [{"name": "f", "parameters": {"properties": {"x": {}}}}])
    for candidate in (text, json.dumps({"name": text, "arguments": {}}), raw("f", x=text), raw("f", **{text: 1})):
        try:
            box.validate(candidate)
        except ToolError as e:
            assert len(str(e).splitlines()) == 1
