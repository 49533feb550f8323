"""All arms together: accuracy beside generated tokens, accuracy by size of the codebook, and what codes stand for."""

from __future__ import annotations

import altair as alt
import pandas as pd

from methods.token_assorted.published import PROSQA
from tycho.adapter import Run
from tycho.keys import read_setting

PERCENT = alt.Axis(format="%")
TUNED = ("latent_tuned", "all_replace", "curriculum_replace", "poisson_replace")


def synthesise(run: Run) -> None:
    metrics = pd.concat([view.record("metrics") for view in run.jobs], ignore_index=True)
    metrics = metrics[metrics.step.isna() & (metrics.stage == "analyse")]
    default = run.config.codebook
    metrics = metrics.assign(codebook=[int(read_setting(s).get("codebook", default)) for s in metrics.setting])
    for task, found in metrics.groupby("task"):
        arms(run, str(task), found[found.arm != "codes"])
        sweep(run, str(task), found)
        usage(run, str(task))


def arms(run: Run, task: str, found: pd.DataFrame) -> None:
    """Each arm with its own codebook."""
    own = found[found.setting == ""]
    if own.empty:
        return
    wide = own.pivot_table(index=["arm", "seed"], columns="name", values="value").reset_index()
    rows = wide.groupby("arm").mean().drop(columns="seed").reset_index()
    rows["seeds"] = wide.groupby("arm").seed.nunique().to_numpy()
    rows["± accuracy"] = wide.groupby("arm").accuracy.sem().to_numpy()
    rows["paper (ProsQA)"] = [PROSQA.get(arm, (float("nan"),))[0] for arm in rows.arm]
    rows["paper's tokens"] = [PROSQA.get(arm, (0, float("nan")))[1] for arm in rows.arm]
    run.table(f"arms-{task}", rows)
    chart = (
        alt.Chart(wide[["arm", "seed", "accuracy", "generated_tokens"]])
        .mark_point(filled=True, size=60)
        .encode(
            x=alt.X("generated_tokens:Q", title="tokens generated, codes among them", scale=alt.Scale(zero=True)),
            y=alt.Y("accuracy:Q", title="accuracy", axis=PERCENT, scale=alt.Scale(domain=[0, 1])),
            color=alt.Color("arm:N", title=None),
        )
        .properties(width=360, height=220)
    )
    text = ", ".join(f"{r.arm} {r.accuracy:.0%} at {r.generated_tokens:.1f} tokens" for r in rows.itertuples())
    run.figure(f"tokens-{task}", chart, f"{task}, mean over seeds: {text}. A dot is a seed.")


def sweep(run: Run, task: str, found: pd.DataFrame) -> None:
    """Replacements by size of the codebook; nothing where it was not swept."""
    frame = found[found.arm.isin(TUNED) & (found.name == "accuracy")]
    if frame.codebook.nunique() < 2:
        return
    kept = found[(found.arm == "codes") & (found.name == "reconstructed")].groupby("codebook").value.mean()
    base = alt.Chart(frame[["arm", "codebook", "seed", "value"]]).encode(
        x=alt.X("codebook:O", title="codes", axis=alt.Axis(labelAngle=0)), color=alt.Color("arm:N", title=None)
    )
    accuracy = alt.Y("value:Q", title="accuracy", axis=PERCENT, scale=alt.Scale(domain=[0, 1]))
    chart = alt.layer(
        base.mark_line().encode(y=accuracy.aggregate("mean")),
        base.mark_point(filled=True, size=30, opacity=0.6).encode(y=accuracy),
    ).properties(width=360, height=220)
    text = ", ".join(f"{size} codes {share:.0%}" for size, share in kept.items())
    run.figure(
        f"codebook-{task}",
        chart,
        f"{task}, all from a model that writes its trace; a point a seed, lines through the means. Chunks that come back from "
        f"their code: {text}. Where all do, the "
        "codes are another spelling of the text, and replacing everything loses nothing.",
    )


def usage(run: Run, task: str) -> None:
    """How often each code is used, and its commonest chunk."""
    views = [view for view in run.jobs if view.key.arm == "codes" and view.key.task == task]
    if not views:
        return
    frame = views[0].table("codes")
    frame = frame[frame.codebook == frame.codebook.max()].sort_values("used", ascending=False).reset_index(drop=True)
    frame = frame.assign(rank=range(1, len(frame) + 1), chunk=frame["stands for"].str.split(r" \(").str[0])
    chart = (
        alt.Chart(frame[["rank", "used", "code", "chunk", "decoded"]])
        .mark_bar()
        .encode(
            x=alt.X("rank:O", title="codes, the most used first", axis=alt.Axis(labels=False, ticks=False)),
            y=alt.Y("used:Q", title="chunks"),
            tooltip=["code", "used", "chunk", "decoded"],
        )
        .properties(width=420, height=160)
    )
    same = (frame.chunk == frame.decoded).mean()
    run.figure(
        f"usage-{task}",
        chart,
        f"{task}: {len(frame)} of {run.config.codebook} codes are used; {same:.0%} decode to the chunk they most often "
        f"stand for. The first stands for '{frame.chunk[0]}'.",
    )
