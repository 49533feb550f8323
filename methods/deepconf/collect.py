"""A pool's traces are asked for in chunks. What a server has written outlives the job: the next start asks for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from methods.deepconf.confidence import Floats
from methods.deepconf.live import confidence_of
from tycho.adapter import Run
from tycho.engines import Completion, Engine, Settings


class Kept(NamedTuple):
    """What is kept of a trace: its text, its confidences (none where a token came without log-probs), why it failed."""

    text: str
    confidences: Floats
    error: str = ""


def kept(made: Completion, k: int) -> Kept:
    if made.finish == "error":
        return Kept(made.text, np.zeros(0), made.error or "failed")
    sure = confidence_of(made.top_logprobs, k) if made.tokens else np.zeros(0)
    return Kept(made.text, np.zeros(0) if np.isnan(sure).any() else sure)


def collect(run: Run, engine: Engine, prompts: Sequence[str], settings: Settings, noise: Any) -> list[Kept]:
    """`config.pool` traces of each prompt, prompt by prompt, `config.rows` at a time.

    noise [prompts, pool, most]: the numbers to draw with in this process, where a pool is soon made again. From a server
    (noise None) there is a checkpoint behind a chunk, at most one a minute; traces that failed are not in it.
    """
    config, served = run.config, noise is None
    found = [Kept("", np.zeros(0), "not asked for yet")] * (len(prompts) * config.pool)
    if served and (restored := run.restore()):
        found = opened(restored[1], found)
    missing = [place for place, one in enumerate(found) if one.error]
    for start in run.progress(range(0, len(missing), config.rows), "traces"):
        places = missing[start : start + config.rows]
        options = {} if served else {"noise": noise.flatten(0, 1)[places]}
        with engine.stream([prompts[place // config.pool] for place in places], settings, **options) as stream:
            for _ in stream:
                pass
        for place, made in zip(places, stream.completions, strict=True):
            found[place] = kept(made, config.k)
            run.count(generated_tokens=made.tokens)
        if served:
            run.checkpoint(start, lambda: packed(found))
    return found


def packed(found: Sequence[Kept]) -> dict[str, Any]:
    """The traces that did not fail, as a checkpoint holds them."""
    import torch

    places = [place for place, one in enumerate(found) if not one.error]
    texts = [found[place].text.encode("utf-8", "surrogatepass") for place in places]
    rows = [found[place].confidences for place in places]
    return {
        "places": torch.tensor(places, dtype=torch.long),
        "letters": torch.tensor([len(text) for text in texts], dtype=torch.long),
        "texts": torch.from_numpy(np.frombuffer(b"".join(texts), dtype=np.uint8).copy()),
        "lengths": torch.tensor([len(row) for row in rows], dtype=torch.long),
        "confidences": torch.from_numpy(np.concatenate([np.zeros(0), *rows])),
    }


def opened(state: dict[str, Any], found: Sequence[Kept]) -> list[Kept]:
    """`found` with the traces of a checkpoint in their places."""
    found, text = list(found), state["texts"].numpy().tobytes()
    ends, tokens = state["letters"].cumsum(0).tolist(), state["lengths"].tolist()
    rows = state["confidences"].split(tokens) if tokens else ()
    begin = 0
    for place, end, row in zip(state["places"].tolist(), ends, rows, strict=True):
        found[place] = Kept(text[begin:end].decode("utf-8", "surrogatepass"), row.numpy())
        begin = end
    return found
