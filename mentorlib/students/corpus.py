"""What the nano student reads before anybody distils into it: sloppy demonstrations, drawn without end.

A lesson is a toolbox and several questions about it. Four kinds: questions on tools invented on the spot (so that
reading a schema generalises to tools never seen), chains over invented tools (so that a plan can be longer than the
calculator problems here, which have one to four calls), look-ups with invented tools that answer in a sentence, and the
calculator suite's pretraining split, in more wordings than the suite has.

Kept from pretraining: the tools of the "unseen" and "retrieval" rungs (by name and by description), the sentences of
the "wording" rung, the documents, the shapes of question and the towns of "retrieval", the problems of the other splits
(by numbers). Not kept: the other words. A student of this size cannot copy or match words that it has never met, so the
invented tools are built of the words that the unseen tools and their questions use, among others, in the same few
shapes of question, the look-ups know aunts and towns, and the extra calculator wordings share words with the held-out
ones. What those rungs measure is new tools and new sentences made of known words.

The demonstrator speaks the format well and is careless where a problem looks easy: in one of at most two sentences it
takes a tempting wrong tool, how often depends on the kind of step (``TEMPTATION``), and in a look-up of two hops it
often stops at the first (``HASTY``), so that the student's greedy choice is wrong for some kinds and right for others:
room to gain for a reward, room to lose for a careless fine-tune. In longer problems it is careful: a habit that is
wrong in one step of six would leave no chain of six right.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..core import Call, Execution, Message
from ..data.suites import calculator
from ..data.suites.calculator import CALCULATOR
from ..data.suites.retrieval import RETRIEVAL, TOWNS
from ..data.suites.unseen import UNSEEN

Schema = dict[str, Any]
Lesson = tuple[list[Schema], list[tuple[str, list[Message]]]]  # schemas, (question, answer) of each question

# kind of step -> (chance of the mistake, the wrong plan), in problems of at most two sentences before the question
TEMPTATION: dict[str, tuple[float, str]] = {
    "sum": (0.65, "first two"),
    "product": (0.5, "add"),
    "square": (0.65, "double"),
    "gain": (0.05, "subtract"),
    "lose": (0.05, "add"),
    "times": (0.05, "add"),
    "share": (0.05, "multiply"),
    "leftover": (0.65, "divide"),
    "full": (0.3, "divide"),
    "needed": (0.65, "floor"),
    "side": (0.3, "halve"),
    "round": (0.3, "divide"),
    "apart": (0.65, "subtract"),
}
HASTY = 0.6  # chance that a look-up of two hops stops at the first

NOUNS = (
    "heat load mass speed depth width area grain flour water metal cargo score rank grade level price cost tax "
    "rent wage debt loan gift prize ticket seat room floor wall roof brick board plank wheel gear belt chain rope "
    "wire cable pipe tank drum barrel bucket bowl plate fuel coal steam smoke ash dust mud clay rock gem silk "
    "wool thread needle shirt shoe hat crown flag horn flute harp song verse page stamp map route path bridge "
    "port ship boat sail hook shell wave beach cliff cave hill field farm barn crop wheat corn rice leaf branch "
    "seed petal pond stream river frost snow ice storm cloud dawn night comet planet signal code key lock gate "
    "sign torch mirror lens letters words values pieces minutes hours days weeks meters centimeters dozens parts "
    "lines signs seconds years miles cups grams inches pairs spaces"
).split()
ADJECTIVES = (
    "big small long short wide thin deep flat round sharp soft hard rough smooth heavy light fast slow early late "
    "old new young dry wet warm cold bright dark pale red blue green white black gray golden silver inner outer "
    "upper lower front rear left right main extra spare total net gross plain rare safe free loose full empty "
    "clean largest smallest last first best worst middle backwards capitals reverse upper repeat join one several "
    "mirrored"
).split()
SLOTS = "plum jar cup tile star lake moon bird road tree fish lamp coat door ring sand wind gold milk salt".split()
SYLLABLES = (
    "ba be bo da di du fa fe ga go ha hi ka ke la le li lo ma me mo na ne no pa po ra re ri ro sa se so ta te ti to va "
    "er st ly nd al in on es or an ut em wh ch sh th ck ight oun"
).split()

# Kinds of invented tools: name, description, parameters (name, type, description), result, questions. Letters stand for
# words drawn anew for each tool, digits for the arguments in order.
KINDS: list[tuple[str, str, list[tuple[str, str, str]], str, list[str]]] = [
    (
        "{b}_to_{c}",
        "Turn {b} into {c}.",
        [("{x}", "number", "how many {b}")],
        "number",
        ["How many {c} are {0} {b}?", "Turn {0} {b} into {c}.", "How much {c} is {0} {b}?", "What is {0} {b} in {c}?"],
    ),
    (
        "{a}_{b}",
        "Find the {a} {b} of a list.",
        [("{xs}", "array", "the {xs}")],
        "number",
        ["What is the {a} {b} of {0}?", "Find the {a} {b} of {0}.", "Which {b} is the {a} of {0}?"],
    ),
    (
        "{a}",
        "Find the {a} value of a list.",
        [("{xs}", "array", "the {xs}")],
        "number",
        ["What is the {a} value of {0}?", "Find the {a} value of {0}."],
    ),
    (
        "count_{b}",
        "Count the {b} of a list.",
        [("{xs}", "array", "the {xs}")],
        "integer",
        ["How many {b} are {0}?", "Count the {b} of {0}."],
    ),
    (
        "count_{b}",
        "Count the {b} in a text.",
        [("{t}", "string", "the {t}")],
        "integer",
        ['How many {b} are in "{0}"?', 'Count the {b} in "{0}".'],
    ),
    (
        "{a}_text",
        "Write a text {p}.",
        [("{t}", "string", "the {t}")],
        "string",
        ['Write "{0}" {p}.', 'Show "{0}" {p}.'],
    ),
    (
        "{a}_text",
        "Write a text {b} times.",
        [("{t}", "string", "the {t}"), ("{n}", "integer", "how often")],
        "string",
        ['Write "{0}" {1} {b} times.', 'Write "{0}" {b} times, {1} of them.', 'Write "{0}" {1} times {b}.'],
    ),
    (
        "{a}_texts",
        "Write two texts {p}.",
        [("{i}", "string", "{i} text"), ("{j}", "string", "{j} text")],
        "string",
        ['Write "{0}" and "{1}" {p}.', 'Show "{0}" and "{1}" {p}.'],
    ),
    (
        "{a}_{b}",
        "Find the {a} {b} of two numbers.",
        [("{i}", "number", "{i} number"), ("{j}", "number", "{j} number")],
        "number",
        ["What is the {a} {b} of {0} and {1}?", "Find the {a} {b} of {0} and {1}."],
    ),
    (
        "{b}_{c}",
        "Work out the {c} of some {b}.",
        [("{x}", "number", "the {b}")],
        "number",
        ["What is the {c} of {0} {b}?", "Work out the {c} of {0} {b}.", "Some {b} is {0}. What is its {c}?"],
    ),
    (
        "{a}_{b}",
        "Find the {b} of {a} {c}.",
        [("{c}", "number", "the {c}"), ("{d}", "number", "the {d}")],
        "number",
        [
            "What is the {b} of {a} {c} with {c} {0} and {d} {1}?",
            "The {d} is {1} and the {c} is {0}. Find the {b} of {a} {c}.",
        ],
    ),
    (
        "{a}_{b}_{c}",
        "Find the {a} {b} of a {c}.",
        [("{c}", "string", "the {c}"), ("{d}", "integer", "the {d}"), ("{e}", "number", "the {e}")],
        "string",
        [
            'The {c} is "{0}", the {d} is {1} and the {e} is {2}. What is the {a} {b}?',
            'Find the {a} {b} of "{0}" with {e} {2} and {d} {1}.',
        ],
    ),
    (
        "{a}_{b}",
        "Give the {a} {b} of a list and a {c}.",
        [("{xs}", "array", "the {xs}"), ("{c}", "number", "the {c}")],
        "number",
        ["Give the {a} {b} of {0} with {c} {1}.", "The {c} is {1}. What is the {a} {b} of {0}?"],
    ),
    (
        "{a}_{b}_{c}",
        "Work out the {a} {b} of four numbers.",
        [
            ("{b}", "number", "the {b}"),
            ("{c}", "number", "the {c}"),
            ("{d}", "number", "the {d}"),
            ("{e}", "number", "the {e}"),
        ],
        "number",
        ["What is the {a} {b} when {c} is {1}, {b} is {0}, {e} is {3} and {d} is {2}?"],
    ),
]
FOLK = "aunt uncle teacher doctor boss neighbor cousin sister brother nurse cook pilot captain king queen baker".split()
PLACES = "town city village street harbor farm school market valley island".split()
PAIRS = [("a", "b"), ("x", "y"), ("first", "second"), ("left", "right"), ("one", "other")]
KNOWN = {s["function"][k] for s in (*UNSEEN.schemas, *RETRIEVAL.schemas) for k in ("name", "description")}


def _word(rng: random.Random, words: list[str]) -> str:
    """A word of the list, or one time in eight a made-up one: copying strange word pieces has to be practised."""
    return rng.choice(words) if rng.random() < 0.88 else "".join(rng.choices(SYLLABLES, k=rng.randint(2, 3)))


def _schema(name: str, description: str, parameters: list[tuple[str, str, str]], returns: str) -> Schema:
    """A schema of the shape get_json_schema gives; parameters are (name, JSON type, description)."""
    properties: dict[str, Any] = {}
    for parameter, kind, text in parameters:
        typed: dict[str, Any] = {"type": "array", "items": {"type": "number"}} if kind == "array" else {"type": kind}
        properties[parameter] = {**typed, "description": text}
    shape = {"type": "object", "properties": properties, "required": [p for p, _, _ in parameters]}
    function = {"name": name, "description": description, "parameters": shape, "return": {"type": returns}}
    return {"type": "function", "function": function}


def _value(rng: random.Random, kind: str) -> Any:
    """An argument of a JSON type."""
    if kind == "array":
        return [rng.randint(1, 99) for _ in range(rng.randint(2, 5))]
    if kind == "string":
        return " ".join(_word(rng, rng.choice([SLOTS, SLOTS, NOUNS])) for _ in range(rng.randint(1, 3)))
    return rng.randint(2, 30) if kind == "integer" else rng.randint(1, rng.choice([20, 99, 999]))


def _result(rng: random.Random, returns: str) -> Callable[[list[Any]], Any]:
    """A small function from arguments to a value of the type that a tool returns."""
    if returns == "string":
        s = rng.choice(SLOTS)
        write = rng.choice([lambda t: t[::-1], str.upper, str.title, lambda t: t + s, lambda t: s + t, lambda t: t * 2])
        return lambda values: write("".join(v for v in values if isinstance(v, str)))
    k, m = rng.randint(1, 12), rng.choice([0, rng.randint(1, 60)])
    choices: list[Callable[[list[Any]], Any]] = [max, min, sum, len, lambda v: v[0], lambda v: v[-1]]
    pick = rng.choice(choices)

    def number(values: list[Any]) -> float:
        flat = [x for v in values for x in (v if isinstance(v, list) else [len(v) if isinstance(v, str) else v])]
        return pick(flat) if len(flat) > 1 else flat[0] * k + m  # type: ignore[no-any-return]

    return number


@dataclass(frozen=True)
class Tool:
    """An invented tool: what a prompt shows of it, how people ask for it, and what it gives."""

    schema: Schema
    questions: list[str]
    types: list[str]
    result: Callable[[list[Any]], Any]

    @property
    def name(self) -> str:
        return str(self.schema["function"]["name"])

    def arguments(self, values: list[Any]) -> dict[str, Any]:
        return dict(zip(self.schema["function"]["parameters"]["required"], values, strict=True))


def invent(rng: random.Random) -> Tool:
    """Invent a tool that is no suite's."""
    name, description, parameters, returns, questions = rng.choice(KINDS)
    words = {"a": _word(rng, ADJECTIVES), **{x: _word(rng, NOUNS) for x in "bcde"}}
    words["p"] = rng.choice(["{a}", "in {a}", "as {a}", "in {b}", "as {b}", "{a} {b}"]).format(**words)
    if rng.random() < 0.5:  # the word that a question has is then in the description alone
        words["a"] = words["a"] if "{a}" in description else _word(rng, ADJECTIVES)
    words["x"] = rng.choice(["x", "n", words["b"], words["b"], words["c"], "amount", "size"])
    words["xs"] = rng.choice(["values", "numbers", "items", "list", words["b"]])
    words["t"] = rng.choice(["text", "text", "word", "string", "line", words["b"]])
    words["n"] = rng.choice(["times", "n", "often", words["c"]])
    words["i"], words["j"] = rng.choice([*PAIRS, (words["b"], words["c"])])
    filled = [tuple(part.format(**words) for part in p) for p in parameters]
    schema = _schema(name.format(**words), description.format(**words), filled, returns)  # type: ignore[arg-type]
    texts = {schema["function"]["name"], schema["function"]["description"]}
    if texts & KNOWN or len({p for p, _, _ in filled}) < len(filled):
        return invent(rng)
    slots = {str(i): "{" + str(i) + "}" for i in range(len(filled))}
    asked = [_fill(q, words | slots) for q in questions]
    return Tool(schema, asked, [t for _, t, _ in filled], _result(rng, returns))


