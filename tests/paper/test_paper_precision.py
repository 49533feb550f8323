"""bfloat16 in the common training loop: products in bfloat16, weights and moments in fp32, resumed alike."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tycho.lm.training import Recipe, Trainer


def trainer(bf16: bool, seen: list[torch.dtype] | None = None) -> Trainer:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 3))
    if seen is not None:
        model[0].register_forward_hook(lambda *call: seen.append(call[2].dtype))

    def batches(step: int) -> torch.Tensor:
        return torch.randn(6, 8, generator=torch.Generator().manual_seed(step))

    def loss(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(rows), rows[:, :3].argmax(dim=1))

    return Trainer(model, batches, loss, Recipe(steps=4, rate=1e-3, warmup=0, accumulate=2, bf16=bf16))


def test_products_are_bfloat16_and_what_is_learnt_is_kept_in_fp32():
    seen: list[torch.dtype] = []
    half, full = trainer(True, seen), trainer(False)
    start = half.model[0].weight.detach().clone()
    for a, b in zip(half, full, strict=True):
        assert abs(a.loss - b.loss) < 0.01
    assert set(seen) == {torch.bfloat16} and len(seen) == 8  # two parts a step
    moments = [value for state in half.optimizer.state.values() for value in state.values()]
    assert {value.dtype for value in [*half.model.parameters(), *moments]} == {torch.float32}
    moved = (half.model[0].weight - start).abs()
    assert torch.allclose(half.model[0].weight, full.model[0].weight, atol=2e-3) and moved.median() > 1e-3


def test_it_is_resumed_bit_for_bit():
    whole, first = trainer(True), trainer(True)
    list(whole)
    next(first)
    state = first.state()
    rest = trainer(True)
    rest.restore(state)
    list(rest)
    for a, b in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
        assert torch.equal(a, b)
