"""Pairs of tensors of a base and a tuned checkpoint, found by name and checked by header before any is read.

Read one tensor at a time: memory does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from methods.path_not_taken import names
from methods.path_not_taken.folders import Checkpoint, is_adapter, locate, open_folder
from methods.path_not_taken.lora import Merged, merged
from tycho.errors import TychoError

FLOATS = ("F64", "F32", "F16", "BF16")
LENIENT = "or leave such tensors out (--lenient)"


class Pair(NamedTuple):
    """One tensor: its name in the base (in the tuned one if only that has it), and where either side keeps it."""

    name: str
    base: str
    tuned: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Aligned:
    """The pairs to compare, and every other tensor with the reason it is left out."""

    pairs: list[Pair]
    skipped: dict[str, str]


def open_base(source: str | Path) -> Checkpoint:
    """A folder, file or hub id with weights of its own."""
    place = locate(source)
    if is_adapter(place):
        raise TychoError(f"BASE {str(source)!r} is an adapter: give the model it was trained on, and it as TUNED")
    return open_folder(source, place)


def open_tuned(source: str | Path, base: Checkpoint) -> Checkpoint | Merged:
    """As `open_base`, or a LoRA adapter on the base."""
    place = locate(source)
    return merged(source, place, base) if is_adapter(place) else open_folder(source, place)


def pairs(base: Checkpoint, tuned: Checkpoint | Merged, lenient: bool = False) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, base tensor, tuned tensor) one after the other, as stored."""
    for pair in align(base, tuned, lenient).pairs:
        yield pair.name, load(base, pair.base), load(tuned, pair.tuned)


def load(checkpoint: Checkpoint | Merged, name: str) -> Tensor:
    """One tensor, as stored. Raises TychoError where it holds nan or infinity."""
    tensor = checkpoint.read(name)
    if not tensor.isfinite().all():
        raise TychoError(f"tensor {name!r} of {checkpoint.source} holds nan or infinity: the checkpoint is broken")
    return tensor


def align(base: Checkpoint, tuned: Checkpoint | Merged, lenient: bool = False) -> Aligned:
    """Pairs every weight of one side with the other's.

    Names may differ by prefixes, and a head may be tied to the embedding on either side. What has no partner, or one
    of another shape, or is not stored as floating point, raises TychoError naming it; `lenient` leaves it out.
    """
    partner = names.match(base.names, tuned.names)
    found = [Pair(name, name, other, base.stored(name).shape) for name, other in partner.items()]
    found += _tied_heads(base, tuned, {pair.base for pair in found}, {pair.tuned for pair in found})
    aligned = Aligned([], {})
    _alone(aligned.skipped, "BASE", base, tuned, {pair.base for pair in found}, lenient)
    _alone(aligned.skipped, "TUNED", tuned, base, {pair.tuned for pair in found}, lenient)
    for pair in found:
        try:
            reason = _leave_out(pair, base, tuned)
        except TychoError as error:
            if not lenient:
                raise
            reason = str(error)
        if reason:
            aligned.skipped[pair.name] = reason
        else:
            aligned.pairs.append(pair)
    if not aligned.pairs:
        raise TychoError(f"{base.source} and {tuned.source} have no weight in common: are they of one model family?")
    return aligned


def _tied_heads(base: Checkpoint, tuned: Checkpoint | Merged, in_base: set[str], in_tuned: set[str]) -> Iterator[Pair]:
    """The head of the side that stores it, against the embedding of the side that ties it."""
    for name in base.names:
        if name not in in_base and names.is_head(name) and tuned.embedding:
            yield Pair(name, name, tuned.embedding, base.stored(name).shape)
    for name in tuned.names:
        if name not in in_tuned and names.is_head(name) and base.embedding:
            yield Pair(name, base.embedding, name, base.stored(base.embedding).shape)


def _alone(
    skipped: dict[str, str],
    side: str,
    here: Checkpoint | Merged,
    there: Checkpoint | Merged,
    paired: set[str],
    lenient: bool,
) -> None:
    weights = []
    for name in (name for name in here.names if name not in paired):
        if names.is_buffer(name, here.stored(name).shape):
            skipped[name] = "a buffer, not a weight"
        else:
            skipped[name] = f"only in {side}"
            weights.append(name)
    if weights and not lenient:
        more = f" (and {len(weights) - 1} more)" if len(weights) > 1 else ""
        near = names.nearest(weights[0], there.names)
        raise TychoError(
            f"tensor {weights[0]!r}{more} is only in {side} ({here.source}), not in {there.source}"
            f"{f'; nearest there: {near!r}' if near else ''}: give checkpoints of one model, {LENIENT}"
        )


def _leave_out(pair: Pair, base: Checkpoint, tuned: Checkpoint | Merged) -> str:
    """Why a pair needs no comparison, or nothing. Raises TychoError where it needs one and cannot have it."""
    before, after = base.stored(pair.base), tuned.stored(pair.tuned)
    if names.is_buffer(pair.name, before.shape):
        return "a buffer, not a weight"
    for stored, checkpoint in ((before, base), (after, tuned)):
        if stored.dtype not in FLOATS:
            raise TychoError(
                f"tensor {pair.name!r} is stored as {stored.dtype} in {checkpoint.source}: "
                f"dequantise it to bf16 and save it again, {LENIENT}"
            )
    if before.shape != after.shape:
        raise TychoError(
            f"tensor {pair.name!r} is {list(before.shape)} in {base.source} and {list(after.shape)} in "
            f"{tuned.source}: give checkpoints of one architecture, {LENIENT}"
        )
    if 0 in before.shape:
        return "empty"
    if names.is_head(pair.name) and _is_embedding_again(pair, base, tuned):
        return "tied: the embedding, stored a second time"
    return ""


def _is_embedding_again(pair: Pair, base: Checkpoint, tuned: Checkpoint | Merged) -> bool:
    for checkpoint, head in ((base, pair.base), (tuned, pair.tuned)):
        embedding = checkpoint.embedding
        if embedding is None or checkpoint.stored(embedding).shape != pair.shape:
            return False
        if head != embedding and not torch.equal(checkpoint.read(head), checkpoint.read(embedding)):
            return False
    return True
