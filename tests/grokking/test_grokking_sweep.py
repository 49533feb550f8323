"""Sweeps: networks side by side are what they are alone, leave when done, and are censored when they never come."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from methods.grokking import estimands, network, sweep, training
from methods.grokking.method import Grokking, GrokkingConfig
from methods.grokking.phases import LAWS, fits, half_width, misfit
from reports.estimands import Records
from tycho.config import load_settings
from tycho.jobs import plan
from tycho.tasks import groups
from tycho.worker import run_process


def test_points_are_every_combination():
    config = GrokkingConfig(sweep={"ratio": [2.0, 3.0], "weight_decay": [1e-4, 1e-3]}, width_ratio=16)
    found = sweep.points(config, 23)
    assert len(found) == 4 and len({one.where for one in found}) == 4
    assert {one.pairs for one in found} == {round(r * 23 * math.log(23)) for r in (2, 3)}
    assert all(one.knobs["width"] == 368 for one in found)


def test_networks_side_by_side_are_what_they_are_alone():
    """Different train sizes, rates and decays in one batch, over the first steps."""
    group = groups.group("Z11")
    table = groups.pairs(group)
    generators = [torch.Generator().manual_seed(3) for _ in range(3)]
    first = network.initialise(11, 32, generators)
    rows = [groups.split(121, n, 5)[0] for n in (40, 60, 90)]
    rates, decays = [1e-3, 5e-3, 1e-3], [1e-4, 1e-3, 0.0]
    each = [torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (rates, decays)]
    together = training.start(first)
    seen = network.examples(table, rows)
    list(training.train(together, seen, seen, 15, [15], *each))
    for r in range(3):
        alone = training.start({name: value[r : r + 1] for name, value in first.items()})
        mine = network.examples(table, [rows[r]])
        list(training.train(alone, mine, mine, 15, [15], rates[r], decays[r]))
        for name in ("W", "V"):
            assert torch.allclose(together[name][r], alone[name][0], atol=1e-5)


def test_the_delay_factor_is_the_ratio_of_both_times_and_a_bound_where_one_never_came():
    rows = [  # seed, epochs to fit and to generalise; the third network never generalised, the fourth never fitted
        (0, (10.0, False), (80.0, False)),
        (1, (20.0, False), (50.0, False)),
        (2, (40.0, False), (400.0, True)),
        (3, (400.0, True), (400.0, True)),
    ]
    metrics = pd.DataFrame(
        [
            {"arm": "optimisers", "task": "z23", "setting": where, "step": math.nan, "seed": seed, "name": name,
             "value": value, "censored": censored}
            for seed, *both in rows
            for name, (value, censored) in zip(("epochs_to_train", "epochs_to_test"), both, strict=True)
            for where in ("optimiser=muon", "optimiser=adam")
        ]
    )  # fmt: skip
    records = Records("standard", "grokking", metrics, metrics, metrics)
    found = estimands.delay_factor(records, arm="optimisers", task="z23", variant="", setting="optimiser=muon")
    assert found.seed.tolist() == [0, 1, 2, 3] and found.value.tolist() == [8, 2.5, 10, 1]
    assert found.censored.tolist() == [False, False, True, True]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep on Z11, small enough to grok in seconds; the smallest train size never does."""
    folder = tmp_path_factory.mktemp("sweep")
    change = {"tasks": ["z11"], "task_arms": {"z11": ["boundary"]}, "seeds": [0]}
    change["arm_config"] = {
        "boundary": {"sweep": {"ratio": [1.0, 3.8]}, "epochs": 1500, "evaluate_every": 50, "width_ratio": 16}
    }
    found = plan(
        load_settings({"scale": "smoke", "results": str(folder), "only": ["grokking"], "methods": {"grokking": change}})
    )
    for process in found.ordered():
        assert run_process(found, process) == {}
    key = next(key for key in found.jobs if key.arm == "boundary")
    metrics = found.view(key).record("metrics")
    return metrics[metrics.step.isna()]


def test_one_that_generalises_leaves_and_one_that_does_not_is_censored(swept: pd.DataFrame):
    ends = swept[swept.name == "epochs_to_test"].set_index("setting")
    assert bool(ends.censored["ratio=1"]) and ends.value["ratio=1"] == 1500
    assert not ends.censored["ratio=3.8"] and ends.value["ratio=3.8"] < 1500
    accuracy = swept[swept.name == "test_accuracy"].set_index("setting").value
    assert accuracy["ratio=3.8"] >= 0.99 > 0.3 > accuracy["ratio=1"]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The smoke scale's boundary, of which no network generalises, and both networks with progress measures."""
    change = {"task_arms": {"z23": ["boundary", "weight_decay", "transformer"]}}
    found = plan(
        load_settings(
            {"scale": "smoke", "results": str(tmp_path_factory.mktemp("together")), "only": ["grokking"], "methods": {"grokking": change}}
        )
    )  # fmt: skip
    for process in found.ordered():
        assert run_process(found, process) == {}
    return found.view(next(key for key in found.jobs if key.arm == "synthesis"))


def test_a_boundary_beyond_the_grid_is_censored_and_takes_no_part_in_fits(together):
    metrics = together.record("metrics")
    most = round(4.0 * 23 * math.log(23))
    sizes = metrics[metrics.name == "critical_size"]
    assert sizes.value.tolist() == [most] and sizes.censored.all()
    ratio = metrics[metrics.name == "critical_ratio"]
    assert ratio.value.tolist() == pytest.approx([most / (23 * math.log(23))]) and ratio.censored.all()
    assert together.table("boundary").censored.all() and together.table("fits").empty


def test_both_networks_have_a_figure_of_progress_measures(together):
    figure = next(together.folder.rglob("*progress-z23*.json")).read_text()
    for part in ("one-layer transformer", "two layers, square", "restricted to the key frequencies"):
        assert part in figure


def test_the_crossing_is_between_its_neighbours():
    assert sweep.crossing([10, 20, 30], [0.0, 0.4, 0.9]) == pytest.approx(22)
    assert sweep.crossing([30, 10, 20], [0.9, 0.0, 0.4]) == pytest.approx(22)
    assert sweep.crossing([10, 20, 30, 40], [0.0, 0.6, 0.4, 1.0]) == pytest.approx(30 + 10 * 0.1 / 0.6)
    assert math.isnan(sweep.crossing([10, 20], [0.0, 0.3])) and math.isnan(sweep.crossing([10, 20], [0.7, 0.9]))


def test_the_right_law_has_no_misfit_and_a_slope_of_one():
    orders = [11, 17, 23, 41]
    for name, law in LAWS.items():
        found = pd.DataFrame(
            [{"order": m, "variant": "", "seed": s, "size": (2.7 + 0.1 * s) * law(m)} for m in orders for s in range(3)]
        )
        table = fits(found).set_index(["law", "measure"])
        assert table.loc[(name, "misfit"), "mean"] < 1e-12 and abs(table.loc[(name, "slope"), "mean"] - 1) < 1e-12
        others = [table.loc[(other, "misfit"), "mean"] for other in LAWS if other != name]
        assert min(others) > 0.05
        assert misfit(pd.Series(orders), pd.Series([3 * law(m) for m in orders]), law) < 1e-12


def test_the_interval_of_a_mean_is_students():
    assert half_width(np.array([1.0, 2.0, 3.0])) == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)
    assert math.isnan(half_width(np.array([1.0])))


def test_sweeps_have_no_other_stage():
    method = Grokking()
    for arm, about in method.arms.items():
        assert (method.stages(arm) == ("train",)) == bool(about.config.get("sweep"))
