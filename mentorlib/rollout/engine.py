"""From prompts' token ids to sampled token ids, several turns in one pass over the model.

Each step is one forward pass: a token of every row, and all tokens that rows were given since (tool results, the next
turn's opening). The KV cache lives as long as the batch, so nothing is read or tokenised twice; what rows share (their
prompt in a group, their schemas with one toolbox) is read once and kept once; finished rows leave the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..core import InputError
from .attention import Decoding, Prefill, common_prefix, compact, forward, pack, packed_attention, supported

OnTurns = Callable[[list[tuple[int, list[int]]]], list[list[int] | None]]


@dataclass
class Sampled:
    """One row's tokens after its prompt: ids, mask (1 = sampled) and log-probabilities, all of one length.

    Log-probabilities are of the distribution sampled from (after temperature; greedy: of temperature 1), 0.0 where the
    token was given. ``cut`` says that the length limit ended the row in the middle.
    """

    token_ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    cut: bool = False


class Engine(Protocol):
    """What a rollout needs of a model server."""

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
    ) -> list[Sampled]:
        """Sample every prompt to its end.

        Args:
            prompts: token ids, one list a row, each shorter than the context; equal prompts (a group) may share their
                prefill.
            on_turns: called with (row, the turn's token ids) of all rows that closed a turn in the same step; answers
                with the token ids that follow (tool results and the next turn's opening), or None to end the row.
            temperature: 0 is greedy.
            max_tokens: most tokens after the prompt, given ones included.
            seed: of the sampling; None takes torch's global state.
            first: rows sample as the rows from ``first`` on of a larger batch would, whose rest another process has.
        """
        ...


class TorchEngine:
    """An engine on a transformers model in this process, CPU or GPU; the model is used as it is, never copied.

    Raises:
        InputError: a model whose attention cannot be told about shared prompts.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        if not supported(model):
            raise InputError(
                f"the attention of {type(model).__name__} is not plain full attention: take a model like Qwen3 or Llama"
            )
        self.model, self.tokenizer = model, tokenizer
        ends = getattr(model.generation_config, "eos_token_id", None)
        ends = ends if isinstance(ends, list) else [ends]
        self.end_ids = {i for i in [*ends, tokenizer.eos_token_id] if i is not None}
        self.context = getattr(model.config, "max_position_embeddings", 1 << 30)

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
    ) -> list[Sampled]:
        """See Engine.run."""
        if not prompts:
            return []
        was_training = self.model.training
        self.model.eval()
        # On a GPU float32 weights are cast to bfloat16 once for the whole run: decoding waits for memory.
        kind = self.model.device.type
        try:
            with packed_attention(self.model), torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
                return self._run(prompts, on_turns, temperature, max_tokens, seed, first)
        finally:
            self.model.train(was_training)

    def _run(
        self,
        prompts: list[list[int]],
        on_turns: OnTurns,
        temperature: float,
        max_tokens: int,
        seed: int | None,
        first: int,
    ) -> list[Sampled]:
        device = self.model.device
        # A number for each token that each row may sample, so that what a row samples does not hang on the others.
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        numbers = torch.rand(first + len(prompts), max_tokens, generator=generator)[first:]
        ends = torch.tensor(sorted(self.end_ids))
        sizes = torch.tensor([len(p) for p in prompts])
        limits = (self.context - sizes).clamp(max=max_tokens)
        # What each prompt's row has so far: tokens, which of them were sampled, their log-probabilities.
        ids = torch.zeros(len(prompts), int(limits.max()), dtype=torch.long)
        mask, logprobs = torch.zeros_like(ids), torch.zeros(ids.shape)
        lengths, starts = torch.zeros_like(sizes), torch.zeros_like(sizes)  # starts: of the present turns
        done = torch.zeros_like(sizes, dtype=torch.bool)
        cache, logits = self._prefill(prompts)
        rows = torch.arange(len(prompts))  # which prompt each row of the batch belongs to
        while True:
            at = lengths[rows]
            tokens, chosen = (x.cpu() for x in sample(logits, temperature, numbers[rows, at].to(device)))
            ids[rows, at], logprobs[rows, at], mask[rows, at] = tokens, chosen, 1
            lengths[rows] += 1
            heard: dict[int, int] = {}  # row: how many tokens it was given
            closed = rows[torch.isin(tokens, ends)].tolist()
            if closed:
                turns = [(row, ids[row, starts[row] : lengths[row]].tolist()) for row in closed]
                for row, answer in zip(closed, on_turns(turns), strict=True):
                    if answer is None:
                        done[row] = True
                        continue
                    given = torch.tensor(answer, dtype=torch.long)[: limits[row] - lengths[row]]
                    heard[row] = len(given)
                    starts[row] = lengths[row] + len(given)
                    ids[row, lengths[row] : starts[row]] = given
                    lengths[row] = starts[row]
            going = ~done[rows] & (lengths[rows] < limits[rows])
            if not going.any():
                break
            if not going.all():
                cache.keep(going)
                rows = compact(rows, going)
            hearing = [(i, heard[row]) for i, row in enumerate(rows.tolist()) if heard.get(row)] if heard else []
            at, last = lengths[rows] - 1, torch.arange(len(rows))
            end = len(rows)
            for i, n in hearing:
                at[i] -= n
                end += n
                last[i] = end - 1
            row, place = cache.step(at, hearing)
            row = rows[row]
            logits = forward(
                self.model,
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

    def _prefill(self, prompts: list[list[int]]) -> tuple[Decoding, Tensor]:
        """Read each different prompt once, and what all begin with once.

        Gives the cache and the logits of the first tokens, of shape (rows, vocabulary).
        """
        device = self.model.device
        unique = list(dict.fromkeys(map(tuple, prompts)))
        index = {prompt: i for i, prompt in enumerate(unique)}
        start = common_prefix(unique)
        layout = Prefill([len(prompt) - start for prompt in unique], start)
        pieces = [(0, unique[0][:start]), *((start, prompt[start:]) for prompt in unique)]
        last = torch.tensor([len(piece) for _, piece in pieces], device=device).cumsum(0)[1:] - 1
        logits = forward(self.model, *pack(pieces, device), layout, use_cache=False, logits_to_keep=last).logits[0]
        prompt_of = torch.tensor([index[tuple(prompt)] for prompt in prompts], device=device)
        return Decoding(layout, prompt_of), logits[prompt_of]


Complete = Callable[[list[list[int]]], tuple[list[list[int]], list[list[float]]]]


class TurnEngine:
    """An engine on a server that completes prompts of token ids, a turn at a time; vLLM keeps the KV cache itself.

    Args:
        complete: prompts to the sampled ids of one turn each, end token included unless it was cut, and their
            log-probabilities. What temperature and seed it samples with is its own to know.
        tokenizer: of the model behind it; its end token ends a turn.
        context: see Engine.
    """

    def __init__(self, complete: Complete, tokenizer: PreTrainedTokenizerBase, context: int = 1 << 30):
        self.complete, self.tokenizer, self.context = complete, tokenizer, context

    def run(
        self, prompts: list[list[int]], on_turns: OnTurns, *, max_tokens: int = 512, **sampling: Any
    ) -> list[Sampled]:
        """See Engine.run; temperature and seed are the server's."""
        out = [Sampled(cut=True) for _ in prompts]
        limits = [min(max_tokens, self.context - len(prompt)) for prompt in prompts]
        rows = list(range(len(prompts)))
        while rows:
            turns = self.complete([prompts[row] + out[row].token_ids for row in rows])
            closed: list[tuple[int, list[int]]] = []
            for row, ids, logprobs in zip(rows, *turns, strict=True):
                room = limits[row] - len(out[row].token_ids)
                _append(out[row], ids[:room], logprobs[:room])
                if ids and ids[-1] == self.tokenizer.eos_token_id and len(ids) <= room:
                    closed.append((row, ids))
            rows = []
            for (row, _), answer in zip(closed, on_turns(closed) if closed else [], strict=True):
                if answer is None:
                    out[row].cut = False
                    continue
                _append(out[row], answer[: limits[row] - len(out[row].token_ids)])
                if len(out[row].token_ids) < limits[row]:
                    rows.append(row)
        return out


def _append(row: Sampled, ids: list[int], logprobs: list[float] | None = None) -> None:
    """Add sampled tokens, or given ones where there are no log-probabilities."""
    row.token_ids += ids
    row.mask += [int(logprobs is not None)] * len(ids)
    row.logprobs += [0.0] * len(ids) if logprobs is None else logprobs


def sample(logits: Tensor, temperature: float, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """One token a row and its log-probability, each of shape (rows,), from logits of shape (rows, vocabulary).

    ``numbers``, one a row, are drawn from [0, 1) and decide which token it is.
    """
    logprobs = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
    if temperature:
        # The first token at which the summed probabilities reach a number from (0, 1]. torch.multinomial draws a
        # number for each token instead, which on a CPU takes longer than a small model's forward pass.
        reached = logprobs.exp().cumsum(-1)
        tokens = torch.searchsorted(reached, (1 - numbers[:, None]) * reached[:, -1:])
    else:
        tokens = logprobs.argmax(-1, keepdim=True)
    return tokens[:, 0], logprobs.gather(1, tokens)[:, 0]
