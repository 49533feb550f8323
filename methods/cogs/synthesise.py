"""All networks together: the paper's table beside ours, potentials and orders over training, generators, sweeps."""

from __future__ import annotations

import math

import altair as alt
import pandas as pd

from methods.cogs import planes
from methods.cogs.published import CONFIRMED, MEASURES, SHARES, TABLE, WRITTEN
from tycho.adapter import Run
from tycho.keys import read_setting
from tycho.tasks import groups

ARMS = {"trained": "weight decay", "no_weight_decay": "no weight decay"}
CURVES = {
    "order_4": "4 live nodes",
    "order_6": "6 live nodes",
    "higher_order": "more than 6",
    "explained": "a named product",
}
PARTS = {
    "goal": "r_kkk, which should be 1",
    "cross": "other products a·b",
    "star": "one operand alone",
    "norm": "constants",
}
ORDERS = {"order_4": "4", "order_6": "6", "other_order": "any other", "order_0": "none"}
PERCENT = alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])


def synthesise(run: Run) -> None:
    metrics = pd.concat([view.record("metrics") for view in run.jobs], ignore_index=True)
    metrics = metrics[metrics.arm.isin(list(ARMS)) & (metrics.stage == "analyse")]
    for task, found in metrics.groupby("task"):
        finals = found[found.step.isna() & (found.arm == "trained")]
        finals = finals.assign(**_points(finals.setting))
        _composition(run, str(task), finals)
        _orders(run, str(task), found.dropna(subset="step"))
        _potentials(run, str(task))
        planes.generators(run, str(task), _tables(run, str(task), "factors"))
        planes.nodes(run, str(task), _tables(run, str(task), "nodes"))
        for knob in ("weight_decay", "width"):
            _sweep(run, str(task), finals, knob)


def _points(settings: pd.Series) -> pd.DataFrame:
    """Columns epochs, weight_decay and width of settings; a knob that is not swept is missing."""
    parts = pd.DataFrame([read_setting(text) for text in settings], index=settings.index, dtype="float64")
    return parts.reindex(columns=["epochs", "weight_decay", "width"])


def _tables(run: Run, task: str, name: str) -> pd.DataFrame:
    """A table of all jobs of a task, with the arm."""
    views = [view for view in run.jobs if view.key.task == task and view.key.arm in ARMS]
    return pd.concat([view.table(name).assign(arm=view.key.arm) for view in views], ignore_index=True)


def _over_epochs() -> alt.X:
    ticks = [0, 10, 100, 1000, 10_000]
    return alt.X("epoch:Q", title="epoch", scale=alt.Scale(type="symlog"), axis=alt.Axis(values=ticks))


def _epoch(number: float) -> str:
    return f"epoch {number:,.0f}"


def _in_order(epochs: pd.Series) -> list[str]:
    return [_epoch(number) for number in sorted(epochs.unique())]


# --- The paper's table ---------------------------------------------------------------------------------------------


def _composition(run: Run, task: str, finals: pd.DataFrame) -> None:
    """Mean and standard error over networks beside the paper's number, under the public code's limit as there."""
    d = groups.group(task).order
    rows = {name: row for row, name in MEASURES.items()}
    plain = finals[finals.weight_decay.isna() & finals.width.isna() & (finals.variant == "public limit")]
    plain = plain[plain.name.isin(list(rows))]
    plain = plain.assign(row=pd.Categorical(plain.name.map(rows), list(MEASURES), ordered=True))
    grouped = plain.groupby(["row", "epochs"], observed=True).value
    means, errors = (part.unstack() for part in (grouped.mean(), grouped.sem()))
    table = pd.DataFrame({"measure": means.index.astype(str)})
    for epochs in means:
        table[_epoch(epochs)] = means[epochs].to_numpy()
        table[f"± ({epochs:,.0f})"] = errors[epochs].to_numpy()
    table["networks"] = plain.groupby("row", observed=True).seed.nunique().to_numpy()
    table["paper"] = [TABLE.get(name, {}).get(d, math.nan) for name in table.measure]
    table["read"] = [_read(name) for name in table.measure]
    run.table(f"composition-{task}", table)
    shares = plain[plain.row.isin(list(SHARES))]
    if len(shares):  # else nothing factorises yet
        _shares(run, task, d, shares)


