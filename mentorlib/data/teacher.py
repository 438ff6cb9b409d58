"""References from a teacher that is sampled: several trajectories a task, the most direct right one kept.

Rejection sampling. A sample is right when the teacher says the task's answer and ``verify`` finds that executing its
calls gives it. Of the right ones the most direct is kept: one with calls before one without (which shows no tool),
fewest calls (none of which fails, ``verify`` sees to that), fewest tokens written, the first sampled. How far the
teacher agrees with itself is counted on the way: a reference that one sample in eight gives is worth less than one
that all give, and other right tools mean that matching the kept ones is one choice among several.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from ..core import InputError, Reference, Trajectory
from ..rewards.answers import judge
from ..rewards.corrected import final_answer
from ..rollout.endpoint import Endpoint
from ..rollout.engine import TorchEngine
from ..rollout.evaluation import Policy, sample_tasks
from ..rollout.grading import grade
from ..rollout.model import load_model
from ..runs.files import Row
from ..runs.run import Run
from ..sandbox.pool import Sandbox
from ..task import Pair, Task
from .check_references import RejectedRow, verify_references
from .parquet import check_ids
from .suites import SUITES

UNFINISHED = "unfinished: the server or the sandbox failed"


def load_teacher(name: str, run: Run, *, model: str = "", **endpoint: Any) -> Policy | None:
    """A teacher by name: "" is the suites' scripted one (None), an address an Endpoint, all else load_model's.

    Args:
        name: "", an address such as http://localhost:8000/v1, "nano", a model folder or a hub name.
        run: keeps an endpoint's replies.
        model: its name at the address.
        endpoint: see Endpoint.
    """
    if not name:
        return None
    return Endpoint(name, model, run, **endpoint) if "://" in name else TorchEngine(*load_model(name))


def distill(
    teacher: Policy | None,
    pairs: list[Pair],
    sandbox: Sandbox,
    *,
    suites: Sequence[str] = (),
    run: Run | None = None,
    samples: int = 4,
    temperature: float = 0.7,
    max_turns: int = 8,
    max_tokens: int = 2048,
    seed: int = 0,
    report: Callable[..., None] | None = None,
) -> tuple[list[Pair], list[RejectedRow], Row]:
    """Put the teacher's own references in place of the training tasks' ones; held-out tasks keep theirs.

    Held-out tasks are left alone so that no teacher makes them easier by failing the hard ones.

    Args:
        teacher: None leaves all as it is.
        pairs: tasks with the references they came with, if they have one.
        sandbox: where the tools run.
        suites: whose training tasks the teacher does; by default those that are drawn (``SUITES``), and those that came
            without a reference.
        run: where one row a task about the teacher's agreement is written (``teacher.jsonl``).
        samples: trajectories a task.
        temperature, max_turns, max_tokens, seed, report: see attempt.

    Returns:
        The pairs, without the tasks that no sample solved; the samples not kept, by name; and ``agreement`` with an
        endpoint's usage, {} without a teacher.

    Raises:
        InputError: samples below 1, suites without a teacher, one of them without a training task, or two tasks of one
            id.
    """
    if teacher is None:
        if suites:
            raise InputError(f"{suites[0]!r} is to be taught, but there is no teacher to sample: give one as teacher=")
        return pairs, [], {}
    if samples < 1:
        raise InputError(f"samples={samples}: a teacher makes at least one trajectory a task")
    check_ids(pairs)  # before a teacher is paid
    training = {task.suite for task, _ in pairs if task.split == "train"}
    if unknown := sorted(set(suites) - training):
        raise InputError(f"no training tasks of suite {unknown[0]!r} to teach: there are {', '.join(sorted(training))}")
    given = [pair for pair in pairs if not _asked(*pair, suites)]
    tasks = [task for task, reference in pairs if _asked(task, reference, suites) for _ in range(samples)]
    trajectories = sample_tasks(
        teacher,
        tasks,
        sandbox,
        temperature=temperature,
        max_turns=max_turns,
        max_tokens=max_tokens,
        seed=seed,
        report=report,
    )
    kept, rejected, rows = references(tasks, trajectories, sandbox)
    if run is not None:
        run.write_rows("teacher.jsonl", rows)
    usage = teacher.usage if isinstance(teacher, Endpoint) else {}
    return kept + given, rejected, {**agreement(rows), **usage}


def _asked(task: Task, reference: Reference, suites: Sequence[str]) -> bool:
    """Whether the teacher does this task."""
    if suites:
        return task.split == "train" and task.suite in suites
    return task.split == "train" and (task.suite in SUITES or not reference.calls)


def references(
    tasks: list[Task], trajectories: list[Trajectory], sandbox: Sandbox
) -> tuple[list[Pair], list[RejectedRow], list[Row]]:
    """Keep the most direct right trajectory of each task (see the top of this file).

    Args:
        tasks: repeated for each of their samples.
        trajectories: what the teacher did, in the order of the tasks.

    Returns:
        A pair a solved task, in the order of the tasks; every other sample as ``<task id>#<sample>`` with a reason; and
        a row a task: samples (without unfinished ones), unfinished, right (their share, None without samples), and how
        many tool_sets and answers differ.
    """
    grouped: dict[str, list[tuple[Task, Trajectory]]] = {}
    for task, trajectory in zip(tasks, trajectories, strict=True):
        grouped.setdefault(task.id, []).append((task, trajectory))
    faults: dict[str, RejectedRow] = {}
    said: list[Pair] = []  # under each sample's own name, so that verify's reasons find their way back
    for name, (task, trajectory) in _named(grouped):
        fault = _fault(task, trajectory)
        if fault is None:
            reference = Reference(name, trajectory.messages, trajectory.calls, task.answer)
            said.append((replace(task, id=name), reference))
        else:
            faults[name] = RejectedRow(name, *fault)
    right, failed = verify_references(said, sandbox)
    faults |= {rejected.where: rejected for rejected in failed}
    found = {task.id: reference for task, reference in right}
    kept, rows = [], []
    for task_id, group in grouped.items():
        names = [f"{task_id}#{i}" for i in range(len(group))]
        right_ones = [(i, t) for i, (_, t) in enumerate(group) if names[i] in found]
        solved = [(not t.calls, len(t.calls), t.n_tokens, i) for i, t in right_ones]
        if solved:
            best = min(solved)[-1]
            kept.append((group[best][0], replace(found[names[best]], task_id=task_id)))
            for *_, i in solved:
                if i != best:
                    faults[names[i]] = RejectedRow(names[i], "right, but not the most direct", f"sample {best} is kept")
        finished = [trajectory for _, trajectory in group if trajectory.stop != "infrastructure"]
        rows.append(
            {
                "task_id": task_id,
                "suite": group[0][0].suite,
                "samples": len(finished),
                "unfinished": len(group) - len(finished),
                "right": len(solved) / len(finished) if finished else None,
                "tool_sets": len({frozenset(call.name for call in t.calls) for t in finished}),
                "answers": _different([final_answer(t) for t in finished]),
            }
        )
    return kept, [faults[name] for name, _ in _named(grouped) if name in faults], rows


def agreement(rows: list[Row]) -> Row:
    """How far a teacher agrees with itself, over ``references``' rows of tasks with at least one finished sample.

    ``right``: share of right samples, mean over tasks; ``solved`` and ``always_right``: shares of tasks with one, and
    with only right ones; ``tool_sets`` and ``answers``: how many differ a task, on average.
    """
    seen = [row for row in rows if row["samples"]]
    counts = {
        "tasks": len(rows),
        "samples": sum(row["samples"] for row in rows),
        "unfinished": sum(row["unfinished"] for row in rows),
    }
    if not seen:
        return counts
    means = {
        "right": fmean(row["right"] for row in seen),
        "solved": fmean(row["right"] > 0 for row in seen),
        "always_right": fmean(row["right"] == 1 for row in seen),
        "tool_sets": fmean(row["tool_sets"] for row in seen),
        "answers": fmean(row["answers"] for row in seen),
    }
    return {**counts, **{name: round(value, 4) for name, value in means.items()}}


def _named(grouped: dict[str, list[tuple[Task, Trajectory]]]) -> list[tuple[str, tuple[Task, Trajectory]]]:
    return [(f"{task_id}#{i}", sample) for task_id, group in grouped.items() for i, sample in enumerate(group)]


def _fault(task: Task, trajectory: Trajectory) -> tuple[str, str] | None:
    """Why a trajectory cannot be a reference, before its calls are executed again."""
    if trajectory.stop == "infrastructure":
        return UNFINISHED, f"after {len(trajectory.calls)} calls"
    if trajectory.stop != "answered":
        return f"no answer: {trajectory.stop}", trajectory.response[-80:]
    correct = grade(task, trajectory)["correct"]
    if correct is None:
        return "the answer given cannot be judged", str(final_answer(trajectory))[:80]
    return None if correct else ("the answer given is not the task's", str(final_answer(trajectory))[:80])


def _different(answers: list[str | None]) -> int:
    """How many answers differ, no answer being one of them."""
    found: list[str | None] = []
    for answer in answers:
        if not any(a == answer or (a is not None and answer is not None and judge(answer, a).correct) for a in found):
            found.append(answer)
    return len(found)
