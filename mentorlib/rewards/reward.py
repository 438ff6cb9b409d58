r"""Rewards: pure functions from what a policy did to a score with named terms.

``REWARDS`` holds the corrected versions (the default everywhere) and three of our own (``credit``, ``anneal``,
``count``), ``OFFICIAL`` the release bit for bit, defects included (arXiv 2510.18383; reward_score/mentor*.py of its
repository), ``CONTROLS`` rewards that a study is checked with. ``TABLE`` is all that differs between the rewards;
docs/rewards.md gives the formulas and the ledger of every deviation between paper, release and ours.

    REWARDS["exact"](trajectory, reference, answer="42", valid_tools=["add", "multiply"]).total

Neither torch nor trl is imported here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..core import InputError, Reference, Trajectory
from .corrected import _corrected
from .official import _official
from .table import CALCULATOR_TOOLS, CONTROLLING, RELEASED, TABLE, Score, _score


@dataclass(frozen=True)
class Reward:
    """A named reward in one version; call it with what a policy did and what the teacher did.

    Args of the call:
        trajectory: what the policy did.
        reference: what the teacher did. None is an InputError where the teacher matters (the release pays 0.1).
        answer: the gold answer.
        valid_tools: names of the tools the task offers; the release only ever knows the calculator's.
    """

    name: str
    version: str = "corrected"

    @property
    def maximum(self) -> float:
        """The highest total, which the gold reference gets (of ``anneal``: in a group that is right throughout)."""
        least = {"toolrl": 4.0, "anneal": 0.8}
        return least.get(self.name, sum(TABLE[self.name][1].values()))

    def __call__(
        self,
        trajectory: Trajectory,
        reference: Reference | None,
        *,
        answer: str,
        valid_tools: Sequence[str] = CALCULATOR_TOOLS,
    ) -> Score:
        if trajectory.stop == "infrastructure":
            return _score(TABLE[self.name][1], {}, "the run failed, not the policy", judged=False)
        if self.version == "official":
            return _official(self.name, trajectory, reference, answer)
        return self.in_group([_corrected(self.name, trajectory, reference, answer, valid_tools)])[0]

    def in_group(self, scores: Sequence[Score]) -> list[Score]:
        """Scores of one group's rollouts with what the group changes in them; all but ``anneal`` leave them alone.

        ``anneal`` weighs the teacher's tools by the share of the group that is wrong: a guide where the policy fails,
        silent where it succeeds its own way. A trajectory scored alone is a group of one.
        """
        if self.name != "anneal" or not any(score.judged for score in scores):
            return list(scores)
        judged = [score.terms["correct"] for score in scores if score.judged]
        weight = TABLE["anneal"][1]["tools"] * (1 - sum(judged) / len(judged))
        return [
            replace(_score(score.weights | {"tools": weight}, score.terms, score.reason), judged=score.judged)
            for score in scores
        ]


REWARDS: dict[str, Reward] = {name: Reward(name) for name in TABLE if name not in CONTROLLING}
CONTROLS: dict[str, Reward] = {name: Reward(name) for name in CONTROLLING}
OFFICIAL: dict[str, Reward] = {name: Reward(name, "official") for name in RELEASED}


def named(name: str, version: str = "corrected") -> Reward:
    """The reward of that name and version.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    if version not in ("corrected", "official"):
        raise InputError(f"version: {version!r} is neither 'corrected' nor 'official'")
    known = OFFICIAL if version == "official" else REWARDS | CONTROLS
    if name not in known:
        raise InputError(f"reward: there is no {version} reward {name!r}; there are {', '.join(known)}")
    return known[name]
