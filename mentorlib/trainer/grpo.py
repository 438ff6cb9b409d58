"""Training by TRL: SFTTrainer on references (GKDTrainer on a teacher's logits over them), GRPOTrainer on rewards. Ours
is only the rollout it samples with, and the record of every rollout it saw.

Several processes (``launcher``) share a step: the same tasks, rollouts and loss as one process has, to rounding. Files
are the first's to write.

GRPO's settings follow MENTOR (arXiv 2510.18383) where they are known: KL 0.001, learning rate 1e-6 at 7-8B (a student
of two million parameters wants 1e-4).
"""

import importlib.util
import itertools
import math
import shutil
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
)
from trl import GRPOConfig, GRPOTrainer

from ..core import InputError
from ..rewards.reward import CONTROLS, named
from ..rewards.table import NEEDS_CALLS, NEEDS_RESULTS, TABLE
from ..rewards.trl import as_trl
from ..rollout.attention import PackedGroups, common_prefix, forward, is_packed, pack, packed_attention
from ..rollout.engine import Engine, TorchEngine, TurnEngine
from ..rollout.loop import run_rollouts, trajectory_row
from ..runs.progress import ProgressCallback
from ..runs.run import Run
from ..sandbox.pool import Sandbox
from ..task import SYSTEM, Pair
from .common import _common, _lora, _processes, _Progress, _sizes, _trained, check_method


