"""What TRL calls for the rollouts of a GRPO step: sample groups of trajectories, score each once.

With demonstrations, the teacher's reference takes the place of a rollout in the groups that are all wrong.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase
from trl import GRPOTrainer

from ..core import InputError, Trajectory
from ..rewards.reward import Reward, score_groups
from ..rollout.chat import end_ids
from ..rollout.check import context_length
from ..rollout.engine import Engine, TorchEngine, TurnEngine
from ..rollout.grading import grade
from ..rollout.loop import run_rollouts
from ..runs.progress import Sampling, format_duration, progress_line
from ..sandbox.pool import Sandbox
from ..task import Pair, Task


@dataclass
class RolloutFunction:
    """TRL's ``rollout_func``: prompts in; token ids, and for each rollout its trajectory, group and score, out."""

    tokenizer: PreTrainedTokenizerBase
    pairs: dict[str, Pair]  # by task id
    sandbox: Sandbox
    reward: Reward
    limits: dict[str, Any]
    seed: int
    demonstrations: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)  # by task id
    tally: Sampling = field(default_factory=lambda: Sampling(0))  # of the step at hand, in this process

    def engine(self, trainer: GRPOTrainer) -> Engine:
        """The student itself, or vLLM with its weights, which TRL keeps up to date."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        if not trainer.use_vllm:
            if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
                raise InputError("FSDP and DeepSpeed shard the weights, so that sampling needs vllm=colocate or server")
            return TorchEngine(model, self.tokenizer, bf16=trainer.args.bf16)

        def complete(prompts: list[list[int]]) -> tuple[list[list[int]], list[list[float]]]:
            _, ids, logprobs, _ = trainer.vllm_generation.generate(prompts=prompts, images=None, num_generations=1)
            # vLLM's NaNs come as None; TRL gives a token whose probability is NaN the ratio 1.
            return ids, [[math.nan if best[0] is None else best[0] for best in row] for row in logprobs]

        return TurnEngine(complete, self.tokenizer, end_ids(model, self.tokenizer), context_length(model))

    def inside(self, seconds: float) -> str:
        """Where the step at hand is, for a line of progress."""
        done, rows = self.tally.done, self.tally.rows
        if done < rows:
            return progress_line("rollouts", done, rows, self.tally.metrics(), seconds)
        return f"rollouts {done}/{rows}, rewards and loss, {format_duration(seconds)} so far"

    def __call__(self, prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        pairs = [self.pairs[prompt[-1]["task_id"]] for prompt in prompts]
        tasks, references = [task for task, _ in pairs], [reference for _, reference in pairs]
        first = trainer.accelerator.process_index * len(pairs)  # this process's part of the step's rollouts
        group_size = int(trainer.num_generations or 1)
        groups = [(first + i) // group_size for i in range(len(pairs))]
        seed = self.seed * 1_000_003 + trainer.state.global_step
        self.tally = Sampling(len(tasks))
        engine = self.engine(trainer)
        trajectories = run_rollouts(
            engine, tasks, self.sandbox, seed=seed, first=first, tally=self.tally, **self.limits
        )
        scores = score_groups(self.reward, trajectories, references, tasks, groups)
        in_loss, scores_in_loss = list(trajectories), list(scores)
        for end in range(group_size, len(pairs) + 1, group_size) if self.demonstrations else ():
            start, last = end - group_size, end - 1
            if not all_wrong(tasks[last], trajectories[start:end]):
                continue
            in_loss[last] = self.demonstration(pairs[last], trajectories[last], engine.context)
            if in_loss[last] is not trajectories[last]:
                shown = score_groups(self.reward, [in_loss[last]], [references[last]], [tasks[last]], [0])
                scores_in_loss[start:end] = self.reward.in_group([*scores[start:last], *shown])
        return {
            "prompt_ids": [t.prompt_ids for t in in_loss],
            "completion_ids": [t.token_ids for t in in_loss],
            "logprobs": [t.logprobs for t in in_loss],
            "env_mask": [t.mask for t in in_loss],
            "trajectory": trajectories,
            "task": tasks,
            "reference": references,
            "group": groups,
            "sample": [(first + i) % group_size for i in range(len(pairs))],
            "score": scores,
            "demonstration": [a is not b for a, b in zip(in_loss, trajectories, strict=True)],
            "score_in_loss": scores_in_loss,
        }

    def demonstration(self, pair: Pair, rollout: Trajectory, context: int) -> Trajectory:
        """The reference as if the student had sampled it after the rollout's prompt; the rollout if it is too long."""
        task, reference = pair
        ids, mask = self.demonstrations[task.id]
        start = len(rollout.prompt_ids)
        if not 0 < len(ids) - start <= min(self.limits["max_tokens"], context - start):
            return rollout
        return Trajectory(
            task.id,
            reference.messages,
            str(self.tokenizer.decode(ids[start:])),
            "answered",
            prompt_ids=rollout.prompt_ids,
            token_ids=ids[start:],
            mask=mask[start:],
            logprobs=[math.nan if sampled else 0.0 for sampled in mask[start:]],
        )


def all_wrong(task: Task, trajectories: Sequence[Trajectory]) -> bool:
    """Whether no rollout of a group is right, and at least one could be judged."""
    correct = [grade(task, trajectory)["correct"] for trajectory in trajectories]
    return False in correct and True not in correct
