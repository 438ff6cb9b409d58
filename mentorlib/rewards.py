r"""Rewards: pure functions from what a policy did to a score with named terms.

``REWARDS`` holds the corrected versions (the default everywhere) and three of our own (``credit``, ``anneal``,
``count``), ``OFFICIAL`` the release bit for bit, defects included (arXiv 2510.18383; reward_score/mentor*.py of its
repository), ``CONTROLS`` rewards that a study is checked with. ``TABLE`` is all that differs between the rewards;
docs/rewards.md gives the formulas and the ledger of every deviation between paper, release and ours.

    REWARDS["exact"](trajectory, reference, answer="42", valid_tools=["add", "multiply"]).total

Neither torch nor trl is imported here.
"""

import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

from .answers import Verdict, boxed, judge
from .core import END, Call, InputError, Reference, Trajectory

CALCULATOR_TOOLS = (
    "add",
    "subtract",
    "multiply",
    "divide",
    "sum_numbers",
    "floor",
    "ceil",
    "round_number",
    "power",
    "sqrt",
    "abs_value",
    "modulo",
)
WRONG_SHARE = 0.2  # what is left of the tool term when the answer is wrong
FALLBACK = 0.1  # what the release pays for an ended transcript that it does not score further


@dataclass(frozen=True)
class Score:
    """One trajectory under one reward: ``total`` is the sum of ``terms[k] * weights[k]``, in the order of the terms.

    Terms lie in [0, 1]. ``judged`` is False when the answer could not be judged or the trajectory broke by our
    fault: the total then counts the answer as wrong, and must not be learnt from.
    """

    terms: dict[str, float]
    weights: dict[str, float]
    total: float
    reason: str
    judged: bool = True


Match: TypeAlias = Callable[[list[Call], list[Call]], float]  # (the student's calls, the teacher's calls) -> [0, 1]


def _names(calls: list[Call]) -> set[str]:
    return {call.name for call in calls}


def same_tools(student: list[Call], teacher: list[Call]) -> float:
    """1 if both used the same set of tools (MENTOR)."""
    return float(_names(student) == _names(teacher))


def any_tool(student: list[Call], teacher: list[Call]) -> float:
    """1 if some tool was used by both, or neither used any."""
    return float(bool(_names(student) & _names(teacher)) or not (student or teacher))


def f1_tools(student: list[Call], teacher: list[Call]) -> float:
    """F1 of the sets of tools; 1 if neither used any."""
    ours, theirs = _names(student), _names(teacher)
    return 2 * len(ours & theirs) / (len(ours) + len(theirs)) if ours or theirs else 1.0


def same_calls(student: list[Call], teacher: list[Call]) -> float:
    """1 if names and arguments are the teacher's, in order. Key order and 8 against 8.0 make no difference."""
    return float([call_key(call) for call in student] == [call_key(call) for call in teacher])


def as_many_calls(student: list[Call], teacher: list[Call]) -> float:
    """The smaller number of calls over the larger, whatever the tools; 1 if neither made any."""
    fewer, more = sorted((len(student), len(teacher)))
    return fewer / more if more else 1.0