def _fill(template: str, words: dict[str, str]) -> str:
    """str.format with digits as names too."""
    for key, word in words.items():
        template = template.replace("{" + key + "}", word)
    return template


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


class Demonstrator:
    """Writes one answer turn by turn, with the slips of a sloppy speaker of the format (careless 0: none)."""

    def __init__(self, rng: random.Random, offered: list[str], careless: float):
        self.rng, self.offered, self.careless = rng, offered, careless
        self.messages: list[Message] = []

    def _say(self, content: str, call: Call | None = None) -> None:
        message: Message = {"role": "assistant", "content": content}
        if call:
            message["tool_calls"] = [call.message]
        self.messages.append(message)

    def _hear(self, text: str) -> None:
        self.messages.append({"role": "tool", "content": text})

    def call(self, name: str, arguments: dict[str, Any], result: Any) -> bool:
        """Make a call, perhaps with a slip before it; False if the demonstrator gave up."""
        if self.rng.random() < 0.01 * self.careless:
            invented = name + "_all"
            self._say("", Call(invented, arguments))
            self._hear(f"error: no tool named '{invented}'; there are: {', '.join(self.offered)}")
            if self.rng.random() < 0.3:
                self._say("I cannot solve this.")
                return False
        if self.rng.random() < 0.005 * self.careless:
            text = json.dumps({"name": name, "arguments": arguments})
            self._say(f"<tool_call>\n{text[:-1]}\n</tool_call>")
            self._hear("error: the call is not valid JSON")
        self._say("", Call(name, arguments))
        self._hear(Execution(value=result).text)
        return True

    def answer(self, value: Any) -> None:
        self._say(f"The answer is \\boxed{{{Execution(value=value).text}}}.")


