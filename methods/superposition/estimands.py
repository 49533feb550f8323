"""What a claim measures where it is not simply a recorded metric."""

from __future__ import annotations


def unsolved(records, *, arm, task, variant, setting):
    """1 for a graph whose target does not stand alone above all nodes after as many thoughts as it is hops away, else 0."""
    found = _by_graph(records, arm, task, "margin", "offset=0")
    return found.assign(value=1.0 - found.correct)


def unsolved_with_one_more(records, *, arm, task, variant, setting):
    """The same with one thought more."""
    found = _by_graph(records, arm, task, "margin", "offset=1")
    return found.assign(value=1.0 - found.correct)


def margin_one_short(records, *, arm, task, variant, setting):
    """By how much the target of a graph differs from the best other node with one thought too few."""
    found = _by_graph(records, arm, task, "margin", "offset=-1")
    return found.assign(value=found.score.abs())


def thought_error(records, *, arm, task, variant, setting):
    """Largest distance of a graph's thoughts from the uniform superposition, over thoughts and coordinates."""
    found = _by_graph(records, arm, task, "thought error", "")
    return found.assign(value=found.score)


def _by_graph(records, arm, task, variant, setting):
    """The construction's rows of one statement; one instance a graph."""
    samples = records.samples
    kept = samples[(samples.arm == arm) & (samples.task == task) & (samples.split == "theorem")]
    kept = kept[(kept.variant == variant) & (kept.setting == setting)]
    return kept.rename(columns={"item": "instance"})


def frontier_gap(records, *, arm, task, variant, setting):
    """How far the first thought's inner products with frontier nodes off the path stand above those with nodes out of reach."""
    metrics = records.metrics
    kept = metrics[(metrics.arm == arm) & (metrics.task == task) & (metrics.name == "inner_product")]
    wide = kept[kept.setting == "thought=1"].pivot_table(index="seed", columns="variant", values="value")
    if wide.empty:
        return kept[["seed", "value"]]
    return (wide["other frontier"] - wide["other not reachable"]).rename("value").reset_index()


def product_gap(records, *, arm, task, variant, setting):
    """How far inner products with nodes of one group stand above those with another, within an item; items that have both."""
    samples = records.samples
    kept = samples[(samples.arm == arm) & (samples.task == task) & (samples.split == "inner products")]
    kept = kept[(kept.variant == variant) & (kept.setting == setting)]
    return kept.rename(columns={"score": "value"})[["seed", "item", "value"]]
