"""Across arms: what predicts forgetting, and every metric of reward and labels beside its noise."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
from scipy import stats

from tycho.adapter import Run

TUNED = {
    "grpo": "GRPO",
    "reinforce": "REINFORCE",
    "sft_rejection": "rejection SFT",
    "sft_oracle": "oracle SFT",
    "sft_fixed": "fixed labels",
    "sft_uniform": "all labels",
}
# The last is a control: whatever grows while a model is tuned predicts what is forgotten.
PREDICTORS = {
    "kl_forward": "KL(π₀‖π)",
    "kl_reverse": "KL(π‖π₀)",
    "norm": "‖ΔW‖ / ‖W‖",
    "new_accuracy": "new task learnt",
}
# Arms whose evaluations a quadratic is fitted to. The claim's own are those of arXiv 2509.04259: by reward, on own right samples
# (its 1-0 REINFORCE), on the oracle's labels and on given ones. Labels that are all right alike are none of the tunings known of it.
SETS = {
    "": ("grpo", "reinforce", "sft_rejection", "sft_oracle", "sft_fixed"),
    "all arms": tuple(TUNED),
    "on-policy and oracle": ("grpo", "reinforce", "sft_rejection", "sft_oracle"),
}
BETTER, CHANCE = "better", "chance"  # of divergence and norm; the 95th percentile of shuffles
SHUFFLES = 1000
SHOWN = {
    "spectral_shift": "spectral shift",
    "angle_left": "largest angle (°)",
    "overlap_principal": "overlap with principal",
    "overlap_low": "overlap with small",
    "row_stripes": "row stripes",
    "principal_energy": "principal energy",
}


def synthesise(run: Run) -> None:
    metrics = pd.concat([view.record("metrics") for view in run.jobs], ignore_index=True)
    real = survives(metrics[metrics.task == "letters"], "smollm2_sft", "smollm2_grpo")
    if not real.empty:
        run.table("survives_smollm2", real)
    metrics = metrics[(metrics.task == "residues") & metrics.arm.isin(list(TUNED))]
    if not metrics.empty:
        _forgetting(run, metrics)
        _weights(run, metrics)


def _forgetting(run: Run, metrics: pd.DataFrame) -> None:
    """R² of a quadratic in each predictor, over all evaluations of a seed's arms, for each set of arms."""
    curves = metrics[metrics.step.notna() & (metrics.variant == "")]
    points = curves.pivot_table(index=["arm", "seed", "step"], columns="name", values="value").reset_index()
    points["forgotten"] = points.groupby(["arm", "seed"]).prior_accuracy.transform("first") - points.prior_accuracy
    points = points.dropna(subset=[*PREDICTORS, "forgotten"])
    rows = []
    for which, arms in SETS.items():
        within = points[points.arm.isin(arms)]
        for seed, mine in within.groupby("seed"):
            found = {name: quadratic_r2(mine[name], mine.forgotten) for name in PREDICTORS}
            found[BETTER] = max(found["kl_forward"], found["norm"])
            found[CHANCE] = chance_r2(mine.kl_forward, mine.forgotten, run.rng("shuffles"))
            for name, value in found.items():
                run.metric("forgetting_r2", value, variant=" · ".join(filter(None, (which, name))), seed=int(seed))
            told = ", ".join(TUNED[arm] for arm in arms if arm in set(mine.arm))
            rows.append({"arms": told, "seed": seed, "evaluations": len(mine), **found})
    explained = pd.DataFrame(rows)
    run.table("forgetting_r2", explained)
    long = points.melt(["arm", "seed", "step", "forgotten"], list(PREDICTORS), "predictor", "x")
    long = long.assign(arm=long.arm.map(TUNED), predictor=long.predictor.map(PREDICTORS))
    ends = points[points.step == points.groupby(["arm", "seed"]).step.transform("max")]
    chart = (
        alt.Chart(long)
        .mark_point(size=22, filled=True, opacity=0.65)
        .encode(
            x=alt.X("x:Q", title=None),
            y=alt.Y("forgotten:Q", title="prior accuracy lost", axis=alt.Axis(format="%")),
            color=alt.Color("arm:N", title=None, sort=list(TUNED.values())),
            shape=alt.Shape("arm:N", title=None, sort=list(TUNED.values())),
        )
        .properties(width=150, height=170)
        .facet(column=alt.Column("predictor:N", title=None, sort=list(PREDICTORS.values())))
        .resolve_scale(x="independent")
    )
    means = explained.groupby("arms", sort=False)[list(PREDICTORS)].mean()
    text = "; ".join(
        f"over {arms}: " + ", ".join(f"{PREDICTORS[name]} {row[name]:.2f}" for name in PREDICTORS)
        for arms, row in means.iterrows()
    )
    run.figure(
        "forgetting", chart,
        "Every evaluation of every tuning: how much of the prior tasks is lost against each predictor. A quadratic explains (R², "
        f"mean over seeds), {text}.",
    )  # fmt: skip
    run.table(
        "ends", ends.drop(columns="step").groupby("arm", as_index=False).mean(numeric_only=True).drop(columns="seed")
    )