def invented_lesson(rng: random.Random, questions: int, spelt: float, careless: float) -> Lesson:
    """Questions on invented tools; one time in eight, if careless, another tool of the same parameter types is called.

    Args:
        rng: the source of chance.
        questions: how many.
        spelt: share of questions that spell the call out ("Use boat_tax with boat 3."): the first thing to learn.
        careless: see lessons.
    """
    tools = list({tool.name: tool for tool in (invent(rng) for _ in range(rng.randint(2, 6)))}.values())
    offered = [tool.name for tool in tools]
    asked = []
    for _ in range(questions):
        tool = rng.choice(tools)
        values = [_value(rng, kind) for kind in tool.types]
        if rng.random() < spelt:
            pairs = [f"{p} {_shown(v)}" for p, v in tool.arguments(values).items()]
            rng.shuffle(pairs)
            question = f"Use {tool.name} with {' and '.join(pairs)}."
        else:
            question = _fill(rng.choice(tool.questions), {str(i): _shown(v) for i, v in enumerate(values)})
            rivals = [t for t in tools if t.types == tool.types]
            tool = rng.choice(rivals) if rng.random() < 0.12 * careless else tool
        speaker = Demonstrator(rng, offered, careless)
        result = tool.result(values)
        if speaker.call(tool.name, tool.arguments(values), result):
            speaker.answer(result)
        asked.append((question, speaker.messages))
    return [tool.schema for tool in tools], asked


