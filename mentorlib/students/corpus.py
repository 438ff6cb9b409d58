"""What the nano student reads before anybody distils into it: sloppy demonstrations.

Two sources, both generated: tools invented on the spot (so that reading a schema generalises to tools never seen)
and the calculator suite's pretraining split. The demonstrator speaks the format well and chooses badly: how often it
takes a tempting wrong tool depends on the kind of step (``TEMPTATION``), so that the student's greedy choice is wrong
for some kinds and right for others: room to gain for a reward, room to lose for a careless fine-tune.
"""

import json
import random
from typing import Any

from ..core import Call, Execution, Message, ask
from ..suites import CALCULATOR, calculator, split_of

Example = tuple[list[Message], list[Message], list[dict[str, Any]]]  # prompt, answer, schemas

# kind of step -> (chance of the mistake, the wrong plan)
TEMPTATION: dict[str, tuple[float, str]] = {
    "sum": (0.55, "first two"),
    "product": (0.3, "add"),
    "square": (0.6, "double"),
    "gain": (0.15, "subtract"),
    "lose": (0.15, "add"),
    "times": (0.25, "add"),
    "share": (0.3, "multiply"),
    "leftover": (0.55, "divide"),
    "full": (0.55, "divide"),
    "needed": (0.6, "floor"),
    "side": (0.5, "halve"),
    "round": (0.5, "divide"),
    "apart": (0.55, "subtract"),
}
INVENTED_NAMES = {"add": "plus", "subtract": "minus", "multiply": "times", "divide": "split", "sum_numbers": "total"}

NOUNS = (
    "heat load mass speed depth width area grain flour water metal cargo score rank grade level price cost tax rent "
    "wage debt loan gift prize ticket seat room floor wall roof brick board plank nail screw bolt wheel gear belt "
    "chain rope wire cable pipe pump valve tank drum barrel bucket bowl plate spoon fork knife pan oven stove fuel "
    "coal oil gas steam smoke ash dust mud clay rock gem pearl silk wool cotton linen thread needle button shirt "
    "shoe hat glove scarf ring crown flag banner drum horn flute harp note song verse page letter stamp parcel map "
    "route path bridge tunnel port ship boat sail oar net hook fish crab shell wave tide beach dune cliff cave hill "
    "peak valley field farm barn crop wheat corn rice bean pea root leaf branch trunk bark seed bloom petal thorn "
    "bush hedge lawn pond stream river marsh bog swamp frost snow ice hail rain storm cloud mist fog dawn dusk noon "
    "night star comet orbit planet signal code key lock gate fence post sign lamp torch candle mirror lens prism"
).split()
ADJECTIVES = (
    "big small long short wide thin deep flat round sharp dull soft hard rough smooth heavy light fast slow early "
    "late old new young fresh dry wet warm cold hot cool bright dark pale red blue green white black gray brown "
    "golden silver wooden stone iron glass paper inner outer upper lower front rear left right main side extra "
    "spare total net gross mean plain fancy rare common safe risky free fixed loose tight full empty clean dirty"
).split()
SLOTS = "plum jar cup tile star lake moon bird road tree fish lamp coat door ring sand wind gold milk salt".split()


def _schema(name: str, description: str, parameters: list[tuple[str, str, str]], returns: str) -> dict[str, Any]:
    """A schema of the shape get_json_schema gives; parameters are (name, JSON type, description)."""
    properties: dict[str, Any] = {}
    for parameter, kind, text in parameters:
        typed: dict[str, Any] = {"type": "array", "items": {"type": "number"}} if kind == "array" else {"type": kind}
        properties[parameter] = {**typed, "description": text}
    shape = {"type": "object", "properties": properties, "required": [p for p, _, _ in parameters]}
    function = {"name": name, "description": description, "parameters": shape, "return": {"type": returns}}
    return {"type": "function", "function": function}


SYLLABLES = (
    "ba be bo da di du fa fe ga go ha hi ka ke la le li lo ma me mo na ne no pa po ra re ri ro sa se so ta te ti to va "
    "er st ly nd al in on es or an ut em wh ch sh th ck ight oun"
).split()


def _word(rng: random.Random, words: list[str]) -> str:
    """A word of the list, or one time in four a made-up one: copying strange word pieces has to be practised."""
    return rng.choice(words) if rng.random() < 0.75 else "".join(rng.choices(SYLLABLES, k=rng.randint(2, 3)))


