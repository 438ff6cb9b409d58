"""The ladder's "retrieval" rung: the answer is in generated documents, and a search tool finds them.

The answer is looked up instead of computed, so the question and the tool change as well. Names and things are the
in-domain ones, and five tools are offered, four of them from the calculator. Calls still depend on each other: the
second search needs the result of the first.

The scripted teacher makes one search a hop with two words that match only one document: "aunt Mia", then "town Lea".
It never searches for the whole question.

Simplified: a document is one sentence with one fact, and no two documents contradict each other.
"""

import random
from dataclasses import replace

from ...sandbox.toolbox import Toolbox
from ..problem import ExecutedCall, Problem
from ..tools import calculator as calculator_tools
from ..tools import retrieval as retrieval_tools
from .calculator import BOXES, CALCULATOR, NAMES, THINGS

RETRIEVAL = Toolbox.from_functions("retrieval", [*retrieval_tools.TOOLS, *calculator_tools.TOOLS])
RELATIONS = "aunt uncle teacher doctor boss neighbor".split()
TOWNS = (
    "Plumfield Starhill Lakeside Moonford Birdwood Roadend Treeton Fishport Lampford Ringwood Sandhill Windgate "
    "Goldport Doorstead Coatham Tileham"
).split()


def draw(rng: random.Random, hops: tuple[int, int] = (1, 2)) -> Problem:
    """Draw a set of documents and one question about them.

    The key is all that the question says, so that no question is in two splits, whatever its documents.

    Args:
        rng: random generator.
        hops: fewest and most searches needed, at most three; each number is equally likely.
    """
    n = rng.randint(*hops)
    # A relation leads from one layer of people only to the next, so that "aunt Lea" matches one document: the one that
    # names Lea's aunt, and not one in which Lea is somebody's aunt.
    people = rng.sample(NAMES, 4 * (n + 1))
    layers = [people[i : i + 4] for i in range(0, len(people), 4)]
    relations = rng.sample(RELATIONS, len(RELATIONS))
    facts: dict[tuple[str, str], tuple[str, str | int]] = {}  # (relation, person) -> (document, value)
    for i, layer in enumerate(layers[:-1]):
        for person in layer:
            for relation in relations[2 * i : 2 * i + 2]:
                relative = rng.choice(layers[i + 1])
                facts[relation, person] = f"The {relation} of {person} is {relative}.", relative
    amounts = rng.sample(range(2, 100), len(people))
    for person, town, amount in zip(people, rng.sample(TOWNS, len(people)), amounts, strict=True):
        things = rng.choice([*THINGS, *BOXES])
        facts["town", person] = f"{person} lives in the town of {town}.", town
        facts[things, person] = f"{person} has {amount} {things}.", amount

    person = described = rng.choice(layers[0])
    hop_keys: list[tuple[str, str]] = []
    for i in range(n - 1):
        relation = rng.choice(relations[2 * i : 2 * i + 2])
        hop_keys.append((relation, person))
        described = f"the {relation} of {described}"
        person = str(facts[relation, person][1])
    last = rng.choice([relation for relation, owner in facts if owner == person][1:])  # a relation, the town, things
    hop_keys.append((last, person))
    if last == "town":
        question = f"In which town does {described} live?"
    elif last in RELATIONS:
        question = f"Who is the {last} of {described}?"
    else:
        question = f"How many {last} does {described} have?"

    documents = [document for document, _ in facts.values()]
    rng.shuffle(documents)
    calls: list[ExecutedCall] = [("search", {"query": " ".join(hop)}, facts[hop][0]) for hop in hop_keys]
    offered = ["search", *rng.sample(CALCULATOR.names, 4)]
    rng.shuffle(offered)
    # The documents are part of the source, after the tool's own empty list: a sandboxed tool cannot open files.
    toolbox = replace(RETRIEVAL.subset(offered), source=f"{RETRIEVAL.source}\nDOCUMENTS = {documents!r}\n")
    key = (*(relation for relation, _ in hop_keys), hop_keys[0][1])
    return Problem(question, calls, facts[last, person][1], toolbox, key)


SUITES = {"retrieval": draw}
