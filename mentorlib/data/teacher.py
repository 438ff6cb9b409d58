"""References by rejection sampling from a teacher model: several trajectories a task, the most direct correct one kept.

A sample is correct when its answer is the task's and executing its calls gives that answer (``verify_references``). Of
the correct samples the most direct is kept: with calls rather than without (a reference without calls shows no tool),
then fewest calls, fewest tokens, first sampled. The teacher's agreement with itself is counted as well: if samples use
different tool sets, the reference is one correct choice among several.
"""

from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch

from ..core import InputError, Metric, Reference, Trajectory
from ..rewards.answers import judge
from ..rewards.corrected import final_answer
from ..rollout.endpoint import Endpoint
from ..rollout.engine import TorchEngine
from ..rollout.evaluation import Policy, sample_tasks
from ..rollout.grading import grade
from ..rollout.model import load_model
from ..rollout.record import trajectory_row
from ..runs.files import Row
from ..runs.progress import ProgressCallback
from ..runs.run import Run
from ..sandbox.pool import Sandbox
from ..task import SYSTEM, Pair, Task
from .check_references import RejectedRow, verify_references
from .parquet import check_ids
from .suites import SUITES, suite_name


def load_teacher(
    name: str,
    run: Run,
    *,
    model: str = "",
    template: str = "",
    template_arguments: dict[str, Any] | None = None,
    bf16: bool = False,
    **endpoint: Any,
) -> Policy | None:
    """A teacher by name.

    Args:
        name: "" for the suites' scripted teacher (returns None), an address such as http://localhost:8000/v1, "nano",
            a model folder or a hub name.
        run: stores an endpoint's replies.
        model: its name at the address.
        template, template_arguments: see load_model; a server renders with its own template (see Endpoint).
        bf16: hold and sample a local teacher in bfloat16 on a CPU, too, as on a GPU.
        endpoint: see Endpoint.
    """
    if not name:
        return None
    if "://" in name:
        return Endpoint(name, model, run, template_arguments=template_arguments, **endpoint)
    dtype = torch.bfloat16 if bf16 or torch.cuda.is_available() else torch.float32  # it is not trained
    return TorchEngine(*load_model(name, dtype, template=template, template_arguments=template_arguments))