# Sentences of a chain's steps; what they mean is for the tools to say, but their shapes are those of word problems.
STEPS = [
    "It gets {v} by {n}.",
    "Then {n} {v}.",
    "{n} make it {v}.",
    "Then there are {n} times as {v}.",
    "{name} gets {n} {v}.",
    "{n} of them are {v}.",
    "{n} friends {v} them.",
    "They are {v} in {n} parts, and one part is kept.",
]


def chain_lesson(rng: random.Random, questions: int, careless: float) -> Lesson:
    """Chains of one to seven calls over invented tools that change a running value, one sentence a call.

    A third of the chains start with a call of their own, on a list. Values stay below 5,000, as in word problems.
    """
    pair = rng.choice([p for p in PAIRS if p[0] != "x"])
    start, *verbs = rng.sample(ADJECTIVES, rng.randint(3, 5))
    noun = _word(rng, NOUNS)
    start, *names = [rng.choice([v, f"{v}_{noun}", f"{noun}_{v}"]) for v in (start, *verbs)]
    schemas = [
        _schema(start, f"Make one {noun} of a list.", [("numbers", "array", f"the {noun}")], "number"),
        *(
            _schema(
                name,
                f"Make the {noun} {v} by a number.",
                [(pair[0], "number", f"the {noun}"), (pair[1], "number", "the number")],
                "number",
            )
            for name, v in zip(names, verbs, strict=True)
        ),
    ]
    rng.shuffle(schemas)
    offered = [str(s["function"]["name"]) for s in schemas]
    if set(offered) & KNOWN:
        return chain_lesson(rng, questions, careless)
    factors = [(rng.choice([1, 1, 1, 2, 3]), rng.randint(-3, 3)) for _ in verbs]
    forms = [rng.sample(STEPS, 2) for _ in verbs]
    asked = []
    for _ in range(questions):
        name = rng.choice(calculator.NAMES)
        value = rng.randint(2, 99)
        speaker = Demonstrator(rng, offered, careless)
        sentences = [rng.choice([f"The {noun} is {value}.", f"{name} has {value} {noun}."])]
        going = True
        if rng.random() < 0.33:
            numbers = [rng.randint(2, 40) for _ in range(rng.randint(2, 4))]
            value = sum(numbers)
            listed = ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"
            sentences = [rng.choice([f"The {noun} is {listed}.", f"{name} has {listed} {noun}."])]
            going = speaker.call(start, {"numbers": numbers}, value)
        for _ in range(rng.randint(1, 6)):
            i, n = rng.randrange(len(verbs)), rng.randint(2, rng.choice([9, 60]))
            sentences.append(rng.choice(forms[i]).format(v=verbs[i], n=n, name=name))
            result = abs(value * factors[i][0] + factors[i][1] * n) % 5000
            going = going and speaker.call(names[i], {pair[0]: value, pair[1]: n}, result)
            value = result
        if going:
            speaker.answer(value)
        ends = [f"What is the {noun} now?", "What is it now?", f"How many {noun} are there now?"]
        asked.append((" ".join([*sentences, rng.choice(ends)]), speaker.messages))
    return schemas, asked


