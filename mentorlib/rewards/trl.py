"""A reward as TRL's GRPOTrainer calls it."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..core import Reference, Trajectory
from .reward import Reward, named

# --- for TRL ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrlReward:
    """A reward as TRL's GRPOTrainer calls it. Picklable."""

    reward: Reward

    @property
    def __name__(self) -> str:
        return self.reward.name

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        trajectory: Sequence[Trajectory],
        reference: Sequence[Reference | None],
        task: Sequence[Any],
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **_: Any,
    ) -> list[float | None]:
        """One total a completion; None, which TRL leaves out of the loss, where the fault was not the policy's.

        Logs the mean of each term over the completions that count as ``<reward>/<term>``, the share that do not
        as ``<reward>/unjudged``, and each completion's terms and reason as columns of TRL's completions table.
        """
        scores = [
            self.reward(one, gold, answer=asked.answer, valid_tools=asked.toolbox.names)
            for one, gold, asked in zip(trajectory, reference, task, strict=True)
        ]
        groups = itertools.groupby(zip(task, scores, strict=True), key=lambda pair: pair[0].id)
        scores = [score for _, group in groups for score in self.reward.in_group([score for _, score in group])]
        totals = [score.total if score.judged else None for score in scores]
        counted = [score for score in scores if score.judged]
        terms = list(scores[0].terms) if scores else []
        if log_metric and scores:
            for term in terms:
                if counted:
                    log_metric(f"{self.__name__}/{term}", sum(score.terms[term] for score in counted) / len(counted))
            log_metric(f"{self.__name__}/unjudged", 1 - len(counted) / len(scores))
        if log_extra and scores:
            for term in terms:
                log_extra(f"{self.__name__}/{term}", [score.terms[term] for score in scores])
            log_extra(f"{self.__name__}/reason", [score.reason for score in scores])
        return totals


def as_trl(reward: Reward | str, version: str = "corrected") -> TrlReward:
    """The reward (or the reward of that name and version) as a function for ``GRPOTrainer(reward_funcs=…)``.

    The rollout must give ``trajectory``, ``reference`` and ``task``: one object a completion.
    """
    return TrlReward(named(reward, version) if isinstance(reward, str) else reward)
