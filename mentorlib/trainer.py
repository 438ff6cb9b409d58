"""Training by TRL: SFTTrainer on references, GRPOTrainer on rewards. Ours is only the rollout it samples with, and
the record of every rollout it saw.

GRPO's settings follow MENTOR (arXiv 2510.18383) where they are known: KL 0.001, learning rate 1e-6 at 7-8B (a student
of two million parameters wants 1e-4).
"""

import importlib.util
import itertools
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from .attention import Packed, common, forward, laid, shared_prompts, understands
from .chat import encode_chat
from .core import SYSTEM, InputError, Pair, Trajectory
from .engine import Engine, TorchEngine, TurnEngine
from .rewards import CONTROLS, NEEDS_CALLS, NEEDS_RESULTS, REWARDS, TABLE, as_trl, named
from .rollout import rollout, row_of
from .runs import Run
from .sandbox import Sandbox

Report = Callable[[int, int, dict[str, Any]], Any]  # step, steps, what was measured; True ends training there


def _lora(rank: int) -> LoraConfig | None:
    """LoRA on all linear layers (alpha = 2 x rank); rank 0 is full weights."""
    if rank == 0:
        return None
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")


def _merged(model: Any) -> PreTrainedModel:
    """The plain model, adapters merged in."""
    return model.merge_and_unload() if isinstance(model, PeftModel) else model


