"""Problems that no offered tool solves: mental arithmetic, often after a needless call."""

import random
from collections.abc import Sequence

from ...data.suites import no_tool
from ...data.suites.calculator import CALCULATOR, needless_call
from ...data.suites.renamed import draw_names
from .demonstration import Demonstration, PretrainingExample
from .invented import invent_tool
from .word_problems import RENAMED_RATE, TOOL_WORDS, WORDING

# Calculator tools offered where they do not help: a sum needs none of them.
USELESS = [name for name in CALCULATOR.names if name not in ("add", "subtract", "sum_numbers")]
# A call all the same, whose result becomes the answer: by the last change of the number.
NEEDLESS_RATES = {"gain": 0.2, "lose": 0.65}


def abstention_example(rng: random.Random, n_questions: int, error_scale: float) -> PretrainingExample:
    """Sums of the "no_tool" rung's pretraining split, in more wordings; none of the tools offered helps.

    Two thirds of the examples offer tools of the calculator, with drawn names as in word problems, the others invented
    tools, which are never called. The sums are written out before the answer.
    """
    if invented := rng.random() < 0.33:
        schemas = list({t.name: t.schema for t in (invent_tool(rng) for _ in range(rng.randint(2, 5)))}.values())
        offered = [schema["function"]["name"] for schema in schemas]
    else:
        offered = rng.sample(no_tool.OFFERED if rng.random() < 0.5 else USELESS, rng.randint(3, 5))
        toolbox = CALCULATOR.subset(offered)
        names = draw_names(rng, TOOL_WORDS) if rng.random() < RENAMED_RATE else None
        schemas = list((names.toolbox(toolbox) if names else toolbox).schemas)
    chats = []
    for _ in range(n_questions):
        problem = no_tool.draw(rng, wording=WORDING)
        while problem.split != "pretrain":
            problem = no_tool.draw(rng, wording=WORDING)
        demonstration = Demonstration(rng, [schema["function"]["name"] for schema in schemas], error_scale)
        answer, working, going_on = problem.answer, _sums(problem.key), True
        kind, (last,) = problem.key[-1]
        if not invented and rng.random() < NEEDLESS_RATES[kind] * error_scale:
            for name, arguments, result in needless_call(rng, offered, rng.choice([problem.key[0][1][0], last])):
                call = names.call(name, arguments) if names else (name, arguments)
                going_on, answer, working = demonstration.call(*call, result), result, ""
        if going_on:
            demonstration.answer(answer, working)
        chats.append((problem.question, demonstration.messages))
    return schemas, chats


def _sums(key: Sequence[tuple[str, tuple[int]]]) -> str:
    """The sums written out, "4 + 5 = 9. 9 - 2 = 7. ": each is one that a small model can know by heart."""
    (_, (value,)), *changes = key
    text = ""
    for kind, (n,) in changes:
        after = value + n if kind == "gain" else value - n
        text += f"{value} {'+' if kind == 'gain' else '-'} {n} = {after}. "
        value = after
    return text