def train_grpo(
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    sandbox: Sandbox,
    *,
    reward: str = "exact",
    steps: int = 100,
    groups: int = 8,
    group_size: int = 8,
    learning_rate: float = 1e-6,
    beta: float = 0.001,
    temperature: float = 1.0,
    max_turns: int = 8,
    max_tokens: int = 512,
    lora_rank: int = 0,
    micro_batch: int = 0,
    save_steps: int = 0,
    vllm: str = "",
    report_to: str = "",
    system: str = SYSTEM,
    seed: int = 0,
    report: ProgressCallback | None = None,
) -> PreTrainedModel:
    """GRPO with a named reward; every rollout is kept in the run's rollouts.jsonl.

    A step samples ``groups`` tasks ``group_size`` times each and makes one optimizer step on them (on-policy). A
    trajectory that ended by a fault of ours has no reward and an advantage of zero.

    Args:
        run: where metrics and rollouts go.
        model, tokenizer: the student; trained in place.
        pairs: tasks with references.
        sandbox: where the tools run.
        reward: a name in REWARDS or CONTROLS.
        steps: optimizer steps.
        groups, group_size: tasks a step, rollouts a task (the paper uses groups of 10).
        learning_rate: AdamW, constant after a short warm-up.
        beta: weight of the KL term against the student as it was.
        temperature, max_turns, max_tokens, system: see rollout.
        lora_rank: 0 trains all weights.
        micro_batch: completions a backward pass (of each process); 0 takes all of a step at once.
        save_steps: checkpoint every so many steps; a run killed and called again goes on from the last. 0: none.
        vllm: "colocate" or "server" samples with vLLM through TRL (on a GPU with vLLM installed; not run on our
            machines); "" samples with the student in this process.
        report_to: "tensorboard" (into the run's tensorboard/), "trackio" or "wandb": TRL tells it every step too.
        seed: of task order and sampling; each step samples from (seed, step), so that a resumed run repeats nothing.
        report: told (step, steps, metrics) after each step; training ends there if it gives True.

    Raises:
        InputError: an unknown reward, one that asks more of the teacher than is known, or sizes that do not divide.
    """
    check_method("grpo", reward)
    if group_size < 2:
        raise InputError(f"group_size={group_size}: a group needs 2 rollouts at least, to be compared")
    sizes = _sizes(groups * group_size, micro_batch, group_size)
    if vllm not in ("", "colocate", "server"):
        raise InputError(f'vllm={vllm!r}: choose "colocate", "server", or "" for none')
    if vllm == "server" and _processes() > 1:  # TRL's client waits for all processes at each turn, and expects as many
        raise InputError("vllm=server serves one training process, for turns differ in number: use vllm=colocate")
    if vllm and importlib.util.find_spec("vllm") is None:
        raise InputError(f"vllm={vllm!r} needs vLLM: pip install 'trl[vllm]'")
    if reward not in ("sparse", "none", *CONTROLS):
        for task, reference in pairs:
            by_name = reward not in (*NEEDS_CALLS, *NEEDS_RESULTS)
            if not reference.messages and not (by_name and reference.calls):
                has = "only the names of its teacher's tools" if reference.calls else "no teacher"
                mend = "use sparse or none, or have a teacher do its tasks (docs/teacher.md)"
                raise InputError(f"reward={reward}: suite {task.suite!r} has {has}: {mend}")
    known = {task.id: (task, reference) for task, reference in pairs}
    data = Dataset.from_list(
        [{"prompt": [*t.prompt(system)[:-1], {**t.prompt(system)[-1], "task_id": t.id}]} for t, _ in pairs]
    )
    arguments = GRPOConfig(
        **sizes,
        num_generations=group_size,
        max_completion_length=max_tokens,
        max_steps=steps,
        learning_rate=learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=min(5, steps // 4),
        beta=beta,
        temperature=temperature,
        loss_type="grpo",
        seed=seed,
        use_vllm=bool(vllm),
        vllm_mode=vllm or "colocate",
        **_common(run, report_to) | ({"save_strategy": "steps", "save_steps": save_steps} if save_steps else {}),
    )
    sampler = _Sampler(tokenizer, known, sandbox, max_turns, max_tokens, temperature, system, seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*rollout_func.*")
        trainer = _Trainer(
            model=model,
            args=arguments,
            train_dataset=data,
            processing_class=tokenizer,
            reward_funcs=as_trl(reward),
            rollout_func=sampler,
            peft_config=_lora(lora_rank),
        )
    trainer.run, trainer.reward = run, reward
    names = {
        "loss": "loss",
        "kl": "kl",
        "entropy": "entropy",
        "grad_norm": "grad_norm",
        "reward": "reward",
        "reward_std": "reward_std",
        "frac_reward_zero_std": "zero_variance_groups",
        "completions/mean_length": "tokens",
    }
    counted = {f"rollout/{k}": k for k in _COUNTED} | {f"{reward}/{k}": f"term/{k}" for k in TABLE[reward][1]}
    trainer.remove_callback(PrinterCallback)  # our report says the same in one line
    trainer.add_callback(_Progress(run, report, names | counted))
    for torn in (p for p in (run.path / "checkpoints").glob("checkpoint-*") if not (p / "trainer_state.json").exists()):
        if trainer.is_world_process_zero():
            shutil.rmtree(torn)  # killed while it was written; the state comes last
    trainer.accelerator.wait_for_everyone()
    last = max((int(p.name.split("-")[-1]) for p in (run.path / "checkpoints").glob("checkpoint-*")), default=0)
    for name in ("rollouts.jsonl", "metrics.jsonl"):  # what was done after the last checkpoint is done again
        if trainer.is_world_process_zero() and (run.path / name).exists():
            run.write_rows(name, [r for r in run.read_rows(name) if r["step"] <= last])
    with packed_attention(*(m for m in (trainer.model, trainer.ref_model) if m is not None)):
        trainer.train(resume_from_checkpoint=bool(last) or None)
    return _trained(trainer, run)


_COUNTED = ("accuracy", "calls", "answered", "gave_up", "turn_limit", "length", "malformed", "infrastructure")


@dataclass
class _Sampler:
    """TRL's rollout_func: prompts in, token ids out, with the trajectory and what a reward needs beside them."""

    tokenizer: PreTrainedTokenizerBase
    known: dict[str, Pair]
    sandbox: Sandbox
    max_turns: int
    max_tokens: int
    temperature: float
    system: str
    seed: int
    __name__ = "mentorlib_rollout"

    def engine(self, trainer: GRPOTrainer) -> Engine:
        """The student itself, or vLLM holding its weights (TRL keeps them in step)."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        if not trainer.use_vllm:
            if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
                raise InputError(
                    "FSDP and DeepSpeed share out the weights, so that sampling needs vllm=colocate or server"
                )
            return TorchEngine(model, self.tokenizer)

        def complete(prompts: list[list[int]]) -> tuple[list[list[int]], list[list[float]]]:
            _, ids, logprobs, _ = trainer.vllm_generation.generate(prompts=prompts, images=None, num_generations=1)
            return ids, [[best[0] for best in row] for row in logprobs]

        return TurnEngine(complete, self.tokenizer, model.config.max_position_embeddings)

    def __call__(self, prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        pairs = [self.known[prompt[-1]["task_id"]] for prompt in prompts]
        trajectories = run_rollouts(
            self.engine(trainer),
            [task for task, _ in pairs],
            self.sandbox,
            max_turns=self.max_turns,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            system=self.system,
            seed=self.seed * 1_000_003 + trainer.state.global_step,
            first=trainer.accelerator.process_index * len(pairs),
        )
        return {
            "prompt_ids": [t.prompt_ids for t in trajectories],
            "completion_ids": [t.token_ids for t in trajectories],
            "logprobs": [t.logprobs for t in trajectories],
            "env_mask": [t.mask for t in trajectories],
            "trajectory": trajectories,
            "task": [task for task, _ in pairs],
            "reference": [reference for _, reference in pairs],
        }


class _Trainer(GRPOTrainer):
    """GRPOTrainer that keeps every rollout with its score and advantage, and computes a group's prompt once."""

    run: Run
    reward: str

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
        """The stock method's numbers, from packed groups: no padding, and each different prompt once.

        The stock method reads every row from the start of its prompt and pads all to the longest. Values at padded
        places are zeros here; the loss masks them.
        """
        if compute_aux_loss or not is_packed(model):
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **kwargs,
            )
        width = input_ids.size(1) - logits_to_keep
        starts = (width - attention_mask[:, :width].sum(1)).tolist()
        lengths = attention_mask[:, width:].sum(1).tolist()
        ids = input_ids.tolist()
        order = sorted(range(len(ids)), key=lambda row: (ids[row][starts[row] : width], lengths[row]))
        logps: list[torch.Tensor] = [input_ids.new_empty(0)] * len(ids)
        entropies = list(logps)
        size = batch_size or len(ids)
        for rows in (order[i : i + size] for i in range(0, len(ids), size)):
            members = [list(group) for _, group in itertools.groupby(rows, lambda row: ids[row][starts[row] : width])]
            # The prompt's last token opens each row, since it predicts the row's first.
            prompts = [ids[group[0]][starts[group[0]] : width - 1] for group in members]
            start = common_prefix(prompts)
            pieces = [(0, prompts[0][:start], -1)]  # (position, tokens, row that it is, or -1)
            for group, prompt in zip(members, prompts, strict=True):
                pieces.append((start, prompt[start:], -1))
                pieces += [(len(prompt), ids[row][width - 1 :][: lengths[row]], row) for row in group]
            labels = [
                label for _, x, row in pieces for label in (ids[row][width:][: len(x)] if row >= 0 else [-100] * len(x))
            ]
            groups = [
                (len(prompt) - start, [lengths[row] for row in group])
                for group, prompt in zip(members, prompts, strict=True)
            ]
            with self.accelerator.autocast():
                output = forward(
                    model,
                    *pack([(at, x) for at, x, _ in pieces], input_ids.device),
                    PackedGroups(groups, start),
                    shift_labels=torch.tensor([labels], device=input_ids.device),
                    fused_lm_head=True,
                )
            sizes = [len(x) for _, x, _ in pieces]
            for values, into in ((output.log_probs, logps), (output.entropy, entropies)):
                if values is not None:
                    for (_, _, row), x in zip(pieces, values[0].split(sizes), strict=True):
                        if row >= 0:
                            into[row] = torch.nn.functional.pad(x, (0, logits_to_keep - len(x)))
        return torch.stack(logps), torch.stack(entropies) if compute_entropy else None, None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        rows = []
        size = int(self.num_generations or 1)
        first = self.accelerator.process_index * len(inputs)
        reward = named(self.reward)
        alone = [
            reward(x["trajectory"], x["reference"], answer=x["task"].answer, valid_tools=x["task"].toolbox.names)
            for x in inputs
        ]
        scores = [score for i in range(0, len(alone), size) for score in reward.in_group(alone[i : i + size])]
        for i, (x, score, advantage) in enumerate(
            zip(inputs, scores, output["advantages"].tolist(), strict=True), first
        ):
            task, reference, trajectory = x["task"], x["reference"], x["trajectory"]
            kept = {} if not score.judged else {"total": score.total, "reason": score.reason}
            extra = {
                "step": self.state.global_step + 1,
                "group": i // size,
                "sample": i % size,
                "reward": self.reward,
                "total": None,
                **kept,
                "terms": score.terms,
                "weights": score.weights,
                "advantage": advantage,
            }
            rows.append(trajectory_row(task, reference, trajectory, **extra))
        rows = gather_object(rows)
        if self.accelerator.is_main_process:
            self.run.append_rows("rollouts.jsonl", rows)
        stops = Counter(str(r["stop"]) for r in rows)
        judged = [r["correct"] for r in rows if r["correct"] is not None]
        counted = {
            "accuracy": sum(judged) / len(judged) if judged else math.nan,  # all was ours
            "calls": sum(len(r["calls"]) for r in rows) / len(rows),
            **{stop: stops[stop] / len(rows) for stop in _COUNTED[2:]},
        }
        for name, value in counted.items():
            self._metrics["train"][f"rollout/{name}"].append(value)
        return output
