r"""How an answer's text is read: without its boxing, as a number, as a list, as words.

A number is read strictly from a gold answer and leniently from a policy's ("42 apples" states 42), but only where the
policy states one: "40, 42" and "40 or 42" state two numbers, "2031-05-02" and "10.0.0.1" none.
"""

import json
import re
import string
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from .matching import canonical_json

_WRAPPED = re.compile(
    r"\$\$(.+)\$\$|\$([^$]+)\$|\\\((.+)\\\)|\\\[(.+)\\\]|\\boxed\s*\{(.*)\}"
    r"|\\(?:text|textbf|textit|texttt|textrm|mbox|mathrm|mathbf)\s*\{([^{}]*)\}",
    re.DOTALL,
)
_LATEX = re.compile(
    r"\\(?:[dt]?frac|sqrt|pi|infty|cup|cap|in|pm|mp|cdot|times|div|circ|left|begin|text|mbox|mathrm|mathbb|le|leq|ge"
    r"|geq|neq|ne|approx|log|ln|sin|cos|tan|cot|sec|csc|binom|sum|int|lfloor|lceil)(?![A-Za-z])"
    r"|\\\{|[\w)}]\^[\w({\\-]"
)


def bare(text: str) -> str:
    r"""A text without surrounding blanks and boxing: ``\boxed{…}``, ``\text{…}`` or dollar signs around the whole."""
    text = unicodedata.normalize("NFC", text).replace("\xa0", " ").replace("\u202f", " ").strip()
    for _ in range(8):
        match = _WRAPPED.fullmatch(text)
        inner = next((group for group in match.groups() if group is not None), "") if match else ""
        if not match or not _balanced(inner):
            break
        text = inner.strip()
    return text


def _balanced(text: str) -> bool:
    """Whether the braces of a box's content are its own, unlike those of ``\\boxed{1} and \\boxed{2}``."""
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0


def is_latex(text: str) -> bool:
    """Whether a text is written in LaTeX's mathematics: more than a word in ``\\text{…}``, or a path's backslashes."""
    return bool(_LATEX.search(bare(text))) and not re.match(r"[A-Za-z]:\\", text)


# --- numbers ---


@dataclass(frozen=True)
class Number:
    """A number, exactly, and the unit it is given with: "%", "$", "km"; "" without one."""

    value: Fraction
    unit: str = ""

    def same(self, other: "Number") -> bool:
        """Equal as a policy reads numbers (``display_number``: six decimals; below 0.001 six digits).

        A unit that only one of the two has does not matter; 42% is 42 as well as 0.42.
        """
        if self.unit and other.unit and self.unit != other.unit:
            return False
        if _close(self.value, other.value):
            return True
        percent, plain = (self, other) if self.unit == "%" else (other, self)
        return percent.unit == "%" != plain.unit and _close(percent.value / 100, plain.value)


def _close(a: Fraction, b: Fraction) -> bool:
    size = min(abs(a), abs(b))
    return abs(a - b) <= (Fraction(1, 2_000_000) if size >= Fraction(1, 1000) else size / 200_000)


MAX_DIGITS = 300  # of a number, and the largest exponent: more is no answer, and takes long to compare
MAX_STATED = 1_000  # characters of an answer that states a number; the patterns below are quadratic in it
_DIGITS = r"(?:[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?|(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)"
_POWER = r"(?:[eE]|\s*(?:\\times|\\cdot|[×x*·])\s*10\s*(?:\^|\*\*))\s*\{?\s*([+-]?\d{1,3})\s*\}?"
_NUMBER = re.compile(
    rf"([+-]?)\s*(\\?[$€£¥₹]?)\s*([+-]?)({_DIGITS})(?:{_POWER}|\s*/\s*([1-9]\d*))?\s*(\\?%|°)?", re.ASCII
)
_UNIT = re.compile(r"\\(?:text|mbox|textrm|mathrm)\s*\{([^{}]*)\}\s*(\^\s*\{?\d\}?)?$")
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{\s*(-?\d+)\s*\}\s*\{\s*(-?\d+)\s*\}|\s*(\d)\s*(\d)(?!\d))", re.ASCII)
_MIXED = re.compile(r"(?<![\d.,/])(\d{1,15})\s+(\d{1,15})/([1-9]\d{0,14})(?![\d./])", re.ASCII)
_DEGREES = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})(?![A-Za-z])")
_UNIT_NAMES = {"percent": "%", "degree": "°", "dollar": "$", "euro": "€"}


def _plain(text: str) -> str:
    r"""A number's LaTeX as text: ``10,\!080`` as 10,080, ``1\frac{1}{2}`` as 3/2, degrees as °."""
    text = text.replace("−", "-").replace("\\left", "").replace("\\right", "")
    text = re.sub(r"(?<=\d)(?:,\\!\s*|\{,\}|\\[,;])(?=\d{3})", ",", text)
    text = re.sub(r"(?<![\d.,])([1-9]\d{0,2}(?: \d{3})+)(?![\d,])", lambda m: m[1].replace(" ", ","), text)
    text = re.sub(r"\\[,;:! ]", " ", _DEGREES.sub("°", text))
    return _MIXED.sub(
        lambda m: f"{int(m[1]) * int(m[3]) + int(m[2])}/{m[3]}", re.sub(r"(-?)" + _FRACTION.pattern, _slashed, text)
    )


