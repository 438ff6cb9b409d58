"""The rewards: what each consists of, in one object each, and the functions that score with them.

``REWARDS`` are the corrected rewards (the default everywhere), ``OFFICIAL`` the release bit for bit, defects included
(arXiv 2510.18383; reward_score/mentor*.py of its repository), ``CONTROLS`` rewards that a study is checked with.
docs/rewards.md gives the formulas and the ledger of deviations between release and correction.

    REWARDS["exact"](trajectory, reference, answer="42", valid_tools=["add", "multiply"]).total
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ..core import InputError, Metric, Reference, Trajectory, did_you_mean
from ..runs.functions import load_function
from .corrected import imitation_terms, noise_terms, outcome_terms, progress_terms
from .function import FORM, function_terms
from .matching import any_tool, as_many_calls, f1_tools, same_calls, same_tools
from .official import CALCULATOR_TOOLS, FALLBACK, official_terms
from .score import Score, Terms
from .toolrl import toolrl_terms


@dataclass(frozen=True)
class Reward:
    """One reward. Picklable if its functions are defined in a module.

    name: as in ``reward=…``, metrics and stored rows.
    weights: the weight of each term in the total.
    terms: computes the terms from (trajectory, reference, gold answer, names of the tools offered, the task's metric).
    maximum: the highest total, which under each of REWARDS the teacher's own trajectory gets; NaN if nobody knows it.
    needs: what the terms read of the teacher: nothing, the names of its tools, its calls with arguments, its results.
    group_weights: (weights, judged scores of a group) -> the group's weights; None if a group changes nothing.
    """

    name: str
    weights: dict[str, float]
    terms: Callable[[Trajectory, Reference, str, Sequence[str], Metric], Terms]
    maximum: float
    needs: Literal["", "tools", "calls", "results"] = ""
    group_weights: Callable[[dict[str, float], list[Score]], dict[str, float]] | None = None

    def __call__(
        self,
        trajectory: Trajectory,
        reference: Reference | None,
        *,
        answer: str,
        valid_tools: Sequence[str] = CALCULATOR_TOOLS,
        metric: Metric = "answer",
    ) -> Score:
        """Score one trajectory, as a group of one.

        ``reference`` is what the teacher did, ``answer`` the gold answer, ``valid_tools`` the names of the tools that
        the task offers (the official rewards know the calculator's only), ``metric`` how it compares answers (judge).

        Raises:
            InputError: ``reference`` is None, and this reward compares with a teacher.
        """
        if trajectory.stop == "infrastructure":
            return Score.weigh(self.weights, Terms({}, "infrastructure failure", judged=False))
        if reference is None and self.needs:
            raise InputError(f"the reward {self.name} compares with a teacher: give a reference, or use sparse or none")
        known = reference or Reference(trajectory.task_id, [], [], answer)
        score = Score.weigh(self.weights, self.terms(trajectory, known, answer, valid_tools, metric))
        return self.in_group([score])[0] if self.group_weights else score

    def in_group(self, scores: Sequence[Score]) -> list[Score]:
        """The scores of one group's rollouts under the group's weights."""
        if self.group_weights is None or not any(score.judged for score in scores):
            return list(scores)
        weights = self.group_weights(self.weights, [score for score in scores if score.judged])
        return [Score.weigh(weights, Terms(score.terms, score.reason, score.judged)) for score in scores]

    def missing(self, reference: Reference) -> str:
        """Why a reference is not enough for this reward, such as "no teacher"; "" if it is enough."""
        if not self.needs or (reference.messages and not reference.calls):  # the teacher used no tool
            return ""
        if not reference.calls:
            return "no teacher"
        if self.needs == "calls" and not any(message.get("tool_calls") for message in reference.messages):
            return "only the names of its teacher's tools"
        if self.needs == "results" and not reference.results:
            return "no results of its teacher's calls"
        return ""


def score_groups(
    reward: Reward,
    trajectories: Sequence[Trajectory],
    references: Sequence[Reference | None],
    tasks: Sequence[Any],
    groups: Sequence[Hashable],
) -> list[Score]:
    """Score each rollout once, with the weights of its group.

    All arguments after the first have one entry a rollout; a task has ``answer``, ``metric`` and
    ``toolbox.names``; rollouts of equal ``groups`` ids are a group, wherever they stand.
    """
    scores = [
        reward(trajectory, reference, answer=task.answer, valid_tools=task.toolbox.names, metric=task.metric)
        for trajectory, reference, task in zip(trajectories, references, tasks, strict=True)
    ]
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    for indices in members.values():
        for index, score in zip(indices, reward.in_group([scores[i] for i in indices]), strict=True):
            scores[index] = score
    return scores


def anneal_weights(weights: dict[str, float], scores: list[Score]) -> dict[str, float]:
    """The weight of ``tools`` times the share of the group that is wrong: a guide only where the student fails."""
    right = sum(score.terms["correct"] for score in scores) / len(scores)
    return weights | {"tools": weights["tools"] * (1 - right)}


_GUIDED = {"correct": 0.7, "tools": 0.3, "clean": 0.1}
REWARDS: dict[str, Reward] = {
    reward.name: reward
    for reward in (
        # MENTOR ("exact") and its ablations
        Reward("sparse", {"correct": 0.9, "answered": 0.1}, outcome_terms, 1.0),
        Reward("exact", _GUIDED, partial(outcome_terms, tools=same_tools), 1.1, needs="tools"),
        Reward("partial", {"correct": 0.7, "tools": 0.3}, partial(outcome_terms, tools=any_tool), 1.0, needs="tools"),
        Reward("none", {"correct": 0.7, "clean": 0.1}, outcome_terms, 0.8),
        Reward("f1", _GUIDED, partial(outcome_terms, tools=f1_tools), 1.1, needs="tools"),
        # baselines
        Reward("strict", _GUIDED, partial(outcome_terms, tools=same_calls), 1.1, needs="calls"),
        Reward(
            "toolrl",
            {"format": 1.0, "names": 6.0, "parameters": 6.0, "values": 6.0, "offset": -3.0},
            toolrl_terms,
            4.0,
            needs="calls",
        ),
        Reward("imitate", {"sequence": 1.0}, imitation_terms, 1.0, needs="calls"),
        # of this library
        Reward("credit", {"correct": 0.7, "progress": 0.3, "clean": 0.1}, progress_terms, 1.1, needs="results"),
        Reward(
            "anneal",
            _GUIDED,
            partial(outcome_terms, tools=f1_tools, wrong_share=1.0),
            0.8,  # in a group that is right throughout
            needs="tools",
            group_weights=anneal_weights,
        ),
        Reward("count", _GUIDED, partial(outcome_terms, tools=as_many_calls, wrong_share=1.0), 1.1, needs="calls"),
    )
}
CONTROLS: dict[str, Reward] = {
    "null": Reward("null", {"noise": 1.0}, noise_terms, 1.0),
    "planted": Reward("planted", {"correct": 0.7, "gave_up": 1.0}, outcome_terms, 1.0),
}
OFFICIAL: dict[str, Reward] = {
    name: Reward(
        name,
        REWARDS[name].weights | {"fallback": FALLBACK},
        partial(official_terms, tools=tools),
        REWARDS[name].maximum,
    )
    for name, tools in {"sparse": None, "exact": same_tools, "partial": any_tool, "none": None, "f1": f1_tools}.items()
}


def get_reward(reward: str | Reward, version: str = "corrected") -> Reward:
    """The reward of that name and version, or the function at ``FILE.py:NAME``; a Reward is given back as it is.

    Raises:
        InputError: there is none (the message has the nearest name, or lists those there are), or the file or its
            function is wrong.
    """
    if isinstance(reward, Reward):
        return reward
    if version not in ("corrected", "official"):
        raise InputError(f"version: {version!r} is neither 'corrected' nor 'official'")
    known = OFFICIAL if version == "official" else REWARDS | CONTROLS
    if reward in known:
        return known[reward]
    if ":" in reward or reward.endswith(".py"):
        if version == "official":
            raise InputError(f"reward={reward}: the release has no functions of your own; use the corrected version")
        function = load_function(reward, kind="reward", form=FORM, arguments=3)
        terms = partial(function_terms, function=function, place=reward)
        return Reward(reward, {reward.rpartition(":")[2]: 1.0}, terms, math.nan)
    raise InputError(
        f"unknown reward {reward!r}: {did_you_mean(reward, known)}there is no {version} one; choose {', '.join(known)}"
        + ("" if version == "official" else " or FILE.py:FUNCTION")
    )
