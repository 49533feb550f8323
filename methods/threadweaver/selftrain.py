"""Self-training, stage 2 of the data (arXiv 2512.07843): the model's own rollouts, where well-formed and correct."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from methods.deepconf.answers import boxed, equal
from methods.threadweaver.format import check


class Kept(NamedTuple):
    """Which rollouts [n] stay, and how many there are of each kind (kept, malformed, wrong, malformed and wrong)."""

    mask: NDArray[np.bool_]
    counts: dict[str, int]
    problems: dict[str, int]  # how many rollouts have a problem of this code


def answers_right(
    responses: Sequence[str], targets: Sequence[str], find: Callable[[str], str | None] = boxed
) -> NDArray[np.bool_]:
    """Whether each response's answer equals its target."""
    return np.array([equal(find(text), target) for text, target in zip(responses, targets, strict=True)], dtype=bool)


def keep(responses: Sequence[str], correct: ArrayLike, **rules: Any) -> Kept:
    """Keeps a response if its format is valid and its answer correct; `rules` are `format.check`'s.

    A response without any block is valid (unless `need_block`): the model may choose not to fork.
    """
    correct = np.asarray(correct, dtype=bool)
    if correct.shape != (len(responses),):
        raise ValueError(f"keep: {len(responses)} responses, correct has shape {correct.shape}")
    found = [{problem.code for problem in check(text, **rules).problems} for text in responses]
    formed = np.array([not codes for codes in found], dtype=bool)
    counts = {
        "kept": formed & correct,
        "malformed": ~formed & correct,
        "wrong": formed & ~correct,
        "malformed and wrong": ~formed & ~correct,
    }
    every = sorted(set().union(*found))
    problems = {code: sum(code in codes for codes in found) for code in every}
    return Kept(formed & correct, {name: int(mask.sum()) for name, mask in counts.items()}, problems)
