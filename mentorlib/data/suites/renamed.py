"""The ladder's "renamed" rung: the in-domain suite with drawn names for the tools and their parameters.

Only the names differ: questions, descriptions, types and the order of parameters are the same. A policy that reads the
schemas is as accurate as in domain; one that knows the tools by their names is not.
"""

import builtins
import copy
import random
from dataclasses import dataclass, replace
from typing import Any

from ...sandbox.toolbox import Toolbox
from ..problem import Problem
from . import calculator

WORDS = (
    "heat load speed depth width grain water cargo score price cost loan gift seat floor wall roof brick plank wheel "
    "gear chain rope wire pipe tank drum bucket plate fuel coal steam dust clay silk wool needle shirt crown flag horn "
    "harp stamp map path ship sail wave cliff farm crop wheat leaf pond frost storm cloud torch lens"
).split()
# Names of the parameters, by what they hold.
PAIRS = [("a", "b"), ("x", "y"), ("first", "second"), ("left", "right"), ("one", "other")]
SINGLE = {
    "x": ["x", "n", "value", "amount"],
    "numbers": ["numbers", "values", "items", "list"],
    "digits": ["digits", "places", "parts", "n"],
}


@dataclass(frozen=True)
class Renaming:
    """New names of a toolbox's tools, and of each tool's parameters, by the old ones."""

    tools: dict[str, str]
    parameters: dict[str, dict[str, str]]

    def call(self, name: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """A call under the new names."""
        return self.tools[name], {self.parameters[name][key]: value for key, value in arguments.items()}

    def toolbox(self, toolbox: Toolbox) -> Toolbox:
        """The toolbox under the new names; each new function calls the old one."""
        schemas: list[dict[str, Any]] = []
        functions: list[str] = []
        for schema in copy.deepcopy(toolbox.schemas):
            function = schema["function"]
            old, shape = function["name"], function["parameters"]
            names = self.parameters[old]
            function["name"] = self.tools[old]
            shape["properties"] = {names[key]: value for key, value in shape["properties"].items()}
            shape["required"] = [names[key] for key in shape["required"]]
            given = ", ".join(names.values())
            functions.append(f"def {self.tools[old]}({given}):\n    return {old}({given})\n")
            schemas.append(schema)
        return replace(toolbox, schemas=schemas, source="\n\n".join([toolbox.source, *functions]))


def draw_names(rng: random.Random, words: list[str]) -> Renaming:
    """Draw names for the calculator's twelve tools and their parameters: none is that of a tool or of a builtin."""
    tools: dict[str, str] = {}
    parameters: dict[str, dict[str, str]] = {}
    pair = rng.choice(PAIRS)
    single = {old: rng.choice(names) for old, names in SINGLE.items() if old != "digits"}
    digits = rng.choice([name for name in SINGLE["digits"] if name != single["x"]])
    new = {"a": pair[0], "b": pair[1], "digits": digits, **single}
    for schema in calculator.CALCULATOR.schemas:
        function = schema["function"]
        name = ""
        while not name or name in tools.values() or name in calculator.FUNCTIONS or hasattr(builtins, name):
            name = rng.choice(words)
        tools[function["name"]] = name
        parameters[function["name"]] = {key: new[key] for key in function["parameters"]["properties"]}
    return Renaming(tools, parameters)


def draw(rng: random.Random, calls: tuple[int, int] = (1, 4)) -> Problem:
    """Draw a word problem and names for the tools offered.

    Args:
        rng: random generator.
        calls: as in the calculator suite.
    """
    problem = calculator.draw(rng, calls=calls)
    names = draw_names(rng, WORDS)
    renamed = [(*names.call(name, arguments), result) for name, arguments, result in problem.calls]
    return Problem(problem.question, renamed, problem.answer, names.toolbox(problem.toolbox), problem.key)


SUITES = {"renamed": draw}