def distill(
    teacher: Policy | None,
    pairs: list[Pair],
    sandbox: Sandbox,
    *,
    suites: Sequence[str] = (),
    drawn: Iterable[str] = SUITES,
    run: Run | None = None,
    samples: int = 4,
    temperature: float = 0.7,
    max_turns: int = 8,
    max_tokens: int = 2048,
    system: str = SYSTEM,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> tuple[list[Pair], list[RejectedRow], Row]:
    """Replace the references of training tasks by those of a sampled teacher.

    Held-out tasks keep their references, so that a teacher cannot make them easier by failing on the hard ones.

    Args:
        teacher: None changes nothing.
        pairs: tasks, with references if they have any.
        sandbox: where the tools run.
        suites: whose training tasks the teacher samples; by default those in ``drawn``, and what came without a
            reference.
        drawn: the suites that were generated. Both as generate takes them.
        run: where the samples (``samples.jsonl``) and the agreement of each task (``teacher.jsonl``) are written.
        samples: trajectories a task.
        temperature, max_turns, max_tokens, system, seed, progress: see sample_tasks.

    Returns:
        The pairs, without the tasks that no sample solved; the samples not kept, by name; and ``agreement`` with an
        endpoint's usage, {} without a teacher.

    Raises:
        InputError: samples below 1, suites without a teacher or without training tasks, or two tasks with one id.
    """
    if teacher is None:
        if suites:
            raise InputError(f"teacher_suites names {suites[0]!r}, but there is no teacher to sample: set teacher=")
        return pairs, [], {}
    if samples < 1:
        raise InputError(f"samples={samples}: sample at least one trajectory a task")
    check_ids(pairs)  # before requests cost anything
    training = {task.suite for task, _ in pairs if task.split == "train"}
    suites = [suite_name(suite) for suite in suites]
    if unknown := sorted(set(suites) - training):
        raise InputError(f"no training tasks of suite {unknown[0]!r}: choose among {', '.join(sorted(training))}")
    drawn = {suite_name(suite) for suite in drawn}
    unchanged = [pair for pair in pairs if not _is_sampled(*pair, suites, drawn)]
    tasks = [task for task, reference in pairs if _is_sampled(task, reference, suites, drawn) for _ in range(samples)]
    trajectories = sample_tasks(
        teacher,
        tasks,
        sandbox,
        temperature=temperature,
        max_turns=max_turns,
        max_tokens=max_tokens,
        system=system,
        seed=seed,
        progress=progress,
    )
    if run is not None:  # before anything that may fail
        references = {task.id: reference for task, reference in pairs}
        sampled = enumerate(zip(tasks, trajectories, strict=True))
        stored = [trajectory_row(task, references[task.id], t, sample=i % samples) for i, (task, t) in sampled]
        run.write_rows("samples.jsonl", stored)
    kept, rejected, rows = select_references(tasks, trajectories, sandbox)
    counts = agreement(rows)
    if run is not None:
        run.write_rows("teacher.jsonl", rows)
    if counts.get("called") == 0:
        print(
            f"no sample of the teacher ({counts['samples']}) calls a tool: its references teach none. Read "
            "samples.jsonl: it may answer from memory, or write calls in a form that is not read (docs/teacher.md)",
            flush=True,
        )
    usage = teacher.usage if isinstance(teacher, Endpoint) else {}
    return kept + unchanged, rejected, {**counts, **usage}


def _is_sampled(task: Task, reference: Reference, suites: Sequence[str], drawn: Container[str]) -> bool:
    if suites:
        return task.split == "train" and task.suite in suites
    return task.split == "train" and (task.suite in drawn or not reference.calls)


def select_references(
    tasks: list[Task], trajectories: list[Trajectory], sandbox: Sandbox
) -> tuple[list[Pair], list[RejectedRow], list[Row]]:
    """Keep the most direct correct trajectory of each task (defined at the top of this file).

    Args:
        tasks: each repeated for its samples.
        trajectories: the teacher's, in the order of the tasks.

    Returns:
        A pair for each solved task, in the order of the tasks; every other sample as ``<task id>#<sample>`` with a
        reason; and a row a task: samples (without unfinished ones), unfinished, right and called (the shares that are
        correct and that call a tool, None without samples), and the numbers of different tool_sets and answers.
    """
    by_task: dict[str, list[tuple[str, Task, Trajectory]]] = {}
    for task, trajectory in zip(tasks, trajectories, strict=True):
        group = by_task.setdefault(task.id, [])
        group.append((f"{task.id}#{len(group)}", task, trajectory))
    names = [name for group in by_task.values() for name, _, _ in group]
    rejections: dict[str, RejectedRow] = {}
    candidates: list[Pair] = []  # under the sample's name, which verify_references repeats in its rejections
    for name, task, trajectory in (sample for group in by_task.values() for sample in group):
        if rejection := _rejection(task, trajectory):
            rejections[name] = RejectedRow(name, *rejection)
        else:
            reference = Reference(name, trajectory.messages, trajectory.calls, task.answer)
            candidates.append((replace(task, id=name), reference))
    correct, failed = verify_references(candidates, sandbox)
    rejections |= {row.where: row for row in failed}
    verified = {task.id: reference for task, reference in correct}
    kept, rows = [], []
    for task_id, group in by_task.items():
        ranked = sorted(
            (not t.calls, len(t.calls), t.n_tokens, i) for i, (name, _, t) in enumerate(group) if name in verified
        )
        for rank, (*_, i) in enumerate(ranked):
            name, task, _ = group[i]
            if rank == 0:
                kept.append((task, replace(verified[name], task_id=task_id)))
            else:
                detail = f"sample {ranked[0][-1]} is kept"
                rejections[name] = RejectedRow(name, "correct, but not the most direct", detail)
        finished = [trajectory for _, _, trajectory in group if trajectory.stop != "infrastructure"]
        rows.append(
            {
                "task_id": task_id,
                "suite": group[0][1].suite,
                "samples": len(finished),
                "unfinished": len(group) - len(finished),
                "right": len(ranked) / len(finished) if finished else None,
                "called": sum(bool(t.calls) for t in finished) / len(finished) if finished else None,
                "tool_sets": len({frozenset(call.name for call in t.calls) for t in finished}),
                "answers": _count_different([final_answer(t) for t in finished], group[0][1].metric),
            }
        )
    return kept, [rejections[name] for name in names if name in rejections], rows


def agreement(rows: list[Row]) -> Row:
    """A teacher's agreement with itself, over ``select_references``' rows of tasks with at least one finished sample.

    ``right``: share of correct samples, mean over tasks; ``solved`` and ``always_right``: shares of tasks with at least
    one, and with only correct samples; ``called``: share of samples that call a tool, mean over tasks; ``tool_sets``
    and ``answers``: different ones a task, on average.
    """
    counts = {
        "tasks": len(rows),
        "samples": sum(row["samples"] for row in rows),
        "unfinished": sum(row["unfinished"] for row in rows),
    }
    sampled = [row for row in rows if row["samples"]]
    if not sampled:
        return counts
    means = {
        "right": fmean(row["right"] for row in sampled),
        "solved": fmean(row["right"] > 0 for row in sampled),
        "always_right": fmean(row["right"] == 1 for row in sampled),
        "called": fmean(row["called"] for row in sampled),
        "tool_sets": fmean(row["tool_sets"] for row in sampled),
        "answers": fmean(row["answers"] for row in sampled),
    }
    return {**counts, **{name: round(value, 4) for name, value in means.items()}}


def _rejection(task: Task, trajectory: Trajectory) -> tuple[str, str] | None:
    """(reason, detail) if a trajectory cannot be a reference, before its calls are executed again."""
    if trajectory.stop == "infrastructure":
        return "infrastructure failure", f"after {len(trajectory.calls)} calls"
    if trajectory.stop != "answered":
        return f"no answer: {trajectory.stop}", trajectory.response[-80:]
    correct = grade(task, trajectory)["correct"]
    if correct is None:
        return "the answer cannot be judged", str(final_answer(trajectory))[:80]
    return None if correct else ("wrong answer", str(final_answer(trajectory))[:80])


def _count_different(answers: list[str | None], metric: Metric) -> int:
    """How many answers differ; no answer counts as one of them."""
    different: list[str | None] = []
    for answer in answers:
        if not any(a == answer or (a and answer and judge(answer, a, metric).correct) for a in different):
            different.append(answer)
    return len(different)
