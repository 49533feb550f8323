"""A killed run continues to the same bits; a sweep equals its single runs; training does learn a group."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from methods.grokking import network, training
from methods.grokking.optimisers import OPTIMISERS
from tycho.tasks.groups import group, pairs, split


def setup(sizes: list[int], name: str = "Z11", hidden: int = 64) -> tuple[dict, network.Examples, network.Examples]:
    table = pairs(group(name))
    parts = [split(len(table), n, seed) for seed, n in enumerate(sizes)]
    generators = [torch.Generator().manual_seed(100 + r) for r in range(len(sizes))]
    state = training.start(network.initialise(group(name).order, hidden, generators))
    return state, network.examples(table, [a for a, _ in parts]), network.examples(table, [b for _, b in parts])


def unpadded(data: network.Examples, r: int) -> network.Examples:
    real = data.weight[r] > 0
    return network.Examples(*(field[[r]][:, real] for field in data))


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_resume_equals_uninterrupted(optimiser: str, tmp_path: Path) -> None:
    options = {"epochs": 30, "evaluate_at": range(0, 31, 5), "rate": 3e-3, "decay": 1e-3, "optimiser": optimiser}
    state, learn, test = setup([60, 40])
    whole = list(training.train(state, learn, test, **options))
    broken, _, _ = setup([60, 40])
    for point in training.train(broken, learn, test, **options):
        if point.epoch == 15:
            save_file(point.state, tmp_path / "state.safetensors")
        if point.epoch == 20:
            break
    resumed = load_file(tmp_path / "state.safetensors")
    rest = list(training.train(resumed, learn, test, **options))
    assert [point.epoch for point in rest] == [15, 20, 25, 30]
    assert resumed.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(resumed[name], value), name
    for a, b in zip(rest, whole[3:], strict=True):
        for x, y in zip(a[1:5], b[1:5], strict=True):
            assert torch.equal(x, y)


def test_a_run_in_two_halves_equals_one_run() -> None:
    state, learn, test = setup([60])
    list(training.train(state, learn, test, epochs=20, evaluate_at=[], rate=1e-3))
    other, _, _ = setup([60])
    for epochs in (7, 20):
        list(training.train(other, learn, test, epochs=epochs, evaluate_at=[], rate=1e-3))
    assert int(other["epoch"]) == 20
    assert all(torch.equal(other[name], value) for name, value in state.items())


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_sweep_equals_its_single_runs(optimiser: str) -> None:
    sizes, rates, decays = [30, 80, 55], [1e-3, 5e-3, 2e-3], [0.0, 1e-4, 1e-2]
    state, learn, test = setup(sizes)
    rate, decay = (torch.tensor(values)[:, None, None] for values in (rates, decays))
    sweep = list(training.train(state, learn, test, 10, range(11), rate, decay, optimiser))
    for r in range(3):
        own, _, _ = setup(sizes)
        own = training.select(own, torch.tensor([r]))
        parts = [unpadded(data, r) for data in (learn, test)]
        single = list(training.train(own, *parts, 10, range(11), rates[r], decays[r], optimiser))
        for a, b in zip(sweep, single, strict=True):
            assert torch.allclose(a.train_loss[r], b.train_loss[0], atol=1e-5)
            assert torch.allclose(a.test_loss[r], b.test_loss[0], atol=1e-5)
        assert torch.allclose(state["W"][r], own["W"][0], atol=1e-5)
        assert torch.allclose(state["V"][r], own["V"][0], atol=1e-5)


def test_evaluation_precedes_the_step() -> None:
    state, learn, test = setup([60])
    before = {name: value.clone() for name, value in state.items()}
    first = next(training.train(state, learn, test, 5, [0]))
    outputs = network.forward(before["W"], before["V"], test.left, test.right)
    assert first.epoch == 0 and torch.equal(first.state["W"], before["W"])
    assert torch.equal(first.test_loss, network.squared_error(outputs, test.target, test.weight)[0])


def test_dropping_a_network_leaves_the_others_alone() -> None:
    state, learn, test = setup([60, 60, 60])
    list(training.train(state, learn, test, 5, [], rate=1e-3))
    kept = training.select(state, torch.tensor([True, False, True]))
    assert kept["W"].shape[0] == 2 and int(kept["epoch"]) == 5
    parts = [network.Examples(*(field[[0, 2]] for field in data)) for data in (learn, test)]
    list(training.train(kept, *parts, 10, [], rate=1e-3))
    list(training.train(state, learn, test, 10, [], rate=1e-3))
    assert torch.allclose(kept["W"], state["W"][[0, 2]], atol=1e-6)


@pytest.mark.parametrize("name", ["Z11", "D5"])
def test_learns_a_group_from_four_fifths_of_its_table(name: str) -> None:
    """Abelian and not: unseen products come out right, so a rule was learnt and not a table."""
    order = group(name).order
    state, learn, test = setup([round(0.85 * order**2)], name, hidden=256)
    *_, last = training.train(state, learn, test, 1500, [1500], rate=5e-3, decay=3e-4)
    assert last.train_accuracy == 1 and last.test_accuracy >= 0.9


def test_schedule_is_dense_first_and_ends_at_the_end() -> None:
    epochs = training.schedule(400, dense=20, every=25)
    assert epochs[:20] == list(range(20)) and epochs[-1] == 400 and set(range(0, 401, 25)) <= set(epochs)
    assert epochs == sorted(set(epochs))


def test_unknown_optimiser_is_refused() -> None:
    state, learn, test = setup([60])
    with pytest.raises(ValueError, match="adam, adamw, sgd, muon"):
        next(training.train(state, learn, test, 1, [0], optimiser="lion"))