def invent(rng: random.Random) -> tuple[dict[str, Any], str, dict[str, Any], Any]:
    """Invent a tool: its schema, a question that wants it, the right arguments, the result."""
    a, b, c = _word(rng, ADJECTIVES), _word(rng, NOUNS), _word(rng, NOUNS)
    n, m = rng.randint(2, 99), rng.randint(2, 99)
    values = [rng.randint(1, 99) for _ in range(rng.randint(2, 5))]
    listed = ", ".join(map(str, values))
    words = " ".join(_word(rng, rng.choice([SLOTS, NOUNS])) for _ in range(rng.randint(1, 3)))
    other = _word(rng, rng.choice([SLOTS, NOUNS]))
    k, s = rng.randint(2, 30), rng.choice(SLOTS)
    x = rng.choice(["x", "n", b, c, "amount", "count", "size"])
    pair = rng.choice([("a", "b"), ("x", "y"), (b, c), ("first", "second"), ("left", "right")])
    bag = rng.choice(["values", "numbers", "items", "list", b])
    txt = rng.choice(["text", "word", "string", "line", b])
    shape = rng.randrange(10)
    text_result = rng.choice([words[::-1], words.upper(), words.title(), words + s, s + words, words.replace(" ", "")])
    if shape == 0:
        return (
            _schema(f"{b}_to_{c}", f"Turn {b} into {c}.", [(x, "number", f"how many {b}")], "number"),
            rng.choice([f"How many {c} are {n} {b}?", f"Turn {n} {b} into {c}.", f"How much {c} is {n} {b}?"]),
            {x: n},
            n * k,
        )
    if shape == 1:
        return (
            _schema(f"{a}_{b}", f"Find the {a} {b} of a list.", [(bag, "array", f"the {bag}")], "number"),
            rng.choice([f"What is the {a} {b} of {listed}?", f"Find the {a} {b} of {listed}."]),
            {bag: values},
            rng.choice([max(values), min(values), len(values), sum(values), values[0], values[-1]]),
        )
    if shape == 2:
        return (
            _schema(f"count_{b}", f"Count the {b} in a {txt}.", [(txt, "string", f"the {txt}")], "integer"),
            rng.choice([f'How many {b} are in "{words}"?', f'Count the {b} in "{words}".']),
            {txt: words},
            rng.randint(0, 20),
        )
    if shape == 3:
        return (
            _schema(f"{a}_text", f"Write a text {a}.", [(txt, "string", f"the {txt}")], "string"),
            rng.choice([f'Write "{words}" {a}.', f'Write "{words}" in {a}.', f'Make "{words}" {a}.']),
            {txt: words},
            text_result,
        )
    if shape == 4:
        return (
            _schema(
                f"{a}_{b}", f"Find the {a} {b} of two numbers.", [(p, "number", f"{p} number") for p in pair], "number"
            ),
            rng.choice([f"What is the {a} {b} of {n} and {m}?", f"Find the {a} {b} of {n} and {m}."]),
            dict(zip(pair, (n, m), strict=True)),
            rng.choice([n + m, n * m, n - m, 2 * n + m, max(n, m)]),
        )
    if shape == 5:
        times = rng.choice(["times", "count", "n"])
        return (
            _schema(
                f"{a}_{b}",
                f"Write a text as {a} {b}.",
                [("text", "string", "the text"), (times, "integer", "how often")],
                "string",
            ),
            rng.choice([f'Write "{other}" as {a} {b} {k} times.', f'Write "{other}" {k} times as {a} {b}.']),
            {"text": other, times: k},
            (other + s) if rng.random() < 0.5 else other * 2,
        )
    if shape == 6:
        return (
            _schema(f"{a}_texts", f"Write two texts {a}.", [(p, "string", f"{p} text") for p in pair], "string"),
            rng.choice([f'Write "{words}" and "{other}" {a}.', f'Make "{words}" and "{other}" {a}.']),
            dict(zip(pair, (words, other), strict=True)),
            text_result + other,
        )
    if shape == 7:
        return (
            _schema(f"{b}_{c}", f"Work out the {c} of some {b}.", [(x, "number", f"the {b}")], "number"),
            rng.choice([f"What is the {c} of {n} {b}?", f"Work out the {c} of {n} {b}."]),
            {x: n},
            n * k + m,
        )
    if shape == 8:
        return (
            _schema(a, f"Find the {a} value of a list.", [(bag, "array", f"the {bag}")], "number"),
            rng.choice([f"What is the {a} value of {listed}?", f"How many {a} values are {listed}?"]),
            {bag: values},
            rng.choice([max(values), min(values), len(values), values[0]]),
        )
    return (
        _schema(b, f"Give the {b} of a number.", [(x, "number", "the number")], "number"),
        rng.choice([f"What is the {b} of {n}?", f"Give the {b} of {n}."]),
        {x: n},
        n * k - m,
    )