def _read(row: str) -> str:
    if row not in TABLE:
        return "not in the paper's table"
    return "second-hand" if row in CONFIRMED else "second-hand, one source"


def _shares(run: Run, task: str, d: int, shares: pd.DataFrame) -> None:
    """Shares of the products at each horizon, a dot a network, beside the paper's."""
    written = WRITTEN | {"nu=i * syn_alphabeta": "ν=i ∗ syn or syn_αβ", "other product": "other"}
    labels = {name: written[name] for name in SHARES}
    frame = shares[["seed", "value"]].assign(
        product=shares.row.astype(str).map(labels),
        paper=[SHARES[name][d] for name in shares.row],
        epochs=[_epoch(number) for number in shares.epochs],
    )
    base = alt.Chart().encode(y=alt.Y("product:N", title=None, sort=list(labels.values())))
    dots = base.mark_point(size=26, opacity=0.45).encode(
        x=alt.X("value:Q", title="share of factorable frequencies", scale=alt.Scale(domain=[0, 1]), axis=PERCENT)
    )
    mean = base.mark_tick(thickness=2.5, size=20).encode(x=alt.X("mean(value):Q"))
    theirs = base.mark_point(shape="diamond", size=70, filled=True, color="#D55E00").encode(x=alt.X("mean(paper):Q"))
    chart = (
        alt.layer(dots, mean, theirs)
        .properties(width=210, height=120)
        .facet(data=frame, column=alt.Column("epochs:N", title=None, sort=_in_order(shares.epochs)))
    )
    first = shares[shares.epochs == shares.epochs.min()].groupby("row", observed=True).value.mean()
    text = ", ".join(
        f"{label} {first.get(name, 0):.0%} (paper {SHARES[name][d]:.0%})" for name, label in labels.items()
    )
    run.figure(
        f"composition-{task}",
        chart,
        f"Modulo {d}, after {shares.epochs.min():,.0f} epochs: {text}. Dots are networks, bars their mean, diamonds the paper.",
    )


# --- Over training -------------------------------------------------------------------------------------------------


def _orders(run: Run, task: str, curves: pd.DataFrame) -> None:
    """Share of frequencies by order, and of those that are named, over training."""
    frame = curves[curves.name.isin(list(CURVES))].groupby(["arm", "name", "step"]).value.mean().reset_index()
    shown = frame.assign(arm=frame.arm.map(ARMS), name=frame.name.map(CURVES), epoch=frame.step.astype(int))
    dashed = alt.condition(alt.datum.name == CURVES["explained"], alt.value([4, 3]), alt.value([1, 0]))
    chart = (
        alt.Chart(shown[["arm", "name", "epoch", "value"]])
        .mark_line(point=alt.OverlayMarkDef(size=16))
        .encode(
            x=_over_epochs(),
            y=alt.Y("value:Q", title="share of frequencies", scale=alt.Scale(domain=[0, 1]), axis=PERCENT),
            color=alt.Color("name:N", title=None, sort=list(CURVES.values())),
            strokeDash=dashed,
        )
        .properties(width=220, height=180)
        .facet(column=alt.Column("arm:N", title=None, sort=list(ARMS.values())))
    )
    ends = frame.sort_values("step").groupby(["arm", "name"]).value.last()
    text = "; ".join(
        f"with {label}, {ends[arm, 'order_4'] + ends[arm, 'order_6']:.0%} have four or six live nodes at the end and "
        f"{ends[arm, 'explained']:.0%} are named products"
        for arm, label in ARMS.items()
        if arm in ends
    )
    run.figure(f"orders-{task}", chart, f"Frequencies lose nodes first and find their exact factors later: {text}.")


