"""The nano student's pretraining examples: imperfect demonstrations of tool use, drawn from a seed.

An example is a set of tools and several questions about them. There are four kinds: questions about invented tools,
chains of calls of invented tools, look-ups with invented search tools, and word problems of the calculator suite's
pretraining split.

Held out: the tools of the "unseen" and "retrieval" rungs (by name and by description), the sentences of the "wording"
rung, the documents, question templates and towns of "retrieval", and the problems of the other splits (by numbers).
Not held out: single words. A model of this size cannot copy or match words that it has never seen, so the invented
tools are made of the words of the unseen tools and their questions, among others; look-ups know aunts and towns; and
the additional sentences of word problems share words with the held-out ones. So those rungs measure new tools and new
sentences made of known words.

The demonstrations are almost always well-formed, but make errors at rates set per kind of step where a problem is
short (``ERRORS``), and often stop after the first of two look-ups (``EARLY_STOP_RATE``), so that the student's greedy
choice is wrong for some kinds of step and right for others: training can improve it or harm
it. Longer problems have almost no errors: a likely error in one of six steps would leave no problem of six right.
"""

import random

from .chains import chain_example
from .demonstration import PretrainingExample
from .invented import invented_example
from .lookups import lookup_example
from .word_problems import word_problem_example


def pretraining_examples(n: int, seed: str, copying: float = 0.0, error_scale: float = 1.0) -> list[PretrainingExample]:
    """Draw examples: 36% word problems, 22% chains, 14% look-ups, the rest about invented tools.

    Args:
        n: number of examples.
        seed: the same seed gives the same examples.
        copying: from 0 to 1. At 1, for the beginning of training, nearly all examples are about invented tools and
            spell out the call, because a model must copy before it can choose.
        error_scale: factor of every error rate; 0 gives correct demonstrations, for a teacher.
    """
    rng = random.Random(seed)
    examples: list[PretrainingExample] = []
    for _ in range(n):
        kind = rng.random()
        if kind < 0.36 * (1 - copying):
            examples.append(word_problem_example(rng, rng.randint(3, 6), error_scale))
        elif kind < 0.58 * (1 - copying):
            examples.append(chain_example(rng, rng.randint(2, 5), error_scale))
        elif kind < 0.72 * (1 - copying):
            examples.append(lookup_example(rng, rng.randint(3, 6), error_scale))
        else:
            examples.append(invented_example(rng, rng.randint(5, 10), 0.1 + 0.6 * copying, error_scale))
    return examples
