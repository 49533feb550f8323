"""Finding, spelling and comparing answers."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.deepconf.answers import FORMATS, boxed, canonical, codes, equal, finder
from tycho.errors import TychoError


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{70}.", "70"),
        (r"\boxed{1} then \boxed{ \frac{1}{2} }", r"\frac{1}{2}"),
        (r"\boxed{a{b}c} d}", "a{b}c"),
        (r"\boxed{\frac{1}{2", r"\frac{1}{2"),  # never closes: everything to the end
        (r"$\boxed 7$ and $8$", "7"),
        ("boxed", ""),
        (r"\boxed{}", ""),
        ("no box", None),
        ("", None),
    ],
)
def test_the_last_boxed(text: str, answer: str | None) -> None:
    assert boxed(text) == answer


@pytest.mark.parametrize(
    ("name", "text", "answer"),
    [
        ("hashes", "3 + 4 = 7\n#### 7\n", "7"),
        ("letter", "The answer is (C).", "C"),
        ("letter", "(A) or (B)? Answer: B", "B"),
        ("letter", "answer is Because", None),
        ("number", "first 3, then -1,234.50.", "-1,234.50"),
        ("last_line", "a\n b c \n\n", "b c"),
        ("boxed", "x", None),
    ],
)
def test_the_other_formats(name: str, text: str, answer: str | None) -> None:
    assert finder(name)(text) == answer


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(TychoError, match="unknown answer format 'boxd': did you mean 'boxed'"):
        finder("boxd")


@settings(max_examples=200)
@given(st.text(alphabet="boxed{}$\\ #()A1.\n", max_size=40))
def test_no_text_breaks_a_format(text: str) -> None:
    for find in FORMATS.values():
        found = find(text)
        assert found is None or found == found.strip()


@pytest.mark.parametrize(
    "spellings",
    [
        ["70", "70.0", "$70$", r"70^\circ", "21+49=70", "x = 70", r"\text{70}", "70 .", "+70"],
        ["1/2", "0.5", r"\frac{1}{2}", r"\dfrac12", ".50"],
        [r"2\sqrt{3}", r"\sqrt{12}"],
        ["1234", "1,234", "1234.0"],
        ["b", "(B)", r"\text{B}", "B."],
        ["(1,2)", "(1, 2)", r"\left(1,\,2\right)"],
        ["1024", "2^{10}"],
        ["50%", r"50\%", "50"],
    ],
)
def test_spellings_of_one_value_have_one_code(spellings: list[str]) -> None:
    """Exact strings split these votes in the published code (`21+49=70` against `70` decided a question)."""
    assert len(set(map(canonical, spellings))) == 1
    merged, split = codes(spellings, canonical)[0], codes(spellings)[0]
    assert set(merged) == {0} and len(set(split)) == len(spellings)
    assert all(equal(spelling, spellings[0]) for spelling in spellings)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("70", "71"),
        ("A", "B"),
        ("12345678901234567890", "12345678901234567891"),
        ("0.333", "1/3"),
        ("0.7", "70"),
        ("(1,2)", "(2,1)"),
    ],
)
def test_different_values_stay_different(one: str, other: str) -> None:
    assert canonical(one) != canonical(other) and not equal(one, other)


def test_math_verify_finds_what_spelling_cannot() -> None:
    assert equal("x+1", "1+x") and equal(r"\{1,2\}", r"\{2,1\}") and equal("50%", "0.5")
    assert not equal("x+2", "1+x") and not equal(None, "7") and not equal("", "7")


@pytest.mark.parametrize("endless", ["9^{9^{9^9}}", "9^9^9^9", "100000000!", "2^{99999999}", "1" * 300 + "+1", "5/0"])
def test_numbers_nobody_can_write_out_are_compared_as_strings(endless: str) -> None:
    assert canonical(endless) == endless and not equal(endless, "7") and equal(endless, endless)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="0123456789+-*/^{}()[]\\fracsqt.,=x$% ", max_size=12))
def test_no_answer_breaks_the_comparison_and_spelling_is_idempotent_for_numbers(text: str) -> None:
    spelled = canonical(text)
    assert isinstance(spelled, str) and isinstance(equal(text, "7"), bool)
    if spelled.lstrip("-").isdigit():
        assert canonical(spelled) == spelled


def test_codes_follow_the_order_of_first_sight_and_leave_out_empty_answers() -> None:
    found, spelled = codes(["b", None, "a", "", "b"])
    assert found.tolist() == [0, -1, 1, -1, 0] and spelled == ["b", "a"]


def test_it_works_off_the_main_thread() -> None:
    """Where no signal can interrupt: inside an asynchronous client's worker."""
    found: list[bool] = []
    worker = threading.Thread(
        target=lambda: found.append(equal(r"3\sqrt{2}", r"\sqrt{18}") and not equal("x-1", "1-x"))
    )
    worker.start()
    worker.join()
    assert found == [True]
