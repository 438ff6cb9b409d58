"""Chains of calls over invented tools, longer than the word problems here (one to six calls) are on average."""

import random

from ...data.suites.calculator import NAMES
from ...data.suites.renamed import PAIRS
from .demonstration import Demonstration, PretrainingExample
from .invented import is_held_out, make_schema
from .words import ADJECTIVES, DATA, NOUNS, draw_word


def chain_example(rng: random.Random, n_questions: int, error_scale: float) -> PretrainingExample:
    """Chains of one to seven calls of tools that change a running value, one sentence a call.

    A third of the chains start with a call on a list. Values stay below 5,000, as in word problems.
    """
    first, second = rng.choice([pair for pair in PAIRS if pair[0] != "x"])
    start, *verbs = rng.sample(ADJECTIVES, rng.randint(3, 5))
    noun = draw_word(rng, NOUNS)
    names = [rng.choice([v, f"{v}_{noun}", f"{noun}_{v}", draw_word(rng, NOUNS)]) for v in (start, *verbs)]
    if len(set(names)) < len(names):
        return chain_example(rng, n_questions, error_scale)
    start, *names = names
    schemas = [make_schema(start, f"Make one {noun} of a list.", [("numbers", "array", f"the {noun}")], "number")]
    for name, verb in zip(names, verbs, strict=True):
        parameters = [(first, "number", f"the {noun}"), (second, "number", "the number")]
        schemas.append(make_schema(name, f"Make the {noun} {verb} by a number.", parameters, "number"))
    rng.shuffle(schemas)
    if any(map(is_held_out, schemas)):
        return chain_example(rng, n_questions, error_scale)
    offered = [str(s["function"]["name"]) for s in schemas]
    changes = [(rng.choice([1, 1, 1, 2, 3]), rng.randint(-3, 3)) for _ in verbs]  # value * factor + number * factor
    templates = [rng.sample(DATA["chain_steps"], 2) for _ in verbs]
    chats = []
    for _ in range(n_questions):
        person = rng.choice(NAMES)
        value = rng.randint(2, 99)
        demonstration = Demonstration(rng, offered, error_scale)
        sentences = [rng.choice([f"The {noun} is {value}.", f"{person} has {value} {noun}."])]
        going_on = True
        if rng.random() < 0.33:
            numbers = [rng.randint(2, 40) for _ in range(rng.randint(2, 4))]
            value = sum(numbers)
            listed = ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"
            sentences = [rng.choice([f"The {noun} is {listed}.", f"{person} has {listed} {noun}."])]
            going_on = demonstration.call(start, {"numbers": numbers}, value)
        for _ in range(rng.randint(1, 6)):
            i, n = rng.randrange(len(verbs)), rng.randint(2, rng.choice([9, 60]))
            sentences.append(rng.choice(templates[i]).format(v=verbs[i], n=n, name=person))
            result = abs(value * changes[i][0] + changes[i][1] * n) % 5000
            going_on = going_on and demonstration.call(names[i], {first: value, second: n}, result)
            value = result
        if going_on:
            demonstration.answer(value)
        ends = [f"What is the {noun} now?", "What is it now?", f"How many {noun} are there now?"]
        chats.append((" ".join([*sentences, rng.choice(ends)]), demonstration.messages))
    return schemas, chats
