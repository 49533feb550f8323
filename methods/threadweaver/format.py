"""The text of a ThreadWeaver trajectory: its grammar, its parts and what is wrong with it (arXiv 2512.07843).

Sequential text with any number of fork-join blocks that are not nested (| marks a line break, nothing else is spacing):

    <Parallel>|<Outlines>|<Outline>1: ...</Outline>|<Outline>2: ...</Outline>|</Outlines>|
    <Thread>|1: ...</Thread><Thread>|2: ...</Thread>|</Parallel>

Nothing here raises on malformed text: `check` lists the problems, each with a code and its place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

TAGS = ("Think", "Parallel", "Outlines", "Outline", "Thread", "Conclusion")  # opening and closing: 12 special tokens
MOST_OUTLINES = 50

_TAG = re.compile(rf"</?(?:{'|'.join(TAGS)})>")
_BLOCK_TAG = re.compile(r"</?Parallel>")
_OUTLINES = re.compile(r"\s*<Outlines>(.*?)</Outlines>", re.DOTALL)
_OUTLINE = re.compile(r"\s*<Outline>(.*?)</Outline>", re.DOTALL)
_THREAD = re.compile(r"(\s*)<Thread>(.*?)</Thread>", re.DOTALL)
_CONCLUSION = re.compile(r"\s*<Conclusion>(.*?)</Conclusion>", re.DOTALL)
_NUMBER = re.compile(r"\s*([0-9]+)\s*:")


class Problem(NamedTuple):
    """What is wrong, at which character."""

    code: str
    place: int
    says: str


class Span(NamedTuple):
    """An outline or a thread: its number (None where it has none) and where its inner text [start, end) stands."""

    number: int | None
    start: int
    end: int


class Block(NamedTuple):
    """A fork-join block: [start, end) with its tags; `head` is where `</Outlines>` ends."""

    start: int
    end: int
    head: int
    outlines: tuple[Span, ...]
    threads: tuple[Span, ...]


class Report(NamedTuple):
    """The blocks that could be made out, and all problems in the order of the text; no problem means correct."""

    blocks: tuple[Block, ...]
    problems: tuple[Problem, ...]


def check(
    text: str,
    *,
    spacing: Literal["canonical", "siblings", "any"] = "siblings",
    conclusion: bool = False,
    need_block: bool = False,
    empty_threads: bool = True,
) -> Report:
    """Validates a trajectory by the rules of the public code's second validator. Text outside the blocks is free.

    `spacing`: `siblings` (theirs) forbids white space between sibling threads, `canonical` asks for the exact line
    breaks that the machine inserts, `any` allows all. `conclusion` asks for the legacy `<Conclusion>` at a block's end,
    which is refused otherwise. `need_block` makes text without a block a problem. `empty_threads=False` forbids threads
    that say nothing after their number (a way to buy speed with no work; theirs allows it).
    """
    problems: list[Problem] = []
    blocks = []
    for start, end in _block_spans(text, problems):
        blocks.append(_block(text, start, end, problems, spacing, conclusion, empty_threads))
    if need_block and not blocks:
        problems.append(Problem("no_block", 0, "there is no <Parallel> block"))
    return Report(tuple(blocks), tuple(sorted(problems, key=lambda problem: problem.place)))


def is_correct(text: str, **rules: Any) -> bool:
    """Whether `check` finds nothing wrong, under the same rules."""
    return not check(text, **rules).problems


def render_block(outlines: Sequence[str], threads: Sequence[str]) -> str:
    """A block in canonical spelling from what stands after each number's colon. Raises ValueError on unequal counts."""
    if len(outlines) != len(threads):
        raise ValueError(f"render_block: {len(outlines)} outlines, {len(threads)} threads")
    plan = "".join(f"<Outline>{number}:{text}</Outline>\n" for number, text in enumerate(outlines, 1))
    work = "".join(f"{thread_header(number)}{text}</Thread>" for number, text in enumerate(threads, 1))
    return f"<Parallel>\n<Outlines>\n{plan}</Outlines>\n{work}\n</Parallel>"


def thread_header(number: int | str) -> str:
    """What opens a thread: everything of it that is given, not generated."""
    return f"<Thread>\n{number}:"


# --- inside ----------------------------------------------------------------------------------------------------------