def _slashed(match: re.Match[str]) -> str:
    sign, a, b, c, d = match.groups()
    above, below = a or c, b or d
    if set(below) <= set("-0"):
        return match[0]
    minus = (sign + above + below).count("-") % 2
    blank = " " if match.string[: match.start()][-1:].isdigit() else ""  # 1\frac{1}{2}
    return blank + ("-" if minus else "") + above.lstrip("-") + "/" + below.lstrip("-")


def other_unit(prediction: str, gold: str) -> bool:
    r"""Whether two formulas end in different units, as ``x\text{ m}`` and ``x\text{ km}``; mathruler drops them."""
    units = [_UNIT.search(bare(text)) for text in (prediction, gold)]
    names = [_unit_name(unit[1] + (unit[2] or "")) for unit in units if unit]
    return len(names) == 2 and names[0] != names[1]


def formula(text: str) -> str:
    r"""A formula for the libraries: without a unit at its end, and ``1 \text{ and } 2`` as ``1 , 2``.

    mathruler drops what follows a ``\text{`` with a blank, which in "1331 and 1728" is half of the answer.
    """
    text = _UNIT.sub("", bare(text))
    text = re.sub(r"\\(?:text|mbox|textrm|mathrm)\s*\{\s*(?:and|or)\s*\}", ",", text)
    return re.sub(r"\\(text|mbox)\s*\{\s+", r"\\\1{", text)


def is_date_or_address(text: str) -> bool:
    """Whether a text has parts like 05 or 10.0.0.1, so that reading it as a difference or product means nothing."""
    return bool(re.search(r"(?<![\d.])0\d|\d\.\d+\.\d", text))


def read_number(text: str) -> Number | None:
    r"""The number that a whole text is, such as ``1,234.50``, ``-3/4``, ``1.6e-19``, ``42\%``, ``5\text{ cm}``.

    None for any other text, such as ``42 apples``, and for one with a leading zero (``007`` is a name, not a number).
    """
    text, unit = bare(text), ""
    if len(text) > MAX_STATED:
        return None
    if match := _UNIT.search(text):
        text, unit = text[: match.start()], _unit_name(match[1] + (match[2] or ""))
    number = _full_number(_plain(text).strip())
    return Number(number.value, unit) if number and unit and not number.unit else number


def _unit_name(text: str) -> str:
    name = re.sub(r"[\s{}^.]", "", text).lower().removesuffix("s")
    return _UNIT_NAMES.get(name, name)


def _full_number(text: str) -> Number | None:
    match = _NUMBER.fullmatch(text) if len(text) <= MAX_DIGITS else None
    if match is None:
        return None
    outer, currency, inner, digits, power, below, mark = match.groups()
    if (outer and inner) or (currency and mark):
        return None
    value = Fraction(digits.replace(",", "").removesuffix("."))
    if power:
        if abs(int(power)) > MAX_DIGITS:
            return None
        value *= Fraction(10) ** int(power)
    value /= int(below or 1)
    return Number(-value if "-" in (outer, inner) else value, (currency or mark or "").removeprefix("\\"))


_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ATTACHED = re.compile(r"(.*?\d\.?%?)(-?(?:[A-Za-zµ°/²³]{2,}[\w/²³^-]*|[mgshlLdJNWVACFK°][²³]?))", re.DOTALL)
_AROUND = "()[]{}\"'“”‘’`*.,:;?~#"


def stated_number(text: str) -> Number | None:
    """The one number that a policy's answer states, with or without words; None if it states none or several."""
    if len(text) > MAX_STATED:
        return None
    text = text.replace("\\approx", "=").replace("≈", "=").replace("\\ ", " ").replace("~", " ")
    if (whole := read_number(text.rpartition("=")[2] if text.count("=") == 1 else text)) is not None:
        return whole
    text = _plain(re.sub(r"\\(?:text|mbox|textrm|mathrm|textbf|mathbf)\s*\{([^{}]*)\}", r" \1 ", bare(text)))
    text = re.sub(r"(?<![\w)])\*\*(.+?)\*\*(?![\w(])", r"\1", text)
    stated: list[Number] = []
    for part in re.split(r",(?!\d)|;|\bor\b|\band\b|\n", text):
        numbers = _numbers_among_words(part.rpartition("=")[2])
        if numbers is None:
            return None
        stated += numbers
    if not stated or not all(number.same(stated[0]) for number in stated):
        return None
    unit = re.search(r"\d\s*([A-Za-z°][A-Za-z°/^²³ \d]*)\.?$", text)  # the words after the number, as in "5 km"
    return stated[0] if stated[0].unit or not unit else Number(stated[0].value, _unit_name(unit[1]))