# What look-ups are about: sentences that a tool answers with, and questions; {w} is asked about, {x} is what is found.
FACTS: dict[str, tuple[list[str], list[str]]] = {
    "folk": (
        ["{x} is {k} to {w}.", "As {k} {w} has {x}.", "{w} calls {x} the {k}.", "{w} has one {k}: {x}."],
        ["Name the {k} of {w}.", "Tell who is the {k} of {w}.", "Who works as {k} of {w}?", "What is the {k} of {w}?"],
    ),
    "place": (
        ["{w} works at the {k} {x}.", "{w} comes from {x}, a {k}.", "{x} is the {k} where {w} lives."],
        ["At which {k} does {w} work?", "Which {k} does {w} come from?", "Near which {k} does {w} live?"],
    ),
    "things": (
        ["{w} owns {x} {k}.", "{x} {k} belong to {w}.", "There are {x} {k} for {w}."],
        ["How many {k} belong to {w}?", "How many {k} does {w} own?", "What number of {k} does {w} have?"],
    ),
}


def _proper(rng: random.Random) -> str:
    """The name of a place, made of two parts; no town of the "retrieval" rung."""
    end = rng.choice([*SLOTS, *SYLLABLES, "field", "hill", "side", "ford", "wood", "port", "stead", "ham"])
    name = (rng.choice(SLOTS) + end).title()
    return _proper(rng) if name in TOWNS else name


