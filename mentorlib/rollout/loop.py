"""How a batch of tasks becomes trajectories: one multi-turn loop for training, evaluation and local teachers.

The engine samples turns; the tool calls of all rows that end a turn in the same step run concurrently. Token ids are
concatenated, never re-tokenised.
"""

from functools import partial

from ..core import Trajectory, parse_call
from ..runs.progress import Sampling
from ..sandbox.pool import Sandbox
from ..task import SYSTEM, Task
from .call_format import find_call_format
from .chat import control_tokens, encode, prompt_ids, tool_turn
from .conversation import Conversation, run_calls
from .engine import Engine, Sampled


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
    tally: Sampling | None = None,
) -> list[Trajectory]:
    """Sample one trajectory a task, in order; repeat a task for a group.

    Args:
        engine: the policy.
        tasks: each with its own toolbox.
        sandbox: where the tools run.
        max_turns: most assistant turns (the paper uses 5 at 7-8B).
        max_tokens: most tokens after the prompt, tool results included.
        temperature: 0 is greedy.
        system: the system message.
        seed: of the sampling.
        first: see Engine.run.
        tally: how far it is, for progress from another thread.
    """
    tally = tally or Sampling(len(tasks))
    tally.begin(len(tasks))
    tokenizer = engine.tokenizer
    unique = {task.id: task for task in tasks}.values()
    ids_of = {task.id: prompt_ids(tokenizer, task.prompt(system), list(task.toolbox.schemas)) for task in unique}
    prompts = [ids_of[task.id] for task in tasks]
    format = find_call_format(tokenizer)
    control = control_tokens(tokenizer)
    conversations = [
        Conversation(task, max_turns, partial(format.read_turn, tokenizer, list(task.toolbox.schemas)), control)
        for task in tasks
    ]
    in_turns = [0] * len(tasks)  # sampled tokens in each row's closed turns
    calls_made = [0] * len(tasks)
    # A prompt that fills the context leaves no room to sample. TRL's trainer needs at least one token a row: an end
    # token that counts as not sampled.
    sampled = [Sampled([int(tokenizer.eos_token_id)], [0], [0.0], cut=True) for _ in tasks]
    fits = [row for row, prompt in enumerate(prompts) if len(prompt) < engine.context]

    def on_turns(closed: list[tuple[int, list[int]]]) -> list[list[int] | None]:
        pending = []
        rows = [fits[i] for i, _ in closed]
        for row, (_, ids) in zip(rows, closed, strict=True):
            in_turns[row] += len(ids)
            pending.append((conversations[row], conversations[row].add_turn(format.turn_text(tokenizer, ids))))
        following: list[list[int] | None] = []
        for row, (_, calls), texts in zip(rows, pending, run_calls(pending, sandbox), strict=True):
            names = [call.name if (call := parse_call(raw)) else "unknown" for raw in calls]
            turn = tool_turn(tokenizer, texts, names, first=calls_made[row] + 1) if texts else ""
            following.append(encode(tokenizer, turn) if texts else None)
            calls_made[row] += len(texts)
        return following

    completions = engine.run(
        [prompts[row] for row in fits],
        on_turns,
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
        first=first,
        tally=tally,
    )
    tally.keep(0)
    for row, completion in zip(fits, completions, strict=True):
        sampled[row] = completion
    trajectories = []
    texts: dict[int, str] = {}
    for conversation, prompt, closed_tokens, s in zip(conversations, prompts, in_turns, sampled, strict=True):
        if unclosed := sum(s.mask) - closed_tokens:  # the turn that the token limit cut
            conversation.add_turn(format.turn_text(tokenizer, s.token_ids[-unclosed:], cut=True), cut=True)
        if s.cut:
            conversation.stop = "length"
        texts |= {i: str(tokenizer.decode([i])) for i in set(s.token_ids) - texts.keys()}
        trajectories.append(
            conversation.trajectory(
                str(tokenizer.decode(s.token_ids)) if any(s.mask) else "",
                prompt_ids=prompt,
                token_ids=s.token_ids,
                mask=s.mask,
                logprobs=s.logprobs,
                tokens=[texts[i] for i in s.token_ids],
            )
        )
    return trajectories
