"""The other sweeps and the anchors: tables, and when each of their networks generalised."""

from __future__ import annotations

import altair as alt
import pandas as pd

from tycho.adapter import Run

SWEEPS = {
    "decay_sweep": "weight decays",
    "rate_sweep": "learning rates",
    "zero_init": "scales of the output layer at the start",
    "optimisers": "optimisers",
    "activations": "activations",
}
ANCHORS = {
    "mlp": "softmax, no decay",
    "mlp_decay": "softmax, decay",
    "grokfast": "Grokfast, decay",
    "stablemax": "StableMax, no decay",
    "orthogonal": "orthogonal gradient, no decay",
    "transformer": "one-layer transformer",
}
PROGRESS = {
    "whole_loss": "whole, all pairs",
    "restricted_loss": "restricted to the key frequencies, all pairs",
    "excluded_loss": "without them, training pairs",
}


def sweeps(run: Run) -> None:
    """One table a sweep: its points, the mean epoch of generalisation (a bound where some never did) and accuracy."""
    for arm, what in SWEEPS.items():
        views = [view for view in run.jobs if view.key.arm == arm]
        if not views:
            continue
        final = pd.concat([view.record("metrics") for view in views]).query(
            "name in ('test_accuracy', 'epochs_to_test')"
        )
        wide = final.pivot_table(index=["task", "setting", "seed"], columns="name", values="value").reset_index()
        never = final[final.name == "epochs_to_test"].groupby(["task", "setting"]).censored.sum()
        table = wide.groupby(["task", "setting"], as_index=False)[["epochs_to_test", "test_accuracy"]].mean()
        table["never"] = [int(never[task, where]) for task, where in zip(table.task, table.setting, strict=True)]
        run.table(arm.replace("_", "-"), table)
        _dots(run, arm, what, final)


def _dots(run: Run, arm: str, what: str, final: pd.DataFrame) -> None:
    """Epochs of generalisation of every network of a sweep."""
    frame = final[final.name == "epochs_to_test"][["setting", "seed", "value", "censored"]]
    frame = frame.assign(ended=frame.censored.map({True: "not by the last epoch", False: "generalised"}))
    chart = (
        alt.Chart(frame.drop(columns="censored"))
        .mark_point(size=40)
        .encode(
            x=alt.X(
                "value:Q", title="epoch of 95 % test accuracy", scale=alt.Scale(type="log", nice=False, padding=14)
            ),
            y=alt.Y("setting:N", title=None, sort=None),
            shape=alt.Shape("ended:N", title=None, scale=alt.Scale(range=["circle", "triangle-right"])),
        )
        .properties(width=380, height=26 * frame.setting.nunique() + 20)
    )
    never = int(frame.censored.sum())
    bounds = f"; {never} of {len(frame)} networks had not by the last epoch" if never else ""
    # A median of epochs of which half or more are only bounds is a bound.
    settings = frame.groupby("setting", sort=False)
    middle = pd.DataFrame({"value": settings.value.median(), "least": settings.censored.mean() >= 0.5})
    text = ", ".join(f"{'at least ' * row.least}{row.value:,.0f} at {row.Index}" for row in middle.itertuples())
    run.figure(arm.replace("_", "-"), chart, f"When networks of several {what} generalise (medians: {text}{bounds}).")


def anchors(run: Run) -> None:
    """Test accuracy over training of the neighbours' networks."""
    views = [view for view in run.jobs if view.key.arm in ANCHORS]
    if not views:
        return
    metrics = pd.concat([view.record("metrics") for view in views], ignore_index=True)
    curves = metrics[(metrics.name == "test_accuracy") & (metrics.step > 0)]
    curves = curves.assign(step=curves.step.astype(int), arm=curves.arm.map(ANCHORS), seed=curves.seed.astype(str))
    chart = (
        alt.Chart(curves[["step", "value", "arm", "seed"]])
        .mark_line(strokeWidth=1.4, opacity=0.8)
        .encode(
            x=alt.X("step:Q", title="epoch", scale=alt.Scale(type="log", nice=False)),
            y=alt.Y("value:Q", title="test accuracy", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")),
            color=alt.Color("arm:N", title=None, sort=list(ANCHORS.values())),
            detail="seed:N",
        )
        .properties(width=420, height=220)
    )
    ends = metrics[metrics.name == "epochs_to_test"].groupby("arm").value.median()
    text = ", ".join(f"{ANCHORS[arm]} {ends[arm]:.0f}" for arm in ANCHORS if arm in ends)
    run.figure("anchors", chart, f"Median epoch of 95 % test accuracy, or the last epoch: {text}.")


def progress(run: Run) -> None:
    """Nanda's losses over training, one seed, in the transformer and in the paper's network."""
    networks = {"transformer": "one-layer transformer", "weight_decay": "two layers, square"}
    views = [view for view in run.jobs if view.key.arm in networks]
    if not views:
        return
    metrics = pd.concat([view.record("metrics") for view in views], ignore_index=True)
    curves = metrics[metrics.name.isin(list(PROGRESS)) & metrics.step.notna()]
    for task, found in curves.groupby("task"):
        found = found[found.seed == found.seed.min()]
        frame = found.assign(
            step=found.step.astype(int), network=found.arm.map(networks), loss=found.name.map(PROGRESS),
            value=found.value.clip(lower=1e-8),
        )  # fmt: skip
        chart = (
            alt.Chart(frame[["step", "value", "network", "loss"]])
            .mark_line(point=alt.OverlayMarkDef(size=16), strokeWidth=1.6)
            .encode(
                x=alt.X("step:Q", title="epoch"),
                y=alt.Y("value:Q", title="loss", scale=alt.Scale(type="log")),
                color=alt.Color("loss:N", title=None, sort=list(PROGRESS.values()), legend=alt.Legend(labelLimit=300)),
            )
            .properties(width=420, height=200)
            .facet(row=alt.Row("network:N", title=None))
        )
        mine = metrics[(metrics.task == task) & (metrics.seed == found.seed.iloc[0]) & metrics.step.isna()]
        ends = mine.set_index(["arm", "name"]).value
        text = "; ".join(
            f"{label}: {ends[arm, 'final_whole_loss']:.2g} whole, {ends[arm, 'final_restricted_loss']:.2g} restricted, "
            f"{ends[arm, 'final_excluded_loss']:.2g} excluded"
            for arm, label in networks.items()
            if (arm, "final_whole_loss") in ends
        )
        run.figure(
            f"progress-{task}",
            chart,
            f"Progress measures over training, one seed. At the last epoch kept that is not in a spike of the loss, {text}.",
        )