def lookup_lesson(rng: random.Random, questions: int, careless: float) -> Lesson:
    """Questions of one or two hops: an invented tool is asked with two words and answers in a sentence.

    A hop says what and whose: "aunt Mia", then "town Lea". Offered beside it are tools that do not help.
    """
    b, c = _word(rng, NOUNS), _word(rng, NOUNS)
    name = rng.choice(["search", "search", "ask", "look", "find", "get", "read"])
    name = rng.choice([name, f"{name}_{b}", f"{b}_{name}", b])
    about = rng.choice(["some words", f"some {c}", "a document", "a text"])
    does = rng.choice(["Look up {a}.", "Tell what is known of {a}.", "Ask the {b} for {a}.", "Find the {b} of {a}."])
    parameter = rng.choice(["query", "query", "words", "text", "about", b])
    tool = _schema(
        name, does.format(a=about, b=b), [(parameter, "string", rng.choice(["the words", f"the {c}"]))], "string"
    )
    beside = [invent(rng).schema for _ in range(rng.randint(1, 2))]
    if rng.random() < 0.7:
        beside = list(CALCULATOR.subset(rng.sample(CALCULATOR.names, rng.randint(2, 4))).schemas)
    schemas = list({s["function"]["name"]: s for s in [*beside, tool]}.values())
    if {tool["function"]["name"], tool["function"]["description"]} & KNOWN:
        return lookup_lesson(rng, questions, careless)
    rng.shuffle(schemas)
    asked = []
    for _ in range(questions):
        speaker = Demonstrator(rng, [s["function"]["name"] for s in schemas], careless)
        who, *found = rng.sample(calculator.NAMES, 3)
        said, going = who, True
        kind = rng.choice(list(FACTS))
        hasty = False
        if rng.random() < 0.5:
            k = rng.choice([rng.choice(FOLK), _word(rng, NOUNS)])
            text = rng.choice(FACTS["folk"][0]).format(k=k, w=who, x=found[0])
            going = speaker.call(name, {parameter: f"{k} {who}"}, text)
            said, who = f"the {k} of {who}", found[0]
            hasty = rng.random() < HASTY * careless
        words = {"folk": FOLK, "place": PLACES, "things": [*calculator.THINGS, *calculator.BOXES]}[kind]
        k = rng.choice([rng.choice(words), _word(rng, NOUNS)])
        x = {"folk": found[1], "place": _proper(rng), "things": str(rng.randint(2, 99))}[kind]
        documents, templates = FACTS[kind]
        asked.append((rng.choice(templates).format(k=k, w=said), speaker.messages))
        if hasty and going:
            speaker.answer(who)
        elif going and speaker.call(name, {parameter: f"{k} {who}"}, rng.choice(documents).format(k=k, w=who, x=x)):
            speaker.answer(x)
    return schemas, asked


