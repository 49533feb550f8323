"""What thoughts hold, and how far the root-blind shortcuts get."""

from __future__ import annotations

import pandas as pd

from tycho.adapter import Run
from tycho.keys import setting


def analyse(run: Run) -> None:
    if run.key.arm == "shortcut":
        shortcuts(run)
        return
    samples = run.job.record("samples")
    for where, mine in samples.groupby("setting"):
        run.metric("accuracy", mine.correct.mean(), setting=str(where))
        for column in ("generated_tokens", "sequential_tokens", "forward_passes", "flops"):
            run.metric(column, float(mine[column].mean()), setting=str(where))
    config = run.config
    if config.fill == "thoughts" and run.key.task in ("graphs", "prosqa", "prosqa-balanced"):
        values(run)


def values(run: Run) -> None:
    """The value of the nodes of each class after 0, 1, … thoughts, and the cumulative value of the best three."""
    from methods.coconut import values as idea
    from methods.coconut.data import symbolic_words
    from methods.coconut.model import Thinker
    from methods.coconut.train import problem_of

    thinker = Thinker.load(run.job.model)
    words = symbolic_words(run.key.task)
    examples = problem_of(run).test
    graphs = idea.graphs_of(examples, words)
    for k in range(min(thinker.thoughts, int(graphs.depth.max()))):
        asked = graphs.depth > k
        found = idea.node_values(thinker, examples, words, k).numpy()[asked]
        where = setting(thoughts=k)
        for name, value in idea.by_class(found, idea.classes(graphs.select(asked), k)).items():
            run.metric("value", value, variant=name, setting=where)
        for best, share in enumerate(idea.top_shares(found), start=1):
            run.metric("cumulative_value", share, variant=f"top {best}", setting=where)


def shortcuts(run: Run) -> None:
    """Answers that never read which node is asked about, on the task's own test items. A tie is half right."""
    from methods.coconut.data import symbolic_words
    from methods.coconut.train import problem_of
    from methods.coconut.values import graphs_of
    from tycho.harness import make_items
    from tycho.tasks.graph_shortcuts import PREDICTORS

    task = problem_of(run)
    examples = task.test
    graphs = graphs_of(examples, symbolic_words(run.key.task))
    prompts = [task.text(row[:n].tolist()) for row, n in zip(examples.prompt, examples.prompt_length, strict=True)]
    items = make_items(prompts, [task.target(examples, row) for row in range(len(examples))])
    frames = []
    for name, predict in PREDICTORS.items():
        scores = predict(graphs)
        right, tie = scores[:, 0] > scores[:, 1], scores[:, 0] == scores[:, 1]
        answers = [str(a) for a in graphs.target]
        others = [str(a) for a in graphs.distractor]
        said = [a if r else "" if t else b for a, b, r, t in zip(answers, others, right, tie, strict=True)]
        zeros = dict.fromkeys(("generated_tokens", "sequential_tokens", "forward_passes"), 0)
        frames.append(items.assign(variant=name, answer=said, correct=right, score=right + 0.5 * tie, **zeros))
        run.metric("score", float((right + 0.5 * tie).mean()), variant=name)
    run.samples(pd.concat(frames, ignore_index=True))