class Demonstrator:
    """Writes one answer turn by turn, with the slips of a sloppy speaker of the format."""

    def __init__(self, rng: random.Random, offered: list[str]):
        self.rng, self.offered = rng, offered
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
        if self.rng.random() < 0.04 or name not in self.offered:
            invented = INVENTED_NAMES.get(name, name + "_all") if name in self.offered else name
            self._say("", Call(invented, arguments))
            self._hear(f"error: no tool named '{invented}'; there are: {', '.join(self.offered)}")
            if name not in self.offered or self.rng.random() < 0.3:
                self._say("I cannot solve this.")
                return False
        if self.rng.random() < 0.015:
            text = json.dumps({"name": name, "arguments": arguments})
            self._say(f"<tool_call>\n{text[:-1]}\n</tool_call>")
            self._hear("error: the call is not valid JSON")
        self._say("", Call(name, arguments))
        self._hear(Execution(value=result).text)
        return True

    def answer(self, value: Any) -> None:
        self._say(f"The answer is \\boxed{{{Execution(value=value).text}}}.")


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


def calculator_example(rng: random.Random) -> Example:
    """A word problem of the pretraining split, solved sloppily."""
    while True:
        problem = calculator.draw_problem(rng, n_tools=rng.choice([5, 5, 6, 8]))
        if split_of(problem.key) == "pretrain":
            break
    toolbox = CALCULATOR.subset(problem.tools)
    speaker = Demonstrator(rng, problem.tools)
    value: Any = None
    for step in problem.steps:
        if not step.variants[0]:
            value = step.numbers[0]
            continue
        chance, mistake = TEMPTATION[step.kind]
        if rng.random() < chance:
            plan = _wrong_plan(mistake, step)
        else:
            plan = step.variants[0] if rng.random() < 0.7 else rng.choice(step.variants)
        if step is not problem.steps[0] and rng.random() < 0.04:
            break  # stops early: the answer so far is given as the last
        calls, value = calculator.run_plan(plan, value)
        if not all(speaker.call(*c) for c in calls):
            return ask(problem.question), speaker.messages, list(toolbox.schemas)
    speaker.answer(value)
    return ask(problem.question), speaker.messages, list(toolbox.schemas)


def invented_example(rng: random.Random) -> Example:
    """A question about one of several invented tools; one time in four the wrong one is called."""
    boxes = [invent(rng) for _ in range(rng.randint(3, 6))]
    names = [schema["function"]["name"] for schema, *_ in boxes]
    if len(set(names)) < len(names):
        return invented_example(rng)
    schema, question, arguments, result = boxes[0]
    offered = [b[0] for b in boxes]
    rng.shuffle(offered)
    speaker = Demonstrator(rng, [s["function"]["name"] for s in offered])
    kinds = json.dumps([p["type"] for p in schema["function"]["parameters"]["properties"].values()])
    rivals = [
        b
        for b in boxes[1:]
        if json.dumps([p["type"] for p in b[0]["function"]["parameters"]["properties"].values()]) == kinds
    ]
    if rivals and rng.random() < 0.25:
        rival = rng.choice(rivals)
        name, result = rival[0]["function"]["name"], rival[3]
        arguments = dict(zip(rival[2], arguments.values(), strict=True))
    else:
        name = schema["function"]["name"]
    if speaker.call(name, arguments, result):
        speaker.answer(result)
    return ask(question), speaker.messages, offered


def examples(n: int, seed: int = 0, invented: float = 0.5) -> list[Example]:
    """n demonstrations, a share of them on invented tools."""
    rng = random.Random(seed)
    return [invented_example(rng) if rng.random() < invented else calculator_example(rng) for _ in range(n)]
