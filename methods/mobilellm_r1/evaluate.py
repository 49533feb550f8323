"""The test documents: loss on what the skill determines, and whether all of it is right."""

from __future__ import annotations

import pandas as pd

from methods.mobilellm_r1 import corpora
from methods.mobilellm_r1.corpora import CAPABILITIES, WORDS
from methods.mobilellm_r1.train import load, losses, shape_of
from tycho.adapter import Run


def evaluate(run: Run) -> None:
    """Samples: one row a document, `score` minus its loss in nats. A network of several is told by `setting`."""
    names, _, weights = load(run.job.model)
    frames, several = [], len(names) > 1
    for capability in CAPABILITIES:
        asked = corpora.held_out(capability, "test", run.config.test_items)
        loss, right = losses(weights, shape_of(run.config), asked)
        run.metric("guessing_loss", corpora.guessing_loss(asked), variant=capability)
        for row, name in enumerate(names):
            variant = name if several else ""
            run.metric("nll", float(loss[row].mean()), variant=" · ".join(p for p in (variant, capability) if p))
            prompts = [WORDS.write(ids) for ids in asked.ids.tolist()]
            frames.append(
                pd.DataFrame(
                    {
                        "item": [f"{capability} {i}" for i in range(len(asked))],
                        "variant": variant,
                        "prompt": prompts,
                        "target": [WORDS.write(ids[mask]) for ids, mask in zip(asked.ids, asked.answers, strict=True)],
                        "correct": right[row].numpy(),
                        "score": -loss[row].double().numpy(),
                    }
                )
            )
    frame = pd.concat(frames, ignore_index=True)
    means = {variant: mine for variant, mine in frame.groupby("variant")}
    for variant, mine in means.items():
        run.metric("nll", float(-mine.score.mean()), variant=str(variant))
        run.metric("exact_match", float(mine.correct.mean()), variant=str(variant))
    if several:  # an arm of several mixtures is their mean
        run.metric("nll", float(-frame.score.mean()))
        run.metric("exact_match", float(frame.correct.mean()))
    run.samples(frame)