def _block_spans(text: str, problems: list[Problem]) -> list[tuple[int, int]]:
    """[start, end) of each outermost block; one that never closes is reported and left out."""
    spans, depth, start = [], 0, 0
    for tag in _BLOCK_TAG.finditer(text):
        if tag[0] == "<Parallel>":
            if depth:
                problems.append(Problem("nested", tag.start(), "a <Parallel> inside a <Parallel>"))
            else:
                start = tag.start()
            depth += 1
        elif depth:
            depth -= 1
            if not depth:
                spans.append((start, tag.end()))
        else:
            problems.append(Problem("unopened", tag.start(), "a </Parallel> without its <Parallel>"))
    if depth:
        problems.append(Problem("unclosed", start, "a <Parallel> that is never closed"))
    return spans


def _block(
    text: str, start: int, end: int, problems: list[Problem], spacing: str, conclusion: bool, empty_threads: bool
) -> Block:
    def note(code: str, place: int, says: str) -> None:
        problems.append(Problem(code, place, says))

    inner, stop = start + len("<Parallel>"), end - len("</Parallel>")
    found = _OUTLINES.match(text, inner, stop)
    if not found:
        note("no_outlines", inner, "a block must begin with <Outlines> … </Outlines>")
        return Block(start, end, inner, (), ())
    head = found.end()
    outlines, place = [], found.start(1)
    while outline := _OUTLINE.match(text, place, found.end(1)):
        outlines.append(_span(text, outline.start(1), outline.end(1), "outline", problems))
        place = outline.end()
    if text[place : found.end(1)].strip():
        note("stray", place, "something beside <Outline> in <Outlines>")

    threads, place = [], head
    while thread := _THREAD.match(text, place, stop):
        span = _span(text, thread.start(2), thread.end(2), "thread", problems)
        if threads and thread[1] and spacing != "any":
            note("separator", place, "white space between sibling threads")
        if spacing == "canonical" and not threads and thread[1] != "\n":
            note("separator", place, "one line break stands before the first <Thread>")
        if spacing == "canonical" and not text.startswith(f"\n{span.number}:", span.start):
            note("separator", span.start, "a thread begins with a line break and its number")
        if not empty_threads and span.number is not None and not text[span.start : span.end].split(":", 1)[1].strip():
            note("empty_thread", span.start, f"thread {span.number} says nothing")
        threads.append(span)
        place = thread.end()
    if concluded := _CONCLUSION.match(text, place, stop):
        if not conclusion:
            note("conclusion", place, "a <Conclusion>, which this format does not have")
        _inner_tags(text, concluded.start(1), concluded.end(1), "conclusion", problems)
        place = concluded.end()
    elif conclusion:
        note("no_conclusion", place, "a block must end with <Conclusion>")
    rest = text[place:stop]
    if rest.strip():
        note("stray", place, "something beside <Thread> after the outlines")
    elif spacing == "canonical" and rest != "\n":
        note("separator", place, "one line break stands before </Parallel>")

    wanted = list(range(1, len(outlines) + 1))
    if not outlines:
        note("no_outlines", found.start(1), "no <Outline> in <Outlines>")
    if len(outlines) > MOST_OUTLINES:
        note("too_many", found.start(1), f"{len(outlines)} outlines, at most {MOST_OUTLINES}")
    if [outline.number for outline in outlines] != wanted:
        note("outline_number", found.start(1), "outlines are numbered 1, 2, 3, … without gaps")
    if len(threads) != len(outlines):
        note("count", head, f"{len(outlines)} outlines, {len(threads)} threads")
    elif [thread.number for thread in threads] != [outline.number for outline in outlines]:
        note("thread_number", head, "threads have the numbers of the outlines, in their order")
    return Block(start, end, head, tuple(outlines), tuple(threads))


def _span(text: str, start: int, end: int, what: str, problems: list[Problem]) -> Span:
    _inner_tags(text, start, end, what, problems)
    number = _NUMBER.match(text, start, end)
    # Nobody means an outline of a thousand digits, and int() refuses it.
    return Span(int(number[1]) if number and len(number[1]) < 10 else None, start, end)


def _inner_tags(text: str, start: int, end: int, what: str, problems: list[Problem]) -> None:
    if tag := _TAG.search(text, start, end):
        problems.append(Problem("tag_inside", tag.start(), f"{tag[0]} inside a {what}"))
