"""Let a policy work on held-out tasks and keep what it did: one row a trajectory, the source of every number."""

from collections.abc import Callable

from .core import SYSTEM, Pair
from .engine import Engine
from .rollout import rollout, row_of
from .runs import Row, Run
from .sandbox import Sandbox


def evaluate(
    engine: Engine,
    pairs: list[Pair],
    sandbox: Sandbox,
    *,
    run: Run | None = None,
    name: str | None = None,
    samples: int = 1,
    temperature: float = 0.0,
    batch_size: int = 128,
    max_turns: int = 8,
    max_tokens: int = 512,
    system: str = SYSTEM,
    seed: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Run a policy on tasks; rows as rollout.row_of gives them, with ``sample``.

    Args:
        engine: the policy.
        pairs: tasks with the references they are compared to.
        sandbox: where the tools run.
        run, name: where rows are written (``eval/<name>.jsonl``, whole or not at all); name defaults to the suite.
        samples: trajectories a task; more than one makes sense only above temperature 0.
        temperature: 0 is greedy.
        batch_size: trajectories in flight; tasks are sorted by length of question to keep padding low.
        report: told (done, all) after each batch.
    """
    work = sorted(((t, r, s) for t, r in pairs for s in range(samples)), key=lambda w: len(w[0].question))
    rows: list[Row] = []
    for start in range(0, len(work), batch_size):
        part = work[start : start + batch_size]
        trajectories = rollout(
            engine,
            [task for task, _, _ in part],
            sandbox,
            max_turns=max_turns,
            max_tokens=max_tokens,
            temperature=temperature,
            system=system,
            seed=seed * 1_000_003 + start,
        )
        rows += [row_of(t, r, done, sample=s) for (t, r, s), done in zip(part, trajectories, strict=True)]
        if report:
            report(len(rows), len(work))
    order = {task.id: i for i, (task, _) in enumerate(pairs)}
    rows.sort(key=lambda row: (order[row["task_id"]], row["sample"]))
    if run is not None:
        run.write_rows(f"eval/{name or pairs[0][0].suite}.jsonl", rows)
    return rows
