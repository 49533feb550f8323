"""What a claim measures where it is not simply a recorded metric."""

from __future__ import annotations

from methods.mobilellm_r1.corpora import OWN


def relative_influence(records, *, arm, task, variant, setting):
    """Influence of a corpus on a capability over that of the capability's own corpus; variant: "programs on math"."""
    metrics = records.metrics
    found = metrics[(metrics.arm == arm) & (metrics.task == task) & (metrics.name == "influence")]
    wide = found.pivot(index="seed", columns="variant", values="value")
    capability = variant.rpartition(" on ")[2]
    own = wide[f"{OWN[capability]} on {capability}"]
    return (wide[variant] / own).rename("value").reset_index()[["seed", "value"]]
