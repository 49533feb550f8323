"""The room of CoGS: pruned training, batches of networks, and rows of many seeds from one job before the judge."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from methods.cogs import closed_forms, decomposition, estimands, pruning, published
from methods.cogs.method import CogsConfig, points
from methods.cogs.train import examples, initial_weights
from methods.grokking import network, training
from reports.claims import Side, load_claims
from reports.collect import collect, judge, lookup
from reports.estimands import Records, values
from tycho.adapter import JobView, Run
from tycho.config import load_settings
from tycho.files import load_state, save_state
from tycho.jobs import plan
from tycho.keys import JobKey, setting
from tycho.registry import rooms
from tycho.tasks import groups
from tycho.worker import run_process

DECAY = 2e-3


def start(seeds: list[int]) -> tuple[dict[str, Tensor], network.Examples, network.Examples]:
    """Networks of 48 nodes on Z7 in float64; with this decay two thirds of the nodes die within 1200 epochs."""
    table = groups.pairs(groups.group("Z7"))
    first = network.initialise(7, 48, [torch.Generator().manual_seed(s) for s in seeds], dtype=torch.float64)
    rows = [groups.split(49, 42, seed) for seed in seeds]
    seen, unseen = (network.examples(table, part, torch.float64) for part in zip(*rows, strict=True))
    return training.start(first), seen, unseen


@pytest.fixture(scope="module")
def grown() -> tuple[dict[str, Tensor], network.Examples, network.Examples]:
    state, seen, unseen = start([0, 1, 2])
    assert not list(training.train(state, seen, unseen, 1200, [], 1e-2, DECAY))
    return state, seen, unseen


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


def outputs(state: dict[str, Tensor], data: network.Examples) -> Tensor:
    return network.forward(state["W"], state["V"], data.left, data.right)


# --- Pruning ---------------------------------------------------------------------------------------------------------


def test_pruning_keeps_the_living_nodes_of_every_network_with_their_moments(grown) -> None:
    state, seen, _ = grown
    pruned = pruning.prune(state)
    lives = [[j for j in range(48) if state["W"][r, :, j].abs().max() >= pruning.DEAD] for r in range(3)]
    width = max(map(len, lives))
    assert min(map(len, lives)) < width < 30  # the batch is padded, and most nodes are gone
    assert pruned.keys() == state.keys()
    for name in ("W", "optimiser.W.mean", "optimiser.W.square"):
        assert pruned[name].shape == (3, 14, width)
        for r, alive in enumerate(lives):
            assert torch.equal(pruned[name][r, :, : len(alive)], state[name][r][:, alive])
    for name in ("V", "optimiser.V.mean", "optimiser.V.square"):
        assert pruned[name].shape == (3, width, 7)
        for r, alive in enumerate(lives):
            assert torch.equal(pruned[name][r, : len(alive)], state[name][r][alive])
    assert int(pruned["epoch"]) == 1200 and torch.equal(pruned["optimiser.steps"], state["optimiser.steps"])
    assert (outputs(pruned, seen) - outputs(state, seen)).abs().max() < 1e-11
    assert pruning.prune(pruned) is pruned


def test_a_network_whose_nodes_are_all_dead_keeps_one() -> None:
    state, _, _ = start([0])
    state["W"] *= 1e-9
    assert pruning.prune(state)["W"].shape == (1, 14, 1)


def test_pruned_training_equals_training(grown) -> None:
    state, seen, unseen = grown
    whole, pruned = copied(state), copied(pruning.prune(state))
    plain = list(training.train(whole, seen, unseen, 1600, range(1200, 1601, 100), 1e-2, DECAY))
    loop = list(pruning.train(pruned, seen, unseen, 1600, range(1200, 1601, 100), 1e-2, DECAY))
    assert [point.epoch for point in loop] == [point.epoch for point in plain]
    assert loop[-1].state["W"].shape[2] < 30
    for a, b in zip(plain, loop, strict=True):
        assert torch.allclose(a.train_loss, b.train_loss, atol=1e-9)
        assert torch.allclose(a.test_loss, b.test_loss, atol=1e-9)
    assert torch.allclose(outputs(whole, unseen), outputs(loop[-1].state, unseen), atol=1e-8)


def test_pruned_training_resumes_to_the_same_bits_from_every_evaluation(tmp_path: Path) -> None:
    at = [0, 620, 750, 900, 1000, 1100]
    state, seen, unseen = start([0, 1])
    saved = {}
    for point in pruning.train(state, seen, unseen, 1100, at, 1e-2, DECAY):
        save_state(tmp_path / f"{point.epoch}.safetensors", point.state)
        saved[point.epoch] = copied(point.state)
    assert saved[1000]["W"].shape[2] < saved[750]["W"].shape[2]  # nodes die on both sides of some evaluations
    for epoch in at[:-1]:
        resumed = load_state(tmp_path / f"{epoch}.safetensors")
        *_, last = pruning.train(resumed, seen, unseen, 1100, [e for e in at if e > epoch], 1e-2, DECAY)
        assert last.epoch == 1100 and last.state.keys() == saved[1100].keys()
        assert all(torch.equal(last.state[name], value) for name, value in saved[1100].items())


# --- Batches and points ----------------------------------------------------------------------------------------------


def run_of(tmp_path: Path, seed: int, networks: int) -> Run:
    key = JobKey("quick", "cogs", "trained", "z23", seed)
    config = CogsConfig(networks=networks, width=16)
    return Run(key, "train", config, job=JobView(key, tmp_path), work=tmp_path / f"{seed}-{networks}")


def test_a_network_is_the_same_in_whichever_batch_it_is(tmp_path: Path) -> None:
    one, three = run_of(tmp_path, 4, 1), run_of(tmp_path, 1, 3)  # seed 4 alone; seeds 3, 4, 5
    for name, value in initial_weights(three, 16).items():
        assert torch.equal(value[1], initial_weights(one, 16)[name][0])
        assert not torch.equal(value[1], value[0])
    for part, alone in zip(examples(three), examples(one), strict=True):
        assert all(torch.equal(field[1], single[0]) for field, single in zip(part, alone, strict=True))


def test_start_and_split_are_those_of_the_papers_code(tmp_path: Path) -> None:
    run = run_of(tmp_path, 0, 2)
    largest = initial_weights(run, 4096)["W"].abs().max()
    assert 0.999 * 23**-0.5 < largest <= 23**-0.5
    seen, unseen = examples(run)
    assert seen.left.shape == (2, 476) and unseen.left.shape == (2, 53)  # ceil(0.1 * 23^2) are held out


def test_the_scale_paper_is_the_published_grid() -> None:
    scale = yaml.safe_load((rooms()["cogs"] / "scales.yaml").read_text())["paper"]
    config = CogsConfig(**scale["config"])
    cells = {(p.get("weight_decay", config.weight_decay), p.get("width", config.width)) for p in points(config)}
    decays, widths = (1e-5, 5e-5, 1e-4, 2e-4, 5e-4), (256, 512, 1024, 2048)
    assert cells == {(decay, width) for decay in decays for width in widths} and len(points(config)) == 20
    assert scale["seeds"] * config.networks * len(scale["tasks"]) * len(cells) == 300
    assert len(points(config.model_copy(update={"crossed": False}))) == 8


# --- The classifier's instances ----------------------------------------------------------------------------------------


def test_disguise_changes_no_output_but_by_its_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    for product, z in closed_forms.constructed(11, generator).items():
        loss = 20 / 11 if "xi" in product else 0
        W, V = closed_forms.disguised(z, generator, noise=0.0)
        assert V.shape[0] == z.shape[-1] + 40
        assert float(closed_forms.network_loss(W[None], V[None])) == pytest.approx(loss, abs=0.02)


def test_constructed_phases_keep_away_from_where_families_meet() -> None:
    nu = closed_forms.between(0.5, 0.6, (1000,), torch.Generator().manual_seed(1), torch.pi / 2)
    angle = nu.angle() % (torch.pi / 2)
    assert angle.min() >= 0.5 - 1e-9 and angle.max() <= 0.6 + 1e-9
    assert len((nu.angle() // (torch.pi / 2)).unique()) == 4


# --- Before the judge --------------------------------------------------------------------------------------------------


def test_published_shares_add_up_and_are_those_of_the_claims() -> None:
    for d in (23, 71, 127):
        assert sum(by_order[d] for by_order in published.SHARES.values()) == pytest.approx(1, abs=1e-4)
    assert set(published.TABLE) <= set(published.MEASURES) and set(published.SHARES) - {"other product"} <= set(
        published.WRITTEN
    )
    claims = {claim.id: claim for claim in load_claims(rooms()["cogs"] / "claims.yaml")}
    for d in (23, 71, 127):
        claim = claims[f"cogs.order-four-share-{d}"]
        assert claim.paper["trained"] == claim.test.than == published.SHARES["nu=i * xi"][d]
    assert claims["cogs.order-four-error"].paper["trained"] == published.TABLE["error, order 4"][23]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    found = plan(load_settings({"scale": "smoke", "results": str(tmp_path_factory.mktemp("cogs")), "only": ["cogs"]}))
    for process in found.ordered():
        assert run_process(found, process) == {}
    return found, collect(found)[0]


def test_rows_of_all_networks_of_a_job_are_judged_as_seeds(smoke) -> None:
    found, collected = smoke
    records = Records.of(collected, "smoke", "cogs")
    for estimand, kind in (("test_accuracy", "metric"), ("mean_order", "metric"), ("explained", "frequency")):
        frame = values(
            records,
            Side(arm="trained", task="z23", estimand=estimand, variant="", setting=setting(epochs=60)),
            lookup,
        )
        assert sorted(frame.seed.unique()) == [0, 1]
        assert len(frame) == (2 if kind == "metric" else 22)
    verdicts, problems = judge(found, collected)
    assert not problems
    reasons = verdicts.set_index("id").reason
    assert not reasons.str.contains("failed").any(), reasons[reasons.str.contains("failed")].to_dict()
    elsewhere = {"cogs.order-four-share-71", "cogs.order-four-share-127", "cogs.order-four-grows-with-d"}
    assert set(reasons.index[reasons.str.contains("is not among the jobs")]) >= elsewhere


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_job_killed_in_any_point_of_its_sweep_leaves_the_same_bytes(smoke, place, tmp_path, monkeypatch) -> None:
    found, _ = smoke
    again = plan(load_settings({"scale": "smoke", "results": str(tmp_path), "only": ["cogs"], "checkpoint_seconds": 0}))
    process = again.process("cogs", "trained", "z23", "0")
    save = Run.checkpoint

    def killed(run, step, state):
        saved = save(run, step, state)
        if step == 30 and state()["place"] == place:
            raise KeyboardInterrupt
        return saved

    monkeypatch.setattr(Run, "checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        run_process(again, process)
    monkeypatch.undo()
    assert run_process(again, process) == {}
    key = process.jobs[0].key
    for name in ("model/snapshots.safetensors", "train/metrics.parquet", "analyse/metrics.parquet"):
        assert (found.view(key).folder / name).read_bytes() == (again.view(key).folder / name).read_bytes()


def test_shares_of_frequencies_agree_with_the_census(smoke) -> None:
    """Samples, one a frequency, against the metrics that the tables module counts."""
    _, collected = smoke
    metrics = collected.metrics[collected.metrics.step.isna()]
    for arm, where in (("trained", "epochs=30"), ("trained", "epochs=60,width=32"), ("no_weight_decay", "epochs=60")):
        mine = collected.samples[(collected.samples.arm == arm) & (collected.samples.setting == where)]
        mine = mine[mine.variant == ""]
        share = mine.assign(six=mine.answer == "6").groupby("seed").six.mean()
        kept = metrics[(metrics.arm == arm) & (metrics.setting == where) & (metrics.variant == "")]
        assert kept[kept.name == "order_6"].set_index("seed").value.to_dict() == pytest.approx(share.to_dict())
        named = mine.groupby("seed").correct.mean()
        assert kept[kept.name == "explained"].set_index("seed").value.to_dict() == pytest.approx(named.to_dict())


def test_a_wider_tolerance_names_at_least_as_many_and_has_its_own_chance(smoke) -> None:
    _, collected = smoke
    rules = list(decomposition.RULES)
    samples = collected.samples[collected.samples.split == "frequency"]
    named = samples.pivot_table(index=["arm", "setting", "seed", "item"], columns="variant", values="correct")
    assert sorted(named) == sorted(rules)
    assert (named[rules[2]] >= named[rules[1]]).all() and (named[rules[1]] >= named[rules[0]]).all()
    chance = collected.metrics[collected.metrics.name == "unrelated_named"]
    assert sorted(chance.variant.unique()) == sorted(rules) and chance.groupby("variant").setting.nunique().eq(2).all()


def test_the_tolerances_of_the_rules_are_those_that_the_claims_state() -> None:
    claims = {claim.id: claim for claim in load_claims(rooms()["cogs"] / "claims.yaml")}
    for name in ("explained", "explained-at-a-wider-tolerance", "explained-later"):
        claim = claims[f"cogs.{name}"]
        tolerance, _ = decomposition.RULES[claim.test.variant]
        assert f"within {tolerance:g} of" in claim.says


def test_sweeps_include_the_arms_own_point(smoke) -> None:
    _, collected = smoke
    records = Records.of(collected, "smoke", "cogs")
    where = {"arm": "trained", "task": "z23", "variant": "", "setting": "epochs=60"}
    widths = estimands.mean_order_by_width(records, **where)
    assert sorted(2 ** widths.x.unique()) == pytest.approx([32, 48])
    assert len(widths) == 4
    decays = estimands.order_4_by_weight_decay(records, **where)
    assert sorted(10 ** decays.x.unique()) == pytest.approx([5e-5, 1e-3])
    assert estimands.order_4_by_weight_decay(records, **where | {"arm": "no_weight_decay"}).empty
