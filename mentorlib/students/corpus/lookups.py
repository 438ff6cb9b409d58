"""Look-ups of one or two hops with invented search tools that answer in a sentence."""

import random

from ...data.suites.calculator import BOXES, CALCULATOR, NAMES, THINGS
from ...data.suites.retrieval import TOWNS
from .demonstration import Demonstration, PretrainingExample
from .invented import invent_tool, is_held_out, make_schema
from .words import DATA, NOUNS, PLACES, RELATIONS, SYLLABLES, TEXT_WORDS, draw_word

EARLY_STOP_RATE = 0.5  # a look-up of two hops answers with the result of the first


def lookup_example(rng: random.Random, n_questions: int, error_scale: float) -> PretrainingExample:
    """Questions about people; each search is two words, what and whose: "aunt Mia", then "town Lea".

    Tools that do not help are offered as well.
    """
    b, c = draw_word(rng, NOUNS), draw_word(rng, NOUNS)
    name = rng.choice(["search", "search", "ask", "look", "find", "get", "read"])
    name = rng.choice([name, f"{name}_{b}", f"{b}_{name}", b])
    about = rng.choice(["some words", f"some {c}", "a document", "a text"])
    does = rng.choice(["Look up {a}.", "Tell what is known of {a}.", "Ask the {b} for {a}.", "Find the {b} of {a}."])
    parameter = rng.choice(["query", "query", "words", "text", "about", b])
    described = [(parameter, "string", rng.choice(["the words", f"the {c}"]))]
    tool = make_schema(name, does.format(a=about, b=b), described, "string")
    others = [invent_tool(rng).schema for _ in range(rng.randint(1, 2))]
    if rng.random() < 0.7:
        others = list(CALCULATOR.subset(rng.sample(CALCULATOR.names, rng.randint(2, 4))).schemas)
    schemas = list({s["function"]["name"]: s for s in [*others, tool]}.values())
    if is_held_out(tool):
        return lookup_example(rng, n_questions, error_scale)
    rng.shuffle(schemas)
    chats = []
    for _ in range(n_questions):
        demonstration = Demonstration(rng, [s["function"]["name"] for s in schemas], error_scale)
        person, *others_found = rng.sample(NAMES, 3)
        subject, going_on, stops_early = person, True, False
        kind = rng.choice(list(DATA["lookups"]))
        if rng.random() < 0.5:
            k = rng.choice([rng.choice(RELATIONS), draw_word(rng, NOUNS)])
            text = rng.choice(DATA["lookups"]["relation"]["documents"]).format(k=k, w=person, x=others_found[0])
            going_on = demonstration.call(name, {parameter: f"{k} {person}"}, text)
            subject, person = f"the {k} of {person}", others_found[0]
            stops_early = rng.random() < EARLY_STOP_RATE * error_scale
        words = {"relation": RELATIONS, "place": PLACES, "things": [*THINGS, *BOXES]}[kind]
        k = rng.choice([rng.choice(words), draw_word(rng, NOUNS)])
        x = {"relation": others_found[1], "place": _draw_place(rng), "things": str(rng.randint(2, 99))}[kind]
        templates = DATA["lookups"][kind]
        chats.append((rng.choice(templates["questions"]).format(k=k, w=subject), demonstration.messages))
        if not going_on:
            continue
        if stops_early:
            demonstration.answer(person)
            continue
        text = rng.choice(templates["documents"]).format(k=k, w=person, x=x)
        if demonstration.call(name, {parameter: f"{k} {person}"}, text):
            demonstration.answer(x)
    return schemas, chats


def _draw_place(rng: random.Random) -> str:
    """The name of a place, made of two parts; no town of the "retrieval" rung."""
    end = rng.choice([*TEXT_WORDS, *SYLLABLES, "field", "hill", "side", "ford", "wood", "port", "stead", "ham"])
    name = (rng.choice(TEXT_WORDS) + end).title()
    return _draw_place(rng) if name in TOWNS else name
