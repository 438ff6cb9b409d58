"""Sample any policy on tasks, and store what it did on held-out ones, one row a trajectory."""

from collections.abc import Callable
from typing import Any

from ..core import Trajectory
from ..runs.files import Row
from ..runs.progress import ProgressCallback, Sampling, Ticker
from ..runs.run import Run
from ..sandbox.pool import Sandbox
from ..task import Pair, Task
from .engine import Engine
from .loop import run_rollouts
from .record import trajectory_row

Policy = Engine | Callable[..., list[Trajectory]]  # a local model, or an Endpoint


def sample_tasks(
    policy: Policy,
    tasks: list[Task],
    sandbox: Sandbox,
    *,
    batch_size: int = 64,
    seed: int = 0,
    progress: ProgressCallback | None = None,
    **limits: Any,
) -> list[Trajectory]:
    """One trajectory a task, in order; repeat a task for several samples.

    Args:
        policy: an engine, which gets batches, or an Endpoint, which keeps its own number in flight.
        tasks, sandbox: see run_rollouts.
        batch_size: trajectories in flight (64 keep a process of the quick study under 2 GB).
        seed: of the sampling.
        progress: called with (done, all, metrics) every few seconds, from a thread, and at the end; or by the endpoint.
        limits: temperature, max_turns, max_tokens and system of run_rollouts.
    """
    if callable(policy):
        return policy(tasks, sandbox, progress=progress, **limits)
    order = sorted(range(len(tasks)), key=lambda i: len(tasks[i].question))
    done: dict[int, Trajectory] = {}
    tally = Sampling(len(tasks))

    def report() -> None:
        if progress:
            progress(tally.done, tally.rows, tally.metrics())

    with Ticker(report):
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            seed_of_batch = seed * 1_000_003 + start
            trajectories = run_rollouts(
                policy, [tasks[i] for i in batch], sandbox, seed=seed_of_batch, tally=tally, **limits
            )
            done |= zip(batch, trajectories, strict=True)
    if tasks:
        report()
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
    seed: int = 0,
    progress: ProgressCallback | None = None,
    **limits: Any,
) -> list[Row]:
    """Run a policy on tasks; rows as trajectory_row gives them, with ``sample``.

    Args:
        policy: a local model (an Engine), or one behind a server (an Endpoint).
        pairs: tasks with the references they are compared to.
        sandbox: where the tools run.
        run, name: where rows are written (``eval/<name>.jsonl``, whole or not at all); name defaults to the suite.
        samples: trajectories a task; more than one makes sense only above temperature 0.
        temperature: 0 is greedy.
        seed, progress, limits: see sample_tasks.
    """
    work = [(task, reference, sample) for task, reference in pairs for sample in range(samples)]
    tasks = [task for task, _, _ in work]
    trajectories = sample_tasks(policy, tasks, sandbox, temperature=temperature, seed=seed, progress=progress, **limits)
    rows = [trajectory_row(t, r, done, sample=s) for (t, r, s), done in zip(work, trajectories, strict=True)]
    if run is not None:
        run.write_rows(f"eval/{name or pairs[0][0].suite}.jsonl", rows)
    return rows