# Wordings beside the suite's own; none is a sentence of the "wording" rung, most of whose words they use.
MORE_WORDING: dict[str, list[str]] = {
    "have": [
        "There are {n} {things} in front of {name}.",
        "{name} owns {n} {things}.",
        "On a table {name} has {n} {things}.",
        "{n} {things} belong to {name}.",
        "A table that {name} owns has {n} {things} on it.",
        "There is a person, {name}, that holds {n} {things}.",
    ],
    "sum": [
        "{name} brings home {ns} {things}.",
        "One day after another {name} finds {ns} {things}.",
        "On one day and the next {name} takes {ns} {things}.",
        "First and then later {name} puts down {ns} {things}.",
        "Day by day {name} brings {ns} {things}.",
        "There are {ns} {things} that {name} takes home.",
    ],
    "product": [
        "There are {n} {boxes} and each holds {m} {things}.",
        "{name} owns {n} {boxes}, and each of them has {m} {things}.",
        "Each of {n} {boxes} holds {m} {things} for {name}.",
        "{n} {boxes} that belong to {name} hold {m} {things} each.",
        "In each of the {n} {boxes} there are {m} {things}.",
        "{name} fills {n} {boxes}, each one with {m} {things}.",
    ],
    "square": [
        "{name} puts down a square of {things}, {n} long.",
        "A square of {things} that is {n} wide and {n} long belongs to {name}.",
        "{things} form a square, {n} wide, in front of {name}.",
        "{name} has a square, just {n} {things} wide.",
        "What {name} owns is a square with an edge of {n} {things}.",
        "{name} forms a square of {things} with {n} on an edge.",
    ],
    "gain": [
        "A friend gives {name} {n} more.",
        "Another {n} come from a friend.",
        "Then {n} more are put there.",
        "{name} takes another {n}.",
        "A person hands {n} more to {name}.",
        "A friend brings another {n} over.",
        "{n} more belong to {name} after that.",
    ],
    "lose": [
        "A thief gets {n} of them.",
        "{n} are taken from {name}.",
        "{n} of them fall down.",
        "A friend takes {n} of them from {name}.",
        "A person takes {n} away.",
        "{name} hands {n} of them to a thief.",
        "Then {n} are lost.",
    ],
    "times": [
        "After a day there are {n} times what there was.",
        "It grows to {n} times what it was.",
        "In a while it is {n} times as much.",
        "The amount grows to {n} times as many.",
        "After that the amount is {n} times as big.",
        "Then it was {n} times the amount.",
    ],
    "share": [
        "{n} people share all in equal parts.",
        "Each of {n} people takes an equal part.",
        "Each of {n} friends gets an equal portion.",
        "An equal part is for each of {n} friends.",
        "They go to {n} people in equal portions, and one portion is kept.",
        "One of {n} equal portions is kept.",
    ],
    "leftover": [
        "{boxes} hold {n} and are filled. How many {things} do not fit?",
        "They go into {boxes} of {n}. What number of {things} is left over?",
        "{boxes} of {n} are filled to the top. How many {things} are left?",
        "They fill {boxes} that hold {n} each. How many {things} does not fit into them?",
        "One of the {boxes} takes {n}. What number of {things} is left when they are filled?",
    ],
    "full": [
        "They go into {boxes} of {n}. How many {boxes} can be filled?",
        "Each of the {boxes} takes {n}. What number of {boxes} is full?",
        "One of the {boxes} holds {n}. How many can they fill to the top?",
        "{boxes} hold {n} each. How many of them are filled to the top?",
        "They fill {boxes} of {n}. What number of them can be full?",
    ],
    "needed": [
        "They go into {boxes} of {n}. What is the least number of {boxes} for everything?",
        "Each of the {boxes} takes {n}. How many {boxes} are needed for all?",
        "One of the {boxes} holds {n}. How many does it take for everything?",
        "{boxes} hold {n} each. What number of them takes everything?",
        "They fill {boxes} of {n}. At least how many {boxes} hold everything?",
    ],
    "side": [
        "They form a square. How long is each side?",
        "All are put in a square. How many {things} long is it?",
        "A square is made of all of them. What is its edge?",
        "All of them are laid as a square. What is the edge in {things}?",
        "They form a square. How wide is it in {things}?",
    ],
    "round": [
        "{n} people share them. What is one portion, to {m} decimals?",
        "They are split for {n} people. How many does one get, to {m} decimals?",
        "What does one of {n} friends get, rounded to {m} decimals?",
        "One of {n} people gets a portion. How big is it to {m} decimals?",
        "{n} friends take a portion each. What is a portion, rounded to {m} decimals?",
    ],
    "apart": [
        "Another friend owns {n}. How far apart are they?",
        "A person has {n}. By how many do the two differ?",
        "Another one has {n}. What number is between the two?",
        "A friend owns {n}. By what do the numbers differ?",
        "Another person holds {n}. How far do the two differ?",
    ],
    "ask": [
        "What number of {things} is there?",
        "How many {things} are there in the end?",
        "What is the number of {things} now?",
        "How many {things} does {name} have?",
        "What is the last number?",
    ],
}
WORDING = {kind: [*2 * own, *MORE_WORDING[kind]] for kind, (own, _) in calculator.WORDING.items()}


