"""Random malformed model outputs, for tests/rewards/test_rewards.py and benchmarks/rewards.py."""

import json
import random

from mentorlib.core import END

TURN = f"{END}\n<|im_start|>user\n<tool_response>\n5\n</tool_response>{END}\n<|im_start|>assistant\n"
WELL_FORMED = "".join(
    f"<tool_call>\n{json.dumps({'name': name, 'arguments': {'a': 2, 'b': 3}})}\n</tool_call>{TURN}"
    for name in ("add", "multiply")
)
TAGS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>", END]
TAGS += ["<|im_start|>user\n", "<|im_start|>assistant\n", "\\boxed{", "\\boxed ", "\\fbox{", "\\boxed", "{", "}"]
CALLS = ['{"name": "add", "arguments": {"a": 1}}', '{"name": "guess", "arguments": {}}', '{"name": ["add"]}']
CALLS += ['{"name": {"a": 1}}', '{"name": null}', '"name"', '["name"]', '"name":\\"add"', '{"name": "add", "a']
TEXTS = ["5", "NaN", "$", "\x00", "\ud800", "é中🙂\u202e", "٣", "1" * 5000, "\\frac{1}{2}", "(1,2)", "x=", "%", "\\{"]
DEEP = ["[" * 3000, '{"a":' * 1200, "[" * 500 + "]" * 500]
DEEP += ['{"name": "add", "arguments": {"a": ' + "[" * 900 + "]" * 900 + "}}"]
PIECES = [*TAGS, *CALLS, *TEXTS, *DEEP, " ", "\n"]
GOLDS = ["5", "\\frac{1}{2}", "(1,2)", "x+1"]


def fuzzed_output(rng: random.Random) -> str:
    """Random pieces (half), a well-formed transcript cut or broken at one place, or one piece many times (a tenth)."""
    kind = rng.random()
    if kind < 0.5:
        text = "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 30)))
    elif kind < 0.9:
        text = WELL_FORMED + f"The answer is \\boxed{{{rng.choice([*TEXTS, *TAGS])}}}."
        at = rng.randrange(len(text))
        text = text[:at] if kind < 0.6 else text[:at] + rng.choice([*PIECES, ""]) + text[at + rng.randint(0, 20) :]
    else:
        piece, size = rng.choice(PIECES), rng.choice([1000, 10_000, 100_000, 1_000_000])
        text = piece * (size // len(piece))
    return text + rng.choice([END, END, ""])
