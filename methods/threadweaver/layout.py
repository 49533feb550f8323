"""Problems whose parts do not depend on each other, as packed trees to train on.

A trace of grouped products is written as one thread a group, then the joins; a problem of one group, or one that is not
forked, in one go. Items of the same lengths have the same tree, so a tree is built once for each and then filled in.
`units` spells the same item as text and cuts it as the state machine does: the slow reference, and the units of
self-training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch

from methods.threadweaver.format import render_block
from methods.threadweaver.packing import Packed, TokenUnit, pack
from methods.threadweaver.words import Words


class Piece(NamedTuple):
    """An item in token ids: the prompt, the independent parts of its trace, what joins them (the answer, its end)."""

    prompt: list[int]
    parts: list[list[int]]
    rest: list[int]


@dataclass(frozen=True)
class Frame:
    """The words around threads of one vocabulary, as ids: `<Parallel><Outlines>`, `<Outline> i: </Outline>` and so on."""

    opening: tuple[int, ...]
    outlines: tuple[tuple[int, ...], ...]
    planned: int
    headers: tuple[tuple[int, ...], ...]
    close_thread: int
    closing: int

    @classmethod
    def of(cls, words: Words, most: int = 4) -> Frame:
        ids = words.ids
        numbers = [ids[f"{number}:"] for number in range(1, most + 1)]
        return cls(
            (ids["<Parallel>"], ids["<Outlines>"]),
            tuple((ids["<Outline>"], number, ids["</Outline>"]) for number in numbers),
            ids["</Outlines>"],
            tuple((ids["<Thread>"], number) for number in numbers),
            ids["</Thread>"],
            ids["</Parallel>"],
        )


def pieces(examples: object, step_groups: Sequence[int]) -> list[Piece]:
    """Items of `tycho.lm.examples.Examples` whose steps belong to groups; the highest group is the joins'."""
    found = []
    prompts, answers = _rows(examples.prompt, examples.prompt_length), _rows(examples.answer, examples.answer_length)  # type: ignore[attr-defined]
    steps = [_rows(rows, lengths) for rows, lengths in zip(examples.steps, examples.step_length, strict=True)]  # type: ignore[attr-defined]
    joining = max(step_groups)
    for prompt, item, answer in zip(prompts, steps, answers, strict=True):
        parts: list[list[int]] = [[] for _ in range(joining)]
        rest: list[int] = []
        for group, step in zip(step_groups, item, strict=True):
            (parts[group] if group < joining else rest).extend(step)
        found.append(Piece(prompt, [part for part in parts if part], rest + answer))
    return found


def packed(piece: Piece, frame: Frame, *, fork: bool, loss: str = "completion") -> Packed:
    """The item's tree: its units as the state machine asks for them (`packing.pack` of `units`, filled into a template)."""
    prompt, parts, rest = piece
    if not fork or len(parts) < 2:
        whole = torch.tensor([*prompt, *(token for part in parts for token in part), *rest])
        template = _plain(len(prompt), len(whole))
    else:
        whole = [*prompt, *frame.opening]
        for outline in frame.outlines[: len(parts)]:
            whole += outline
        whole.append(frame.planned)
        for header, part in zip(frame.headers, parts, strict=False):
            whole += [*header, *part, frame.close_thread]
        whole = torch.tensor([*whole, frame.closing, *rest])
        template = _forked(len(prompt), tuple(map(len, parts)), len(rest), loss)
    return template._replace(tokens=whole[template.tokens])


def text(piece: Piece, words: Words, *, fork: bool) -> tuple[str, str]:
    """(prompt, response) in canonical spelling; the end token is not part of it."""
    prompt, parts, rest = piece
    said = words.decode(rest[:-1])
    if not fork or len(parts) < 2:
        return words.decode(prompt), "".join(map(words.decode, parts)) + said
    return words.decode(prompt), render_block([""] * len(parts), [words.decode(part) for part in parts]) + said


@lru_cache(maxsize=4096)
def _forked(prompt: int, parts: tuple[int, ...], rest: int, loss: str) -> Packed:
    """The tree of places in the whole trajectory."""
    head = prompt + 2 + 3 * len(parts) + 1
    starts = [head + sum(part + 3 for part in parts[:place]) for place in range(len(parts))]
    joined = starts[-1] + parts[-1] + 3 + 1  # behind </Parallel>
    end = joined + rest
    place = list(range(end))
    made = [
        TokenUnit(place[:prompt], place[prompt:], loss != "completion"),
        TokenUnit(place[:prompt], place[prompt:head]),
    ]
    for start, length in zip(starts, parts, strict=True):
        # All threads open with the same tag behind the same outlines: one node, the first thread's.
        made.append(TokenUnit([*place[:head], head, start + 1], place[start + 2 : start + length + 3]))
    made.append(TokenUnit(place[:joined], place[joined:]))
    if loss == "everything":
        made = [TokenUnit(place[:prompt], [*context[prompt:], *said]) for context, said, _ in made]
    return pack(made)


@lru_cache(maxsize=4096)
def _plain(prompt: int, end: int) -> Packed:
    place = list(range(end))
    return pack([TokenUnit(place[:prompt], place[prompt:])])


def _rows(ids: torch.Tensor, lengths: torch.Tensor) -> list[list[int]]:
    return [row[:length] for row, length in zip(ids.tolist(), lengths.tolist(), strict=True)]