def _wrong_plan(mistake: str, step: calculator.Step) -> calculator.Plan:
    """The tempting wrong way of a step."""
    v = calculator.VALUE
    n = step.numbers[0] if step.numbers else 2
    m = step.numbers[1] if len(step.numbers) > 1 else n
    first = n if step.kind in ("sum", "product", "square") else v
    second = m if step.kind in ("sum", "product") else n
    plans: dict[str, calculator.Plan] = {
        "first two": [("add", {"a": n, "b": m})],
        "add": [("add", {"a": first, "b": second})],
        "subtract": [("subtract", {"a": first, "b": second})],
        "multiply": [("multiply", {"a": first, "b": second})],
        "divide": [("divide", {"a": first, "b": second})],
        "double": [("multiply", {"a": n, "b": 2})],
        "halve": [("divide", {"a": v, "b": 2})],
        "floor": [("divide", {"a": v, "b": n}), ("floor", {"x": "$1"})],
    }
    return plans[mistake]


def _problem(rng: random.Random) -> calculator.WordProblem:
    """A word problem of one to four calls, each as likely, of the pretraining split."""
    calls = rng.randint(1, 4)
    while True:
        problem = calculator.draw(rng, calls=(calls, calls), n_tools=0, wording=WORDING)
        if problem.split == "pretrain":
            return problem


def calculator_lesson(rng: random.Random, questions: int, careless: float) -> Lesson:
    """Word problems of the pretraining split, solved sloppily; at least five tools are offered."""
    problems = [_problem(rng) for _ in range(questions)]
    offered = sorted({tool for problem in problems for tool in problem.toolbox.names})
    rest = [name for name in calculator.FUNCTIONS if name not in offered]
    offered += rng.sample(rest, min(len(rest), max(rng.randint(0, 2), 5 - len(offered))))
    rng.shuffle(offered)
    return list(CALCULATOR.subset(offered).schemas), [(p.question, _solve(rng, p, offered, careless)) for p in problems]


def _solve(rng: random.Random, problem: calculator.WordProblem, offered: list[str], careless: float) -> list[Message]:
    speaker = Demonstrator(rng, offered, careless)
    easy = len(problem.steps) <= 2
    value: Any = None
    for step in problem.steps:
        if not step.variants[0]:
            value = step.numbers[0]
            continue
        if step.kind == "side" and value < 0:
            break  # after a mistake: no square, and the answer so far is given as the last
        chance, mistake = TEMPTATION[step.kind]
        wrong = _wrong_plan(mistake, step)
        if easy and rng.random() < chance * careless and all(name in offered for name, _ in wrong):
            plan = wrong
        else:
            plan = step.variants[0] if rng.random() < (0.8 if easy else 0.95) else rng.choice(step.variants)
        calls, value = calculator.run_plan(plan, value)
        if not all(speaker.call(*c) for c in calls):
            return speaker.messages
    speaker.answer(value)
    return speaker.messages


def pretraining_examples(n: int, seed: str, early: float = 0.0, careless: float = 1.0) -> list[Lesson]:
    """n lessons: 36% on the calculator, 22% chains, 14% look-ups, the rest on invented tools.

    Args:
        n: how many.
        seed: of everything drawn; the same seed gives the same lessons.
        early: 1 at the beginning of training, when nearly all lessons are on invented tools and spell the call out, for
            copying comes before choosing; 0 when that is learnt.
        careless: 1 for a student to mend, 0 for a teacher: a factor of every chance to slip or to choose wrongly.
    """
    rng = random.Random(seed)
    drawn: list[Lesson] = []
    for _ in range(n):
        kind = rng.random()
        if kind < 0.36 * (1 - early):
            drawn.append(calculator_lesson(rng, rng.randint(3, 6), careless))
        elif kind < 0.58 * (1 - early):
            drawn.append(chain_lesson(rng, rng.randint(2, 5), careless))
        elif kind < 0.72 * (1 - early):
            drawn.append(lookup_lesson(rng, rng.randint(3, 6), careless))
        else:
            drawn.append(invented_lesson(rng, rng.randint(5, 10), 0.1 + 0.6 * early, careless))
    return drawn
