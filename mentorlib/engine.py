"""From prompts' token ids to sampled token ids, several turns in one pass over the model.

All rows of a batch advance in lockstep, one token a forward pass: a row that is speaking takes a sampled token, a row
that hears a tool result takes the result's next token. So the KV cache never leaves the batch, turns of different
length need no padding between them, and nothing is ever tokenised twice. A prompt shared by a group is prefilled once;
finished rows leave the batch.

Simplified: a long tool result is heard one token a step (right, but slow for kilobytes of text).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

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

    def run(
        self, prompts: list[list[int]], on_turns: OnTurns, *, temperature: float, max_tokens: int, seed: int | None
    ) -> list[Sampled]:
        """Sample every prompt to its end.

        Args:
            prompts: token ids, one list a row; equal prompts (a group) may share their prefill.
            on_turns: called with (row, the turn's token ids) of all rows that closed a turn in the same step; answers
                with the token ids that follow (tool results and the next turn's opening), or None to end the row.
            temperature: 0 is greedy.
            max_tokens: most tokens after the prompt, given ones included.
            seed: of the sampling; None takes torch's global state.
        """
        ...


class TorchEngine:
    """An engine on a transformers model in this process, CPU or GPU; the model is used as it is, never copied."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
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
    ) -> list[Sampled]:
        """See Engine.run."""
        if not prompts:
            return []
        was_training = self.model.training
        self.model.eval()
        try:
            return self._run(prompts, on_turns, temperature, max_tokens, seed)
        finally:
            self.model.train(was_training)

    def _run(
        self, prompts: list[list[int]], on_turns: OnTurns, temperature: float, max_tokens: int, seed: int | None
    ) -> list[Sampled]:
        device = self.model.device
        generator = None
        if seed is not None:
            generator = torch.Generator(device=device)
            generator.manual_seed(seed)
        logits, cache, mask, positions = self._prefill(prompts)
        rows = list(range(len(prompts)))  # which prompt each row of the batch belongs to
        out = [Sampled() for _ in prompts]
        limits = [min(max_tokens, self.context - len(p)) for p in prompts]
        queues: list[list[int]] = [[] for _ in prompts]  # given tokens still to be heard, reversed
        starts = [0 for _ in prompts]  # where the row's present turn starts
        while rows:
            tokens, logprobs = _sample(logits, temperature, generator)
            fed: list[int] = []
            closed: list[tuple[int, list[int]]] = []
            for i, row in enumerate(rows):
                state, queue = out[row], queues[row]
                token = queue.pop() if queue else tokens[i]
                given = len(state.token_ids) < starts[row]
                state.token_ids.append(token)
                state.mask.append(int(not given))
                state.logprobs.append(0.0 if given else logprobs[i])
                fed.append(token)
                if not given and token in self.end_ids:
                    closed.append((row, state.token_ids[starts[row] :]))
            ended = set()
            if closed:
                for (row, _), following in zip(closed, on_turns(closed), strict=True):
                    if following is None:
                        ended.add(row)
                    else:
                        queues[row] = following[::-1]
                        starts[row] = len(out[row].token_ids) + len(following)
            for row in rows:
                if row not in ended and len(out[row].token_ids) >= limits[row]:
                    out[row].cut = True
                    ended.add(row)
            if ended:
                keep = [i for i, row in enumerate(rows) if row not in ended]
                rows = [rows[i] for i in keep]
                fed = [fed[i] for i in keep]
                if not rows:
                    break
                index = torch.tensor(keep, device=device)
                mask, positions = mask[index], positions[index]
                cache.batch_select_indices(index)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            logits = self.model(
                input_ids=torch.tensor(fed, device=device)[:, None],
                attention_mask=mask,
                position_ids=positions[:, None],
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
            positions = positions + 1
        return out

    def _prefill(self, prompts: list[list[int]]) -> tuple[torch.Tensor, Any, torch.Tensor, torch.Tensor]:
        """Run each different prompt once, left-padded, and spread the result over its rows."""
        unique = list(dict.fromkeys(map(tuple, prompts)))
        index = {p: i for i, p in enumerate(unique)}
        width = max(map(len, unique))
        device = self.model.device
        ids = torch.full((len(unique), width), self.tokenizer.pad_token_id or 0, dtype=torch.long)
        mask = torch.zeros(len(unique), width, dtype=torch.long)
        for i, prompt in enumerate(unique):
            ids[i, width - len(prompt) :] = torch.tensor(prompt)
            mask[i, width - len(prompt) :] = 1
        ids, mask = ids.to(device), mask.to(device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        output = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1
        )
        spread = torch.tensor([index[tuple(p)] for p in prompts], device=device)
        cache = output.past_key_values
        if len(unique) < len(prompts):
            cache.batch_select_indices(spread)
            mask = mask[spread]
        else:
            spread = torch.arange(len(prompts), device=device)
        return output.logits[spread, -1], cache, mask, positions[spread, -1] + 1


def _sample(
    logits: torch.Tensor, temperature: float, generator: torch.Generator | None
) -> tuple[list[int], list[float]]:
    """One token a row and its log-probability, from logits of shape (rows, vocabulary)."""
    logprobs = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
    if temperature:
        tokens = torch.multinomial(logprobs.exp(), 1, generator=generator)
    else:
        tokens = logprobs.argmax(-1, keepdim=True)
    return tokens[:, 0].tolist(), logprobs.gather(1, tokens)[:, 0].tolist()
