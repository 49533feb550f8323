"""All jobs together: Figure 3's curves, the phase boundary with its fits, the sweeps."""

from __future__ import annotations

import math
import re

import altair as alt
import numpy as np
import pandas as pd

from methods.grokking.sweep import crossing
from tycho.adapter import Run
from tycho.keys import read_setting, setting
from tycho.tasks import groups

ARMS = {
    "weight_decay": "weight decay",
    "no_weight_decay": "no weight decay",
    "no_weight_decay_narrow": "no weight decay, narrow",
}


BOUNDARIES = {"boundary": "", "narrow_boundary": "narrow"}
LAWS = {"M ln M": lambda m: m * math.log(m), "M²": lambda m: m**2}


def figures(run: Run) -> None:
    boundary(run)
    sweeps(run)
    frames = [view.record("metrics") for view in run.jobs if view.key.arm in ARMS]
    if not frames:
        return
    curves = pd.concat(frames, ignore_index=True).dropna(subset="step")
    curves = curves.assign(step=curves.step.astype(int), arm=curves.arm.map(ARMS), seed=curves.seed.astype(str))
    for task, found in curves.groupby("task"):
        _accuracy(run, str(task), found)
        _meter(
            run, str(task), found, "gradient_cosine", "cosine of G_F with the key term ỸỸᵀF̃",
            "At the published width the back-propagated gradient keeps pointing along the theory's key term only with weight decay.",
        )  # fmt: skip
        _meter(
            run, str(task), found, "gradient_norm", "norm of G_F",
            "At the published width the back-propagated gradient stays larger with weight decay once the training set is fitted.",
        )  # fmt: skip


