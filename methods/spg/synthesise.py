"""All arms together: rewards while training, and what the test says."""

from __future__ import annotations

import altair as alt
import pandas as pd
from scipy import stats

from tycho.adapter import Run

NAMES = {
    "spg_mix": "SPG, mixture",
    "spg_eubo": "SPG, upper bound",
    "spg_elbo": "ELBO both ways",
    "spg_no_negatives": "no negatives",
    "spg_random_masks": "SPG, random masks",
    "spg_m4": "SPG, four copies",
    "diffu_grpo": "diffu-GRPO",
    "diffu_grpo_no_kl": "diffu-GRPO, no KL",
    "wd1": "wd1",
    "unigrpo": "UniGRPO",
    "one_step": "SPG loss, one-step masks",
}
WINDOW = 5  # rollouts a point of the curves is averaged over


def synthesise(run: Run) -> None:
    metrics = pd.concat([view.record("metrics") for view in run.jobs], ignore_index=True)
    for task, found in metrics[metrics.arm.isin(list(NAMES))].groupby("task"):
        _curves(run, str(task), found)
        _ends(run, str(task), found)


def _curves(run: Run, task: str, found: pd.DataFrame) -> None:
    curves = found[(found.name == "reward") & found.step.notna()].sort_values("step")
    if curves.empty:
        return
    smooth = curves.groupby(["arm", "seed"]).value.transform(lambda v: v.rolling(WINDOW, min_periods=1).mean())
    frame = curves.assign(value=smooth, arm=curves.arm.map(NAMES))
    band = frame.groupby(["arm", "step"]).value.agg(["mean", "sem", "count"]).reset_index()
    half = band["sem"].fillna(0.0) * stats.t.ppf(0.975, band["count"].clip(lower=2) - 1)  # 95 %, over seeds
    band = band.assign(low=band["mean"] - half, high=band["mean"] + half).drop(columns=["sem", "count"])
    order = band[band.step == band.step.max()].sort_values("mean", ascending=False).arm.tolist()
    base = alt.Chart(band).encode(x=alt.X("step:Q", title="gradient step"))
    scale = alt.Scale(zero=False, domain=_around(band["mean"]), clamp=True)
    # Arms lie within each other's bands: one above the other they would be a single grey area.
    chart = (
        alt.layer(
            base.mark_area(opacity=0.25).encode(
                y=alt.Y("low:Q", scale=scale, title="reward of the rollouts"), y2="high:Q"
            ),
            base.mark_line().encode(y=alt.Y("mean:Q", scale=scale)),
        )
        .properties(width=150, height=110)
        .facet(facet=alt.Facet("arm:N", title=None, sort=order), columns=4)
    )
    last = band[band.step == band.step.max()].set_index("arm")["mean"]
    order = ", ".join(f"{arm} {value:.2f}" for arm, value in last.sort_values(ascending=False).items())
    run.figure(
        f"reward-{task}",
        chart,
        f"Reward of the sampled completions while training, mean over seeds with its 95 % interval as far as the panel shows it; at the end: {order}.",
    )


def _around(values: pd.Series) -> list[float]:
    """The axis' ends: what the lines need and some of the bands, which are wide with few seeds."""
    margin = 0.25 * float(values.max() - values.min()) + 0.01
    return [round(float(values.min()) - margin, 3), round(float(values.max()) + margin, 3)]


def _ends(run: Run, task: str, found: pd.DataFrame) -> None:
    """Training reward, and the test beside it, whatever it shows."""
    ends = found[found.step.isna() & found.name.isin(["train_reward", "test_reward", "test_solved"])]
    if ends.empty:
        return
    table = ends.groupby(["arm", "name"]).value.agg(["mean", "sem", "count"]).unstack("name")
    flat = pd.DataFrame({"arm": table.index})
    for name in ("train_reward", "test_reward", "test_solved"):
        if ("mean", name) in table:
            flat[name] = table["mean", name].to_numpy()
            flat[f"± {name}"] = table["sem", name].to_numpy()
    run.table(f"ends-{task}", flat)
