"""The nano student's pretraining examples: imperfect demonstrations of tool use, drawn from a seed.

An example is a set of tools and several questions about them. There are five kinds: word problems of the calculator
suite's pretraining split, chains of calls of invented tools, look-ups with invented search tools, sums that no tool
offered helps with, and questions about invented tools. 40% of the invented tools, and the calculator's in 10% of the
examples, carry names that say nothing, so that only the descriptions say what they do. (A model of this size hardly
learns to use that: "renamed" stays near 5%, and more such examples cost it the plan of longer problems.)

Held out: the tools of the "unseen" and "retrieval" rungs (by name and by description), the sentences of the "wording"
rung, the documents, question templates and towns of "retrieval", and the problems of the other splits (by numbers).
Not held out: single words. A model of this size cannot copy or match words that it has never seen, so the invented
tools are made of the words of the unseen tools and their questions, among others; look-ups know aunts and towns; and
the additional sentences of word problems share words with the held-out ones. So those rungs measure new tools and new
sentences made of known words.

The demonstrations are almost always well-formed, but wrong on purpose, so that training can improve the student or
harm it, and so that rewards can differ on its rollouts:

- More than half of the slips in word problems are in an argument of the right tool (an operand that is not the newest,
  the wrong order, a list without its last number), the others in the tool (``SLIPS``). Five of the thirteen kinds of
  step go wrong nearly always, so that all rollouts of a task may be wrong; the others in 8 to 32% of cases.
- In short problems each right variant of a step is demonstrated equally often, in longer ones the most direct one more
  often (``VARIANT_RATES``).
- Look-ups of two hops often stop after the first (``EARLY_STOP_RATE``); where no tool fits, a needless call is made in
  some cases (``NEEDLESS_RATES``).
- A call of an unknown tool, one without its last argument, and one that is not JSON come before the right one at low
  rates, so that errors are recovered from.
"""

import random

from .abstention import abstention_example
from .chains import chain_example
from .demonstration import PretrainingExample
from .invented import invented_example
from .lookups import lookup_example
from .word_problems import word_problem_example


def pretraining_examples(n: int, seed: str, copying: float = 0.0, error_scale: float = 1.0) -> list[PretrainingExample]:
    """Draw examples: 38% word problems, 18% chains, 12% look-ups, 9% where no tool fits, the rest about invented tools.

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
        if kind < 0.38 * (1 - copying):
            examples.append(word_problem_example(rng, rng.randint(3, 6), error_scale))
        elif kind < 0.56 * (1 - copying):
            examples.append(chain_example(rng, rng.randint(2, 5), error_scale))
        elif kind < 0.68 * (1 - copying):
            examples.append(lookup_example(rng, rng.randint(3, 6), error_scale))
        elif kind < 0.77 * (1 - copying):
            examples.append(abstention_example(rng, rng.randint(8, 12), error_scale))
        else:
            examples.append(invented_example(rng, rng.randint(5, 10), 0.1 + 0.6 * copying, error_scale))
    return examples
