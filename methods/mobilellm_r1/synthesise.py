"""All arms together: what helps what, the mixtures, held-out loss beside accuracy, what was dropped, what it cost."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from methods.mobilellm_r1 import rows
from methods.mobilellm_r1.analyse import READING
from methods.mobilellm_r1.corpora import CAPABILITIES, CORPORA, OWN
from tycho.adapter import JobView, Run

ARMS = [
    "uniform", "random", "influence", "influence_raw", "clean", "oracle", "mid_none", "mid_random", "mid_influence",
]  # fmt: skip
ALL = "all three"
TRAINED_ON = {READING: "influence", "own-raw": "influence_raw"}  # readings that have an arm
LEVEL = alt.Axis(labelAngle=0)


def synthesise(run: Run) -> None:
    rows.published_beside(run, [view for view in run.jobs if view.key.arm == "smollm2"])
    views = [view for view in run.jobs if view.key.task == "corpora"]
    by_arm = {arm: [view for view in views if view.key.arm == arm] for arm in {view.key.arm for view in views}}
    metrics = pd.concat([view.record("metrics") for view in views]) if views else pd.DataFrame()
    if "specialists" in by_arm:
        _influence(run, by_arm["specialists"])
        _mixtures(run, by_arm["specialists"], metrics[metrics.name == "nll"])
    samples = [view.record("samples") for view in views]
    samples = pd.concat([found for found in samples if len(found)], ignore_index=True) if views else pd.DataFrame()
    if len(samples):
        samples["capability"] = samples.item.str.partition(" ")[0]
        _losses(run, samples[samples.arm.isin(ARMS)], metrics[metrics.name == "guessing_loss"])
        _leave_one_out(run, samples[samples.arm == "leave_one_out"])
    if "mid_influence" in by_arm:
        _dropped(run, by_arm["mid_influence"])
    _costs(run, by_arm)


def interval(frame: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """(mean, low, high) of a column by seed and item, 95 %: seeds and items each with their own Student's t. What both share is
    counted twice, so the interval is a little too wide; with one seed it covers items only."""
    from scipy.stats import t

    wide = frame.pivot_table(index="seed", columns="item", values=column)
    half = 0.0
    for means in (wide.mean(axis=1), wide.mean(axis=0)):
        if len(means) > 1:
            half += t.ppf(0.975, len(means) - 1) ** 2 * means.var(ddof=1) / len(means)
    mean = float(wide.mean(axis=1).mean())
    return mean, mean - math.sqrt(half), mean + math.sqrt(half)


def _readable(field: str, most: float) -> Any:
    """The colour of a number on a cell of a heat map from -most to most, in the page's light and dark dress alike."""
    return alt.when(f"abs(datum.{field}) > {0.55 * most}").then(alt.value("white")).otherwise(alt.value("#222222"))


def _influence(run: Run, views: list[JobView]) -> None:
    frame = pd.concat([view.table("influence") for view in views])
    frame = frame.groupby(["corpus", "capability"], as_index=False).influence.mean()
    most = float(frame.influence.abs().max())
    base = alt.Chart(frame).encode(
        x=alt.X("capability:N", title="capability that is probed", sort=list(CAPABILITIES), axis=LEVEL),
        y=alt.Y("corpus:N", title="corpus", sort=list(CORPORA)),
    )
    scale = alt.Scale(scheme="blueorange", domain=[-most, most], domainMid=0)
    heat = base.mark_rect().encode(color=alt.Color("influence:Q", title="influence", scale=scale))
    text = base.mark_text(fontSize=11).encode(
        text=alt.Text("influence:Q", format="+.2f"), color=_readable("influence", most)
    )
    found = frame.set_index(["corpus", "capability"]).influence
    run.figure(
        "influence", alt.layer(heat, text).properties(width=260, height=170),
        "First-order influence of a corpus's samples on each capability (probing gradients at unit length, over all "
        f"specialists and checkpoints, mean over seeds): programs on math {found['programs', 'math']:+.2f}, chains on code "
        f"{found['chains', 'code']:+.2f}, random text at most {found['decoy'].max():+.2f}.",
    )  # fmt: skip


def left_out(weights: pd.DataFrame, losses: pd.DataFrame) -> pd.DataFrame:
    """A row a reading and seed: the right and the bad corpora of weight 0, beside the loss on each capability of the network
    that was trained on that mixture. weights: reading, seed, corpus, weight; losses: arm, seed, variant (capability), value."""
    rows = []
    for reading, arm in TRAINED_ON.items():
        for seed, mine in weights[weights.reading == reading].groupby("seed"):
            none = set(mine.corpus[mine.weight == 0])
            right, bad = ([n for n in CORPORA if n in none and (n in OWN.values()) == own] for own in (True, False))
            reached = losses[(losses.arm == arm) & (losses.seed == seed)].set_index("variant").value
            row = {"reading": reading, "seed": seed, "right, weight 0": ", ".join(right)}
            rows.append(
                row
                | {"bad, weight 0": ", ".join(bad)}
                | {f"loss on {c}": float(reached.get(c, math.nan)) for c in CAPABILITIES}
            )
    return pd.DataFrame(rows)


