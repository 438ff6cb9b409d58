"""A reward as TRL's GRPOTrainer calls it."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..core import Reference, Trajectory
from .reward import Reward, get_reward, score_groups


@dataclass(frozen=True)
class TrlReward:
    """A reward as TRL's GRPOTrainer calls it. Picklable if the reward is."""

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
        """One total a completion; None, to which TRL gives no advantage, where the score is not judged.

        TRL's own loss still counts such a completion in its mean and in the KL term; train_grpo leaves it out of both.

        Completions of the same task, one after another, are a group. Logs the mean of each term over the judged
        completions as ``<reward>/<term>``, the share of the others as ``<reward>/unjudged``, and each completion's
        terms and reason as columns of TRL's completions table.
        """
        runs = itertools.groupby(task, key=lambda one: one.id)
        groups = [number for number, (_, members) in enumerate(runs) for _ in members]
        scores = score_groups(self.reward, trajectory, reference, task, groups)
        judged = [score for score in scores if score.judged]
        name = self.reward.name
        if log_metric and scores:
            for term in self.reward.weights if judged else ():
                log_metric(f"{name}/{term}", sum(score.terms[term] for score in judged) / len(judged))
            log_metric(f"{name}/unjudged", 1 - len(judged) / len(scores))
        if log_extra and scores:
            for term in self.reward.weights:
                log_extra(f"{name}/{term}", [score.terms[term] for score in scores])
            log_extra(f"{name}/reason", [score.reason for score in scores])
        return [score.total if score.judged else None for score in scores]


def as_trl(reward: Reward | str, version: str = "corrected") -> TrlReward:
    """The reward (or the reward of that name and version) as a function for ``GRPOTrainer(reward_funcs=…)``.

    The rollout must give ``trajectory``, ``reference`` and ``task``: one object a completion.
    """
    return TrlReward(get_reward(reward, version))