def save_model(model: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Write a model folder whole or not at all; a model behind a server (None) stays there."""
    if model is None or tokenizer is None:
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


class _Progress(TrainerCallback):
    """Log each step into the run's metrics and tell the caller."""

    def __init__(self, run: Run, report: Report | None, keep: dict[str, str]):
        self.run, self.report, self.keep, self.last = run, report, keep, time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "train_runtime" in logs:
            return
        now = time.monotonic()
        metrics = {ours: float(logs[theirs]) for theirs, ours in self.keep.items() if logs.get(theirs) is not None}
        metrics["seconds"], self.last = round(now - self.last, 3), now
        self.run.log(state.global_step, **metrics)
        if self.report and self.report(state.global_step, state.max_steps, metrics) is True:
            control.should_training_stop = True


def train_sft(
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    *,
    steps: int = 100,
    batch_size: int = 32,
    learning_rate: float = 5e-5,
    lora_rank: int = 0,
    max_length: int = 1024,
    micro_batch: int = 0,
    system: str = SYSTEM,
    seed: int = 0,
    report: Report | None = None,
) -> PreTrainedModel:
    """Supervised fine-tuning on the teacher's references, loss on the assistant's tokens only (the paper's SFT).

    Args:
        run: where metrics go.
        model, tokenizer: the student; trained in place.
        pairs: tasks with references; those longer than max_length tokens are left out, and counted in the results.
        steps, batch_size, learning_rate: of the optimizer (AdamW, linear decay).
        lora_rank: 0 trains all weights.
        micro_batch: references a backward pass; 0 takes all of a step at once.
        system: the system message.
        seed: of order and dropout.
        report: told (step, steps, metrics) after each step; training ends there if it gives True.

    Raises:
        InputError: no reference is short enough, or sizes that do not divide.
    """
    sizes = _sizes(batch_size, micro_batch)
    if not all(reference.messages for _, reference in pairs):
        raise InputError(f"suite {pairs[0][0].suite!r} has no teacher's turns to imitate: train with method=grpo")
    encoded = [encode_chat(tokenizer, t.prompt(system), r.messages, list(t.toolbox.schemas)) for t, r in pairs]
    encoded = [(ids, mask) for ids, mask in encoded if len(ids) <= max_length]
    if not encoded:
        raise InputError(f"none of the {len(pairs)} references fits into max_length={max_length} tokens")
    run.record("references_too_long", len(pairs) - len(encoded), n=len(pairs))
    data = Dataset.from_dict(
        {
            "input_ids": [ids for ids, _ in encoded],
            "labels": [[i if m else -100 for i, m in zip(ids, mask, strict=True)] for ids, mask in encoded],
        }
    )
    arguments = SFTConfig(
        output_dir=str(run.path / "checkpoints"),
        **sizes,
        max_steps=steps,
        learning_rate=learning_rate,
        max_length=None,
        train_sampling_strategy="group_by_length",
        seed=seed,
        **_common(),
    )
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=data, processing_class=tokenizer, peft_config=_lora(lora_rank)
    )
    names = {"loss": "loss", "mean_token_accuracy": "token_accuracy", "grad_norm": "grad_norm", "learning_rate": "lr"}
    trainer.remove_callback(PrinterCallback)  # our report says the same in one line
    trainer.add_callback(_Progress(run, report, names))
    run.write_rows("metrics.jsonl", [])
    trainer.train()
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    return _merged(trainer.model)


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
    system: str = SYSTEM,
    seed: int = 0,
    report: Report | None = None,
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
        micro_batch: completions a backward pass; 0 takes all of a step at once.
        save_steps: checkpoint every so many steps; a run killed and called again goes on from the last. 0: none.
        vllm: "colocate" or "server" samples with vLLM through TRL (on a GPU with vLLM installed; not run on our
            machines); "" samples with the student in this process.
        seed: of task order and sampling; each step samples from (seed, step), so that a resumed run repeats nothing.
        report: told (step, steps, metrics) after each step; training ends there if it gives True.

    Raises:
        InputError: an unknown reward, one that asks more of the teacher than is known, or sizes that do not divide.
    """
    check_method("grpo", reward)
    if group_size < 2:
        raise InputError(f"group_size={group_size}: a group needs 2 rollouts at least, to be compared")
    sizes = _sizes(groups * group_size, micro_batch)
    if vllm not in ("", "colocate", "server"):
        raise InputError(f'vllm={vllm!r}: choose "colocate", "server", or "" for none')
    if vllm and importlib.util.find_spec("vllm") is None:
        raise InputError(f"vllm={vllm!r} needs vLLM: pip install 'trl[vllm]'")
    if reward not in ("sparse", "none", *CONTROLS):
        for task, reference in pairs:
            by_name = reward not in (*NEEDS_CALLS, *NEEDS_RESULTS)
            if not reference.messages and not (by_name and reference.calls):
                has = "only the names of its teacher's tools" if reference.calls else "no teacher"
                raise InputError(f"reward={reward}: suite {task.suite!r} has {has}: use sparse or none")
    known = {task.id: (task, reference) for task, reference in pairs}
    data = Dataset.from_list(
        [{"prompt": [*t.prompt(system)[:-1], {**t.prompt(system)[-1], "task_id": t.id}]} for t, _ in pairs]
    )
    arguments = GRPOConfig(
        output_dir=str(run.path / "checkpoints"),
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
        **_common() | ({"save_strategy": "steps", "save_steps": save_steps} if save_steps else {}),
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
        "frac_reward_zero_std": "dead_groups",
        "completions/mean_length": "tokens",
    }
    counted = {f"ours/{k}": k for k in _COUNTED} | {f"{reward}/{k}": f"term/{k}" for k in TABLE[reward][1]}
    trainer.remove_callback(PrinterCallback)  # our report says the same in one line
    trainer.add_callback(_Progress(run, report, names | counted))
    last = max((int(p.name.split("-")[-1]) for p in (run.path / "checkpoints").glob("checkpoint-*")), default=0)
    for name in ("rollouts.jsonl", "metrics.jsonl"):  # what was done after the last checkpoint is done again
        if (run.path / name).exists():
            run.write_rows(name, [r for r in run.read_rows(name) if r["step"] <= last])
    with shared_prompts(*(m for m in (trainer.model, trainer.ref_model) if m is not None)):
        trainer.train(resume_from_checkpoint=bool(last) or None)
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    return _merged(trainer.model)


def train(
    method: str,
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    sandbox: Sandbox,
    *,
    sft: dict[str, Any],
    grpo: dict[str, Any],
    **both: Any,
) -> PreTrainedModel:
    """Train by name: "none" gives the student back, "sft" and "grpo" call train_sft and train_grpo with their settings.

    Raises:
        InputError: an unknown method.
    """
    check_method(method)
    if method == "sft":
        return train_sft(run, model, tokenizer, pairs, **sft, **both)
    if method == "grpo":
        return train_grpo(run, model, tokenizer, pairs, sandbox, **grpo, **both)
    return model


def check_method(method: str, reward: str = "exact", student: str = "") -> None:
    """Refuse an unknown method or reward, or training behind a server, with InputError, before a run is begun."""
    if method not in ("none", "sft", "grpo"):
        raise InputError(f"unknown method {method!r}: choose none, sft or grpo")
    if "://" in student and method != "none":
        raise InputError(
            f"student={student}: a model behind a server is evaluated (method=none), not trained: "
            f"for method={method} give 'nano', a model folder or a hub name"
        )
    if reward not in REWARDS | CONTROLS:
        raise InputError(f"unknown reward {reward!r}: choose one of {', '.join(REWARDS)}")


def _sizes(batch: int, micro_batch: int) -> dict[str, Any]:
    """A step's batch as backward passes of micro_batch (0: one pass)."""
    micro = micro_batch or batch
    if batch < 1 or micro < 1 or batch % micro:
        raise InputError(f"micro_batch={micro_batch} must divide the batch of {batch} (groups x group_size)")
    return {"per_device_train_batch_size": micro, "gradient_accumulation_steps": batch // micro}


def _common() -> dict[str, Any]:
    """Settings that both trainers share; on a GPU float32 weights are computed with in bfloat16."""
    return {
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": torch.cuda.is_available(),
        "activation_checkpointing": False,
    }


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
            return TorchEngine(model, self.tokenizer)

        def complete(prompts: list[list[int]]) -> tuple[list[list[int]], list[list[float]]]:
            _, ids, logprobs, _ = trainer.vllm_generation.generate(prompts=prompts, images=None, num_generations=1)
            return ids, [[best[0] for best in row] for row in logprobs]

        return TurnEngine(complete, self.tokenizer, model.config.max_position_embeddings)

    def __call__(self, prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        pairs = [self.known[prompt[-1]["task_id"]] for prompt in prompts]
        trajectories = rollout(
            self.engine(trainer),
            [task for task, _ in pairs],
            self.sandbox,
            max_turns=self.max_turns,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            system=self.system,
            seed=self.seed * 1_000_003 + trainer.state.global_step,
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
        if compute_aux_loss or not understands(model):
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
            start = common(prompts)
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
                    *laid([(at, x) for at, x, _ in pieces], input_ids.device),
                    Packed(groups, start),
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
        trajectories: list[Trajectory] = [x["trajectory"] for x in inputs]
        rows = []
        size = int(self.num_generations or 1)
        reward = named(self.reward)
        alone = [
            reward(x["trajectory"], x["reference"], answer=x["task"].answer, valid_tools=x["task"].toolbox.names)
            for x in inputs
        ]
        scores = [score for i in range(0, len(alone), size) for score in reward.in_group(alone[i : i + size])]
        for i, (x, score, advantage) in enumerate(zip(inputs, scores, output["advantages"].tolist(), strict=True)):
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
            rows.append(row_of(task, reference, trajectory, **extra))
        self.run.append_rows("rollouts.jsonl", rows)
        stops = Counter(str(t.stop) for t in trajectories)
        judged = [r["correct"] for r in rows if r["correct"] is not None]
        counted = {
            "accuracy": sum(judged) / max(1, len(judged)),
            "calls": sum(len(t.calls) for t in trajectories) / len(rows),
            **{stop: stops[stop] / len(rows) for stop in _COUNTED[2:]},
        }
        for name, value in counted.items():
            self._metrics["train"][f"ours/{name}"].append(value)
        return output
