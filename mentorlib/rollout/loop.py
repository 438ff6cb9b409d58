"""One multi-turn loop for training, evaluation and local teachers: sample a turn, run its tool calls, go on.

Token ids are concatenated, never re-tokenised. Every trajectory ends with a stop: answered, gave_up (a turn with
neither a call nor a box), turn_limit, length, malformed (a call that was never closed, so nothing could be run) or
infrastructure (we failed: never a reward). All calls of the rows that close a turn in the same step run concurrently.
"""

from typing import Any

from ..core import Message, Reference, Stop, Trajectory, format_tool_result, parse_turn, raw_calls
from ..sandbox.pool import Sandbox
from ..sandbox.toolbox import call_many
from ..task import SYSTEM, Task
from .chat import encode, prompt_ids, tool_turn
from .engine import Engine, Sampled
from .grading import grade


def stop_reason(text: str, last: bool, run: bool = True) -> Stop | None:
    """How a closed turn ends its trajectory; None where its calls are to be run: not after the last turn allowed.

    Without ``run`` the calls are the answer: there is nothing to run.
    """
    if raw_calls(text):
        return "answered" if not run else "turn_limit" if last else None
    if "<tool_call>" in text:
        return "malformed"
    return "answered" if "\\boxed" in text else "gave_up"


def run_rollouts(
    engine: Engine,
    tasks: list[Task],
    sandbox: Sandbox,
    *,
    max_turns: int = 8,
    max_tokens: int = 512,
    temperature: float = 1.0,
    system: str = SYSTEM,
    seed: int | None = None,
    first: int = 0,
) -> list[Trajectory]:
    """Let a policy work on tasks; one trajectory a task, in order (repeat a task for a group).

    Args:
        engine: the policy.
        tasks: each brings its own toolbox.
        sandbox: where the tools run.
        max_turns: assistant turns at most (the paper uses 5 at 7-8B).
        max_tokens: tokens after the prompt at most, tool results included.
        temperature: 0 is greedy.
        system: the system message.
        seed: of the sampling.
        first: see Engine.run.
    """
    tokenizer = engine.tokenizer
    known: dict[str, list[int]] = {}
    for task in tasks:
        if task.id not in known:
            known[task.id] = prompt_ids(tokenizer, task.prompt(system), list(task.toolbox.schemas))
    prompts = [known[task.id] for task in tasks]
    messages: list[list[Message]] = [[] for _ in tasks]
    stops: list[Stop] = ["length"] * len(tasks)
    closing: dict[int, list[int]] = {}  # each row's last whole turn

    def on_turns(closed: list[tuple[int, list[int]]]) -> list[list[int] | None]:
        waiting: list[tuple[int, list[str]]] = []
        closed = [(fits[i], ids) for i, ids in closed]
        for row, ids in closed:
            text = str(tokenizer.decode(ids[:-1]))
            message = parse_turn(text)
            messages[row].append(message)
            closing[row] = ids
            last = sum(m["role"] == "assistant" for m in messages[row]) >= max_turns
            stop = stop_reason(text, last=last, run=tasks[row].metric != "calls")
            if stop is None:
                waiting.append((row, raw_calls(text)))
            else:
                stops[row] = stop
        executions = call_many([(tasks[row].toolbox, raw) for row, calls in waiting for raw in calls], sandbox)
        done = iter(executions)
        following: dict[int, list[int] | None] = {}
        for row, calls in waiting:
            mine = [next(done) for _ in calls]
            if any(e.fault == "sandbox" for e in mine):
                stops[row] = "infrastructure"
                continue
            results = [format_tool_result(e.text) for e in mine]
            messages[row] += [{"role": "tool", "content": text} for text in results]
            following[row] = encode(tokenizer, tool_turn(tokenizer, results))
        return [following.get(row) for row, _ in closed]

    # A prompt that fills the context leaves nothing to sample. A trainer still wants a token: an end that is not the
    # policy's.
    fits = [i for i, prompt in enumerate(prompts) if len(prompt) < engine.context]
    sampled = [Sampled([int(tokenizer.eos_token_id)], [0], [0.0], cut=True) for _ in prompts]
    settings: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed, "first": first}
    for i, row in zip(fits, engine.run([prompts[i] for i in fits], on_turns, **settings), strict=True):
        sampled[i] = row
    trajectories = []
    texts: dict[int, str] = {}
    for i, (task, prompt, chat, stop, s) in enumerate(zip(tasks, prompts, messages, stops, sampled, strict=True)):
        if s.cut:
            stop = "length"
            tail = _last_turn(s.token_ids, s.mask)
            if tail and tail != closing.get(i):  # a turn may end on the very last token
                chat.append(parse_turn(str(tokenizer.decode(tail))))
        response = str(tokenizer.decode(s.token_ids))
        texts |= {i: str(tokenizer.decode([i])) for i in set(s.token_ids) - texts.keys()}
        tokens = [texts[i] for i in s.token_ids]
        trajectories.append(
            Trajectory(task.id, chat, response, stop, prompt, s.token_ids, s.mask, s.logprobs, tokens=tokens)
        )
    return trajectories


def _last_turn(ids: list[int], mask: list[int]) -> list[int]:
    """The sampled tokens at the very end: the turn that a limit cut."""
    n = next((i for i, m in enumerate(reversed(mask)) if not m), len(mask))
    return ids[len(ids) - n :]


def trajectory_row(task: Task, reference: Reference, trajectory: Trajectory, **more: Any) -> dict[str, Any]:
    """A trajectory as it is stored: one JSON object, readable without the objects it came from.

    ``tokens`` (their texts) and ``logprobs`` (natural log, to 3 decimals; null where the token was not sampled) have
    one entry a token of the response; both are absent if the trajectory has no token ids.
    """
    said: dict[str, Any] = {}
    if trajectory.tokens:
        pairs = zip(trajectory.logprobs, trajectory.mask, strict=True)
        said = {"tokens": trajectory.tokens, "logprobs": [round(p, 3) if sampled else None for p, sampled in pairs]}
    return {
        "task_id": task.id,
        "suite": task.suite,
        "split": task.split,
        "question": task.question,
        "answer": task.answer,
        "teacher_tools": reference.tools,
        "teacher_calls": [vars(c) for c in reference.calls],
        "teacher_results": reference.results,
        "tools": task.toolbox.names,
        "response": trajectory.response,
        "messages": trajectory.messages,
        "calls": [vars(c) for c in trajectory.calls],
        "stop": trajectory.stop,
        "n_tokens": trajectory.n_tokens,
        **grade(task, trajectory),
        **said,
        **more,
    }
