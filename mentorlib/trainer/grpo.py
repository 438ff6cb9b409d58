"""GRPO through TRL's GRPOTrainer: our rollouts in, every rollout kept with its score and advantage.

A step in reading order: ``RolloutFunction`` samples groups of trajectories (``rollout.loop``) and scores each once
(``rewards.reward``); TRL normalises the scores within their groups to advantages; ``MentorTrainer`` records the rows,
and computes log-probabilities from packed groups (``packed_logps``); TRL forms the loss and steps the optimizer.

Settings follow MENTOR (arXiv 2510.18383) where known: KL weight 0.001, learning rate 1e-6 at 7-8B parameters (the
shipped student of two million wants 3e-4). Several processes (``launch``) share a step: they see the same
tasks, rollouts and loss as one process, to rounding.
"""

import copy
import logging
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import safetensors.torch
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.models import prepare_deepspeed, prepare_fsdp
from trl.trainer.utils import add_fused_lm_head

from ..core import InputError, Stop
from ..rewards.reward import Reward, get_reward
from ..rewards.score import Score
from ..rollout.attention import is_packed, packed_attention
from ..rollout.chat import end_ids
from ..rollout.check import check_model
from ..rollout.record import trajectory_row
from ..runs.progress import ProgressCallback
from ..runs.run import Run
from ..sandbox.pool import Sandbox
from ..task import SYSTEM, Pair
from .checks import batch_sizes, check_settings, check_tasks
from .packed_logps import packed_logps
from .rollout_function import RolloutFunction
from .setup import (
    StepLogger,
    check_checkpointing,
    check_thoughts,
    encode_references,
    lora_config,
    prepare_resume,
    task_order,
    trained_model,
    trl_settings,
)

STOPS: tuple[str, ...] = get_args(Stop)
# TRL prints the whole trajectory of a rollout without a reward; metrics and rollouts.jsonl say the same.
logging.getLogger("trl.trainer.grpo_trainer").addFilter(lambda record: "returned None" not in record.getMessage())


