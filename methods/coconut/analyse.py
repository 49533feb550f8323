"""What thoughts hold, and how far the root-blind shortcuts get."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tycho.adapter import Run
from tycho.keys import setting


def analyse(run: Run) -> None:
    if run.key.arm == "shortcut":
        shortcuts(run)
        return
    samples = run.job.record("samples").query("split == 'test'")
    for where, mine in samples.groupby("setting"):
        run.metric("accuracy", mine.correct.mean(), setting=str(where))
        for column in ("generated_tokens", "sequential_tokens", "forward_passes", "flops"):
            run.metric(column, float(mine[column].mean()), setting=str(where))
    config = run.config
    if config.fill == "thoughts" and run.key.task in ("graphs", "prosqa", "prosqa-balanced"):
        values(run)


def values(run: Run) -> None:
    """The value of the nodes of each class after 0, 1, … thoughts, the gaps between classes item by item, and the cumulative
    value of the best three."""
    from methods.coconut import paired
    from methods.coconut import values as idea
    from methods.coconut.data import problem, symbolic_words
    from methods.coconut.model import Thinker
    from tycho.tasks.common import HELD_OUT

    config = run.config.model_copy(update={"test_items": min(paired.TIMES * run.config.test_items, HELD_OUT)})
    task = problem(run.key.task, config, data=run.seed("data"), order=run.seed("order"), init=run.seed("init"))
    thinker, words, examples = Thinker.load(run.job.model), symbolic_words(run.key.task), task.test
    graphs = idea.graphs_of(examples, words)
    names = np.array([f"{run.key.task}, test item {row}" for row in range(len(examples))])
    rows = []
    for k in range(min(thinker.thoughts, int(graphs.depth.max()))):
        asked = graphs.depth > k
        found, those = idea.node_values(thinker, examples, words, k).numpy()[asked], graphs.select(asked)
        where = setting(thoughts=k)
        for name, value in idea.by_class(found, idea.classes(those, k)).items():
            run.metric("value", value, variant=name, setting=where)
        for best, share in enumerate(idea.top_shares(found), start=1):
            run.metric("cumulative_value", share, variant=f"top {best}", setting=where)
        for name, gap in paired.gaps(found, those, k).items():
            rows.append(pd.DataFrame({"item": names[asked], "variant": name, "setting": where, "score": gap}).dropna())
    if rows:  # of another split than the test's answers: they are read by `estimands.value_gap` alone
        blank = dict.fromkeys(("prompt", "response", "answer", "target"), "")
        run.samples(pd.concat(rows).assign(split="values", correct=lambda f: f.score > 0, **blank))


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
