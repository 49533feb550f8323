"""A tuned model's weights against its base, every metric beside its matched noise; and where a tuning ended."""

from __future__ import annotations

import hashlib
import math

import altair as alt
import numpy as np
import pandas as pd
import torch

from methods.path_not_taken import masks, summary, tune
from methods.path_not_taken.measure import ALL, Settings, compare
from tycho.adapter import Run

# Variants of every weight metric: as measured, the matched noise's mean, what a random mask or isotropic update has.
NOISE, RANDOM = "noise", "random"
LOGGED = ("new_accuracy", "prior_accuracy", "kl_forward", "kl_reverse")


def tuned(run: Run) -> None:
    config = run.config
    before = tune.matrices(tune.load(run, run.job.model, "start"))
    ends = [tune.matrices(tune.load(run, run.job.model, repeat)) for repeat in range(config.repeats)]
    frame = measured(run, before, ends)
    record(run, summary.summarise(frame))
    _ends(run)
    if config.intervene:
        _agreement(run, before, ends[0])
    _map(run, before, ends[0])


def measured(run: Run, before: dict[str, torch.Tensor], ends: list[dict[str, torch.Tensor]]) -> pd.DataFrame:
    """One row a run, tensor and metric, as a diff's frame."""
    config = run.config
    settings = Settings(k=(config.k,), alpha=(config.alpha,), draws=config.draws, bits=config.bits)
    runs = [f"run {repeat}" for repeat in range(len(ends))]
    frames = []
    for name, weight in run.progress(before.items(), "weights", total=len(before)):
        found = compare(weight.detach(), (end[name].detach() for end in ends), runs, _seeded(run, name), settings)
        frames.append(pd.DataFrame(found.rows).assign(tensor=name, entries=weight.numel()))
    return pd.concat(frames, ignore_index=True)


def record(run: Run, table: pd.DataFrame) -> None:
    """Means over tensors, and over runs where an arm was tuned several times; `excess` is ln(value / noise)."""
    run.table("weights", table)
    across = table[table.run == ALL]
    single = table[table.run != ALL].groupby(["metric", "setting"], as_index=False, sort=False)
    columns = ["value", "null", "expected"]
    means = pd.concat([single[columns].mean(), across[["metric", "setting", *columns]]])
    for row in means.itertuples():
        run.metric(row.metric, row.value)
        run.metric(row.metric, row.null, variant=NOISE)
        if not math.isnan(row.expected):
            run.metric(row.metric, row.expected, variant=RANDOM)
        if row.value > 0 and row.null > 0:
            run.metric(f"{row.metric}_excess", math.log(row.value / row.null))


def _ends(run: Run) -> None:
    """The last evaluation of the arm's own tuning, and what of the prior tasks is gone."""
    curves = run.job.record("metrics")
    curves = curves[curves.step.notna() & (curves.variant == "")]
    by_name = {name: group.sort_values("step").value.tolist() for name, group in curves.groupby("name")}
    for name in LOGGED:
        run.metric(name, by_name[name][-1])
    run.metric("forgetting", by_name["prior_accuracy"][0] - by_name["prior_accuracy"][-1])


def _agreement(run: Run, before: dict[str, torch.Tensor], end: dict[str, torch.Tensor]) -> None:
    """Jaccard of this run's update masks with the plain run's, in the matrices touched and in the others.

    Beside it independent masks of the same densities, and noise matched to both runs: the noise follows where the small
    entries are, and the intervention moves them.
    """
    from methods.path_not_taken import lattice, nulls

    bits = run.config.bits
    plain_model = run.inputs["plain"].model
    first = tune.matrices(tune.load(run, plain_model, "start"))
    plain, again = (tune.matrices(tune.load(run, plain_model, repeat)) for repeat in (0, 1))
    last = max(int(name.split(".")[2]) for name in before)
    rows = []
    for name in before:
        touched = name.split(".")[2] == str(last) and "self_attn" in name
        pairs = {
            "intervened": ((first[name], plain[name]), (before[name], end[name])),
            "plain again": ((first[name], plain[name]), (first[name], again[name])),
        }
        for kind, both in pairs.items():
            made, noise = [], []
            for side, (old, new) in enumerate(both):
                made.append(lattice.changed(old.detach(), new.detach(), bits))
                grid = lattice.cast(old.detach(), bits)
                norm = float((lattice.cast(new.detach(), bits).float() - grid.float()).norm())
                generator = _seeded(run, f"{name} {kind}")(f"side {side}", 0)
                drawn = nulls.matched(grid, int(made[-1].sum()), norm, generator, bits).weights
                noise.append(drawn != grid)
            density = [masks.density(mask) for mask in made]
            rows.append({"kind": kind, "touched": touched, "jaccard": masks.jaccard(*made), NOISE: masks.jaccard(*noise),
                         RANDOM: masks.independent_jaccard(*density)})  # fmt: skip
    table = pd.DataFrame(rows).groupby(["kind", "touched"], as_index=False).mean()
    run.table("agreement", table)
    for row in table.itertuples():
        name = f"mask_agreement_{'touched' if row.touched else 'untouched'}_{row.kind.replace(' ', '_')}"
        run.metric(name, row.jaccard)
        run.metric(name, getattr(row, NOISE), variant=NOISE)
        run.metric(name, getattr(row, RANDOM), variant=RANDOM)


def _map(run: Run, before: dict[str, torch.Tensor], end: dict[str, torch.Tensor]) -> None:
    """Where one matrix moved, beside matched noise; the first seed's only, for the eye."""
    from methods.path_not_taken import lattice, nulls

    if run.key.seed != 0 or run.config.mask or run.config.adapter:
        return
    name = next(name for name in before if name.endswith("q_proj.weight"))
    bits, size = run.config.bits, 64
    grid, new = lattice.cast(before[name].detach(), bits), lattice.cast(end[name].detach(), bits)
    moved = new != grid
    norm = float((new.float() - grid.float()).norm())
    null = nulls.matched(grid, int(moved.sum()), norm, _seeded(run, name)("run 0", 0), bits).weights != grid
    frames = []
    for title, mask in (("measured", moved), ("matched noise", null)):
        row, column = np.nonzero(mask[:size, :size].numpy())
        frames.append(pd.DataFrame({"row": row, "column": column, "what": title}))
    chart = (
        alt.Chart(pd.concat(frames, ignore_index=True))
        .mark_square(size=7, opacity=1)
        .encode(
            x=alt.X("column:Q", title="input", axis=None, scale=alt.Scale(domain=[0, size], nice=False)),
            y=alt.Y("row:Q", title="output", axis=None, scale=alt.Scale(domain=[size, 0], nice=False)),
        )
        .properties(width=200, height=200)
        .facet(column=alt.Column("what:N", title=None, sort=["measured", "matched noise"]))
    )
    stripes = masks.stripes(masks.row_share(moved)), masks.stripes(masks.row_share(null))
    run.figure(
        "mask",
        chart,
        f"Entries of a query matrix that moved visibly (first {size} rows and columns), beside noise of the same density "
        f"and norm: {stripes[0]:.1%} of the mask's variance lies between rows, {stripes[1]:.1%} of the noise's.",
    )


def _seeded(run: Run, tensor: str):
    def generator(name: str, draw: int) -> torch.Generator:
        text = f"{run.seed('noise')}\x1f{tensor}\x1f{name}\x1f{draw}"
        number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
        return torch.Generator().manual_seed(number)

    return generator