def equates_numbers(text: str) -> bool:
    """Whether a text says that two different plain numbers are equal, as ``13 = 12`` does: it states neither of them.

    Fractions are left out, since ``1/3 = 0.33`` rounds, and so are units, since ``$1 = 100`` may convert.
    """
    sides = bare(text).split("=") if len(text) <= MAX_STATED and "=" in text else []
    numbers = [read_number(side) for side in sides if not re.search("/|frac", side)]
    plain = [number for number in numbers if number and not number.unit]
    return any(not number.same(plain[0]) for number in plain)


def _numbers_among_words(text: str) -> list[Number] | None:
    """The numbers of a text; None if something with a digit is no number by itself, as in 4-6, < 5, x + 2 or 2 π."""
    if re.search(r"[<>≤≥≠±π√∞\\]|(?<!\S)[+*/×÷·^](?!\S)|\s-\s+\d", text):
        return None
    numbers: list[Number] = []
    words = text.split()
    for before, word in zip(["", *words], words, strict=False):
        name = word.strip(_AROUND).lower()
        if numbers and name in _SCALES and re.search(r"\d", before):
            numbers[-1] = Number(numbers[-1].value * _SCALES[name], numbers[-1].unit)
        elif numbers and name.startswith("percent"):
            numbers[-1] = Number(numbers[-1].value, "%")
        elif re.search(r"\d", word) and not re.match(r"[A-Za-zµ²³]", word):  # not cm2, CO2
            if (number := _number_word(word.strip(_AROUND[:-1]).lstrip("#").rstrip("$"), word)) is None:
                return None
            numbers.append(number)
    return numbers


def _number_word(word: str, written: str) -> Number | None:
    """A word such as ``42``, ``42km``, ``$5`` or ``3,5`` (a decimal comma) as a number."""
    if re.match(r"\.\d", written):  # the full stop belongs to the number
        word = "." + word
    if match := _ATTACHED.fullmatch(word):
        word = match[1]
    if re.fullmatch(r"[+-]?\d+,\d+", word) and not re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}", word):
        word = word.replace(",", ".")
    return _full_number(re.sub(r"^([+-]?)0+(?=\d)", r"\1", word))


def is_arithmetic(text: str) -> bool:
    """Whether only a calculation can tell what number a text is: LaTeX, or digits with operators.

    Not a date, a time, an address or several numbers.
    """
    if is_date_or_address(text) or re.search(r"\d:\d|\d\s+\d", text):
        return False
    return "\\" in text or bool(re.fullmatch(r"[\d\s.+\-*/^(){}×·÷!]+", text))


# --- texts ---

_ESCAPED = re.compile(r"\\([_%$&#{} ])")
_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?")
_TRUTH = ("yes", "no", "true", "false")


def same_text(prediction: str, gold: str) -> bool:
    r"""Whether two texts are equal, apart from boxing and from LaTeX's escapes (``snake\_case``) in the prediction."""
    given, wanted = bare(prediction), bare(gold)
    return given == wanted or ("\\" not in wanted and bare(_ESCAPED.sub(r"\1", given)) == wanted)


def same_answer(prediction: str, gold: str) -> bool:
    """Equal texts, and what is written in more than one way: lists, yes and no, the letter of a choice."""
    if same_text(prediction, gold):
        return True
    given, wanted = bare(prediction), bare(gold)
    if wanted.lower() in _TRUTH:
        return given.lower().rstrip(".") == wanted.lower()
    if letter := _LETTER.fullmatch(wanted):
        other = _LETTER.fullmatch(given)
        return other is not None and other[1] == letter[1]
    items = _items(wanted)
    return items is not None and items == _items(re.sub(r"^[A-Za-z]\s*=\s*", "", given))  # x = (1, 2)


def same_word(prediction: str, gold: str) -> bool | None:
    """Mathematics' words, such as "even" or "(C)", without case, blanks and brackets; None if the gold is no word."""
    if not re.fullmatch(r"\(?[A-Za-z]{2,}(?: [A-Za-z]+)*\)?|\([A-Za-z]\)", wanted := bare(gold)):
        return None
    return _letters(bare(prediction)) == _letters(wanted)


def _letters(text: str) -> str:
    return re.sub(r"[\s().]", "", text).lower()


def _items(text: str) -> str | None:
    """A list, a tuple or an object as text that is equal exactly when they are; None for any other text."""
    opened, closed = text[:1], text[-1:]
    if opened + closed not in ("()", "[]", "{}"):
        opened, text = "", f"[{text}]"
        if "," not in text:
            return None
    try:
        value = json.loads(f"[{text[1:-1]}]" if opened == "(" else text)
    except (ValueError, RecursionError):
        return None
    return opened + canonical_json(value)


def normalized(text: str) -> str:
    """SQuAD's normalisation: lower case, no ASCII punctuation, no a, an or the, single spaces."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def exact_match(answer: str, gold: str) -> bool:
    """Whether two texts are equal once normalised, as HotpotQA's official evaluation compares them."""
    return normalized(answer) == normalized(gold)
