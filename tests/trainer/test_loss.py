"""What the GRPO loss is made of: the reference of the KL term, and only rollouts that have a reward."""

import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mentorlib.core import InputError
from mentorlib.rewards import reward as rewards
from mentorlib.rollout.conversation import Conversation
from mentorlib.rollout.model import NANO, load_model
from mentorlib.runs.run import Run
from mentorlib.trainer import grpo, rollout_function
from mentorlib.trainer.grpo import train_grpo
from mentorlib.trainer.setup import save_model
from mentorlib.trainer.sft import train_sft

SIZES = {"reward": "null", "groups": 2, "group_size": 4, "learning_rate": 1e-3, "max_tokens": 24, "temperature": 1.5}


def imitator(root, pairs):
    """nano after some steps of SFT, in memory alone: its config still names nano's folder."""
    model, tokenizer = load_model("nano")
    return train_sft(Run("sft", root=root), model, tokenizer, pairs, steps=3, batch_size=4, learning_rate=3e-4)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_the_reference_is_the_student_as_it_was_given(tmp_path, pairs, sandbox, lora_rank):
    model, (_, tokenizer) = imitator(tmp_path, pairs), load_model("nano")
    run = Run("grpo", root=tmp_path)
    train_grpo(run, model, tokenizer, pairs, sandbox, steps=3, beta=0.1, lora_rank=lora_rank, **SIZES)
    kl = [m["kl"] for m in run.read_rows("metrics.jsonl")]
    assert abs(kl[0]) < 1e-6 and kl[-1] > 1e-6


def test_a_student_without_a_folder_has_a_reference(tmp_path, pairs, sandbox):
    """Made in memory, or from a folder that was removed since."""
    _, tokenizer = load_model("nano")
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(NANO, num_hidden_layers=1, layer_types=["full_attention"])
    )
    save_model(load_model("nano")[0], tokenizer, tmp_path / "gone")
    removed, _ = load_model(str(tmp_path / "gone"))
    shutil.rmtree(tmp_path / "gone")
    for name, model in (("made", made), ("removed", removed)):
        run = Run(name, root=tmp_path)
        train_grpo(run, model, tokenizer, pairs, sandbox, steps=1, beta=0.1, **SIZES)
        assert abs(run.read_rows("metrics.jsonl")[0]["kl"]) < 1e-6


def test_a_resumed_run_keeps_the_reference_of_its_first_step(tmp_path, pairs, sandbox):
    """Called again with the student on disk, or with the one that was trained in place until the interruption."""
    settings = {**SIZES, "steps": 4, "beta": 0.1, "save_steps": 2}
    weights, (_, tokenizer) = imitator(tmp_path, pairs).state_dict(), load_model("nano")

    def student():
        model, _ = load_model("nano")
        model.load_state_dict(weights)
        return model

    def killed(step, *_):
        if step == 3:
            raise KeyboardInterrupt

    def train(name, model, progress=None):
        run = Run(name, root=tmp_path)
        train_grpo(run, model, tokenizer, pairs, sandbox, progress=progress, **settings)
        return [m["kl"] for m in run.read_rows("metrics.jsonl")]

    whole = train("whole", student())
    for name, again in (("disk", load_model("nano")[0]), ("place", None)):
        interrupted = student()
        with pytest.raises(KeyboardInterrupt):
            train(name, interrupted, killed)
        assert train(name, again or interrupted) == pytest.approx(whole, abs=1e-7)
    run = Run("disk", root=tmp_path)
    run.finish()
    assert not (run.path / "checkpoints").exists()


def unjudged(monkeypatch, which):
    """Let the rollouts for which ``which(number in the step)`` holds have no reward, as if nobody could judge it."""
    original = rewards.score_groups

    def score(reward, trajectories, *rest):
        scores = original(reward, trajectories, *rest)
        for i, one in enumerate(scores):
            object.__setattr__(one, "total", 0.37 * (i % 3))  # unequal rewards, so that there are advantages
            object.__setattr__(one, "judged", not which(i))
        return scores

    monkeypatch.setattr(rollout_function, "score_groups", score)


