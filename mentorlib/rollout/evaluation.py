"""Let a policy work on tasks, and keep what it did on held-out ones: a row a trajectory, the source of every number."""

from collections.abc import Callable
from typing import Any

from ..core import Trajectory
from ..runs.files import Row
from ..runs.run import Run
from ..sandbox.pool import Sandbox
from ..task import SYSTEM, Pair, Task
from .engine import Engine
from .loop import run_rollouts, trajectory_row

Policy = Engine | Callable[..., list[Trajectory]]  # a model of ours, or what is called as ``rollout`` is (an Endpoint)


def sample_tasks(
    policy: Policy,
    tasks: list[Task],
    sandbox: Sandbox,
    *,
    batch_size: int = 64,
    seed: int = 0,
    report: Callable[..., None] | None = None,
    **limits: Any,
) -> list[Trajectory]:
    """One trajectory a task, in order, of any policy; repeat a task for several samples.

    Args:
        policy: an engine, which gets batches, or an Endpoint, which keeps its own number in flight.
        tasks, sandbox, limits: see rollout.
        batch_size: trajectories in flight (64 keep a process of the quick study under 2 GB).
        seed: of the sampling.
        report: told (done, all) after each batch, or by the endpoint.
    """
    if callable(policy):
        return policy(tasks, sandbox, report=report, **limits)
    order = sorted(range(len(tasks)), key=lambda i: len(tasks[i].question))
    done: dict[int, Trajectory] = {}
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        trajectories = run_rollouts(policy, [tasks[i] for i in part], sandbox, seed=seed * 1_000_003 + start, **limits)
        done |= zip(part, trajectories, strict=True)
        if report:
            report(len(done), len(tasks))
    return [done[i] for i in range(len(tasks))]


def evaluate(
    policy: Policy,
    pairs: list[Pair],
    sandbox: Sandbox,
    *,
    run: Run | None = None,
    name: str | None = None,
    samples: int = 1,
    temperature: float = 0.0,
    batch_size: int = 64,
    max_turns: int = 8,
    max_tokens: int = 512,
    system: str = SYSTEM,
    seed: int = 0,
    report: Callable[..., None] | None = None,
) -> list[Row]:
    """Run a policy on tasks; rows as rollout.trajectory_row gives them, with ``sample``.

    Args:
        policy: a model of ours (an Engine), or one behind a server (an Endpoint).
        pairs: tasks with the references they are compared to.
        sandbox: where the tools run.
        run, name: where rows are written (``eval/<name>.jsonl``, whole or not at all); name defaults to the suite.
        samples: trajectories a task; more than one makes sense only above temperature 0.
        temperature: 0 is greedy.
        batch_size, seed, report: see attempt.
    """
    work = [(task, reference, sample) for task, reference in pairs for sample in range(samples)]
    trajectories = sample_tasks(
        policy,
        [task for task, _, _ in work],
        sandbox,
        batch_size=batch_size,
        max_turns=max_turns,
        max_tokens=max_tokens,
        temperature=temperature,
        system=system,
        seed=seed,
        report=report,
    )
    rows = [trajectory_row(t, r, done, sample=s) for (t, r, s), done in zip(work, trajectories, strict=True)]
    if run is not None:
        run.write_rows(f"eval/{name or pairs[0][0].suite}.jsonl", rows)
    return rows
