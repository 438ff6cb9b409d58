"""mentorlib: distil tool use from a large language model into a small one, and see what the reward did.

The public names are loaded on first use, so that ``python -m mentorlib --help`` does not wait for torch. In a notebook,
relative paths are read from the workspace (`runs.workspace`).
"""

import importlib
from typing import Any

from .runs.workspace import enter_workspace

enter_workspace()

_WHERE = {  # name -> module
    "Reference": "core",
    "Trajectory": "core",
    "InputError": "core",
    "Task": "task",
    "REWARDS": "rewards.reward",
    "Score": "rewards.score",
    "as_trl": "rewards.trl",
    "Sandbox": "sandbox.pool",
    "Toolbox": "sandbox.toolbox",
    "TorchEngine": "rollout.engine",
    "Endpoint": "rollout.endpoint",
    "load_model": "rollout.model",
    "run_rollouts": "rollout.loop",
    "evaluate": "rollout.evaluation",
    "load_tasks": "data.parquet",
    "distill": "data.teacher",
    "verify_references": "data.check_references",
    "train": "trainer.launch",
    "train_sft": "trainer.sft",
    "train_grpo": "trainer.grpo",
    "Run": "runs.run",
    "notebook_parameters": "runs.parameters",
    "run_notebook": "lab.batch.notebook",
    "run_study": "lab.batch.study",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'mentorlib' has no attribute {name!r}")
    from .runs.files import gc_paused

    with gc_paused():  # a fifth of the time that torch and transformers take to import
        return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
