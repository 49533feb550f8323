"""The grid against exhaustive enumeration of bfloat16, and sparsity against differing 16-bit words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from methods.path_not_taken import lattice

MAX = 0x7F7F  # code of the largest finite value


def value(codes: np.ndarray) -> Tensor:
    return torch.from_numpy(codes.astype(np.uint16).view(np.int16)).view(torch.bfloat16)


EVERY = value(np.concatenate([np.arange(MAX + 1), 0x8000 + np.arange(MAX + 1)]))


@pytest.mark.parametrize("sign", [0, 0x8000])
def test_prop_e3_the_smallest_relative_gap_of_bf16_is_two_to_minus_eight_exactly(sign: int) -> None:
    below, above = value(sign + np.arange(MAX)).double(), value(sign + np.arange(1, MAX + 1)).double()
    gap = (above - below).abs() / torch.maximum(above.abs(), below.abs())
    assert gap.min() == 2.0**-8
    assert not lattice.unchanged(below, above, eta=1e-3).any()
    assert not lattice.unchanged(below, above, eta=2.0**-8 * 0.999999).any()
    assert lattice.unchanged(below, above, eta=2.0**-8).any()  # so the bound cannot be larger


codes = st.integers(0, 0xFFFF).filter(lambda code: code & 0x7FFF <= MAX)


@given(st.lists(st.tuples(codes, codes), min_size=1, max_size=50), st.floats(1e-9, 2.0**-8, exclude_max=True))
def test_the_probe_is_equality_of_stored_values(pairs: list[tuple[int, int]], eta: float) -> None:
    base, tuned = (value(np.array(side)) for side in zip(*pairs, strict=True))
    assert torch.equal(lattice.changed(base, tuned), ~lattice.unchanged(base, tuned, eta))


def test_uncast_the_probe_errs_both_ways() -> None:
    assert not lattice.unchanged(torch.tensor(1.0), torch.tensor(1.0035))
    assert not lattice.changed(torch.tensor(1.0), torch.tensor(1.0035))
    boundary = 1 + 2.0**-8
    low, high = torch.tensor(boundary - 1e-4), torch.tensor(boundary + 1e-4)
    assert lattice.unchanged(low, high)
    assert lattice.changed(low, high)


@given(st.integers(0, 2**32), st.floats(1e-7, 1e-2))
def test_sparsity_counts_differing_words(seed: int, step: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(40, 30, generator=generator).bfloat16()
    tuned = (base.float() + step * torch.randn(40, 30, generator=generator)).bfloat16()
    words = [tensor.view(torch.int16).numpy().view(np.uint16) for tensor in (base, tuned)]
    both_zero = (base == 0) & (tuned == 0)
    expected = 1 - ((words[0] != words[1]) & ~both_zero.numpy()).sum() / base.numel()
    assert lattice.sparsity(lattice.changed(base, tuned)) == expected


def test_signed_zeros_are_equal() -> None:
    assert not lattice.changed(torch.tensor([0.0]), torch.tensor([-0.0])).any()


@pytest.mark.parametrize("bits", range(1, 8))
def test_cast_finds_the_nearest_value_of_the_grid_ties_to_even(bits: int) -> None:
    mantissas = torch.arange(2**bits, 2 ** (bits + 1)).double()
    grid = torch.cat([mantissas * 2.0**power for power in range(-3, 3)])
    middle = (grid[1:] + grid[:-1]) / 2
    given = torch.cat([grid, middle, middle * (1 + 1e-6), middle * (1 - 1e-6), torch.linspace(1, 90, 999).double()])
    given = given[(given >= grid[0]) & (given <= grid[-1])]
    distance = (given[:, None] - grid).abs()
    nearest = distance.argmin(dim=1)
    tie = distance.gather(1, nearest[:, None]) == distance.gather(1, (nearest + 1).clamp(max=len(grid) - 1)[:, None])
    # argmin takes the lower of two; grid points of even index have even mantissas.
    expected = grid[nearest + (tie[:, 0] & (nearest % 2 == 1) & (nearest + 1 < len(grid))).long()]
    for sign in (1, -1):
        assert torch.equal(lattice.cast(sign * given.float(), bits).double(), sign * expected)


def test_cast_to_seven_bits_by_hand_is_bfloat16() -> None:
    given = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    code = given.view(torch.int32)
    by_hand = ((code + 0x7FFF + ((code >> 16) & 1)) >> 16 << 16).view(torch.float32)
    assert torch.equal(lattice.cast(given).float(), by_hand)


@pytest.mark.parametrize("bits", [0, 8])
def test_no_other_grid(bits: int) -> None:
    with pytest.raises(ValueError, match="bits must be 1 to 7"):
        lattice.cast(torch.ones(1), bits)


def test_neighbour_of_every_value_is_nextafter() -> None:
    inner = EVERY[EVERY.float().abs() < EVERY.float().max()]
    for up, towards in ((True, torch.inf), (False, -torch.inf)):
        expected = torch.nextafter(inner, torch.tensor(towards, dtype=torch.bfloat16))
        assert torch.equal(lattice.neighbour(inner, torch.full(inner.shape, up)), expected)


@pytest.mark.parametrize("bits", [2, 5])
def test_neighbour_on_a_coarser_grid(bits: int) -> None:
    grid = lattice.cast(EVERY[EVERY.float().abs() < 1e38], bits).float().unique()
    inner = grid[1:-1].bfloat16()
    for up, expected in ((True, grid[2:]), (False, grid[:-2])):
        assert torch.equal(lattice.neighbour(inner, torch.full(inner.shape, up), bits).float(), expected)
