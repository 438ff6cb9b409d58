r"""Whether an answer is right, by what its task compares (``Metric``): numbers and mathematics, text, or words.

The paper accepts an answer that math-verify's metric, math-verify's parse-and-verify or mathruler's grader accepts,
whatever the gold answer is. ``judge(…, official=True)`` does that, without mathruler, which the release lacks without
an error: mathruler imports pylatexenc but does not install it, and the release ignores the ImportError (the golden
scores were made this way). Those rules read a number or a product out of any text: two dates are equal as differences,
"mama" and "amam" as products, 1.6e-19 and 1.6e-18 as their first digits.

So ``judge`` first asks what the gold answer is. A number is compared as a number with the one that the prediction
states, a text as text; only mathematics is left to the libraries (grader.py), as whole formulas. An answer that could
not be judged is an outcome of its own (``correct=None``).
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from ..core import Metric
from . import grader
from .answer_text import (
    equates_numbers,
    exact_match,
    formula,
    is_arithmetic,
    is_date_or_address,
    is_latex,
    other_unit,
    read_number,
    same_answer,
    same_text,
    same_word,
    stated_number,
)

TIME_LIMIT = 10.0  # seconds an answer may take in the helper; math-verify gives up on a part after 5
MAX_LENGTH = 20_000  # characters of an answer; math-verify's patterns are quadratic in it


@dataclass(frozen=True)
class Verdict:
    """``correct`` is None when the answer could not be judged; ``how`` is the rule that decided, or why none could.

    Decided: "identical", "number", "text", "words", "mathruler", "verify", "metric" (officially), "different".
    Not decided: "timeout", "memory", "too long", "crash", "unavailable".
    """

    correct: bool | None
    how: str

    @property
    def reason(self) -> str:
        """The verdict in words."""
        if self.correct is None:
            return f"the answer could not be judged ({self.how})"
        return "right answer" if self.correct else "wrong answer"


_BOX = re.compile(r"\\boxed\s*\{|\\\\(?!boxed)|\\[{}]|[{}]")


@lru_cache(maxsize=64)  # all rewards of a trajectory read the same turns
def boxed(text: str) -> str | None:
    r"""The content of the last balanced ``\boxed{…}``, None without one; of two nested boxes, the inner one's."""
    spans = box_spans(text)
    return text[text.index("{", spans[-1][0]) + 1 : spans[-1][1] - 1] if spans else None


def box_spans(text: str) -> list[tuple[int, int]]:
    r"""Where each balanced ``\boxed{…}`` of a text starts and ends, by start; boxes within boxes too.

    Escaped braces (``\{``) are text. One pass: the time is linear in the text, but for sorting the boxes.
    """
    spans: list[tuple[int, int]] = []
    open_at: list[int | None] = []  # where a box starts; None for a plain brace
    first = text.find("\\boxed")  # most texts have none, or one near the end
    for token in _BOX.finditer(text, first) if first >= 0 else ():
        mark = token.group()
        if mark == "{":
            open_at.append(None)
        elif mark == "}":
            start = open_at.pop() if open_at else None
            if start is not None:
                spans.append((start, token.end()))
        elif mark.startswith("\\boxed"):
            open_at.append(token.start())
    return sorted(spans)


_WHOLE = "(?:0|[1-9][0-9]{0,14})"  # without leading zeros, some of which sympy cannot read
_DECIMAL = re.compile(rf"-?{_WHOLE}(?:\.[0-9]{{1,6}})?")
_FRACTION = re.compile(rf"(-?)\\frac\{{(-?{_WHOLE})\}}\{{(-?{_WHOLE})\}}|(-?{_WHOLE})/({_WHOLE})")

# How math-verify 0.9.0 finds a number in text (its lazy_expr_regex). Only for short texts, since the patterns
# backtrack. Texts with LaTeX, or with a word that it searches around first, are left to math-verify.
_SHORT = 200
_LATEX = re.compile(r"\$|\\[\[(]|\\boxed|\\frac|\s\[|(?i:answer)")
_EXPRESSION = re.compile(
    r"(?:^|\s|=)(?:\*\*)?-?\(?-?\d[\d.\s+\-*/^()]*[+\-*/^()][\d.\s+\-*/^()]+\)?(?:\*\*)?(?:\.|,|:|\s|\)|\$|$)"
)
_IN_TEXT = re.compile(
    r"(?:^|\s|=)(?:\*\*)?(?:(-?[1-9]\d{0,2}(?:[ ,]\d{3})+)(\.\d+)?|(-?\d+)([.,]\d+)|(\.\d+)|(-?\d+))"
    r"(\s*(?:%|[Pp]ercent|\s*[Pp]ercentage|\s*[Pp]ct))?"
)


def _number(text: str) -> Fraction | None:
    """The value of a plain integer, decimal or fraction; None for what the three libraries may read differently."""
    if _DECIMAL.fullmatch(text):
        return Fraction(text)
    if match := _FRACTION.fullmatch(text):
        sign, a, b, c, d = match.groups()
        denominator = int(b or d)
        return Fraction(int(a or c), denominator) * (-1 if sign else 1) if denominator else None
    return None


