"""The ladder's "retrieval" rung: what to know stands in documents, and a search tool finds them.

Against in domain, the answer is looked up and not computed: the one change, though the question and the tool change
with it. Names and things are the in-domain ones, and five tools are offered, four of them the calculator's. A chain of
calls stays a chain of calls: the second search needs what the first one found.

The scripted teacher makes one search a hop, with the two words that tell the fact from the others: "aunt Mia", then
"town Lea". It never searches for the question as a whole.

Simplified: a document is one sentence with one fact, and nothing contradicts it.
"""

import random
from typing import Any

from .calculator import BOXES, NAMES, THINGS

RELATIONS = "aunt uncle teacher doctor boss neighbor".split()
TOWNS = (
    "Plumfield Starhill Lakeside Moonford Birdwood Roadend Treeton Fishport Lampford Ringwood Sandhill Windgate "
    "Goldport Doorstead Coatham Tileham"
).split()

Hop = tuple[str, str]  # what is searched for, what is found


def draw_problem(
    rng: random.Random, hops: tuple[int, int] = (1, 2)
) -> tuple[str, list[Hop], str | int, list[str], tuple[Any, ...]]:
    """Draw a world of documents and one question about it: question, hops, answer, documents, key.

    The key is all that the question says, so that no question is in two splits, whatever its documents.

    Args:
        rng: the source of chance.
        hops: fewest and most searches needed (the difficulty dial), three at most; each is as likely.
    """
    n = rng.randint(*hops)
    # A relation leads from one layer of people to the next and to no other, so that "aunt Lea" fits one document: her
    # aunt's, and not that of somebody whose aunt she is.
    people = rng.sample(NAMES, 4 * (n + 1))
    layers = [people[i : i + 4] for i in range(0, len(people), 4)]
    relations = rng.sample(RELATIONS, len(RELATIONS))
    facts: dict[tuple[str, str], tuple[str, str | int]] = {}  # (what, who) -> (document, value)
    for i, layer in enumerate(layers[:-1]):
        for who in layer:
            for what in relations[2 * i : 2 * i + 2]:
                found = rng.choice(layers[i + 1])
                facts[what, who] = f"The {what} of {who} is {found}.", found
    amounts = rng.sample(range(2, 100), len(people))
    for who, town, amount in zip(people, rng.sample(TOWNS, len(people)), amounts, strict=True):
        things = rng.choice([*THINGS, *BOXES])
        facts["town", who] = f"{who} lives in the town of {town}.", town
        facts[things, who] = f"{who} has {amount} {things}.", amount

    who = rng.choice(layers[0])
    chain: list[tuple[str, str]] = []
    said = who
    for i in range(n - 1):
        what = rng.choice(relations[2 * i : 2 * i + 2])
        chain.append((what, who))
        said = f"the {what} of {said}"
        who = str(facts[what, who][1])
    last = rng.choice([what for what, owner in facts if owner == who][1:])  # one relation, the town, the things
    chain.append((last, who))
    if last == "town":
        question = f"In which town does {said} live?"
    elif last in RELATIONS:
        question = f"Who is the {last} of {said}?"
    else:
        question = f"How many {last} does {said} have?"

    documents = [document for document, _ in facts.values()]
    rng.shuffle(documents)
    hops_made = [(f"{what} {owner}", facts[what, owner][0]) for what, owner in chain]
    return question, hops_made, facts[last, who][1], documents, (*(what for what, _ in chain), chain[0][1])