@pytest.mark.parametrize("micro_batch", [0, 4])
@pytest.mark.parametrize("without", [{1, 4, 6}, {0, 1, 2, 3}, {0, 1, 2, 4}])
def test_the_loss_is_that_of_the_rollouts_with_a_reward(tmp_path, pairs, sandbox, monkeypatch, without, micro_batch):
    """Loss and gradients equal TRL's own on the batch that has those rows alone, the KL term included."""
    unjudged(monkeypatch, lambda i: i in without)
    ours, stock = grpo.MentorTrainer._compute_loss, grpo.GRPOTrainer._compute_loss
    set_reference = grpo.MentorTrainer.set_reference
    parts, losses, wanted, gradients = [], [], [], []

    def other_reference(self, reference, *rest):  # than the student, so that the KL term is not 0
        with torch.no_grad():
            for weights in reference.parameters():
                weights += 0.3 * weights.std() * torch.randn_like(weights) if weights.ndim > 1 else 0
        set_reference(self, reference, *rest)

    def compute(self, model, inputs):
        losses.append(ours(self, model, inputs))
        parts.append(inputs)
        if len(parts) == self.args.gradient_accumulation_steps:
            whole = {k: torch.cat([p[k] for p in parts]) for k, v in inputs.items() if torch.is_tensor(v) and v.ndim}
            kept = whole["tool_mask"].any(1)
            assert len(kept) == 8 and int(kept.sum()) == 8 - len(without)
            steps, self.current_gradient_accumulation_steps = self.current_gradient_accumulation_steps, 1
            wanted.append(stock(self, model, {**inputs, **{k: v[kept] for k, v in whole.items()}}))
            self.current_gradient_accumulation_steps = steps
            gradients.append(torch.autograd.grad(wanted[0], list(model.parameters())))
        return losses[-1]

    def clip(self, model):
        gradients.append([p.grad.clone() for p in model.parameters()])
        return torch.tensor(0.0)

    monkeypatch.setattr(grpo.MentorTrainer, "set_reference", other_reference)
    monkeypatch.setattr(grpo.MentorTrainer, "_compute_loss", compute)
    monkeypatch.setattr(grpo.MentorTrainer, "_clip_grad_norm", clip)
    model, tokenizer = load_model("nano")
    run = Run("loss", root=tmp_path)
    train_grpo(run, model, tokenizer, pairs, sandbox, steps=1, beta=0.5, micro_batch=micro_batch, **SIZES)
    assert sum(losses).item() == pytest.approx(wanted[0].item(), abs=1e-6) != 0
    for one, other in zip(*gradients, strict=True):
        assert (one - other).norm() <= 1e-4 * one.norm() + 1e-9
    (metrics,) = run.read_rows("metrics.jsonl")
    assert metrics["kl"] > 1e-4
    few = [group for group in (0, 1) if len({4 * group, 4 * group + 1, 4 * group + 2, 4 * group + 3} - without) < 2]
    assert metrics["zero_variance_groups"] == len(few) / 2
    for row in run.read_rows("rollouts.jsonl"):
        number = 4 * row["group"] + row["sample"]
        assert (row["total"] is None) == (number in without)
        assert row["advantage"] == 0 or number not in without


def test_training_without_any_reward_stops_with_the_reason_and_loses_nothing(tmp_path, pairs, sandbox, monkeypatch):
    settings = {**SIZES, "steps": 4, "beta": 0.1}
    gone = []

    def results(self, executions):
        if not gone:
            return original(self, executions)
        self.stop, self.failure = "infrastructure", "the sandbox cannot start: No space left on device"
        return []

    def trajectory(self, response, **tokens):  # also those without a call
        if gone:
            self.stop, self.failure = "infrastructure", "the sandbox cannot start: No space left on device"
        return whole_trajectory(self, response, **tokens)

    original, whole_trajectory = Conversation.add_results, Conversation.trajectory
    monkeypatch.setattr(Conversation, "add_results", results)
    monkeypatch.setattr(Conversation, "trajectory", trajectory)

    def train(name, progress=None):
        model, tokenizer = load_model("nano")
        run = Run(name, root=tmp_path)
        return run, train_grpo(run, model, tokenizer, pairs, sandbox, progress=progress, **settings)

    whole, wanted = train("whole")
    reason = r"none of the 8 rollouts of step 3 has a reward \(8 x the sandbox cannot start: No space left.*doctor"
    with pytest.raises(InputError, match=reason) as caught:
        train("cut", lambda step, *_: gone.append(1) if step == 2 else None)
    assert "\n" not in str(caught.value)
    gone.clear()
    cut, got = train("cut")  # no save_steps: the steps before were kept all the same
    rows = [[(r["step"], r["response"], r["total"]) for r in run.read_rows("rollouts.jsonl")] for run in (whole, cut)]
    assert rows[0] == rows[1]
    for a, b in zip(wanted.parameters(), got.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    gone.append(1)
    with pytest.raises(InputError, match="rollouts of step 1 has a reward"):
        train("never")
