"""The recipe as jobs: equal sizes of what is dropped, a mixture that does not follow, estimands, the published rows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from methods.mobilellm_r1 import estimands, influence, rows
from methods.mobilellm_r1.corpora import CAPABILITIES, CORPORA
from methods.mobilellm_r1.synthesise import interval, left_out
from reports.claims import load_claims
from tycho.config import load_settings
from tycho.jobs import plan
from tycho.registry import rooms
from tycho.worker import run_process

ARMS = ["influence", "influence_raw", "leave_one_out", "mid_influence", "mid_random"]


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    change = {"arms": ARMS, "config": {"rounds": 2}}
    settings = {"scale": "smoke", "results": str(tmp_path_factory.mktemp("room")), "only": ["mobilellm_r1"]}
    found = plan(load_settings(settings | {"methods": {"mobilellm_r1": change}}))
    for process in found.ordered():
        assert run_process(found, process) == {}
    return {key.arm: found.view(key) for key in found.jobs}


def test_as_many_samples_are_dropped_at_random(views):
    def kept(arm):
        rows = views[arm].record("metrics").query("name == 'kept'")
        return rows.sort_values("step").value.tolist()

    assert len(kept("mid_random")) == 2 and kept("mid_random") == kept("mid_influence")
    assert any(count < 24 for count in kept("mid_random"))  # of a pool of 24


def test_an_arm_trains_on_its_own_reading(views):
    table = views["specialists"].table("weights").set_index(["reading", "corpus"])
    assert set(table.index.get_level_values("reading")) == {"unit", "raw", "own-unit", "own-raw"}
    for arm, reading in {"influence": "unit", "influence_raw": "own-raw"}.items():
        metrics = views[arm].record("metrics")
        weights = metrics[metrics.name == "weight"].set_index("variant").value
        assert [weights[name] for name in CORPORA] == pytest.approx([table.weight[reading, name] for name in CORPORA])
        assert sum(weights) == pytest.approx(1)
        follows = metrics[metrics.name == "mixture_follows"].value.item()
        expected, found = influence.mixture(torch.tensor([table.score[reading, name] for name in CORPORA]))
        assert follows == found and [weights[n] for n in CORPORA] == pytest.approx(expected.tolist(), abs=1e-6)


def test_influence_counts_as_the_ingredients_cost(views):
    costs = views["specialists"].record("costs").set_index("stage")
    assert costs.flops["analyse"] > 0 and costs.flops["train"] > 0
    assert views["mid_influence"].record("costs").flops.sum() > views["mid_random"].record("costs").flops.sum()
    table = views["synthesis"].table("costs").set_index("arm")
    assert table.together["influence"] > table.own["influence"]
    assert table.ingredients["influence"] == pytest.approx(costs.flops.sum() / 1e9)


def test_estimands_are_means_over_the_documents_they_name(views):
    samples = views["leave_one_out"].record("samples")
    records = SimpleNamespace(samples=samples)

    def loss(network, capability):
        mine = samples[(samples.variant == network) & samples.item.str.startswith(capability)]
        return -mine.score.mean()

    def estimand(name, variant):
        return getattr(estimands, name)(records, arm="leave_one_out", task="corpora", variant=variant, setting="")

    assert estimand("nll", "all · code").value.mean() == pytest.approx(loss("all", "code"))
    assert len(estimand("nll", "without facts")) == 18 and len(estimand("exact_match", "math")) == 7 * 6
    rise = estimand("loss_raised", "programs on math").value.mean()
    assert rise == pytest.approx(loss("without programs", "math") - loss("all", "math"), abs=1e-6)
    others = [loss(f"without {name}", "math") for name in CORPORA if name != "chains"]
    lead = estimand("lead_of_own", "math").value.mean()
    assert lead == pytest.approx(loss("without chains", "math") - max(others), abs=1e-6)


def test_tables_of_the_synthesis(views):
    losses = views["synthesis"].table("losses")
    assert set(losses.capability) == {*CAPABILITIES, "all three"} and (losses.low <= losses.loss).all()
    assert len(views["synthesis"].table("leave-one-out")) == len(CORPORA) * len(CAPABILITIES)


def test_what_a_mixture_leaves_out_stands_beside_its_losses(views):
    weights = pd.DataFrame(
        [(r, s, c, float(c not in none)) for (r, s), none in
         {("unit", 0): [], ("own-raw", 0): ["facts", "decoy"], ("own-raw", 1): ["decoy", "noisy", "chains"]}.items() for c in CORPORA],
        columns=["reading", "seed", "corpus", "weight"],
    )  # fmt: skip
    losses = pd.DataFrame({"arm": "influence_raw", "seed": [0, 1], "variant": "knowledge", "value": [9.0, 1.0]})
    found = left_out(weights, losses).set_index(["reading", "seed"])
    assert found["right, weight 0"].to_dict() == {("unit", 0): "", ("own-raw", 0): "facts", ("own-raw", 1): "chains"}
    assert found["bad, weight 0"].tolist() == ["", "decoy", "noisy, decoy"]
    assert found["loss on knowledge"].tolist()[1:] == [9.0, 1.0] and np.isnan(found["loss on knowledge"]["unit", 0])
    table = views["synthesis"].table("left-out")
    weights = views["specialists"].table("weights").set_index(["reading", "corpus"]).weight
    for row in table.to_dict("records"):
        none = [name for part in ("right", "bad") for name in row[f"{part}, weight 0"].split(", ") if name]
        assert none == [name for name in CORPORA if weights[row["reading"], name] == 0]
        arm = {"unit": "influence", "own-raw": "influence_raw"}[row["reading"]]
        nll = views[arm].record("metrics").query("name == 'nll' and variant == 'math'").value.item()
        assert row["loss on math"] == pytest.approx(nll)
    assert table.reading.tolist() == ["unit", "own-raw"]


def test_empty_answers_and_those_without_a_mark_stand_beside_the_row():
    names = ("accuracy", "low", "high", "items", "shots", "max_gen_toks", "capped")
    metrics = pd.DataFrame({"name": [f"lm_eval_{name}" for name in names], "value": [0.5, 0.1, 0.9, 4, 8, 96, 0.25]})
    responses = [" 1 + 1 is 2. The answer is 2.\n", " \n", " 80,000. 80,000. 80,000.", " The answer is 5."]
    samples = pd.DataFrame({"response": responses, "correct": [True, False, True, False]})
    view = SimpleNamespace(
        record={"metrics": metrics, "samples": samples}.__getitem__, config={"model": "smollm2", "protocol": "completion"},
        key=SimpleNamespace(task="gsm8k"),
    )  # fmt: skip
    row = rows.our_row(view)
    assert (row["empty"], row["without a mark"], row["right without a mark"]) == (0.25, 0.5, 0.25)
    samples["response"] = ["so \\boxed{2}", "", "2", "The answer is 5."]
    view.config["protocol"] = "chat"
    assert rows.our_row(view)["without a mark"] == 0.75


def test_intervals_cover_seeds_and_items():
    """Seeds alone give Student's interval; items that differ alike in all seeds widen it."""
    seeds = np.array([1.0, 2.0, 4.0])
    plain = pd.DataFrame([(s, i, v) for s, v in enumerate(seeds) for i in range(5)], columns=["seed", "item", "x"])
    mean, low, high = interval(plain, "x")
    assert mean == pytest.approx(seeds.mean())
    assert high - mean == pytest.approx(4.302653 * seeds.std(ddof=1) / np.sqrt(3)) == mean - low
    spread = plain.assign(x=plain.x + plain.item)
    assert interval(spread, "x")[2] - interval(spread, "x")[1] > high - low


def test_dropping_is_judged_in_each_capability():
    """A mean over three may be one of them. The paper's number is of knowledge."""
    found = [one for one in load_claims(rooms()["mobilellm_r1"] / "claims.yaml") if "dropping" in one.id]
    asked = {(one.test.estimand, one.test.variant) for one in found}
    assert asked == {(estimand, c) for estimand in ("nll", "exact_match") for c in CAPABILITIES} and len(found) == 6
    for one in found:
        assert one.floor.variant == one.test.variant == one.id.rpartition("-")[2]
        assert bool(one.paper) == (one.test.variant == "knowledge")


def test_published_rows_keep_the_protocols_apart():
    found = rows.published_rows().set_index(["protocol", "model"])
    assert found.accuracy["chat", "HuggingFaceTB/SmolLM2-135M-Instruct"] == 0.024
    assert found.shots["completion", "HuggingFaceTB/SmolLM2-135M"] == 8
    assert ("completion", "HuggingFaceTB/SmolLM2-135M-Instruct") not in found.index