def _accuracy(run: Run, task: str, curves: pd.DataFrame) -> None:
    wanted = {"train_accuracy": "training", "test_accuracy": "test"}
    frame = curves[curves.name.isin(list(wanted)) & (curves.step > 0)]
    frame = frame.assign(part=frame.name.map(wanted))[["step", "value", "arm", "seed", "part"]]
    chart = (
        alt.Chart(frame)
        .mark_line(strokeWidth=1.6, opacity=0.8)
        .encode(
            x=alt.X(
                "step:Q",
                title="epoch",
                scale=alt.Scale(type="log", nice=False),
                axis=alt.Axis(values=[1, 10, 100, 1000]),
            ),
            y=alt.Y("value:Q", title="accuracy", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")),
            color=alt.Color("part:N", title=None, sort=list(wanted.values())),
            detail="seed:N",
        )
        .properties(width=210, height=180)
        .facet(column=alt.Column("arm:N", title=None, sort=list(ARMS.values())))
    )
    run.figure(
        f"accuracy-{task}",
        chart,
        "All fit the training set at once. Test accuracy follows later: with weight decay, or without it in a narrower network.",
    )


def _meter(run: Run, task: str, curves: pd.DataFrame, name: str, title: str, says: str) -> None:
    frame = curves[curves.name == name][["step", "value", "arm", "seed"]]
    chart = (
        alt.Chart(frame)
        .mark_line(point=alt.OverlayMarkDef(size=18), strokeWidth=1.6, opacity=0.8)
        .encode(
            x=alt.X("step:Q", title="epoch"),
            y=alt.Y("value:Q", title=title),
            color=alt.Color("arm:N", title=None, sort=list(ARMS.values())),
            detail="seed:N",
        )
        .properties(width=420, height=220)
    )
    run.figure(f"{name.replace('_', '-')}-{task}", chart, says)


# --- the phase boundary ----------------------------------------------------------------------------------------------


def boundary(run: Run) -> None:
    """Train size at which half the test set is right, by group and seed, and how it grows with the group's order."""
    rows, points = [], []
    for view in run.jobs:
        if view.key.arm not in BOUNDARIES:
            continue
        final = view.record("metrics").query("name in ('test_accuracy', 'train_pairs')")
        wide = final.pivot(index="setting", columns="name", values="value")
        order, variant = groups.group(view.key.task).order, BOUNDARIES[view.key.arm]
        if not re.fullmatch(r"z\d+", view.key.task):  # other groups stand beside the fit, under their own names
            variant = _joined(variant, view.key.task)
        ratios = [float(read_setting(text)["ratio"]) for text in wide.index]
        size = crossing(wide.train_pairs.tolist(), wide.test_accuracy.tolist())
        points += [
            {"order": order, "variant": variant, "seed": view.key.seed, "ratio": r, "pairs": n, "accuracy": a}
            for r, n, a in zip(ratios, wide.train_pairs, wide.test_accuracy, strict=True)
        ]
        if math.isfinite(size):  # else the grid does not hold the boundary of this group and seed
            rows.append({"order": order, "variant": variant, "seed": view.key.seed, "size": size})
    if not points:
        return
    found = pd.DataFrame(rows, columns=["order", "variant", "seed", "size"])
    for row in rows:
        order, where = row["order"], {"variant": row["variant"], "seed": row["seed"]}
        law = order * math.log(order)
        run.metric("critical_size", row["size"], setting=setting(mlogm=law), **where)
        run.metric("critical_ratio", row["size"] / law, setting=setting(M=order), **where)
    for (variant, seed), mine in found.groupby(["variant", "seed"]):
        if mine["order"].nunique() > 2:
            for law, grows in LAWS.items():
                run.metric(
                    "misfit", misfit(mine["order"], mine["size"], grows), variant=_joined(variant, law), seed=int(seed)
                )
    _phases(run, pd.DataFrame(points), found)


def misfit(order: pd.Series, size: pd.Series, grows) -> float:
    """Standard deviation of ln n* - ln law(M): what is left of the sizes when the law has one free factor."""
    left = np.log(size.to_numpy()) - np.log([grows(m) for m in order])
    return float(left.std())


def _joined(variant: str, law: str) -> str:
    return f"{variant} · {law}" if variant else law


def _phases(run: Run, points: pd.DataFrame, found: pd.DataFrame) -> None:
    wide = points[points.variant == ""]
    if wide.empty:
        return
    mean = wide.groupby(["order", "ratio"], as_index=False).accuracy.mean()
    heat = (
        alt.Chart(mean)
        .mark_rect()
        .encode(
            x=alt.X("order:O", title="order M of the group", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("ratio:O", title="training pairs / (M ln M)", sort="descending"),
            color=alt.Color("accuracy:Q", title="test accuracy", scale=alt.Scale(scheme="viridis", domain=[0, 1])),
        )
        .properties(width=230, height=220)
    )
    mine = found[found.variant == ""]
    parts, text = [heat], "no group crosses one half"
    if len(mine):
        critical = mine.groupby("order")["size"].mean()
        base = float(np.exp((np.log(critical) - np.log([m * math.log(m) for m in critical.index])).mean()))
        square = float(np.exp((np.log(critical) - 2 * np.log(critical.index)).mean()))
        lines = pd.DataFrame(
            [
                {"order": m, "pairs": factor * law(m), "law": name}
                for m in np.geomspace(critical.index.min(), critical.index.max(), 30)
                for name, factor, law in (("M ln M", base, LAWS["M ln M"]), ("M²", square, LAWS["M²"]))
            ]
        )
        scale = alt.Scale(type="log", nice=False)
        x = alt.X("order:Q", title="order M", scale=scale, axis=alt.Axis(values=sorted(critical.index.tolist())))
        line = alt.Chart(lines).mark_line().encode(
            x=x, y=alt.Y("pairs:Q", title="pairs at the boundary", scale=scale), color=alt.Color("law:N", title=None)
        )  # fmt: skip
        dots = (
            alt.Chart(mine.rename(columns={"size": "pairs"}))
            .mark_point(filled=True, size=30, color="#111")
            .encode(x=x, y="pairs:Q")
        )
        parts.append(alt.layer(line, dots).properties(width=230, height=220))
        text = f"it lies at {base:.2f} · M ln M, which leaves {misfit(mine['order'], mine['size'], LAWS['M ln M']):.3f} of ln n unexplained, M² {misfit(mine['order'], mine['size'], LAWS['M²']):.3f}"
    run.figure(
        "phases",
        alt.hconcat(*parts).resolve_scale(color="independent"),
        f"Test accuracy by order and train size, and the boundary: {text}.",
    )


# --- the other sweeps ------------------------------------------------------------------------------------------------


def sweeps(run: Run) -> None:
    """One table a sweep: its points, the mean epoch of generalisation (a bound where some never did) and accuracy."""
    for arm in ("decay_sweep", "rate_sweep", "zero_init", "optimisers", "activations"):
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