def train_grpo(
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    sandbox: Sandbox,
    *,
    reward: str | Reward = "exact",
    steps: int = 100,
    groups: int = 8,
    group_size: int = 8,
    learning_rate: float = 1e-6,
    beta: float = 0.001,
    demonstrations: bool = False,
    temperature: float = 1.0,
    max_turns: int = 8,
    max_tokens: int = 512,
    lora_rank: int = 0,
    micro_batch: int = 0,
    gradient_checkpointing: bool = False,
    bf16: bool = False,
    save_steps: int = 0,
    vllm: str = "",
    report_to: str = "",
    system: str = SYSTEM,
    seed: int = 0,
    progress: ProgressCallback | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> PreTrainedModel:
    """Train with GRPO (arXiv 2402.03300); every rollout is kept in the run's rollouts.jsonl.

    A step samples ``groups`` tasks ``group_size`` times each and makes one on-policy optimizer step. A trajectory
    without a reward (an infrastructure failure, an answer that could not be judged) is no part of the loss; a step in
    which no trajectory has one ends the training.

    Args:
        run: where metrics, rollouts and checkpoints go.
        model, tokenizer: the student; trained in place.
        pairs: tasks with references, at least ``groups``; each comes once, in random order, before any comes again.
        sandbox: where the tools run.
        reward: a name in REWARDS or CONTROLS, or a Reward.
        steps: optimizer steps.
        groups, group_size: tasks a step, rollouts a task (the paper uses groups of 10).
        learning_rate: of AdamW, constant over the steps, as in train_sft.
        beta: weight of the KL term against the student as it is given, of which a copy stays in memory (and, with
            save_steps, on disk until the run is done); LoRA needs no copy.
        demonstrations: in a group whose rollouts are all wrong, the teacher's reference takes the place of the last
            rollout in the loss, if it fits into max_tokens. It is scored by the same reward and raises the baseline of
            the others. Its importance ratio is 1, as if the student had sampled it. (LUFFY, arXiv 2504.14945, has
            references in every group, and shapes their ratio.) The rollout is recorded, without an advantage.
        temperature, max_turns, max_tokens, system: see run_rollouts.
        lora_rank: 0 trains all weights.
        micro_batch: rollouts a backward pass (of each process); 0 takes all of a step at once.
        gradient_checkpointing: keep only the layers' inputs for the backward pass and compute the rest again: a
            fraction of the memory for about a third more time (docs/gpu.md), and the same gradients.
        bf16: compute in bfloat16 on a CPU, too, as on a GPU (faster where the CPU has AMX: docs/model.md). Weights and
            optimizer state stay float32.
        save_steps: checkpoint every so many steps (0: never), of which the last is kept: 12 bytes a parameter. An
            interrupted run, called again, resumes from it.
        vllm: "colocate" or "server" samples with vLLM through TRL (needs a GPU; not run by our tests); "" samples with
            the student in this process.
        report_to: "tensorboard" (into the run's tensorboard/), "trackio" or "wandb": where TRL logs every step too.
        seed: of task order and sampling; a step samples from (seed, step), so that a resumed run repeats nothing.
        progress: called with (step, steps, metrics) after each step; training stops there if it returns True. In long
            steps it is also called every few seconds, from a thread, with the metric ``inside`` alone.
        callbacks: further ones of transformers, such as EvaluateAlong.

    Raises:
        InputError: an unknown reward, a reference without what the reward compares, fewer tasks than groups, a number
            out of its range, sizes that do not divide, or a step without any reward; the steps before it are in a
            checkpoint, from which the same call goes on.
    """
    reward = get_reward(reward)
    check_settings(
        "grpo",
        reward,
        vllm=vllm,
        report_to=report_to,
        steps=steps,
        groups=groups,
        group_size=group_size,
        learning_rate=learning_rate,
        beta=beta,
        temperature=temperature,
        max_turns=max_turns,
        max_tokens=max_tokens,
        lora_rank=lora_rank,
        micro_batch=micro_batch,
        save_steps=save_steps,
        seed=seed,
    )
    check_tasks(pairs, "grpo", reward, groups, demonstrations)
    check_model(model)
    check_checkpointing(model, gradient_checkpointing)
    encoded: dict[str, tuple[list[int], list[int]]] = {}
    if demonstrations:
        check_thoughts(tokenizer, pairs)
        ids = (task.id for task, _ in pairs)
        encoded = dict(zip(ids, encode_references(tokenizer, pairs, system), strict=True))
    data = Dataset.from_list(
        [{"prompt": [*t.prompt(system)[:-1], {**t.prompt(system)[-1], "task_id": t.id}]} for t, _ in pairs]
    )
    order = task_order(len(pairs), groups, steps, seed)
    full_kl = bool(beta) and not lora_rank  # with LoRA, the reference is the student without its adapter
    reference = copy.deepcopy(model) if full_kl else None
    settings = trl_settings(run, steps, learning_rate, seed, report_to, gradient_checkpointing, bf16)
    if save_steps:
        settings |= {"save_strategy": "steps", "save_steps": save_steps, "save_total_limit": 1}
    arguments = GRPOConfig(
        **batch_sizes(groups * group_size, micro_batch, group_size),
        num_generations=group_size,
        max_completion_length=max_tokens,
        shuffle_dataset=False,  # it is the whole training in its order: an epoch of TRL's would begin again
        beta=0.0 if full_kl else beta,  # set_reference sets it: TRL would load a reference from the model's folder
        temperature=temperature,
        loss_type="grpo",
        use_vllm=bool(vllm),
        vllm_mode=vllm or "colocate",
        generation_kwargs={"stop_token_ids": sorted(end_ids(model, tokenizer))} if vllm else None,
        **settings,
    )
    limits = {"max_turns": max_turns, "max_tokens": max_tokens, "temperature": temperature, "system": system}
    by_id = {t.id: (t, r) for t, r in pairs}
    rollouts = RolloutFunction(tokenizer, by_id, sandbox, reward, limits, seed, encoded)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*rollout_func.*")  # TRL: experimental; the pinned version has it
        trainer = MentorTrainer(
            model=model,
            args=arguments,
            train_dataset=data.select([task for step in order for task in step]),
            processing_class=tokenizer,
            reward_funcs=CarriedReward(reward.name),
            rollout_func=rollouts,
            peft_config=lora_config(lora_rank),
        )
    trainer.run, trainer.reward, trainer.demonstrations = run, reward, demonstrations
    columns = {
        **{name: name for name in ("loss", "kl", "entropy", "grad_norm", "reward", "reward_std")},
        "learning_rate": "lr",
        "completions/mean_length": "tokens",
        **{f"rollout/{name}": name for name in ("accuracy", "calls", "zero_variance_groups", "demonstrations", *STOPS)},
        **{f"{reward.name}/{term}": f"term/{term}" for term in reward.weights},
    }
    trainer.remove_callback(PrinterCallback)  # StepLogger prints the same in one line
    logger = StepLogger(run, progress, columns, rollouts.inside)
    for callback in (*callbacks, logger):
        trainer.add_callback(callback)
    last = prepare_resume(trainer, run)
    if reference is not None:
        trainer.set_reference(reference, beta, bool(last))
        arguments.beta = beta
    with packed_attention(*(m for m in (trainer.model, trainer.ref_model) if m is not None)), logger.ticker:
        trainer.train(resume_from_checkpoint=bool(last) or None)
    return trained_model(trainer, run)


class CarriedReward:
    """TRL's ``reward_func``: the totals that RolloutFunction computed; None, without an advantage, where unjudged."""

    def __init__(self, name: str):
        self.__name__ = name  # TRL names its metrics by it

    def __call__(
        self, prompts: list[Any], completions: list[Any], score_in_loss: list[Score], **_: Any
    ) -> list[float | None]:
        return [one.total if one.judged else None for one in score_in_loss]


class MentorTrainer(GRPOTrainer):
    """GRPOTrainer that records every rollout with its score and advantage, and computes a group's prompt once.

    Rollouts without a reward are no part of the loss: neither its mean nor the KL term counts them.
    """

    run: Run
    reward: Reward
    demonstrations = False
    judged_share = 1.0  # of the rollouts of the step at hand, those of all processes

    def set_reference(self, reference: PreTrainedModel, beta: float, resumed: bool) -> None:
        """Hold the KL term against ``reference``, a copy of the student as it was given.

        It is kept beside the checkpoints: a training that is resumed takes it from there, since its student may be
        another by then, such as one trained in place before the interruption.
        """
        vars(reference).pop("forward", None)  # if the student was trained before: TRL's forward of the student itself
        reference.eval().requires_grad_(False)
        file = self._reference_file
        if resumed and file.exists():
            safetensors.torch.load_model(reference, file)
        elif self.args.save_strategy != "no" and self.is_world_process_zero():
            self._save_reference(reference)
        add_fused_lm_head(reference, temperature=self.temperature)
        prepared: Any
        if self.is_deepspeed_enabled:
            prepared = prepare_deepspeed(reference, self.accelerator)
        elif self.is_fsdp_enabled:
            prepared = prepare_fsdp(reference, self.accelerator)
        else:
            prepared = self.accelerator.prepare_model(reference, evaluation_mode=True)
        self.ref_model, self.beta = prepared, beta

    @property
    def _reference_file(self) -> Path:
        return self.run.path / "checkpoints" / "reference.safetensors"

    def _save_reference(self, reference: PreTrainedModel) -> None:
        self._reference_file.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_model(reference, str(self._reference_file))

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """The stock method's values from packed groups, where the model's attention takes them."""
        batch = (model, input_ids, attention_mask, logits_to_keep)
        if compute_aux_loss or not is_packed(model):
            return super()._get_per_token_logps_and_entropies(
                *batch, batch_size, compute_entropy, compute_aux_loss, **kwargs
            )
        logps, entropies = packed_logps(*batch, batch_size or len(input_ids), self.accelerator.autocast)
        return logps, entropies if compute_entropy else None, None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        rollouts = zip(inputs, output["advantages"].tolist(), strict=True)
        rows = gather_object([self._row(rollout, advantage) for rollout, advantage in rollouts])
        if self.accelerator.is_main_process:
            self.run.append_rows("rollouts.jsonl", rows)
        judged = torch.tensor([r["score_in_loss"].judged for r in inputs], device=output["tool_mask"].device)
        self.judged_share = float(self.accelerator.gather(judged).float().mean())
        if not self.judged_share:
            self._stop_without_rewards(rows)
        output["tool_mask"] = output["tool_mask"] * judged[:, None]
        for name, value in self._rollout_metrics(rows).items():
            self._metrics["train"][name].append(value)
        return output

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        """The mean over the rollouts that have a reward. TRL's counts the others, too, whose tokens are masked."""
        return super()._compute_loss(model, inputs) / self.judged_share

    def _stop_without_rewards(self, rows: list[dict[str, Any]]) -> None:
        """End a training whose infrastructure is gone: no rollout of a step has a reward. Its steps are kept."""
        reasons = Counter(row.get("failure") or row["reason"] for row in rows)
        said = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
        done = self.state.global_step
        if done and not (self._reference_file.parent / f"checkpoint-{done}").exists():
            self._save_checkpoint(self.model, trial=None)
            sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
            if self.ref_model and not sharded and self.is_world_process_zero() and not self._reference_file.exists():
                self._save_reference(self.accelerator.unwrap_model(self.ref_model))
        raise InputError(
            f"{self.run.path}: none of the {len(rows)} rollouts of step {done + 1} has a reward ({said}): check the "
            f"sandbox with `python -m mentorlib doctor`, then run it again"
            + (f" to go on after step {done}" if done else "")
        )

    def _row(self, rollout: dict[str, Any], advantage: float) -> dict[str, Any]:
        score: Score = rollout["score"]
        return trajectory_row(
            rollout["task"],
            rollout["reference"],
            rollout["trajectory"],
            step=self.state.global_step + 1,
            group=rollout["group"],
            sample=rollout["sample"],
            reward=self.reward.name,
            total=score.total if score.judged else None,
            reason=score.reason,
            terms=score.terms,
            weights=score.weights,
            advantage=None if rollout["demonstration"] else advantage,
            **({"demonstration": advantage} if rollout["demonstration"] else {}),
        )

    def _rollout_metrics(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """Means over a step's rollouts of all processes; NaN where no rollout could be judged."""
        graded = [row["correct"] for row in rows if row["correct"] is not None]
        judged = [row["terms"] for row in rows if row["total"] is not None]
        stops = Counter(row["stop"] for row in rows)
        totals: dict[int, list[float]] = defaultdict(list)
        for row in rows:
            totals[row["group"]] += [row["total"]] if row["total"] is not None else []
        # No advantage: fewer than two rewards, or equal ones.
        shown = sum("demonstration" in row for row in rows)
        flat = [group for group, rewards in totals.items() if not rewards or max(rewards) - min(rewards) < 1e-8]
        return {
            "rollout/zero_variance_groups": len(flat) / len(totals),
            **({"rollout/demonstrations": shown / len(totals)} if self.demonstrations else {}),
            "rollout/accuracy": sum(graded) / len(graded) if graded else math.nan,
            "rollout/calls": sum(len(row["calls"]) for row in rows) / len(rows),
            **{f"rollout/{stop}": stops[stop] / len(rows) for stop in STOPS},
            **{
                f"{self.reward.name}/{term}": sum(terms[term] for terms in judged) / len(judged) if judged else math.nan
                for term in self.reward.weights
            },
        }
