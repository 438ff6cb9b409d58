"""From prompts' token ids to sampled token ids, over several turns.

Each step is one forward pass: one token of every row, and all tokens appended to rows since the last step (tool results
and the opening of the next turn). The KV cache is kept across turns, shared prefixes are computed and stored once, and
finished rows leave the batch.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..core import InputError
from ..runs.progress import Sampling
from .attention import common_prefix, forward, pack, packed_attention
from .chat import end_ids
from .check import check_model, context_length
from .decoding import Decoding, Prefill, keep_rows

OnTurns = Callable[[list[tuple[int, list[int]]]], list[list[int] | None]]


@dataclass
class Sampled:
    """One row's tokens after its prompt: ids, mask (1 = sampled) and log-probabilities, all of one length.

    Log-probabilities are of the distribution sampled from (after temperature; greedy: of temperature 1), 0.0 where the
    token was appended. ``cut``: a length limit ended the row before its last turn was closed.
    """

    token_ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    cut: bool = False

    def append(self, ids: list[int], logprobs: list[float] | None = None) -> None:
        """Add sampled tokens with their log-probabilities, or tokens that were not sampled."""
        self.token_ids += ids
        self.mask += [int(logprobs is not None)] * len(ids)
        self.logprobs += [0.0] * len(ids) if logprobs is None else logprobs


class Engine(Protocol):
    """What run_rollouts needs of a model."""

    tokenizer: PreTrainedTokenizerBase
    context: int  # most tokens of prompt and completion together

    def run(
        self,
        prompts: list[list[int]],
        on_turns: OnTurns,
        *,
        temperature: float,
        max_tokens: int,
        seed: int | None,
        first: int = 0,
        tally: Sampling | None = None,
    ) -> list[Sampled]:
        """Sample every prompt to its end.

        Args:
            prompts: token ids, one list a row, each shorter than the context; equal prompts (a group) may share their
                prefill.
            on_turns: called with (row, the turn's token ids) of all rows that closed a turn in the same step; returns
                the token ids to append (tool results and the opening of the next turn), or None to end the row.
            temperature: 0 is greedy.
            max_tokens: most tokens after the prompt, appended ones included.
            seed: of the sampling; None takes torch's global state.
            first: number of the first row in a larger batch whose other rows another process samples; rows sample the
                same tokens as in that batch.
            tally: where it counts rows and tokens for progress.
        """
        ...


class TorchEngine:
    """An engine on a transformers model in this process.

    On a CPU the model is used in place; on a GPU, or with ``bf16``, ``run`` samples from a copy of float32 weights in
    bfloat16 (see sampling_copy), whose log-probabilities it reports. GRPO's ratio does not use them: TRL computes both
    of its terms in its own pass.

    Args:
        model: with its weights.
        tokenizer: its own.
        bf16: sample in bfloat16 on a CPU, too (see trl_settings).

    Raises:
        InputError: a model that packed sequences do not compute as it is (see check_model).
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, bf16: bool = False):
        check_model(model)
        self.model, self.tokenizer = model, tokenizer
        self.end_ids = end_ids(model, tokenizer)
        self.half = (bf16 or model.device.type == "cuda") and model.dtype == torch.float32  # sample from a copy
        self.context = context_length(model)

    @torch.no_grad()
    def run(
        self,
        prompts: list[list[int]],
        on_turns: OnTurns,
        *,
        temperature: float = 1.0,
        max_tokens: int = 512,
        seed: int | None = None,
        first: int = 0,
        tally: Sampling | None = None,
    ) -> list[Sampled]:
        """See Engine.run."""
        if not prompts:
            return []
        # One number for each token that a row may sample, so that rows do not depend on each other.
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        numbers = torch.rand(first + len(prompts), max_tokens, generator=generator)[first:]
        model = sampling_copy(self.model) if self.half else self.model
        with _inference(model):
            return self._run(
                model, prompts, on_turns, temperature, max_tokens, numbers, tally or Sampling(len(prompts))
            )

    def _run(
        self,
        model: PreTrainedModel,
        prompts: list[list[int]],
        on_turns: OnTurns,
        temperature: float,
        max_tokens: int,
        numbers: Tensor,
        tally: Sampling,
    ) -> list[Sampled]:
        """``model``: the one to sample from; ``numbers``: uniform in [0, 1), shape (prompts, max_tokens)."""
        device = model.device
        ends = torch.tensor(sorted(self.end_ids))
        sizes = torch.tensor([len(p) for p in prompts])
        limits = (self.context - sizes).clamp(max=max_tokens)
        # Of each prompt: the tokens after it, whether they were sampled, their log-probabilities.
        tally.limit = int(limits.max())
        ids = torch.zeros(len(prompts), tally.limit, dtype=torch.long)
        mask, logprobs = torch.zeros_like(ids), torch.zeros(ids.shape)
        lengths, turn_starts = torch.zeros_like(sizes), torch.zeros_like(sizes)
        done = torch.zeros_like(sizes, dtype=torch.bool)
        cache, logits = self._prefill(model, prompts)
        rows = torch.arange(len(prompts))  # the prompt of each row in the batch
        while True:
            at = lengths[rows]
            tokens, chosen = (x.cpu() for x in sample(logits, temperature, numbers[rows, at].to(device)))
            if chosen.isnan().any():
                raise InputError("the model's logits are NaN: its training diverged; take a lower learning_rate")
            ids[rows, at], logprobs[rows, at], mask[rows, at] = tokens, chosen, 1
            lengths[rows] += 1
            tally.step(len(rows))
            appended: dict[int, int] = {}  # prompt: number of tokens appended in this step
            closed = rows[torch.isin(tokens, ends)].tolist()
            if closed:
                turns = [(row, ids[row, turn_starts[row] : lengths[row]].tolist()) for row in closed]
                for row, following in zip(closed, on_turns(turns), strict=True):
                    if following is None:
                        done[row] = True
                        continue
                    new = torch.tensor(following, dtype=torch.long)[: limits[row] - lengths[row]]
                    appended[row] = len(new)
                    turn_starts[row] = lengths[row] + len(new)
                    ids[row, lengths[row] : turn_starts[row]] = new
                    lengths[row] = turn_starts[row]
            going = ~done[rows] & (lengths[rows] < limits[rows])
            if not going.any():
                break
            if not going.all():
                cache.keep(going)
                rows = keep_rows(rows, going)
            counts = torch.tensor([appended.get(row, 0) for row in rows.tolist()])
            row, place = cache.step(lengths[rows] - 1 - counts, counts)
            # The next token follows a row's last token: its only one, or the last of those appended.
            last = torch.where(counts > 0, len(rows) - 1 + counts.cumsum(0), torch.arange(len(rows)))
            row = rows[row]
            logits = forward(
                model,
                ids[row, place].to(device),
                (sizes[row] + place).to(device),
                cache,
                use_cache=False,
                logits_to_keep=last.to(device),
            ).logits[0]
        return [
            Sampled(ids[i, :n].tolist(), mask[i, :n].tolist(), logprobs[i, :n].tolist(), cut=not done[i])
            for i, n in enumerate(lengths.tolist())
        ]

    def _prefill(self, model: PreTrainedModel, prompts: list[list[int]]) -> tuple[Decoding, Tensor]:
        """Compute each different prompt once, and their common prefix once.

        Returns the cache and the logits of the first tokens, of shape (rows, vocabulary).
        """
        device = model.device
        unique = list(dict.fromkeys(map(tuple, prompts)))
        index = {prompt: i for i, prompt in enumerate(unique)}
        start = common_prefix(unique)
        layout = Prefill([len(prompt) - start for prompt in unique], start)
        pieces = [(0, unique[0][:start]), *((start, prompt[start:]) for prompt in unique)]
        last = torch.tensor([len(piece) for _, piece in pieces], device=device).cumsum(0)[1:] - 1
        logits = forward(model, *pack(pieces, device), layout, use_cache=False, logits_to_keep=last).logits[0]
        prompt_of = torch.tensor([index[tuple(prompt)] for prompt in prompts], device=device)
        return Decoding(layout, prompt_of), logits[prompt_of]


