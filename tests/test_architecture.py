"""The plan of the house, read off its folders: imports run downward, without a circle, and the floors stay light.

PACKAGES is the one list kept by hand: each package may import from those before it, and from itself.
"""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[1] / "mentorlib"
PACKAGES = ["core", "runs", "rewards", "sandbox", "task", "rollout", "data", "trainer", "students", "lab", "cli"]
FILES = {
    ".".join(["mentorlib", *file.relative_to(LIBRARY).with_suffix("").parts]).removesuffix(".__init__"): file
    for file in sorted(LIBRARY.rglob("*.py"))
}


def imports(module: str) -> set[str]:
    """Full names of the modules that a module imports, wherever in the file, also under TYPE_CHECKING."""
    file = FILES[module]
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:  # `from . import x` names a module, `from .x import y` a name in one
                found.add(f"{name}.{alias.name}" if f"{name}.{alias.name}" in FILES else name)
    return found


def package_of(module: str) -> str:
    return module.split(".")[1]


INSIDE = [module for module in FILES if module not in ("mentorlib", "mentorlib.__main__")]


@pytest.mark.parametrize("module", INSIDE)
def test_imports_run_downward(module):
    assert package_of(module) in PACKAGES, f"give {package_of(module)} a place in PACKAGES"
    for name in imports(module) & FILES.keys():
        above = PACKAGES.index(package_of(name)) > PACKAGES.index(package_of(module))
        assert not above, f"{module} imports {name} from above"


def test_no_circle():
    TopologicalSorter({module: imports(module) & FILES.keys() for module in FILES}).prepare()  # CycleError names one


@pytest.mark.parametrize("package", ["rewards", "sandbox"])
def test_rewards_and_the_sandbox_need_neither_torch_nor_trl(package):
    modules = [module for module in INSIDE if package_of(module) == package]
    heavy = ("torch", "trl", "transformers")
    code = f"import sys, {', '.join(modules)}; print([m for m in {heavy} if m in sys.modules])"
    python = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=LIBRARY.parent)
    assert python.stdout.strip() == "[]", python.stderr
    for module in modules:
        assert not {name.split(".")[0] for name in imports(module)} & {"torch", "trl"}
    assert all(not {n.split(".")[0] for n in imports(m)} & {"transformers"} for m in modules if package == "rewards")


def test_the_judge_s_libraries_are_loaded_in_its_own_process_alone():
    assert not [module for module in FILES if "mentorlib.rewards.judge_process" in imports(module)]


def test_tests_mirror_the_packages():
    tests = Path(__file__).parent
    for file in tests.rglob("test_*.py"):
        folder = file.parent.relative_to(tests)
        assert (LIBRARY / folder).is_dir(), f"{file.relative_to(tests)}: there is no mentorlib/{folder}"