def _canonical(value: Any) -> str:
    """A JSON value as text that is equal exactly when the values are (True is not 1, but 8.0 is 8)."""
    if isinstance(value, dict):
        return "{" + ",".join(sorted(json.dumps(key) + ":" + _canonical(item) for key, item in value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_canonical(item) for item in value) + "]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)


def _same_text(value: Any) -> str:
    try:
        return _canonical(value)
    except (RecursionError, ValueError):  # nested about as deep as JSON can be read, or an integer too long to print
        return f"unlike {id(value)}"


def call_key(call: Call) -> tuple[str, str]:
    """Equal for equal calls: the name, and the arguments as canonical text."""
    return call.name, _same_text(call.arguments)


# What differs between the rewards: a weight for each term, and the rule behind the term "tools".
TABLE: dict[str, tuple[Match | None, dict[str, float]]] = {
    "sparse": (None, {"correct": 0.9, "answered": 0.1}),
    "exact": (same_tools, {"correct": 0.7, "tools": 0.3, "clean": 0.1}),
    "partial": (any_tool, {"correct": 0.7, "tools": 0.3}),
    "none": (None, {"correct": 0.7, "clean": 0.1}),
    "f1": (f1_tools, {"correct": 0.7, "tools": 0.3, "clean": 0.1}),
    "strict": (same_calls, {"correct": 0.7, "tools": 0.3, "clean": 0.1}),
    "toolrl": (None, {"format": 1.0, "names": 6.0, "parameters": 6.0, "values": 6.0, "offset": -3.0}),
    "credit": (None, {"correct": 0.7, "progress": 0.3, "clean": 0.1}),
    "anneal": (f1_tools, {"correct": 0.7, "tools": 0.3, "clean": 0.1}),
    "count": (as_many_calls, {"correct": 0.7, "tools": 0.3, "clean": 0.1}),
    "null": (None, {"noise": 1.0}),
    "planted": (None, {"correct": 0.7, "gave_up": 1.0}),
}
RELEASED = ("sparse", "exact", "partial", "none", "f1")
CONTROLLING = ("null", "planted")
WHOLE = ("anneal", "count")  # keep the whole tool term when the answer is wrong: there it is the guide
NEEDS_CALLS = ("strict", "toolrl", "count")  # compare calls, so that the names of the teacher's tools do not do
NEEDS_RESULTS = ("credit",)  # compares what the calls gave


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


def _score(weights: dict[str, float], terms: dict[str, float], reason: str, judged: bool = True) -> Score:
    """A term that is not given is 0. The total is summed in the order of the terms, so that it can be recomputed."""
    terms = {name: terms.get(name, 0.0) for name in weights}
    return Score(terms, dict(weights), sum(terms[name] * weights[name] for name in terms), reason, judged)


def _said(verdict: Verdict) -> str:
    if verdict.correct is None:
        return f"the answer could not be judged ({verdict.how})"
    return "right answer" if verdict.correct else "wrong answer"


# --- corrected -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reading:
    answer: str | None  # the last box of an assistant turn; None without one or with an empty one
    calls: list[Call]  # of the turns before the answer's, or of all turns without an answer
    later: list[Call]
    malformed: bool  # some turn holds a call that is not JSON, not a call, or not closed
    results: list[str]  # what the tools gave before the answer


def _read(trajectory: Trajectory) -> _Reading:
    answer: str | None = None
    calls: list[Call] = []
    answered_at = heard_at = 0
    malformed = False
    results: list[str] = []
    for message in trajectory.messages:
        if message["role"] == "tool":
            results.append(str(message.get("content")))
        if message["role"] != "assistant":
            continue
        content = str(message.get("content") or "")
        malformed = malformed or "<tool_call>" in content or "</tool_call>" in content
        if (box := boxed(content)) is not None:
            answer, answered_at, heard_at = box, len(calls), len(results)
        calls += (Call(c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls") or ())
    if answer is None or not answer.strip():
        return _Reading(None, calls, [], malformed, results)
    return _Reading(answer, calls[:answered_at], calls[answered_at:], malformed, results[:heard_at])


def final_answer(trajectory: Trajectory) -> str | None:
    """What the last box of an assistant's turn holds; None without one, with an empty one, and when it was cut."""
    return _read(trajectory).answer if trajectory.ended else None


def _corrected(
    name: str, trajectory: Trajectory, reference: Reference | None, answer: str, valid_tools: Sequence[str]
) -> Score:
    match, weights = TABLE[name]
    if name == "null":
        return _score(weights, {"noise": _noise(trajectory.response)}, "by chance")
    if reference is None and (match or name in ("toolrl", "credit")):
        raise InputError(f"the reward {name} compares with a teacher: give a reference, or use sparse or none")
    teacher = reference.calls if reference else []
    read = _read(trajectory)
    valid = set(valid_tools)
    invented = sorted(_names(read.calls + read.later) - valid)
    student = [call for call in read.calls if call.name in valid]
    answered = trajectory.ended and read.answer is not None
    if name == "toolrl":
        terms = {"format": float(answered and not read.malformed), "offset": 1.0}
        terms |= _toolrl(read.calls + read.later, teacher)
        return _score(weights, terms, _reason("", read, invented, student, teacher))
    if not trajectory.ended:
        return _score(weights, {}, "cut off before the end token")
    if read.answer is None:
        return _score(weights, {"gave_up": 1.0}, "no answer in a box")
    verdict = judge(read.answer, answer)
    right = verdict.correct is True
    terms = {"correct": float(right), "answered": 1.0, "clean": float(not invented and not read.malformed)}
    if match:
        terms["tools"] = match(student, teacher) * (1.0 if right or name in WHOLE else WRONG_SHARE)
    elif name == "credit" and reference:
        terms["progress"] = 1.0 if right else _progress(read.results, reference)
    compared = (student, teacher) if match else (None, None)
    return _score(weights, terms, _reason(_said(verdict), read, invented, *compared), verdict.correct is not None)


def _progress(results: list[str], reference: Reference) -> float:
    """The share of the teacher's tool results that the policy's calls gave too, by whatever tools.

    A policy with more results than the teacher is measured against its own number, so that trying everything
    does not pay.
    """
    wanted = Counter(reference.results)
    reached = sum((Counter(results) & wanted).values())
    return reached / max(len(results), wanted.total(), 1)


def _noise(text: str) -> float:
    """A number in [0, 1) that nothing can be learnt from: a hash."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:6], "big") / 2**48


def _reason(
    said: str, read: _Reading, invented: list[str], student: list[Call] | None, teacher: list[Call] | None
) -> str:
    parts = [said] if said else []
    if student is not None and teacher is not None:
        used, wanted = (", ".join(sorted(_names(calls))) or "no tool" for calls in (student, teacher))
        parts.append(f"used {used}; the teacher {wanted}")
    if read.later:
        parts.append("calls after the answer do not count")
    if invented:
        parts.append("no such tool: " + ", ".join(name[:40] for name in invented[:5]))
    if read.malformed:
        parts.append("a call is malformed")
    return "; ".join(parts)


def _toolrl(student: list[Call], teacher: list[Call]) -> dict[str, float]:
    """The correctness part of ToolRL (arXiv 2504.13958, section 3.3) with its optimal assignment, over S_max.

    The three terms add up to R_max / S_max, which is 1 for the teacher's own calls in any order.
    """
    ours, theirs = _names(student), _names(teacher)
    names = len(ours & theirs) / len(ours | theirs) if ours | theirs else 1.0
    largest = 1 + len(teacher) + sum(len(call.arguments) for call in teacher)
    golds = [_parts(call) for call in teacher]
    copies: dict[Any, int] = {}
    candidates = []
    for call in student:
        if call.name in theirs:
            parts = _parts(call)
            copies[parts] = copies.get(parts, 0) + 1
            if copies[parts] <= len(golds):  # more copies than gold calls cannot be assigned
                candidates.append(parts)

    def pair(gold: _Parts, candidate: _Parts) -> tuple[float, float]:
        if gold[0] != candidate[0]:
            return 0.0, 0.0
        mine, wanted = dict(candidate[1]), dict(gold[1])
        either = len(mine.keys() | wanted.keys())
        return (
            len(mine.keys() & wanted.keys()) / either if either else 1.0,
            float(sum(key in mine and mine[key] == value for key, value in wanted.items())),
        )

    pairs = [[pair(gold, candidate) for candidate in candidates] for gold in golds]
    chosen = [pairs[i][j] for i, j in assign([[sum(both) for both in row] for row in pairs])]
    return {
        "names": names / largest,
        "parameters": sum(both[0] for both in chosen) / largest,
        "values": sum(both[1] for both in chosen) / largest,
    }


_Parts: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]


def _parts(call: Call) -> _Parts:
    return call.name, tuple(sorted((name, _same_text(value)) for name, value in call.arguments.items()))


def assign(gains: list[list[float]]) -> list[tuple[int, int]]:
    """Pairs (row, column), each used once, with the highest sum of gains: Kuhn's method with potentials, O(n^2 m)."""
    if not gains or not gains[0]:
        return []
    if len(gains) > len(gains[0]):
        return [(row, column) for column, row in assign([list(column) for column in zip(*gains, strict=True)])]
    n, m = len(gains), len(gains[0])
    u, v = [0.0] * (n + 1), [0.0] * (m + 1)
    owner = [0] * (m + 1)  # the row that holds each column, counted from 1; column 0 is the row being placed
    for row in range(1, n + 1):
        owner[0] = row
        column, least, came, seen = 0, [math.inf] * (m + 1), [0] * (m + 1), [False] * (m + 1)
        while owner[column]:
            seen[column] = True
            here, delta, best = owner[column], math.inf, 0
            for j in range(1, m + 1):
                if not seen[j]:
                    cost = -gains[here - 1][j - 1] - u[here] - v[j]
                    if cost < least[j]:
                        least[j], came[j] = cost, column
                    if least[j] < delta:
                        delta, best = least[j], j
            for j in range(m + 1):
                if seen[j]:
                    u[owner[j]] += delta
                    v[j] -= delta
                else:
                    least[j] -= delta
            column = best
        while column:
            owner[column] = owner[came[column]]
            column = came[column]
    return [(owner[j] - 1, j - 1) for j in range(1, m + 1) if owner[j]]


# --- official --------------------------------------------------------------------------------------------------


def _official(name: str, trajectory: Trajectory, reference: Reference | None, answer: str) -> Score:
    """What the release computes from the text, with the same precedence of its early exits."""
    match, rule = TABLE[name]
    weights = rule | {"fallback": FALLBACK}
    prediction, called = _official_read(trajectory.response)
    if prediction is None:
        return _score(weights, {}, "cut off before the end token")
    if not prediction.strip():
        return _score(weights, {"fallback": 1.0}, "no answer in a box")
    verdict = judge(prediction, answer, official=True)
    right = verdict.correct is True
    if match and not (reference and reference.calls):
        return _score(weights, {"fallback": 1.0}, "the teacher used no tool", verdict.correct is not None)
    student = [Call(tool, {}) for tool in called if tool in CALCULATOR_TOOLS]
    terms = {"correct": float(right), "answered": 1.0, "clean": float(len(student) == len(called))}
    if match and reference and student:
        terms["tools"] = match(student, reference.calls) * (1.0 if right else WRONG_SHARE)
    return _score(weights, terms, _said(verdict), verdict.correct is not None)


@lru_cache(maxsize=16)
def _official_read(text: str) -> tuple[str | None, list[Any]]:
    """The answer (None: cut off; empty: none) and the names called: what the five rewards share of a transcript."""
    if not text.endswith(END):
        return None, []
    prediction = _official_box(text) or ""
    return prediction, _official_names(text) if prediction.strip() else []


def _official_box(text: str) -> str | None:
    r"""The release's box: text after the last ``\boxed `` if there is one anywhere, else the last box's braces."""
    if "\\boxed " in text:
        return text.rpartition("\\boxed ")[2].partition("$")[0]
    start = text.rfind("\\boxed")
    if start < 0:
        return None  # its \fbox ends in the same 0.1
    depth = 0
    for brace in re.finditer("[{}]", text[start:]):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0 and brace.group() == "}":
            box = text[start : start + brace.end()]
            return box[len("\\boxed{") : -1] if box.startswith("\\boxed{") else None
    return None


_ODD_NAME = re.compile(r'"name":\\s*"([^"]+)"')  # as released: a backslash and letters s, where \s* was meant


def _official_names(text: str) -> list[Any]:
    """Names as the release finds them: anything in the text, closed; a name it cannot read goes unnoticed."""
    names: list[Any] = []
    for block in _blocks(text):
        name: Any = None
        try:
            call = json.loads(block.strip())
            if "name" in call:
                name = call["name"]
        except (ValueError, TypeError, RecursionError, IndexError):
            if odd := _ODD_NAME.search(block):
                name = odd.group(1)
        if name:
            # The release stops with a TypeError on a name that is a list or an object; here it is an unknown tool.
            names.append(name)
    return names


def _blocks(text: str) -> Iterator[str]:
    """What lies between each opening tag and the next closing one, in one pass."""
    at = 0
    while (start := text.find("<tool_call>", at)) >= 0:
        end = text.find("</tool_call>", start)
        if end < 0:
            return
        yield text[start + len("<tool_call>") : end]
        at = end + len("</tool_call>")


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