@contextmanager
def _inference(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode and packed attention, without the mixed precision of a training around it."""
    was_training = model.training
    model.eval()
    try:
        with packed_attention(model), torch.autocast(model.device.type, enabled=False):
            yield
    finally:
        model.train(was_training)


def sampling_copy(model: Any) -> PreTrainedModel:
    """The model in bfloat16, LoRA merged in its weights' own precision and rounded once.

    Sampling under autocast would read float32 weights and cast them at every token, and a LoRA pass adds two small
    matrix products to each of the model's. The copy shares nothing with the model; float32 parts are never copied.
    """

    def rounded(weight: Tensor) -> torch.nn.Parameter:
        kept = weight.detach().to(torch.bfloat16) if weight.is_floating_point() else weight.detach().clone()
        return torch.nn.Parameter(kept, requires_grad=False)

    adapted: dict[int, Any] = {}  # by the id of a weight: the layer that adapts it
    for module in model.modules():
        if isinstance(module, LoraLayer):
            adapted[id(module.get_base_layer().weight)] = module
    memo: dict[int, Any] = {}
    for weight in model.parameters():
        layer = adapted.get(id(weight))
        deltas = [layer.get_delta_weight(name) for name in layer.active_adapters] if layer else []
        memo[id(weight)] = rounded(sum(deltas, weight.detach()))
    half = copy.deepcopy(model, memo)
    half = half.unload() if isinstance(half, PeftModel) else half
    for module in half.modules():  # trainers' own, which compute under autocast or with the weights copied from
        module.__dict__.pop("forward", None)
    return half  # type: ignore[no-any-return]


Complete = Callable[[list[list[int]]], tuple[list[list[int]], list[list[float]]]]


class TurnEngine:
    """An engine on a server that completes prompts of token ids, one turn at a time (vLLM keeps the KV cache itself).

    Args:
        complete: prompts to the sampled ids of one turn each, end token included unless it was cut, and their
            log-probabilities (NaN where it knows none). It determines temperature and seed.
        tokenizer: of the model behind it.
        ends: the tokens that end a turn (see end_ids).
        context: see Engine.
    """

    def __init__(self, complete: Complete, tokenizer: PreTrainedTokenizerBase, ends: set[int], context: int = 1 << 30):
        self.complete, self.tokenizer, self.end_ids, self.context = complete, tokenizer, ends, context

    def run(
        self,
        prompts: list[list[int]],
        on_turns: OnTurns,
        *,
        max_tokens: int = 512,
        tally: Sampling | None = None,
        **sampling: Any,
    ) -> list[Sampled]:
        """See Engine.run; ``sampling`` (temperature, seed) is ignored."""
        out = [Sampled(cut=True) for _ in prompts]
        limits = [min(max_tokens, self.context - len(prompt)) for prompt in prompts]
        tally = tally or Sampling(len(prompts))
        tally.limit = max(limits, default=0)
        rows = list(range(len(prompts)))
        while rows:
            tally.keep(len(rows))
            turns = self.complete([prompts[row] + out[row].token_ids for row in rows])
            closed: list[tuple[int, list[int]]] = []
            for row, ids, logprobs in zip(rows, *turns, strict=True):
                room = limits[row] - len(out[row].token_ids)
                out[row].append(ids[:room], logprobs[:room])
                tally.tokens += len(ids[:room])
                tally.length = max(tally.length, len(out[row].token_ids))
                if ids and ids[-1] in self.end_ids and len(ids) <= room:
                    closed.append((row, ids))
            rows = []
            for (row, _), following in zip(closed, on_turns(closed) if closed else [], strict=True):
                if following is None:
                    out[row].cut = False
                    continue
                out[row].append(following[: limits[row] - len(out[row].token_ids)])
                if len(out[row].token_ids) < limits[row]:
                    rows.append(row)
        return out


def sample(logits: Tensor, temperature: float, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Sample one token a row, by inverting the cumulative distribution; ``temperature`` 0 takes the likeliest.

    Args:
        logits: shape (rows, vocabulary).
        numbers: uniform in [0, 1), shape (rows,); they determine the tokens.

    Returns:
        The tokens and their log-probabilities, each of shape (rows,).
    """
    logprobs = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
    if temperature:
        # The first token at which the summed probabilities reach a number from (0, 1]. torch.multinomial draws a
        # number for each token of the vocabulary, which on a CPU takes longer than a small model's forward pass.
        reached = logprobs.exp().cumsum(-1)
        tokens = torch.searchsorted(reached, (1 - numbers[:, None]) * reached[:, -1:])
        tokens = tokens.clamp(max=logits.shape[-1] - 1)  # beyond it where the logits are NaN
    else:
        tokens = logprobs.argmax(-1, keepdim=True)
    return tokens[:, 0], logprobs.gather(1, tokens)[:, 0]
