"""The common ground: means and costs by hand, domination by brute force, one table for all methods."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports import ground
from tycho.config import load_settings
from tycho.jobs import Plan

ARMS = [("coconut", "cot"), ("coconut", "coconut"), ("token_assorted", "latent"), ("threadweaver", "parallel")]


def frame(seeds=3, items=40) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for (method, arm), seed, item in itertools.product(ARMS, range(seeds), range(items)):
        tokens = {"cot": 20, "coconut": 8, "latent": 12, "parallel": 30}[arm]
        path = 15 if arm == "parallel" else tokens
        correct = bool(rng.random() < {"cot": 0.9, "coconut": 0.8, "latent": 0.5, "parallel": 0.9}[arm])
        rows.append(
            {"task": "products-verbose", "method": method, "arm": arm, "variant": "", "setting": "", "seed": seed}
            | {"item": str(item), "split": "test", "correct": correct, "generated_tokens": tokens}
            | {"sequential_tokens": path, "forward_passes": path + 1, "flops": 1e6 * tokens}
        )
    return pd.DataFrame(rows).astype({"generated_tokens": "Int64", "sequential_tokens": "Int64", "flops": "Float64"})


@pytest.fixture
def empty_plan():
    return Plan(load_settings({"scale": "quick", "only": ["grokking"]}), {}, {}, {})


COSTS = pd.DataFrame(
    {"method": ["coconut"], "arm": ["cot"], "task": ["products-verbose"], "seed": [0], "stage": ["train"], "cpu_seconds": [9.0]}
)  # fmt: skip


CURVES = pd.DataFrame(
    {"method": ["coconut"], "arm": ["cot"], "task": ["products-verbose"], "stage": ["train"], "step": [1.0], "setting": [""]}
)  # fmt: skip


def test_rows_are_means_over_items_and_seeds(empty_plan):
    samples = frame()
    table = ground.measured(empty_plan, samples, COSTS).set_index("arm")
    for arm, mine in samples.groupby("arm"):
        per_seed = mine.groupby("seed").correct.mean()
        assert table.loc[arm, "mean"] == pytest.approx(per_seed.mean())
        assert table.loc[arm, "low"] < per_seed.mean() < table.loc[arm, "high"]
        assert table.loc[arm, "generated_tokens"] == mine.generated_tokens.iloc[0]
        assert table.loc[arm, "seeds"] == 3


def test_domination_is_what_brute_force_finds(empty_plan):
    rng = np.random.default_rng(1)
    samples = frame(seeds=1)
    for axis in ("generated_tokens", "sequential_tokens"):
        samples[axis] = samples.groupby("arm")[axis].transform(lambda v: int(rng.integers(1, 4)))
    table = ground.measured(
        empty_plan, samples.astype({"generated_tokens": "Int64", "sequential_tokens": "Int64"}), COSTS
    )
    points = table[["mean", "generated_tokens", "sequential_tokens"]].to_numpy()
    for i, mine in enumerate(points):
        beaten = any(
            o[0] >= mine[0] and (o[1:] <= mine[1:]).all() and (o[0] > mine[0] or (o[1:] < mine[1:]).any())
            for o in points
        )
        assert table.dominated.iloc[i] == beaten


def test_the_section_names_every_arm_and_its_source(empty_plan):
    found = ground.common_ground(empty_plan, frame(), COSTS, CURVES)
    (task,) = found["tasks"]
    assert {(row["method"], row["arm"]) for row in task["rows"]} == set(ARMS)
    assert all("samples.parquet: method=" in row["source"] for row in task["rows"])
    assert len(found["figures"]) >= 3 and all("<svg" in str(figure["svg"]) for figure in found["figures"])


def test_a_figure_fades_what_is_dominated_on_its_own_axis_and_names_points(empty_plan):
    """Two arms alike but for the path: on generated tokens neither beats the other; on the path one does."""
    samples = frame(seeds=1)
    samples = samples[samples.arm.isin(["cot", "parallel"])].assign(generated_tokens=20, correct=True)
    samples = samples.astype({"generated_tokens": "Int64"})
    found = {f["file"]: f for f in ground.common_ground(empty_plan, samples, COSTS, CURVES)["figures"]}
    faint = {}
    for axis in ("generated-tokens", "sequential-tokens"):
        spec = found[f"figures/ground-products-{axis}"]["spec"]
        data = next(rows for rows in spec["datasets"].values() if "faint" in rows[0])
        faint[axis] = {row["arm"]: row["faint"] for row in data}
        colours = spec["layer"][1]["encoding"]["color"]["scale"]["domain"]
        assert colours == ["coconut", "threadweaver"]
    cot, parallel = "cot", "parallel"
    assert faint == {"generated-tokens": {cot: 1.0, parallel: 1.0}, "sequential-tokens": {cot: 0.25, parallel: 1.0}}
    (title, other) = re.findall(r"<title>(.*?)</title>", found["figures/ground-products-sequential-tokens"]["svg"])
    assert {cot, parallel} == {part.split("arm: ")[1].split(";")[0] for part in (title, other)}
    assert "sequential_tokens: 15" in other or "critical-path tokens: 15" in title + other


def test_without_a_second_arm_there_is_no_section(empty_plan):
    samples = frame()
    assert ground.common_ground(empty_plan, samples[samples.arm == "cot"], COSTS, CURVES) is None
    assert ground.common_ground(empty_plan, samples.assign(task="elsewhere"), COSTS, CURVES) is None


def test_costs_are_a_seeds_with_its_interval_and_what_trains_nothing_is_left_out():
    """A plan of two arms: one trains from a base, the other is set by hand."""
    from tycho.adapter import Need
    from tycho.jobs import Job
    from tycho.keys import JobKey

    jobs = {}
    for seed in range(3):
        base = JobKey("quick", "coconut", "base", "products-verbose", seed)
        cot = JobKey("quick", "coconut", "cot", "products-verbose", seed)
        hand = JobKey("quick", "coconut", "coconut", "products-verbose", seed)
        jobs[base] = Job(base, None, ("train",), {}, lambda: {"train": "x"})
        jobs[cot] = Job(cot, None, ("train", "evaluate"), {"base": Need(base)}, lambda: {"train": "x", "evaluate": "y"})
        jobs[hand] = Job(hand, None, ("evaluate",), {}, lambda: {"evaluate": "y"})
    plan = Plan(load_settings({"scale": "quick", "only": ["grokking"]}), jobs, {}, {})
    rows = [
        {"method": "coconut", "task": "products-verbose", "seed": seed, "arm": arm, "stage": stage, "cpu_seconds": cpu}
        | {"peak_memory_mb": 100.0 * (seed + 1)}
        for seed in range(3)
        for arm, stage, cpu in (("base", "train", 10.0 + seed), ("cot", "train", 2.0), ("cot", "evaluate", 0.5))
    ]
    found = ground.common_ground(plan, frame(), pd.DataFrame(rows), CURVES)
    (task,) = found["tasks"]
    shown = {row["arm"]: row["spent"] for row in task["rows"] if row["method"] == "coconut"}
    assert set(shown) == {"cot"}
    training, everything, memory = shown["cot"][-3:]
    low, high = stats.t.interval(0.95, 2, 13.0, stats.sem([12.0, 13.0, 14.0]))
    assert (training["mean"], training["range"]) == ("13 s", f"[{low:.1f} s, {high:.1f} s]")
    assert everything["mean"] == "13.5 s" and memory["mean"] == "200 MB"
    # Of several models in one job none is known by itself: a bound in the table, nothing in the drawing of costs.
    for arm in ("cot", "base"):  # its own job, or an ingredient's
        curves = pd.concat([CURVES.assign(arm=arm), CURVES.assign(arm=arm, setting="layers=6")])
        table = ground.measured(plan, frame(), pd.DataFrame(rows), ground.swept(curves)).set_index("arm")
        assert table.loc["cot", "at_most"] and table.loc["cot", "shared"] == (arm == "cot")
        assert not table.loc["latent", "at_most"]
        shown = {row["arm"]: row["spent"] for row in ground.rows_of(table.reset_index())}
        assert [cost["mean"] for cost in shown["cot"][-3:]] == ["≤ 13 s", "≤ 13.5 s", "≤ 200 MB"]
    assert not ground.swept(CURVES)
