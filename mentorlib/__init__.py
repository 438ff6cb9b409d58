"""mentorlib: distil tool use from a large language model into a small one, and see what the reward did."""

import importlib
from typing import Any

# `rollout` and `evaluate` are both a module and its function: import those from their modules.
# name -> module; loaded on first use, so that `python -m mentorlib --help` does not wait for torch
_WHERE = {
    "Task": "core",
    "Reference": "core",
    "Trajectory": "core",
    "InputError": "core",
    "Toolbox": "toolbox",
    "Sandbox": "sandbox",
    "REWARDS": "rewards",
    "Score": "rewards",
    "as_trl": "rewards",
    "TorchEngine": "engine",
    "Endpoint": "endpoint",
    "load_student": "students",
    "load_tasks": "datasets",
    "verify": "teachers",
    "train": "launcher",
    "train_sft": "trainer",
    "train_grpo": "trainer",
    "distill": "distill",
    "Run": "runs",
    "run_notebook": "reports",
    "run_study": "studies",
}
_MODULES = ("analysis", "exploits", "figures", "live", "tokens", "tooluse", "widgets")
__all__ = [*_WHERE, *_MODULES]


def _load(module: str) -> Any:
    from .runs import uncollected

    with uncollected():  # a fifth of the time that torch and transformers take to import
        return importlib.import_module(f".{module}", __name__)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return _load(name)
    if name in _WHERE:
        return getattr(_load(_WHERE[name]), name)
    raise AttributeError(f"module 'mentorlib' has no attribute {name!r}")
