"""What a question's traces cost in FLOPs, where the model is in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tycho.engines import Engine
from tycho.lm.flops import forward_flops, generate_flops

Counter = Callable[[str, ArrayLike], Any]


def question_flops(config: Any, prompt: int, lengths: ArrayLike) -> Any:
    """FLOPs [...] of one question whose traces have `lengths` [..., K] tokens (0: not started).

    prompt: tokens of the question, which are read once for all its traces.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    begun = lengths > 0
    each = np.where(begun, generate_flops(config, prompt, lengths), 0)
    return each.sum(-1) - np.maximum(begun.sum(-1) - 1, 0) * forward_flops(config, prompt, logits=1)


def counter(engine: Engine) -> Counter:
    """FLOPs by a question's text and its traces' lengths [..., K]; NaN where the model is behind a server."""
    from tycho.engines.local import Local

    if not isinstance(engine, Local):
        return lambda text, lengths: np.full(np.shape(lengths)[:-1], np.nan)
    return lambda text, lengths: question_flops(engine.model.config, len(engine.ids(text)), lengths)
