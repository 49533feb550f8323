"""The quick gradients against the plain ones: forward, error and backward written one after the other."""

from __future__ import annotations

import pytest
import torch

from methods.grokking import network
from methods.grokking.step import Gradients
from tycho.tasks import groups


@pytest.mark.parametrize("activation", list(network.ACTIVATIONS))
@pytest.mark.parametrize("name", ["Z7", "Z23", "S3"])
def test_quick_gradients_are_the_plain_ones(name, activation):
    """Networks of different training sizes in one batch, so that some examples are padding."""
    group = groups.group(name)
    table = groups.pairs(group)
    generator = torch.Generator().manual_seed(1)
    sizes = [group.order**2, group.order, group.order**2 // 2]
    seen = network.examples(table, [groups.split(group.order**2, n, generator)[0] for n in sizes])
    first = network.initialise(group.order, 40, [generator] * 3)
    W, V = first["W"], first["V"]
    outputs = network.forward(W, V, seen.left, seen.right, activation)
    _, error = network.squared_error(outputs, seen.target, seen.weight, "classes")
    wanted = network.backward(W, V, left=seen.left, right=seen.right, error=error, activation=activation)
    quick = Gradients(seen, group.order, 40, activation)
    for _ in range(2):  # the second call works in the first one's memory
        found = quick(W, V)
        for part in ("W", "V"):
            assert torch.allclose(found[part], wanted[part], rtol=1e-4, atol=1e-6 * float(wanted[part].abs().max()))


def test_blocks_of_examples_add_up(monkeypatch):
    """Many small blocks give what one gives."""
    from methods.grokking import step

    group = groups.group("Z11")
    generator = torch.Generator().manual_seed(2)
    seen = network.examples(groups.pairs(group), [groups.split(121, 100, generator)[0] for _ in range(2)])
    first = network.initialise(11, 16, [generator] * 2)
    whole = Gradients(seen, 11, 16)(first["W"], first["V"])
    monkeypatch.setattr(step, "BLOCK", 16 * 7)
    parts = Gradients(seen, 11, 16)(first["W"], first["V"])
    for name in whole:
        assert torch.allclose(whole[name], parts[name], rtol=1e-4, atol=1e-7)
