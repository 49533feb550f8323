"""Answers in a trace's text: finding them, spelling them in one way, and telling whether two are equal.

The public code takes the text after the last "boxed", groups votes by the exact string, and grades with a ToRA-style
checker. Extraction and the exact grouping are kept; `canonical` is the option that merges spellings before the vote,
and equality is math-verify's (which, unlike that checker, does not take 0.7 for 70). Model text is only ever parsed
(LaTeX grammar), never evaluated as code.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation, localcontext
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tycho.errors import unknown

LONGEST = 256  # characters; a longer "answer" is compared as a string
SECONDS = 3

_WRAPPER = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox|operatorname)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"\\(?:left|right|displaystyle|quad|qquad)(?![A-Za-z])|\\[,;:! ]|[\s~$]+")
_UNIT = re.compile(r"\\?%|\^\{?\\(?:circ|degree)\}?|\\degree(?![A-Za-z])|°")
_LETTER = re.compile(r"\(?([A-Za-z])\)?\.?")
_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:[eE][+-]?\d{1,3})?")
_RATIO = re.compile(r"([+-]?)(?:\\frac\{(\d+)\}\{(\d+)\}|(\d+)/(\d+))")
# Powers of powers of powers and large factorials: easily written, endless to evaluate, and no signal interrupts it.
_ENDLESS = re.compile(r"\^[^+\-*/=,]*\^[^+\-*/=,]*\^|\^\s*\{?\s*\d{6,}|\d{4,}\s*!|!\s*!")


# --- finding ---------------------------------------------------------------------------------------------------------


def boxed(text: str) -> str | None:
    """What stands in the last "boxed": the balanced braces after it (to the end where they never close), or, without
    a brace, up to the next "$". None where there is no "boxed"; "" where it is empty."""
    _, found, rest = text.rpartition("boxed")
    if not found:
        return None
    if not rest.startswith("{"):
        return rest.split("$")[0].strip()
    depth = 0
    for place, letter in enumerate(rest):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return rest[1:place].strip()
    return rest[1:].strip()


def _last(pattern: str) -> Callable[[str], str | None]:
    compiled = re.compile(pattern, re.MULTILINE)

    def find(text: str) -> str | None:
        found = compiled.findall(text)
        return found[-1].strip() if found else None

    return find


FORMATS: dict[str, Callable[[str], str | None]] = {
    "boxed": boxed,
    "hashes": _last(r"####(.*)"),
    "letter": _last(r"(?:[Aa]nswer(?:\s+is)?\s*:?\s*\**\(?|\()([A-Z])(?![A-Za-z])"),
    "number": _last(r"-?(?:\d[\d,]*\d|\d)(?:\.\d+)?"),
    "last_line": _last(r"^.*\S.*$"),
}


def finder(name: str) -> Callable[[str], str | None]:
    """The function text -> answer of a format's name. Raises TychoError on an unknown name."""
    if name not in FORMATS:
        raise unknown("answer format", name, FORMATS)
    return FORMATS[name]


def codes(
    answers: Iterable[str | None], key: Callable[[str], str] | None = None
) -> tuple[NDArray[np.int64], list[str]]:
    """Codes [R] for voting and, by code, the answer as first spelled. None and "" are no answer: -1.

    `key=None` groups by the exact string, as published; `key=canonical` merges spellings of one value.
    """
    known: dict[str, int] = {}
    spelled: list[str] = []
    found = []
    for answer in answers:
        if not answer:
            found.append(-1)
            continue
        code = known.setdefault(key(answer) if key else answer, len(known))
        if code == len(spelled):
            spelled.append(answer)
        found.append(code)
    return np.array(found, dtype=np.int64), spelled


# --- comparing -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 16)
def canonical(answer: str) -> str:
    """One spelling for equal answers: a letter as a capital, a number (an equation's right side) as its decimal with 15
    significant digits or all digits of an integer, anything else without spacing, \\text and unit signs."""
    text = answer
    while (bare := _WRAPPER.sub(r"\1", text)) != text:
        text = bare
    text = _UNIT.sub("", _SPACING.sub("", text)).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = text.rstrip(".")
    if letter := _LETTER.fullmatch(text):
        return letter[1].upper()
    value = _plain_number(text)
    if value is None and re.search(r"\d|\\pi|e", text):
        value = _value(text)
    return text if value is None else _decimal(value)


@lru_cache(maxsize=1 << 16)
def equal(answer: str | None, target: str) -> bool:
    """Whether an answer is the target: canonical spellings agree, or math-verify finds them equal. Two single letters
    are compared without case. What cannot be parsed, or not in time, is compared as a string."""
    if not answer:
        return False
    if answer == target or canonical(answer) == canonical(target):
        return True
    if _LETTER.fullmatch(canonical(answer)) and _LETTER.fullmatch(canonical(target)):
        return False
    if _too_much(answer) or _too_much(target):
        return False
    return bool(_in_time(lambda: _verify(answer, target), False))


def _plain_number(text: str) -> Decimal | None:
    with localcontext(prec=50):
        if (ratio := _RATIO.fullmatch(text)) and int(ratio[3] or ratio[5]):
            return Decimal(ratio[1] + (ratio[2] or ratio[4])) / Decimal(ratio[3] or ratio[5])
        if _NUMBER.fullmatch(text):
            try:
                return Decimal(text.replace(",", ""))
            except InvalidOperation:  # no digits at all
                return None
    return None


def _decimal(value: Decimal) -> str:
    with localcontext(prec=50):
        if value == value.to_integral_value() and abs(value) < Decimal(10) ** 40:
            return str(int(value))
    with localcontext(prec=15):
        return str((+value).normalize())


def _value(text: str) -> Decimal | None:
    """The real number a LaTeX expression, or an equation's right side, stands for; None where it is none."""
    if _too_much(text):
        return None

    def evaluate() -> Decimal | None:
        import sympy

        for expression in _parse(text):
            if isinstance(expression, sympy.Eq):
                expression = expression.rhs
            if isinstance(expression, sympy.Expr) and expression.is_number:
                number = expression.evalf(40)
                if number.is_Float or number.is_Integer:
                    # 40 digits are carried and 30 believed, so that sqrt(4) and 3 * (1/3) become integers.
                    with localcontext(prec=30):
                        return +Decimal(str(number))
        return None

    return _in_time(evaluate, None)


def _too_much(text: str) -> bool:
    return len(text) > LONGEST or _ENDLESS.search(text) is not None


def _parse(text: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    return parse(f"${text.strip('$')}$", extraction_config=[LatexExtractionConfig()], parsing_timeout=None)


def _verify(answer: str, target: str) -> bool:
    from math_verify import verify

    return verify(_parse(target), _parse(answer), timeout_seconds=None)


def _in_time(work: Callable[[], Any], otherwise: Any) -> Any:
    """`work()`, or `otherwise` where it fails or takes too long. Only the main thread can be interrupted."""
    from math_verify.errors import TimeoutException
    from math_verify.utils import timeout

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    limit = timeout(SECONDS) if threading.current_thread() is threading.main_thread() else lambda call: call
    try:
        return limit(work)()
    except (TimeoutException, Exception):  # sympy's failures on odd input are of every kind
        return otherwise