def _mixtures(run: Run, views: list[JobView], losses: pd.DataFrame) -> None:
    frame = pd.concat([view.table("weights").assign(seed=view.key.seed) for view in views])
    order = list(frame.reading.unique())
    base = alt.Chart(frame).encode(
        x=alt.X("corpus:N", title=None, sort=list(CORPORA), axis=alt.Axis(labelAngle=-35)),
        xOffset=alt.XOffset("reading:N", sort=order),
        color=alt.Color("reading:N", title="reading of influence", sort=order),
    )
    bars = base.mark_bar(opacity=0.55).encode(
        y=alt.Y("mean(weight):Q", title="share of the mixture", axis=alt.Axis(format="%"))
    )
    dots = base.mark_point(filled=True, size=16, opacity=1).encode(y="weight:Q")
    rule = alt.Chart(pd.DataFrame({"y": [1 / len(CORPORA)]})).mark_rule(strokeDash=[4, 4]).encode(y="y:Q")
    means = frame.groupby(["reading", "corpus"]).weight.mean()
    text = "; ".join(
        f"{reading}: " + ", ".join(f"{name} {means[reading, name]:.0%}" for name in CORPORA) for reading in TRAINED_ON
    )
    follows = frame.groupby(["reading", "seed"]).follows.all()
    lost = [f"{seed} ({reading})" for (reading, seed), yes in follows.items() if not yes]
    end = f" No mixture follows in seeds {', '.join(lost)}; the uniform one stands in." if lost else ""
    none = left_out(frame, losses)
    run.table("left-out", none)
    dropped = none[none["right, weight 0"] != ""]
    told = [f"{row['right, weight 0']} (seed {row['seed']}, {row['reading']})" for _, row in dropped.iterrows()]
    end += f" Right corpora of weight 0: {'; '.join(told)}." if told else ""
    run.figure(
        "mixtures", alt.layer(bars, dots, rule).properties(width=440, height=200),
        "What each reading of influence makes of the corpora, a dot a seed, bars the means. All specialists and probing gradients at "
        f"unit length, or each capability's own specialist and gradients as they are ({text}).{end}",
    )  # fmt: skip
    run.table("mixtures", frame[["reading", "corpus", "seed", "score", "weight", "follows"]].reset_index(drop=True))


def _losses(run: Run, samples: pd.DataFrame, guessing: pd.DataFrame) -> None:
    """Table of levels, figure of the paired differences from `uniform`; an arm of several mixtures is their mean."""
    if samples.empty:
        return
    guessed = guessing.groupby("variant").value.mean()
    measured = samples.assign(loss=-samples.score, right=samples.correct.astype(float))
    keys = ["seed", "item", "capability"]
    mean = measured.groupby(["arm", *keys])[["loss", "right"]].mean()
    levels, differences = [], []
    for arm in [arm for arm in ARMS if arm in set(samples.arm)]:
        against = mean.loc[arm] - mean.loc["uniform"] if "uniform" in mean.index else mean.loc[arm]
        for capability in (*CAPABILITIES, ALL):
            mine, less = (
                frame[(frame.capability == capability) | (capability == ALL)]
                for frame in (mean.loc[arm].reset_index(), against.reset_index())
            )
            loss, right = np.clip(interval(mine, "loss"), 0, None), np.clip(interval(mine, "right"), 0, 1)
            levels.append(
                {"arm": arm, "capability": capability, "loss": loss[0], "low": loss[1], "high": loss[2],
                 "wholly right": right[0], "right low": right[1], "right high": right[2],
                 "loss of guessing": guessed.get(capability, guessed.mean()),
                 "seeds": mine.seed.nunique(), "items": mine.item.nunique()}
            )  # fmt: skip
            for measure in ("loss", "right") if arm != "uniform" else ():
                value, low, high = interval(less, measure)
                low, high = (low, high) if measure == "loss" else (max(low, -1.0), min(high, 1.0))
                point = {"measure": measure, "arm": arm, "capability": capability}
                differences.append(point | {"value": value, "low": low, "high": high})
    run.table("losses", pd.DataFrame(levels))
    if not differences:
        return
    run.table("losses-against-uniform", pd.DataFrame(differences))
    charts = []
    for measure, title in {"loss": "loss − uniform's", "right": "right − uniform's"}.items():
        points = pd.DataFrame([point for point in differences if point["measure"] == measure])
        base = alt.Chart(points).encode(y=alt.Y("arm:N", title=None, sort=ARMS), color=alt.Color("arm:N", legend=None))
        layers = alt.layer(
            base.mark_rule().encode(x=alt.X("low:Q", title=title), x2="high:Q"),
            base.mark_point(filled=True, size=35, opacity=1).encode(x="value:Q"),
            alt.Chart(points).mark_rule(strokeDash=[4, 4]).encode(x=alt.datum(0)),
        ).properties(width=135, height=130)
        charts.append(layers.facet(alt.Column("capability:N", title=None, sort=[*CAPABILITIES, ALL])))
    whole = pd.DataFrame([level for level in levels if level["capability"] == ALL]).sort_values("loss")
    text = ", ".join(
        f"{arm} {loss:.2f} ({right:.0%})"
        for arm, loss, right in zip(whole.arm, whole["loss"], whole["wholly right"], strict=True)
    )
    run.figure(
        "losses", alt.vconcat(*charts),
        "Held-out loss (nats) on what a skill determines, and the share wholly right beneath it, paired with the uniform mixture, "
        "with 95 % intervals "
        f"over seeds and items. Levels over all three capabilities, loss and share wholly right: {text}.",
    )  # fmt: skip


