"""The grammar: canonical text passes, each rule has a text that breaks it alone, and no text raises."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trajectories import soup, trajectories

from methods.threadweaver.format import Report, check, is_correct, render_block, thread_header

OUTLINES = "<Outlines>\n<Outline>1: p</Outline>\n<Outline>2: q</Outline>\n</Outlines>"
THREADS = "<Thread>\n1: x</Thread><Thread>\n2: y</Thread>"
GOOD = f"<Parallel>\n{OUTLINES}\n{THREADS}\n</Parallel>"


def codes(text: str, **rules: bool | str) -> set[str]:
    return {problem.code for problem in check(text, **rules).problems}


def test_the_published_spelling() -> None:
    assert render_block([" p", " q"], [" x", " y"]) == GOOD
    assert codes(f"before {GOOD} between {GOOD} after", spacing="canonical") == set()


@given(trajectories())
def test_canonical_trajectories_pass_and_give_back_their_parts(made: tuple[str, str, list[list[str]]]) -> None:
    _, text, blocks = made
    report = check(text, spacing="canonical")
    assert not report.problems and len(report.blocks) == len(blocks)
    for found, threads in zip(report.blocks, blocks, strict=True):
        assert [text[span.start : span.end] for span in found.threads] == [
            f"\n{number}:{thread}" for number, thread in enumerate(threads, 1)
        ]
        assert text[: found.head].endswith("</Outlines>") and text[: found.end].endswith("</Parallel>")
    assert is_correct(text, need_block=True) == bool(blocks)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("unopened", f"{GOOD}</Parallel>"),
        ("unclosed", f"{GOOD}<Parallel>"),
        ("nested", f"<Parallel>{OUTLINES}<Thread>1: {GOOD}</Thread><Thread>2:</Thread></Parallel>"),
        ("no_outlines", f"<Parallel>\n{THREADS}\n</Parallel>"),
        ("no_outlines", f"<Parallel>{THREADS}{OUTLINES}</Parallel>"),
        ("no_outlines", "<Parallel><Outlines></Outlines></Parallel>"),
        ("stray", GOOD.replace("</Outlines>\n", "</Outlines>\nso ")),
        ("stray", GOOD.replace("<Outlines>", "<Outlines>plan")),
        ("stray", GOOD.replace("</Parallel>", "<Think></Think></Parallel>")),
        ("outline_number", GOOD.replace("2: q", "3: q").replace("2: y", "3: y")),
        ("outline_number", GOOD.replace("1: p", "p")),
        ("outline_number", GOOD.replace("1: p", "1.1: p")),
        ("thread_number", GOOD.replace("1: x", "2: x").replace("2: y", "1: y")),
        ("thread_number", GOOD.replace("1: x", "x")),
        ("count", GOOD.replace("<Thread>\n2: y</Thread>", "")),
        ("count", GOOD.replace("2: y</Thread>", "2: y</Thread><Thread>\n3: z</Thread>")),
        ("stray", GOOD.replace("2: y</Thread>", "2: y")),
        ("tag_inside", GOOD.replace("1: p", "1: <Thread>")),
        ("tag_inside", GOOD.replace("1: x", "1: <Conclusion>")),
        ("separator", GOOD.replace("</Thread><Thread>", "</Thread>\n<Thread>")),
        ("conclusion", GOOD.replace("\n</Parallel>", "<Conclusion>z</Conclusion></Parallel>")),
    ],
)
def test_each_rule_has_its_code(code: str, text: str) -> None:
    assert code in codes(text), check(text).problems
    for problem in check(text).problems:
        assert 0 <= problem.place <= len(text) and problem.says


def test_named_options() -> None:
    apart = GOOD.replace("</Thread><Thread>", "</Thread>\n<Thread>")
    assert codes(apart) == {"separator"} and codes(apart, spacing="any") == set()
    loose = GOOD.replace("\n<Thread>\n1", "<Thread> 1").replace("\n</Parallel>", "</Parallel>")
    assert codes(loose) == set() and codes(loose, spacing="canonical") == {"separator"}
    assert codes("no block") == set() and codes("no block", need_block=True) == {"no_block"}
    legacy = GOOD.replace("\n</Parallel>", "<Conclusion>z</Conclusion></Parallel>")
    assert codes(legacy, conclusion=True) == set() and codes(GOOD, conclusion=True) == {"no_conclusion"}
    lazy = GOOD.replace("1: x", "1: ")
    assert codes(lazy) == set() and codes(lazy, empty_threads=False) == {"empty_thread"}


def test_fifty_outlines_and_no_more() -> None:
    assert codes(render_block([""] * 50, [""] * 50)) == set()
    assert codes(render_block([""] * 51, [""] * 51)) == {"too_many"}
    with pytest.raises(ValueError, match="2 outlines, 1 threads"):
        render_block(["", ""], [""])


def test_text_outside_the_blocks_is_free() -> None:
    assert codes(f"</Thread> <Outlines> 1: {GOOD} <Thread> </Outlines>") == set()


@settings(max_examples=300)
@given(soup.map("".join) | st.text(), st.booleans(), st.sampled_from(["canonical", "siblings", "any"]))
def test_no_text_raises(text: str, flag: bool, spacing: str) -> None:
    report = check(text, spacing=spacing, conclusion=flag, need_block=flag, empty_threads=not flag)
    assert isinstance(report, Report)
    assert [problem.place for problem in report.problems] == sorted(problem.place for problem in report.problems)


@given(trajectories(), st.data())
def test_losing_any_tag_of_a_block_is_noticed(made: tuple[str, str, list[list[str]]], data: st.DataObject) -> None:
    import re

    _, text, blocks = made
    tags = list(re.finditer(r"</?\w+>", text))
    if blocks:
        tag = data.draw(st.sampled_from(tags))
        assert codes(text[: tag.start()] + text[tag.end() :])


def test_a_long_text_is_checked_in_a_moment() -> None:
    import time

    text = render_block(["a"] * 50, ["word " * 200] * 50) * 40 + "<Parallel>" * 2000
    start = time.process_time()
    check(text)
    assert len(text) > 2_000_000 and time.process_time() - start < 8


def test_a_threads_header() -> None:
    assert thread_header(3) == "<Thread>\n3:"
