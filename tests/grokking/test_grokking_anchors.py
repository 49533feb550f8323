"""The anchors' ideas against their definitions, brute force, and networks whose readings are known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from methods.grokking import anchor_training, anchors, landscape, progress, theory
from methods.grokking.network import squared_error
from reports.claims import load_claims
from tycho.registry import rooms
from tycho.tasks import groups


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- gradients and losses --------------------------------------------------------------------------------------------


def test_orthogonal_gradients_are_orthogonal_and_as_long() -> None:
    weight, gradient = random(7, 5), random(7, 5, seed=1)
    found = anchors.orthogonal(gradient, weight)
    assert abs((weight * found).sum()) < 1e-12 * weight.norm() * gradient.norm()
    assert torch.isclose(found.norm(), gradient.norm())
    assert torch.allclose(anchors.orthogonal(found, weight), found)
    assert torch.equal(anchors.orthogonal(gradient, torch.zeros(7, 5).double()), gradient)


def test_grokfast_is_the_sum_of_a_gradient_and_its_past() -> None:
    memory: dict[str, Tensor] = {}
    past = [random(4, seed=s) for s in range(5)]
    found = [anchors.grokfast({"w": g}, memory, alpha=0.9, amplify=3.0)["w"] for g in past]
    assert torch.allclose(found[0], 4 * past[0])
    for t in range(5):  # h_t = alpha^t g_0 + (1 - alpha) sum_{s >= 1} alpha^(t - s) g_s, written out
        slow = 0.9**t * past[0] + sum(0.1 * 0.9 ** (t - s) * past[s] for s in range(1, t + 1))
        assert torch.allclose(found[t], past[t] + 3 * slow)


def test_stablemax_is_a_smooth_distribution_that_does_not_overflow() -> None:
    logits = random(6, 9) * 10
    probabilities = anchors.stablemax_log(logits).exp()
    assert torch.allclose(probabilities.sum(dim=-1), torch.ones(6).double())
    by_hand = [[x + 1 if x >= 0 else 1 / (1 - x) for x in row] for row in logits.tolist()]
    assert torch.allclose(probabilities, torch.tensor([[s / sum(row) for s in row] for row in by_hand]).double())
    far = anchors.stablemax_log(torch.tensor([1e4, -1e4, 0.0]))
    assert far.isfinite().all() and far[1] < -15
    # continuous, and so is the slope, where the two halves meet
    x = torch.tensor([-1e-7, 1e-7], dtype=torch.float64, requires_grad=True)
    s = torch.where(x >= 0, x + 1, 1 / (1 - x))
    assert torch.allclose(torch.autograd.grad(s.sum(), x)[0], torch.ones(2).double(), atol=1e-6)


@pytest.mark.parametrize("kind", anchors.LOSSES)
def test_cross_entropy_is_the_mean_over_examples_and_its_slope_is_finite(kind: str) -> None:
    logits = random(5, 4).requires_grad_()
    target = torch.tensor([0, 3, 1, 1, 2])
    value = anchors.cross_entropy(logits, target, kind)
    each = torch.stack([-anchors.LOSSES[kind](logits[i])[t] for i, t in enumerate(target)])
    assert torch.isclose(value, each.mean())
    assert torch.autograd.grad(value, logits)[0].isfinite().all()
    if kind == "softmax":
        assert torch.isclose(value, torch.nn.functional.cross_entropy(logits, target))


# --- networks --------------------------------------------------------------------------------------------------------


def test_the_transformer_by_tables_is_the_transformer_by_sequences() -> None:
    """Against PyTorch's causal attention over all three positions, read at the last."""
    order, width, heads = 7, 16, 4
    p = {n: v.double() for n, v in anchors.transformer_start(order, width, torch.Generator().manual_seed(0)).items()}
    p |= {"inner_bias": random(4 * width), "outer_bias": random(width, seed=2)}
    left, right, _ = groups.pairs(groups.group("Z7")).unbind(dim=1)
    tokens = torch.stack([left, right, torch.full_like(left, order)], dim=1)
    stream = p["embed"][tokens] + p["place"]
    q, k, v = ((stream @ p[n]).view(-1, 3, heads, width // heads).transpose(1, 2) for n in ("query", "key", "value"))
    read = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    stream = stream + read.transpose(1, 2).reshape(-1, 3, width) @ p["mix"]
    stream = stream + torch.relu(stream @ p["inner"] + p["inner_bias"]) @ p["outer"] + p["outer_bias"]
    expected = (stream @ p["output"])[:, -1]
    assert torch.allclose(anchors.transformer(p, left, right, heads), expected, atol=1e-12)


def test_the_mlp_by_look_up_is_the_mlp_by_one_hot() -> None:
    p = anchors.mlp_start(5, 12, torch.Generator().manual_seed(1))
    left, right, _ = groups.pairs(groups.group("Z5")).unbind(dim=1)
    one_hot = torch.cat([torch.nn.functional.one_hot(part, 5) for part in (left, right)], dim=1).float()
    expected = torch.relu(torch.relu(one_hot @ p["embed"]) @ p["hidden"]) @ p["output"]
    assert torch.allclose(anchors.mlp(p, left, right), expected, atol=1e-6)


SETTINGS = [
    ("mlp", "softmax", "grokfast", "adam"),
    ("mlp", "stablemax", "plain", "adam"),
    ("mlp", "softmax", "orthogonal", "adamw"),
    ("transformer", "softmax", "plain", "adamw"),
]


@pytest.mark.parametrize(("model", "loss", "gradient", "optimiser"), SETTINGS)
def test_training_learns_and_resumes_to_the_same_bits(model, loss, gradient, optimiser, tmp_path: Path) -> None:
    table = groups.pairs(groups.group("Z7"))
    seen, unseen = (table[rows] for rows in groups.split(49, 30, 0))
    options = (seen, unseen, 40, [0, 20, 40], model, loss, gradient, optimiser, 1e-2, 1e-3)

    def fresh() -> dict[str, Tensor]:
        start = anchors.NETWORKS[model][0](7, 16, torch.Generator().manual_seed(0))
        return start | {"epoch": torch.tensor(0)}

    whole = fresh()
    points = list(anchor_training.train(whole, *options))
    assert points[-1].values["train_loss"] < 0.9 * points[0].values["train_loss"]
    halved = fresh()
    for point in anchor_training.train(halved, *options):
        if point.epoch == 20:
            save_file({n: v.detach() for n, v in point.state.items()}, tmp_path / "state")
            break
    rest = load_file(tmp_path / "state")
    assert [point.epoch for point in anchor_training.train(rest, *options)] == [20, 40]
    assert rest.keys() == whole.keys()
    assert all(torch.equal(rest[name], whole[name]) for name in whole)


# --- progress measures -----------------------------------------------------------------------------------------------


def perfect(order: int, frequencies: list[int]) -> Tensor:
    """2/M sum_k cos k(x + y - z): the one-hot sum less its mean, if all frequencies are there."""
    h = torch.arange(order).double()
    away = h[:, None, None] + h[:, None] - h
    return sum(2 / order * torch.cos(2 * math.pi * k * away / order) for k in frequencies)


def loss(logits: Tensor) -> float:
    order = len(logits)
    target = groups.group(f"Z{order}").table.flatten()[None]
    weight = torch.full((1, order**2), 1 / order**2, dtype=torch.float64)
    return float(squared_error(logits.view(1, order**2, order), target, weight)[0])


def test_waves_are_orthonormal_and_take_outputs_apart() -> None:
    waves = progress.sum_waves(7).view(6, 49)
    assert torch.allclose(waves @ waves.T, torch.eye(6).double(), atol=1e-12)
    logits = random(7, 7, 5)
    every = [1, 2, 3]
    parts = [progress.part(logits, [k]) for k in every]
    assert torch.allclose(progress.part(logits, every), sum(parts))
    assert torch.allclose(progress.power(logits), torch.stack([part.square().sum() for part in parts]))
    assert torch.allclose(progress.excluded(logits, every) + sum(parts), logits)
    with pytest.raises(ValueError, match="odd"):
        progress.sum_waves(8)


def test_progress_measures_of_a_network_that_adds_by_trigonometry() -> None:
    logits = perfect(11, [1, 2, 3, 4, 5])
    assert abs(loss(logits)) < 1e-12
    assert abs(loss(progress.restricted(logits, [1, 2, 3, 4, 5]))) < 1e-12
    for missing in ([2], [1, 5]):  # a frequency holds 2/M of the squared length of every target
        assert abs(loss(progress.excluded(logits, missing)) - 2 * len(missing) / 11) < 1e-12
    some = perfect(11, [2, 4])
    assert progress.key_frequencies(some) == [2, 4]
    assert torch.allclose(progress.restricted(some + 5, [2, 4]), some + 5)  # the mean is put back


def test_waves_that_all_classes_have_in_common_do_not_count() -> None:
    """Softmax and the centred squared loss do not see them."""
    h = torch.arange(11).double()
    common = 100 * torch.cos(2 * math.pi * 4 * (h[:, None] + h) / 11)[..., None]
    outputs = perfect(11, [2]) + 0.01 * random(11, 11, 11)
    assert progress.key_frequencies(outputs + common) == progress.key_frequencies(outputs) == [2]
    for keys in ([2], [2, 4]):
        assert torch.isclose(progress.wave_share(outputs + common, keys), progress.wave_share(outputs, keys))
    assert torch.isclose(progress.wave_share(perfect(11, [2, 4]), [2]), torch.tensor(0.5).double())


def test_what_a_memoriser_that_commutes_has_in_five_frequencies_is_below_the_claims_margin() -> None:
    """Half of the table of Z53 and its mirror image right, nothing elsewhere."""
    table = groups.pairs(groups.group("Z53"))
    outputs = torch.zeros(53, 53, 53).double()
    for left, right, target in table[groups.split(53**2, 1404, 0)[0]].tolist():
        outputs[left, right, target] = outputs[right, left, target] = 1
    strongest = (1 + progress.power(progress.visible(outputs)).topk(5).indices).tolist()
    share = float(progress.wave_share(outputs, strongest))
    assert abs(share - 5 * 0.75 / 26) < 0.01
    claims = {claim.id: claim for claim in load_claims(rooms()["grokking"] / "claims.yaml")}
    assert share < claims["grokking.circuit-before-accuracy"].test.margin


def test_gini_and_spectrum() -> None:
    assert abs(progress.gini(torch.ones(8).double())) < 1e-12
    assert torch.isclose(progress.gini(torch.tensor([0.0, 0, 0, 7])), torch.tensor(0.75))
    values = random(9).abs()
    pairs = (values[:, None] - values).abs().sum() / (2 * 9 * values.sum())  # the definition
    assert torch.isclose(progress.gini(values), pairs)
    h = torch.arange(9).double()
    spectrum = progress.embedding_spectrum(torch.stack([torch.cos(2 * math.pi * 2 * h / 9), 0 * h], dim=1))
    assert spectrum.argmax() == 2 and spectrum[2] ** 2 > 0.999 * spectrum.square().sum()


# --- the landscape ---------------------------------------------------------------------------------------------------


def test_on_the_full_table_every_frequency_is_a_maximum_and_survives() -> None:
    group = groups.group("Z11")
    left, right, target = groups.pairs(group).unbind(dim=1)
    nodes = landscape.fourier_nodes(11, torch.Generator().manual_seed(0))
    energy = theory.energy(nodes, left, right, target)
    assert torch.allclose(energy, torch.full((5,), landscape.wave_energy(11, 1.0)).double())
    assert theory.energy_gradient(nodes, left, right, target).sub(4 * energy * nodes).abs().max() < 1e-9  # degree 4
    basis, component = groups.isotypic_basis(group)
    assert landscape.survival(nodes, left, right, target, basis, component, steps=50).all()


def test_on_little_data_a_token_spike_beats_the_wave() -> None:
    """E of both against their formulas at M = 41, and frequencies do not survive on a tenth of the table."""
    group = groups.group("Z41")
    table = groups.pairs(group)
    basis, component = groups.isotypic_basis(group)
    nodes = landscape.fourier_nodes(41, torch.Generator().manual_seed(0))
    rows, _ = groups.split(1681, 1000, 0)
    left, right, target = table[rows].unbind(dim=1)
    share = 1000 / 1681
    spike = torch.zeros(82, 41).double()
    spike[torch.arange(41), torch.arange(41)] = 1
    assert abs(theory.energy(spike, left, right, target).mean() / landscape.spike_energy(41, share) - 1) < 0.1
    assert abs(theory.energy(nodes, left, right, target).mean() / landscape.wave_energy(41, share) - 1) < 0.1
    few = table[groups.split(1681, 168, 0)[0]].unbind(dim=1)
    assert landscape.survival(nodes, *few, basis, component).double().mean() < 0.2