def _parsed(text: str) -> list[Fraction] | None:
    """What math-verify's parse reads in a text: [number], or [] for nothing; None where only math-verify can tell.

    In ``x=42``, ``42 apples`` and ``40, 42`` it reads 42, the last number that follows a space, "=" or nothing.
    """
    if len(text) > _SHORT or not text.isascii():
        return None
    bare = text.strip()
    if (number := _number(bare)) is not None:
        return [number]
    if _LATEX.search(text):
        inner = _number(bare[1:-1]) if bare[:1] == bare[-1:] == "$" else None
        return None if inner is None else [inner]
    if _EXPRESSION.search(text):
        return None
    numbers = _IN_TEXT.findall(text)
    if not numbers:
        return []
    thousands, decimals, whole, part, fraction, integer, percent = numbers[-1]
    digits = (thousands or whole or integer or "0").replace(",", "").replace(" ", "")
    number = _number(digits + (decimals or part or fraction).replace(",", "."))
    return None if percent or number is None else [number]


@lru_cache(maxsize=10_000)
def _official(prediction: str, gold: str) -> Verdict | None:
    """The release's verdict where it needs no library: only where math-verify's rules are known to agree."""
    parsed = _parsed(prediction)
    if parsed is None:
        return None
    if not parsed:  # an answer in which nothing is read is never equal
        return Verdict(False, "different")
    value = _number(gold.strip())
    if parsed == ([value] if value is not None else _parsed(gold)):
        return Verdict(True, "number")
    # Closer numbers may be equal after math-verify's rounding to six places.
    far = value is not None and abs(parsed[0] - value) > Fraction(1, 10_000)
    return Verdict(False, "number") if far else None


@lru_cache(maxsize=10_000)
def _corrected(prediction: str, gold: str, metric: Metric) -> Verdict | None:
    """The verdict where the metric and the gold answer need no library; None for mathematics."""
    if metric == "words":
        return Verdict(exact_match(prediction, gold), "words")
    if len(prediction) + len(gold) > MAX_LENGTH:
        return Verdict(True, "identical") if prediction.strip() == gold.strip() else Verdict(None, "too long")
    if same_text(prediction, gold):
        return Verdict(True, "identical")
    if metric == "text":
        return Verdict(False, "text")
    if (wanted := read_number(gold)) is not None:
        if equates_numbers(prediction):
            return Verdict(False, "number")
        if (stated := stated_number(prediction)) is not None:
            return Verdict(stated.same(wanted), "number")
        return None if is_arithmetic(prediction) else Verdict(False, "number")
    if is_date_or_address(gold) or (metric == "answer" and not is_latex(gold)):
        return Verdict(same_answer(prediction, gold), "text")
    if other_unit(prediction, gold):
        return Verdict(False, "different")
    word = same_word(prediction, gold)
    return None if word is None else Verdict(word, "text")


def judge(prediction: str, gold: str, metric: Metric = "answer", *, official: bool = False) -> Verdict:
    r"""Whether ``prediction`` (the content of a box) is the answer ``gold`` (itself boxed or not). Never raises.

    ``metric`` is the task's. "answer", the default, compares a gold answer that is a number or LaTeX as "math" does,
    and any other as text, to the letter. "calls" compares no answers: such a prediction is never judged.
    ``official`` is the release's own judge, which knows no metrics. Safe in any thread; slow answers wait for one
    another (one helper a process). In a coroutine call it through ``asyncio.to_thread``, since it may block for
    TIME_LIMIT seconds.
    """
    if metric == "calls" and not official:
        return Verdict(None, "its task compares calls")
    if official and len(prediction) + len(gold) > MAX_LENGTH:
        return Verdict(None, "too long")
    verdict = _official(prediction, gold) if official else _corrected(prediction, gold, metric)
    if verdict is not None:
        return verdict
    try:
        return _slow(prediction, gold, official)
    except grader.HelperFailed as error:
        return Verdict(None, str(error))


_unjudged: set[tuple[str, str, bool]] = set()  # what the helper was asked once, and gave up on


@lru_cache(maxsize=10_000)
def _slow(prediction: str, gold: str, official: bool) -> Verdict:
    """The helper's verdict. An exception is raised past the cache.

    An answer that could not be judged is tried once more when it comes again, since the machine may have been busy.
    """
    asked = (prediction, gold, official)
    if official:
        inner = boxed(gold) if "\\boxed{" in gold else None
        gold = gold if inner is None else inner
    else:
        prediction, gold = formula(prediction), formula(gold)
    correct, how = grader.helper.ask(prediction, gold, official, TIME_LIMIT)
    if correct is None and asked not in _unjudged:
        _unjudged.add(asked)
        raise grader.HelperFailed(how)
    return Verdict(correct, how)
