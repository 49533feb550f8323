"""The phase boundary: where networks start to generalise, how it grows with the group, and what a single node says."""

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

BOUNDARIES = {"boundary": "", "narrow_boundary": "narrow", "landscape": "landscape"}
LAWS = {"M": lambda m: m, "M ln M": lambda m: m * math.log(m), "M^1.5": lambda m: m**1.5, "M²": lambda m: m**2}


def boundary(run: Run) -> None:
    """Train size at which half the test set is right, by group and seed, and how it grows with the group's order.

    Where not even the largest size gets there it is censored at that size, and takes no part in the fits.
    """
    rows, points = [], []
    for view in run.jobs:
        if view.key.arm not in BOUNDARIES:
            continue
        final = view.record("metrics").query("name in ('test_accuracy', 'survival', 'train_pairs')")
        wide = final.pivot(index="setting", columns="name", values="value").rename(
            columns={"survival": "test_accuracy"}
        )
        order, variant = groups.group(view.key.task).order, BOUNDARIES[view.key.arm]
        if not re.fullmatch(r"z\d+", view.key.task):  # other groups stand beside the fit, under their own names
            variant = _joined(variant, view.key.task)
        ratios = [float(read_setting(text).get("ratio", math.nan)) for text in wide.index]
        size = crossing(wide.train_pairs.tolist(), wide.test_accuracy.tolist())
        largest = wide.sort_values("train_pairs").iloc[-1]
        beyond = bool(largest.test_accuracy < 0.5)  # not even with the most pairs: the boundary is at least there
        points += [
            {"order": order, "variant": variant, "seed": view.key.seed, "ratio": r, "pairs": n, "accuracy": a}
            for r, n, a in zip(ratios, wide.train_pairs, wide.test_accuracy, strict=True)
        ]
        if beyond or math.isfinite(size):  # else every size crosses, and the boundary is below the grid
            size = float(largest.train_pairs) if beyond else size
            rows.append({"order": order, "variant": variant, "seed": view.key.seed, "size": size, "censored": beyond})
    if not points:
        return
    found = pd.DataFrame(rows, columns=["order", "variant", "seed", "size", "censored"])
    for row in rows:
        order, where = row["order"], {name: row[name] for name in ("variant", "seed", "censored")}
        law = order * math.log(order)
        run.metric("critical_size", row["size"], setting=setting(mlogm=law), **where)
        run.metric("critical_ratio", row["size"] / law, setting=setting(M=order), **where)
    run.table("boundary", found.rename(columns={"size": "pairs"}))
    found = found[~found.censored.astype(bool)]
    for (variant, seed), mine in found.groupby(["variant", "seed"]):
        if mine["order"].nunique() > 2:
            for law, grows in LAWS.items():
                run.metric(
                    "misfit", misfit(mine["order"], mine["size"], grows), variant=_joined(variant, law), seed=int(seed)
                )
    run.table("fits", fits(found))
    _phases(run, pd.DataFrame(points), found)


def misfit(order: pd.Series, size: pd.Series, grows) -> float:
    """Standard deviation of ln n* - ln law(M): what is left of the sizes when the law has one free factor."""
    left = np.log(size.to_numpy()) - np.log([grows(m) for m in order])
    return float(left.std())


def slope(order: pd.Series, size: pd.Series, grows) -> float:
    """Least-squares slope of ln n* on ln law(M)."""
    return float(np.polyfit(np.log([grows(m) for m in order]), np.log(size), 1)[0])


def fits(found: pd.DataFrame) -> pd.DataFrame:
    """Slopes and misfits by law, means over seeds with 95 % intervals (Student's t); seeds with three orders or more."""
    rows = []
    for variant, mine in found.groupby("variant"):
        whole = [part for _, part in mine.groupby("seed") if part["order"].nunique() > 2]
        for law, grows in LAWS.items() if whole else ():
            for name, measure in (("slope", slope), ("misfit", misfit)):
                values = np.array([measure(part["order"], part["size"], grows) for part in whole])
                half = half_width(values)
                rows.append(
                    {"variant": variant, "law": law, "measure": name, "mean": values.mean(), "low": values.mean() - half,
                     "high": values.mean() + half, "seeds": len(values), "orders": mine["order"].nunique()}
                )  # fmt: skip
    columns = ["variant", "law", "measure", "mean", "low", "high", "seeds", "orders"]
    return pd.DataFrame(rows, columns=columns)


def half_width(values: np.ndarray) -> float:
    """Half of the 95 % interval of a mean; nan for one value."""
    from scipy.stats import t

    count = len(values)
    return float(t.ppf(0.975, count - 1) * values.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan


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
        lines = lines if len(critical) > 1 else lines.iloc[:0]
        scale = alt.Scale(type="log", nice=False)
        x = alt.X("order:Q", title="order M", scale=scale, axis=alt.Axis(values=sorted(critical.index.tolist())))
        line = alt.Chart(lines).mark_line().encode(
            x=x, y=alt.Y("pairs:Q", title="pairs at the boundary", scale=scale), color=alt.Color("law:N", title=None)
        )  # fmt: skip
        shown = found[found.variant.isin(["", "narrow", "landscape"])].rename(columns={"size": "pairs"})
        names = {"": "networks, K = 16 M", "narrow": "networks, K = 4 M", "landscape": "a single node's energy"}
        dots = (
            alt.Chart(shown.assign(what=shown.variant.map(names)))
            .mark_point(size=30)
            .encode(x=x, y="pairs:Q", shape=alt.Shape("what:N", title=None, sort=list(names.values())))
        )
        parts.append(alt.layer(line, dots).properties(width=230, height=220))
        text = _text(found, base)
    run.figure(
        "phases",
        alt.hconcat(*parts).resolve_scale(color="independent"),
        f"Test accuracy by order and train size, and the boundary: {text}.",
    )


def _text(found: pd.DataFrame, base: float) -> str:
    table = fits(found).set_index(["variant", "law", "measure"])
    text = f"it lies at {base:.2f} · M ln M"
    if ("", "M ln M", "slope") in table.index:
        line = table.loc[("", "M ln M", "slope")]
        text += f", with a slope of {line['mean']:.2f} [{line.low:.2f}, {line.high:.2f}] in ln(M ln M)"
        left = [f"{table.loc[('', law, 'misfit'), 'mean']:.3f} by {law}" for law in LAWS]
        text += f"; unexplained of ln n: {', '.join(left)}"
    return text
