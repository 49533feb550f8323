"""Masks against sorting by hand, overlaps and stripes against enumeration and their expectations."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from methods.path_not_taken import masks


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(values: Tensor, share: float, top: bool) -> list[bool]:
    """Sort, take the share, and everything that ties with the last one taken."""
    sizes = [abs(float(v)) for v in values.flatten()]
    last = sorted(sizes, reverse=top)[max(1, round(share * len(sizes))) - 1]
    return [size >= last if top else size <= last for size in sizes]


@given(
    st.lists(st.integers(-6, 6), min_size=1, max_size=60),
    st.floats(0.01, 1.0),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_largest_and_smallest_by_sorting(values: list[int], share: float, dtype: torch.dtype) -> None:
    given_values = torch.tensor(values, dtype=dtype)[None]
    assert masks.largest(given_values, share).flatten().tolist() == by_hand(given_values, share, top=True)
    assert masks.smallest(given_values, share).flatten().tolist() == by_hand(given_values, share, top=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_fractions_are_met_up_to_ties(share: float, dtype: torch.dtype) -> None:
    weights = (0.02 * normal(200, 300, seed=0)).to(dtype)
    for mask in (masks.largest(weights, share), masks.smallest(weights, share)):
        assert share <= masks.density(mask) <= share + (0.01 if dtype == torch.bfloat16 else 1e-9)


def test_masks_follow_a_permutation_of_their_weights() -> None:
    weights = (0.02 * normal(40, 30, seed=0)).bfloat16()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert torch.equal(masks.smallest(weights, 0.3)[order], masks.smallest(weights[order], 0.3))


@given(st.lists(st.floats(0, 100, width=32), min_size=1, max_size=40), st.data())
def test_order_statistic_is_sorting(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    for dtype in (torch.float32, torch.bfloat16):
        given_values = torch.tensor(values).to(dtype)
        assert masks.order_statistic(given_values, k) == given_values.sort().values[k - 1]


def test_principal_is_of_the_reconstruction() -> None:
    weights = normal(30, 20, seed=0)
    left, values, right = np.linalg.svd(weights.numpy(), full_matrices=False)
    rebuilt = left[:, :2] * values[:2] @ right[:2]
    chosen = np.abs(rebuilt) >= np.sort(np.abs(rebuilt), axis=None)[-180]
    assert torch.equal(masks.principal(torch.from_numpy(rebuilt), 0.3), torch.from_numpy(chosen))


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.floats(0.01, 1.0))
def test_moved_most_never_holds_what_stood_still(values: list[int], share: float) -> None:
    delta = torch.tensor(values).float()
    expected = torch.tensor(by_hand(delta, share, top=True)) & (delta != 0)
    assert torch.equal(masks.moved_most(delta, share), expected)


booleans = st.lists(st.booleans(), min_size=1, max_size=40)


@given(st.integers(1, 40), st.data())
def test_overlap_and_jaccard_are_set_arithmetic(n: int, data: st.DataObject) -> None:
    a, b = (data.draw(st.lists(st.booleans(), min_size=n, max_size=n)) for _ in range(2))
    in_a, in_b = ({i for i, chosen in enumerate(mask) if chosen} for mask in (a, b))
    overlap, jaccard = masks.overlap(torch.tensor(a), torch.tensor(b)), masks.jaccard(torch.tensor(a), torch.tensor(b))
    assert overlap == len(in_a & in_b) / len(in_b) if in_b else math.isnan(overlap)
    assert jaccard == len(in_a & in_b) / len(in_a | in_b) if in_a | in_b else math.isnan(jaccard)


@given(st.integers(1, 6), st.data())
def test_a_random_mask_overlaps_by_the_references_density(n: int, data: st.DataObject) -> None:
    """Exactly, over all masks of one size: E overlap(M_ref, M) = density(M_ref)."""
    reference = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    size = data.draw(st.integers(1, n))
    found = []
    for chosen in combinations(range(n), size):
        mask = torch.zeros(n, dtype=torch.bool)
        mask[list(chosen)] = True
        found.append(masks.overlap(reference, mask))
    assert sum(found) / len(found) == pytest.approx(masks.density(reference))


@pytest.mark.parametrize(("p", "q"), [(0.3, 0.3), (0.27, 0.44), (0.9, 0.1)])
def test_independent_masks_have_the_bernoulli_jaccard(p: float, q: float) -> None:
    a, b = (torch.rand(1000, 1000, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    assert masks.jaccard(a < p, b < q) == pytest.approx(masks.independent_jaccard(p, q), abs=2e-3)


@pytest.mark.parametrize(("density", "published"), [(0.27, 0.16), (0.44, 0.28), (0.62, 0.45)])
def test_bernoulli_jaccard_as_noted_for_the_papers_densities(density: float, published: float) -> None:
    assert masks.independent_jaccard(density, density) == pytest.approx(published, abs=0.006)


def test_consensus_is_the_mean_over_runs() -> None:
    runs = torch.rand(5, 8, 6, generator=torch.Generator().manual_seed(0)) < 0.4
    assert torch.allclose(masks.consensus(list(runs)), runs.float().mean(dim=0))


def test_row_and_column_shares() -> None:
    mask = torch.tensor([[True, True, False], [False, True, False]])
    assert masks.row_share(mask).tolist() == pytest.approx([2 / 3, 1 / 3])
    assert masks.column_share(mask).tolist() == [0.5, 1.0, 0.0]


@pytest.mark.parametrize(("rows", "columns", "ones"), [(2, 3, 2), (3, 3, 4), (4, 2, 3)])
def test_expected_stripes_by_enumeration(rows: int, columns: int, ones: int) -> None:
    by_rows, by_columns = [], []
    for chosen in combinations(range(rows * columns), ones):
        mask = torch.zeros(rows * columns, dtype=torch.bool)
        mask[list(chosen)] = True
        mask = mask.view(rows, columns)
        by_rows.append(masks.stripes(masks.row_share(mask)))
        by_columns.append(masks.stripes(masks.column_share(mask)))
    assert np.mean(by_rows) == pytest.approx(masks.random_stripes(rows, columns))
    assert np.mean(by_columns) == pytest.approx(masks.random_stripes(columns, rows))


@given(st.integers(2, 8), st.integers(2, 8), st.data())
def test_stripes_are_the_share_of_variance_between_rows(rows: int, columns: int, data: st.DataObject) -> None:
    flat = data.draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    mask = np.array(flat, dtype=float).reshape(rows, columns)
    found = masks.stripes(masks.row_share(torch.tensor(flat).view(rows, columns)))
    if mask.min() == mask.max():
        assert math.isnan(found)
    else:
        within = mask.var(axis=1).mean()
        assert found == pytest.approx(1 - within / mask.var(), abs=1e-6)


def test_pure_stripes() -> None:
    mask = torch.zeros(6, 4, dtype=torch.bool)
    mask[::2] = True
    assert masks.stripes(masks.row_share(mask)) == pytest.approx(1)
    assert masks.stripes(masks.column_share(mask)) == pytest.approx(0)


@pytest.mark.parametrize("share", [0.0, 1.5, -0.1])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        masks.largest(torch.ones(3), share)