def quadratic_r2(x: pd.Series, y: pd.Series) -> float:
    """Share of y's variance that a least-squares quadratic in x explains."""
    design = np.vander(np.asarray(x, dtype=float) / max(float(np.abs(x).max()), 1e-12), 3)
    fitted = design @ np.linalg.lstsq(design, np.asarray(y, dtype=float), rcond=None)[0]
    spread = ((y - y.mean()) ** 2).sum()
    return float(1 - ((y - fitted) ** 2).sum() / spread) if spread else float("nan")


def chance_r2(x: pd.Series, y: pd.Series, rng: np.random.Generator) -> float:
    """The 95th percentile of `quadratic_r2` where y is dealt to other points at random."""
    return float(np.quantile([quadratic_r2(x, pd.Series(rng.permutation(y))) for _ in range(SHUFFLES)], 0.95))


def survives(metrics: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """`second` minus `first` by metric: difference = explained (the same difference of their matched noises) + surviving.

    Means over the seeds both have, and half the 95 % interval of the surviving part over seeds; nan for a single seed.
    """
    finals = metrics[metrics.step.isna() & metrics.arm.isin([first, second])]
    wide = finals.pivot_table(index=["name", "seed"], columns=["arm", "variant"], values="value")
    sides = [(arm, what) for arm in (first, second) for what in ("", "noise")]
    if not set(sides) <= set(wide.columns):
        return pd.DataFrame(columns=["metric", "seeds", "difference", "explained", "surviving", "half_width"])
    wide = wide[sides].dropna()
    parts = pd.DataFrame({
        "difference": wide[second, ""] - wide[first, ""], "explained": wide[second, "noise"] - wide[first, "noise"]
    })  # fmt: skip
    parts["surviving"] = parts.difference - parts.explained
    grouped = parts.groupby(level="name", sort=False)
    found = grouped.mean()
    found.insert(0, "seeds", grouped.size())
    spread = grouped.surviving.sem() * stats.t.ppf(0.975, (found.seeds - 1).clip(lower=1))
    return found.assign(half_width=spread).rename_axis("metric").reset_index()


def _survives(run: Run, metrics: pd.DataFrame) -> str:
    """The table of GRPO against fixed labels; in words, which differences are more than the sizes of two updates."""
    found = survives(metrics, "sft_fixed", "grpo")
    if found.empty:
        return ""
    run.table("survives", found)
    shown = found[found.metric.isin(list(SHOWN))].assign(metric=found.metric.map(SHOWN))
    beyond = shown.surviving.abs() > shown.half_width
    kept = ", ".join(
        f"{r.metric} (difference {r.difference:.2g}, left {r.surviving:.2g})".replace("-", "−")
        for r in shown[beyond].itertuples()
    )
    gone = ", ".join(shown[~beyond].metric)
    return (
        " Of the difference between GRPO and fixed labels a part that noise does not explain is left (95 %, over seeds) in: "
        f"{kept or 'none'}; nothing is sure to be left in: {gone or 'none'}."
    )


def _weights(run: Run, metrics: pd.DataFrame) -> None:
    finals = metrics[metrics.step.isna() & metrics.name.isin(list(SHOWN)) & metrics.variant.isin(["", "noise"])]
    frame = finals.assign(
        arm=finals.arm.map(TUNED),
        what=finals.variant.map({"": "measured", "noise": "matched noise"}),
        metric=finals.name.map(SHOWN),
    )[["arm", "what", "metric", "seed", "value"]]
    chart = (
        alt.Chart(frame)
        .mark_point(size=45, filled=True, opacity=0.7)
        .encode(
            x=alt.X("value:Q", title=None, scale=alt.Scale(zero=False)),
            y=alt.Y("arm:N", title=None, sort=list(TUNED.values())),
            color=alt.Color("what:N", title=None, sort=["measured", "matched noise"]),
            shape=alt.Shape("what:N", title=None, sort=["measured", "matched noise"]),
        )
        .properties(width=150, height=110)
        .facet(facet=alt.Facet("metric:N", title=None, sort=list(SHOWN.values())), columns=3)
        .resolve_scale(x="independent")
    )
    run.figure(
        "weights", chart,
        "Each weight metric by arm, a point a seed: where the matched noise stands in the same place, the size of the update explains the metric."
        + _survives(run, metrics),
    )  # fmt: skip