def _potentials(run: Run, task: str) -> None:
    """The parts of the loss, mean over networks, and r_kkk of every frequency of the first network."""
    frame = _tables(run, task, "potentials")
    frame = frame.assign(arm=frame.arm.map(ARMS))
    column = alt.Column("arm:N", title=None, sort=list(ARMS.values()))
    loss = frame[frame.potential != "r_kkk"]
    parts = loss.groupby(["arm", "epoch", "potential", "seed"]).value.sum()
    parts = parts.groupby(["arm", "epoch", "potential"]).mean().reset_index()
    chart = (
        alt.Chart(parts.assign(potential=parts.potential.map(PARTS)))
        .mark_line(point=alt.OverlayMarkDef(size=16), strokeWidth=1.6)
        .encode(
            x=_over_epochs(),
            y=alt.Y(
                "value:Q",
                title="part of the loss",
                scale=alt.Scale(type="log"),
                axis=alt.Axis(format=".0e", tickCount=6),
            ),
            color=alt.Color("potential:N", title="potentials", sort=list(PARTS.values())),
        )
        .properties(width=220, height=180)
        .facet(column=column)
    )
    ends = loss[loss.epoch == loss.groupby("arm").epoch.transform("max")].groupby(["arm", "seed"]).value.sum()
    ends = ends.groupby("arm").mean()
    text = " and ".join(f"{ends[arm]:.0e} with {arm}" for arm in ARMS.values() if arm in ends)
    run.figure(
        f"potentials-{task}",
        chart,
        f"All potentials that the loss sees go where a solution needs them; over all pairs it ends at {text}.",
    )
    goals = frame[(frame.potential == "r_kkk") & (frame.seed == frame.groupby("arm").seed.transform("min"))]
    chart = (
        alt.Chart(goals[["arm", "epoch", "frequency", "value"]])
        .mark_line(strokeWidth=1, opacity=0.6)
        .encode(x=_over_epochs(), y=alt.Y("value:Q", title="r_kkk"), detail="frequency:N")
        .properties(width=220, height=150)
        .facet(column=column)
    )
    last = goals[goals.epoch == goals.groupby("arm").epoch.transform("max")].value
    run.figure(
        f"r-kkk-{task}",
        chart,
        f"r_kkk of every frequency of one network goes to 1, between {last.min():.3f} and {last.max():.3f} at the end.",
    )


# --- Sweeps ----------------------------------------------------------------------------------------------------------


def _sweep(run: Run, task: str, finals: pd.DataFrame, knob: str) -> None:
    """Shares of orders by the knob of a sweep; nothing where it was not swept."""
    other = "width" if knob == "weight_decay" else "weight_decay"
    plain = finals[(finals.variant == "") & finals[other].isna()]
    if plain[knob].isna().all():
        return
    trained_with = plain[plain.name == knob].drop_duplicates("setting").set_index("setting").value
    swept = plain[plain.name.isin(list(ORDERS))]
    swept = swept.assign(**{knob: swept.setting.map(trained_with)})
    frame = swept.groupby(["name", "epochs", knob]).value.mean().reset_index().sort_values(knob)
    frame = frame.assign(order=frame.name.map(ORDERS), epochs=[_epoch(number) for number in frame.epochs])
    chart = (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            x=alt.X(f"{knob}:O", title=knob.replace("_", " "), axis=alt.Axis(labelAngle=0)),
            y=alt.Y("value:Q", title="share of frequencies", axis=PERCENT),
            color=alt.Color("order:N", title="live nodes", sort=list(ORDERS.values())),
        )
        .properties(width=190, height=180)
        .facet(column=alt.Column("epochs:N", title=None, sort=_in_order(swept.epochs)))
    )
    text = "; ".join(
        f"from {mine.value.iloc[0]:.0%} at {mine[knob].iloc[0]:g} to {mine.value.iloc[-1]:.0%} at {mine[knob].iloc[-1]:g} at {epochs}"
        for epochs, mine in frame[frame.name == "order_4"].groupby("epochs", sort=False)
    )
    words = knob.replace("_", " ")
    run.figure(f"{words.replace(' ', '-')}-{task}", chart, f"Frequencies of order 4 by {words}: {text}.")
