"""Evaluate the student on held-out tasks every few steps of training."""

from typing import Any

from transformers import PreTrainedTokenizerBase, TrainerCallback

from ..data.parquet import load_tasks
from ..rollout.engine import TorchEngine
from ..rollout.evaluation import evaluate
from ..runs.run import Run
from ..sandbox.pool import Sandbox

ALONG = "eval_steps.jsonl"  # the rows of all these evaluations, each with its step


class EvaluateAlong(TrainerCallback):
    """Evaluate greedily after every ``eval_steps`` steps on the first ``eval_part`` tasks of each of ``eval_suites``.

    These and the limits are the run's parameters. Rows go to ``eval_steps.jsonl``, before the step's checkpoint is
    saved, so that a resumed training has each step once. Sampling uses no random numbers of training: the steps are the
    same as without it.
    """

    def __init__(self, run: Run, tokenizer: PreTrainedTokenizerBase, sandbox: Sandbox):
        self.run, self.tokenizer, self.sandbox = run, tokenizer, sandbox
        self.limits = {k: run.params[k] for k in ("max_turns", "max_tokens", "system", "seed") if k in run.params}
        split, n = run.params.get("eval_split", "eval"), run.params.get("eval_part", 40)
        suites = run.params["eval_suites"]
        self.suites = [load_tasks(run.params["data"], suite=suite, split=split, n=n) for suite in suites]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if (self.run.path / ALONG).exists():
            self.run.write_rows(ALONG, [row for row in self.run.read_rows(ALONG) if row["step"] <= state.global_step])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.run.params["eval_steps"]:
            return
        engine = TorchEngine(kwargs["model"], self.tokenizer, bf16=args.bf16)
        rows = [row for pairs in self.suites for row in evaluate(engine, pairs, self.sandbox, **self.limits)]
        self.run.append_rows(ALONG, [{"step": state.global_step, **row} for row in rows])