def _leave_one_out(run: Run, samples: pd.DataFrame) -> None:
    if samples.empty:
        return
    keys = ["seed", "item", "capability"]
    wide = (-samples.set_index([*keys, "variant"]).score).unstack("variant")
    rises = wide.sub(wide["all"], axis=0).drop(columns="all")
    found = []
    for network in rises.columns:
        for capability in CAPABILITIES:
            mine = rises[network].xs(capability, level="capability").rename("rise").reset_index()
            rise, low, high = interval(mine, "rise")
            found.append({"corpus": network.removeprefix("without "), "capability": capability, "rise": rise,
                          "low": low, "high": high})  # fmt: skip
    frame = pd.DataFrame(found)
    frame["text"] = [
        f"{row.rise:+.2f} [{row.low:+.2f}, {row.high:+.2f}]".replace("-", "−") for row in frame.itertuples()
    ]
    most = float(np.abs(frame.rise).max())
    base = alt.Chart(frame).encode(
        x=alt.X("capability:N", title="capability", sort=list(CAPABILITIES), axis=LEVEL),
        y=alt.Y("corpus:N", title="corpus that is left out", sort=list(CORPORA)),
    )
    scale = alt.Scale(scheme="blueorange", domain=[-most, most], domainMid=0)
    heat = base.mark_rect().encode(color=alt.Color("rise:Q", title="rise of the loss", scale=scale))
    numbers = base.mark_text(fontSize=10).encode(text="text:N", color=_readable("rise", most))
    chart = alt.layer(heat, numbers).properties(width=390, height=180)
    worst = frame.loc[frame.groupby("capability").rise.idxmax()].set_index("capability")
    text = ", ".join(f"{c}: {worst.corpus[c]} ({worst.rise[c]:+.2f})" for c in CAPABILITIES)
    run.figure(
        "leave-one-out", chart,
        "Rise of the held-out loss when one corpus is left out and the others share its place, nats with 95 % intervals over "
        f"seeds and items. The corpus whose loss costs most, by capability: {text}.",
    )  # fmt: skip
    run.table("leave-one-out", frame.drop(columns="text"))


def _dropped(run: Run, views: list[JobView]) -> None:
    metrics = pd.concat([view.record("metrics") for view in views])
    found = metrics[(metrics.name == "kept_share") & (metrics.variant != "")]
    frame = pd.DataFrame(
        {"round": found.step.astype(int), "corpus": found.variant, "seed": found.seed, "kept": found.value}
    )
    base = alt.Chart(frame).encode(
        x=alt.X("corpus:N", title=None, sort=list(CORPORA), axis=alt.Axis(labelAngle=-35)),
        xOffset="round:O",
        color=alt.Color("round:O", title="round"),
    )
    bars = base.mark_bar(opacity=0.55).encode(y=alt.Y("mean(kept):Q", title="kept", axis=alt.Axis(format="%")))
    dots = base.mark_point(filled=True, size=16, opacity=1).encode(y="kept:Q")
    last = frame[frame["round"] == frame["round"].max()].groupby("corpus").kept.mean()
    text = ", ".join(f"{name} {last[name]:.0%}" for name in CORPORA)
    run.figure(
        "dropped", alt.layer(bars, dots).properties(width=380, height=180),
        f"Samples with positive influence in mid-training, a dot a seed; in the last round {text}.",
    )  # fmt: skip


def _costs(run: Run, by_arm: dict[str, list[JobView]]) -> None:
    """FLOPs of training and influence, a seed: an arm's own, and those of the ingredients it stands on."""
    own = {arm: float(np.mean([_flops(view) for view in views])) for arm, views in by_arm.items()}
    needs = {"influence": "specialists", "influence_raw": "specialists"}
    needs |= dict.fromkeys(("mid_influence", "mid_random", "mid_none"), "uniform")
    found = [
        {"arm": arm, "own": own[arm] / 1e9, "ingredients": own.get(needs.get(arm, ""), 0.0) / 1e9}
        for arm in sorted(own)
    ]
    if found:
        frame = pd.DataFrame(found)
        run.table("costs", frame.assign(together=frame.own + frame.ingredients, unit="GFLOP a seed"))


def _flops(view: JobView) -> float:
    costs = view.record("costs")
    return float(costs[costs.stage != "evaluate"].flops.sum())
