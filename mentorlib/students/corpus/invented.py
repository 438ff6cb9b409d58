"""Questions about tools that are invented for each example, so that reading a schema generalises to unseen tools."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...data.suites.renamed import PAIRS
from ...data.suites.retrieval import RETRIEVAL
from ...data.suites.unseen import UNSEEN
from .demonstration import Demonstration, PretrainingExample, Schema
from .words import ADJECTIVES, DATA, NOUNS, TEXT_WORDS, draw_word

WRONG_TOOL_RATE = 0.1  # another tool with the same parameter types is called
WRONG_ARGUMENT_RATE = 0.08  # the first two arguments change places, or a list lacks its last number
UNRELATED_NAME_RATE = 0.4  # a tool's name is any word, so that only its description says what it does
# Names and descriptions of the suites' unseen tools, which pretraining must not show.
HELD_OUT = {s["function"][k] for s in (*UNSEEN.schemas, *RETRIEVAL.schemas) for k in ("name", "description")}


@dataclass(frozen=True)
class InventedTool:
    """A tool's schema, question templates ("{0}" is the first argument), JSON types of the parameters, and function."""

    schema: Schema
    questions: list[str]
    types: list[str]
    result: Callable[[list[Any]], Any]

    @property
    def name(self) -> str:
        """The name in the schema."""
        return str(self.schema["function"]["name"])

    def arguments(self, values: list[Any]) -> dict[str, Any]:
        """Values by parameter name."""
        return dict(zip(self.schema["function"]["parameters"]["required"], values, strict=True))


def make_schema(name: str, description: str, parameters: list[tuple[str, str, str]], returns: str) -> Schema:
    """A schema as get_json_schema gives it; parameters are (name, JSON type, description)."""
    properties: dict[str, Any] = {}
    for parameter, kind, text in parameters:
        typed: dict[str, Any] = {"type": "array", "items": {"type": "number"}} if kind == "array" else {"type": kind}
        properties[parameter] = {**typed, "description": text}
    shape = {"type": "object", "properties": properties, "required": [p for p, _, _ in parameters]}
    function = {"name": name, "description": description, "parameters": shape, "return": {"type": returns}}
    return {"type": "function", "function": function}


def is_held_out(schema: Schema) -> bool:
    """Whether the name or the description is that of a suite's unseen tool."""
    return not HELD_OUT.isdisjoint((schema["function"]["name"], schema["function"]["description"]))


def invent_tool(rng: random.Random) -> InventedTool:
    """Invent a tool that no suite has."""
    template = rng.choice(DATA["tools"])
    description = template["description"]
    words = {"a": draw_word(rng, ADJECTIVES), **{x: draw_word(rng, NOUNS) for x in "bcde"}}
    words["p"] = rng.choice(["{a}", "in {a}", "as {a}", "in {b}", "as {b}", "{a} {b}"]).format(**words)
    if rng.random() < 0.5:  # the word that a question has is then only in the description, not in the name
        words["a"] = words["a"] if "{a}" in description else draw_word(rng, ADJECTIVES)
    words["x"] = rng.choice(["x", "n", words["b"], words["b"], words["c"], "amount", "size"])
    words["xs"] = rng.choice(["values", "numbers", "items", "list", words["b"]])
    words["t"] = rng.choice(["text", "text", "word", "string", "line", words["b"]])
    words["n"] = rng.choice(["times", "n", "often", words["c"]])
    words["i"], words["j"] = rng.choice([*PAIRS, (words["b"], words["c"])])
    parameters = [(name.format(**words), kind, text.format(**words)) for name, kind, text in template["parameters"]]
    name = template["name"].format(**words) if rng.random() >= UNRELATED_NAME_RATE else draw_word(rng, NOUNS)
    schema = make_schema(name, description.format(**words), parameters, template["returns"])
    if is_held_out(schema) or len({name for name, _, _ in parameters}) < len(parameters):
        return invent_tool(rng)
    places = [f"{{{i}}}" for i in range(len(parameters))]
    questions = [question.format(*places, **words) for question in template["questions"]]
    return InventedTool(
        schema, questions, [kind for _, kind, _ in parameters], _draw_function(rng, template["returns"])
    )


def _draw_function(rng: random.Random, returns: str) -> Callable[[list[Any]], Any]:
    """A small function from a tool's arguments to a value of its return type."""
    if returns == "string":
        s = rng.choice(TEXT_WORDS)
        write = rng.choice([lambda t: t[::-1], str.upper, str.title, lambda t: t + s, lambda t: s + t, lambda t: t * 2])
        return lambda values: write("".join(v for v in values if isinstance(v, str)))
    factor, offset = rng.randint(1, 12), rng.choice([0, rng.randint(1, 60)])
    choices: list[Callable[[list[Any]], Any]] = [max, min, sum, len, lambda v: v[0], lambda v: v[-1]]
    pick = rng.choice(choices)

    def number(values: list[Any]) -> Any:
        flat = [x for v in values for x in (v if isinstance(v, list) else [len(v) if isinstance(v, str) else v])]
        return pick(flat) if len(flat) > 1 else flat[0] * factor + offset

    return number


def _draw_value(rng: random.Random, kind: str) -> Any:
    """An argument of a JSON type."""
    if kind == "array":
        return [rng.randint(1, 99) for _ in range(rng.randint(2, 5))]
    if kind == "string":
        return " ".join(draw_word(rng, rng.choice([TEXT_WORDS, TEXT_WORDS, NOUNS])) for _ in range(rng.randint(1, 3)))
    return rng.randint(2, 30) if kind == "integer" else rng.randint(1, rng.choice([20, 99, 999]))


def _wrong_values(values: list[Any]) -> list[Any]:
    """The first two values swapped if their types agree, else a list without its last number, else the same."""
    first, *rest = values
    if rest and type(rest[0]) is type(first):
        return [rest[0], first, *rest[1:]]
    return [first[:-1], *rest] if isinstance(first, list) and len(first) > 1 else values


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def invented_example(
    rng: random.Random, n_questions: int, explicit_share: float, error_scale: float
) -> PretrainingExample:
    """Questions about two to six invented tools.

    Args:
        rng: random generator.
        n_questions: number of chats.
        explicit_share: share of questions that spell out the call ("Use boat_tax with boat 3."): the first to learn.
        error_scale: see pretraining_examples.
    """
    tools = list({tool.name: tool for tool in (invent_tool(rng) for _ in range(rng.randint(2, 6)))}.values())
    chats = []
    for _ in range(n_questions):
        tool = rng.choice(tools)
        values = [_draw_value(rng, kind) for kind in tool.types]
        if rng.random() < explicit_share:
            pairs = [f"{p} {_text(v)}" for p, v in tool.arguments(values).items()]
            rng.shuffle(pairs)
            question = f"Use {tool.name} with {' and '.join(pairs)}."
        else:
            question = rng.choice(tool.questions).format(*map(_text, values))
            alternatives = [t for t in tools if t.types == tool.types]
            tool = rng.choice(alternatives) if rng.random() < WRONG_TOOL_RATE * error_scale else tool
            values = _wrong_values(values) if rng.random() < WRONG_ARGUMENT_RATE * error_scale else values
        demonstration = Demonstration(rng, [tool.name for tool in tools], error_scale)
        result = tool.result(values)
        if demonstration.call(tool.name, tool.arguments(values), result):
            demonstration.answer(result)
        chats.append((question, demonstration.messages))
    return [tool.schema for tool in tools], chats
