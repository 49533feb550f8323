"""What a claim measures, document by document, so that intervals cover seeds and items.

A variant is a network, a capability, or both as "network · capability"; without a capability all three count, without a
network all of an arm's do.
"""

from __future__ import annotations

from methods.mobilellm_r1.corpora import CAPABILITIES, OWN


def nll(records, *, arm, task, variant, setting):
    """Loss on what the skill determines, nats a token."""
    return _tested(records, arm, task, variant, lambda found: -found.score)


def exact_match(records, *, arm, task, variant, setting):
    """Whether all of a document's answers are the likeliest tokens."""
    return _tested(records, arm, task, variant, lambda found: found.correct.astype(float))


def loss_raised(records, *, arm, task, variant, setting):
    """By how much a capability's loss rises when a corpus is left out; variant: "programs on math"."""
    corpus, _, capability = variant.partition(" on ")
    without, full = (
        nll(records, arm=arm, task=task, variant=f"{network} · {capability}", setting=setting)
        for network in (f"without {corpus}", "all")
    )
    both = without.merge(full, on=["seed", "item"], suffixes=("", "_full"))
    return both.assign(value=both.value - both.value_full)[["seed", "item", "value"]]


def lead_of_own(records, *, arm, task, variant, setting):
    """A capability (the variant): the rise of its loss without its own corpus, less the largest rise without another."""
    others = [name for name in _corpora(records, arm, task) if name != OWN[variant]]
    if not others:  # the arm has not run
        return nll(records, arm=arm, task=task, variant=variant, setting=setting)
    rise = {
        name: loss_raised(records, arm=arm, task=task, variant=f"{name} on {variant}", setting=setting)
        for name in [OWN[variant], *others]
    }
    worst = max(others, key=lambda name: rise[name].value.mean())
    both = rise[OWN[variant]].merge(rise[worst], on=["seed", "item"], suffixes=("", "_other"))
    return both.assign(value=both.value - both.value_other)[["seed", "item", "value"]]


def _corpora(records, arm, task):
    found = records.samples[(records.samples.arm == arm) & (records.samples.task == task)]
    return sorted(name.removeprefix("without ") for name in found.variant.unique() if name.startswith("without "))


def _tested(records, arm, task, variant, value):
    samples = records.samples
    found = samples[(samples.arm == arm) & (samples.task == task) & (samples.split == "test")]
    network, _, capability = variant.rpartition(" · ")
    if capability not in CAPABILITIES:
        network, capability = variant, ""
    if network:
        found = found[found.variant == network]
    if capability:
        found = found[found.item.str.startswith(f"{capability} ")]
    return found.assign(value=value(found))[["seed", "item", "value"]]
