"""All arms together: what helps what, the mixtures, held-out loss and accuracy."""

from __future__ import annotations

import altair as alt
import pandas as pd

from methods.mobilellm_r1.corpora import CAPABILITIES, CORPORA
from tycho.adapter import Run

ARMS = ["uniform", "random", "influence", "clean", "oracle", "mid_none", "mid_random", "mid_influence"]


def synthesise(run: Run) -> None:
    views = [view for view in run.jobs if view.key.task == "corpora"]
    if not views:
        return
    metrics = pd.concat([view.record("metrics") for view in views], ignore_index=True)
    metrics = metrics[metrics.step.isna()]
    _influence(run, [view for view in views if view.key.arm == "specialists"])
    _mixtures(run, metrics)
    _losses(run, metrics)
    _leave_one_out(run, metrics[metrics.arm == "leave_one_out"])


def _influence(run: Run, views: list) -> None:
    if not views:
        return
    frame = (
        pd.concat([view.table("influence") for view in views]).groupby(["corpus", "capability"], as_index=False).mean()
    )
    base = alt.Chart(frame).encode(
        x=alt.X(
            "capability:N", title="capability that is probed", sort=list(CAPABILITIES), axis=alt.Axis(labelAngle=0)
        ),
        y=alt.Y("corpus:N", title="corpus", sort=list(CORPORA)),
    )
    heat = base.mark_rect().encode(
        color=alt.Color(
            "influence:Q", title="influence", scale=alt.Scale(scheme="blueorange", domain=[-1, 1], domainMid=0)
        )
    )
    text = base.mark_text(fontSize=11).encode(text=alt.Text("influence:Q", format=".2f"))
    own = frame.set_index(["corpus", "capability"]).influence
    run.figure(
        "influence", alt.layer(heat, text).properties(width=260, height=170),
        "First-order influence of a corpus's samples on each capability, the largest of a capability set to 1, mean over seeds: "
        f"programs on math {own['programs', 'math']:.2f}, chains on code {own['chains', 'code']:.2f}, random text at most "
        f"{own['decoy'].max():.2f}.",
    )  # fmt: skip


def _mixtures(run: Run, metrics: pd.DataFrame) -> None:
    found = metrics[(metrics.name == "weight") & metrics.variant.isin(list(CORPORA))]
    found = found[found.arm.isin(["uniform", "influence", "oracle"])]
    if found.empty:
        return
    frame = found.groupby(["arm", "variant"]).value.mean().reset_index()
    chart = (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            x=alt.X("variant:N", title=None, sort=list(CORPORA), axis=alt.Axis(labelAngle=-35)),
            xOffset=alt.XOffset("arm:N", sort=["uniform", "influence", "oracle"]),
            y=alt.Y("value:Q", title="share of the mixture", axis=alt.Axis(format="%")),
            color=alt.Color("arm:N", title=None, sort=["uniform", "influence", "oracle"]),
        )
        .properties(width=380, height=190)
    )
    mine = frame[frame.arm == "influence"].set_index("variant").value
    text = ", ".join(f"{name} {mine.get(name, 0):.0%}" for name in CORPORA)
    run.figure("mixtures", chart, f"What influence makes of the corpora, mean over seeds: {text}.")


def _losses(run: Run, metrics: pd.DataFrame) -> None:
    found = metrics[metrics.name.isin(["nll", "exact_match"]) & (metrics.variant == "") & metrics.arm.isin(ARMS)]
    if found.empty:
        return
    names = {"nll": "held-out loss, nats", "exact_match": "documents wholly right"}
    frame = found.assign(measure=found.name.map(names))[["arm", "seed", "value", "measure"]]
    base = alt.Chart().encode(y=alt.Y("arm:N", title=None, sort=ARMS))
    dots = base.mark_point(filled=True, size=30, opacity=0.55).encode(
        x=alt.X("value:Q", title=None, scale=alt.Scale(zero=False))
    )
    mean = base.mark_tick(thickness=2.5, size=16).encode(x="mean(value):Q")
    chart = (
        alt.layer(dots, mean)
        .properties(width=220, height=150)
        .facet(data=frame, column=alt.Column("measure:N", title=None, sort=list(names.values())))
        .resolve_scale(x="independent")
    )
    means = found[found.name == "nll"].groupby("arm").value.mean().sort_values()
    text = ", ".join(f"{arm} {value:.2f}" for arm, value in means.items())
    run.figure(
        "losses", chart, f"Loss on what a skill determines, and accuracy beside it, a dot a seed; mean loss: {text}."
    )


def _leave_one_out(run: Run, found: pd.DataFrame) -> None:
    parts = found[(found.name == "nll") & found.variant.str.contains(" · ")]
    if parts.empty:
        return
    split = parts.variant.str.split(" · ", expand=True)
    frame = (
        parts.assign(network=split[0], capability=split[1]).groupby(["network", "capability"]).value.mean().unstack()
    )
    change = (frame - frame.loc["all"]).drop(index="all").reset_index().melt("network", value_name="loss")
    base = alt.Chart(change).encode(
        x=alt.X("capability:N", title="capability", sort=list(CAPABILITIES), axis=alt.Axis(labelAngle=0)),
        y=alt.Y("network:N", title=None, sort=[f"without {name}" for name in CORPORA]),
    )
    heat = base.mark_rect().encode(
        color=alt.Color("loss:Q", title="loss, against all", scale=alt.Scale(scheme="blueorange", domainMid=0))
    )
    text = base.mark_text(fontSize=11).encode(text=alt.Text("loss:Q", format="+.2f"))
    worst = change.loc[change.loss.idxmax()]
    run.figure(
        "leave-one-out", alt.layer(heat, text).properties(width=260, height=170),
        f"Change of the held-out loss when one corpus is left out, mean over seeds; the largest: {worst.network} on "
        f"{worst.capability}, {worst.loss:+.2f} nats.",
    )  # fmt: skip
    run.table("leave-one-out", change)
