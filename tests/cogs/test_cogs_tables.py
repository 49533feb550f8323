"""Census, summary and figure tables against numbers counted by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

from methods.cogs import algebra, solutions, tables


def counted() -> pd.DataFrame:
    rows = [
        # network, frequency, order, product, error, factorisable
        (0, 1, 4, "nu=i * xi", 0.01, True),
        (0, 2, 4, "nu=i * xi", 0.03, True),
        (0, 3, 6, "nu * syn", 0.1, True),
        (0, 4, 6, "unknown", 0.5, False),
        (0, 5, 0, "", math.nan, False),
        (1, 1, 6, "nu=i * syn", 0.1, True),
        (1, 2, 6, "nu=i * syn_alphabeta", 0.2, True),
        (1, 3, 6, "unknown", 0.1, True),
        (1, 4, 6, "nu * syn", 0.2, True),
        (1, 5, 7, "", math.nan, False),
    ]
    return pd.DataFrame(rows, columns=["network", "frequency", "order", "product", "error", "factorisable"])


def test_census_and_summary_count_as_the_papers_table() -> None:
    census = tables.census(counted())
    values = census.pivot(index="measure", columns="network", values="value").T.to_dict("list")
    nan = math.nan
    assert values == {
        "order 4": pytest.approx([2 / 5, 0]),
        "order 6": pytest.approx([2 / 5, 4 / 5]),
        "order 0": pytest.approx([1 / 5, 0]),
        "other order": pytest.approx([0, 1 / 5]),
        "not factorisable, order 4": pytest.approx([0, nan], nan_ok=True),
        "not factorisable, order 6": pytest.approx([1 / 2, 0]),
        "nu=i * xi": pytest.approx([2 / 3, 0]),
        "nu=i * syn_alphabeta": pytest.approx([0, 2 / 4]),
        "nu * syn": pytest.approx([1 / 3, 1 / 4]),
        "other product": pytest.approx([0, 1 / 4]),
        "explained": pytest.approx([3 / 4, 3 / 5]),
        "error, order 4": pytest.approx([0.02, nan], nan_ok=True),
        "error, order 6": pytest.approx([0.3, 0.15]),
    }
    summary = tables.summary(census).set_index("measure")
    assert summary.loc["order 6", ["mean", "standard_error", "networks", "count", "of"]].tolist() == pytest.approx(
        [0.6, 0.2, 2, 6, 10]
    )
    assert summary.loc["not factorisable, order 4", ["mean", "networks", "count", "of"]].tolist() == [0, 1, 0, 2]
    assert math.isnan(summary.loc["not factorisable, order 4", "standard_error"])
    assert summary.loc["error, order 6", "mean"] == pytest.approx(0.225) and summary.loc["error, order 6", "of"] == 6
    assert pd.isna(summary.loc["error, order 6", "count"])


def test_products_of_the_factorisable_frequencies_add_up_to_one() -> None:
    census = tables.census(counted())
    products = ["nu=i * xi", "nu=i * syn_alphabeta", "nu * syn", "other product"]
    assert census[census.measure.isin(products)].groupby("network").value.sum().tolist() == pytest.approx([1, 1])


def test_decomposition_table_of_networks_without_any_live_node() -> None:
    table = tables.decomposition_table(torch.zeros(2, 3, 7, 5, dtype=torch.complex128))
    assert table.order.tolist() == [0] * 6 and not table.factorisable.any() and table.error.isna().all()
    assert math.isnan(tables.census(table).set_index(["measure", "network"]).value["explained", 0])


def test_potentials_add_up_to_the_loss() -> None:
    g = torch.Generator().manual_seed(0)
    W, V = (torch.randn(2, *shape, generator=g, dtype=torch.float64) / 3 for shape in ((18, 5), (5, 9)))
    z = algebra.coefficients(W, V)
    table = tables.potentials_table(z)
    parts = table[table.potential != "r_kkk"].groupby("network").value.sum()
    assert parts.tolist() == pytest.approx(algebra.loss(z).total.tolist(), rel=1e-12)
    chosen = table[(table.potential == "r_kkk") & (table.network == 1) & (table.frequency == 3)].value.item()
    assert chosen == pytest.approx(algebra.cross_potentials(z)[1, 3, 3, 3].real.item())


def test_nodes_table_holds_each_live_node_once() -> None:
    z = solutions.mixed(7, torch.tensor(1j), torch.tensor([1j, 1]), special=2)
    dead = algebra.add(z, 0.1 * z[..., :3])
    table = tables.nodes_table(torch.stack([dead, dead]))
    assert len(table) == 2 * 3 * 14 and table.groupby(["network", "frequency"]).node.nunique().tolist() == [4, 6, 4] * 2
    row = table[(table.network == 1) & (table.node == 6) & (table.part == "c")].iloc[0]
    assert complex(row.real, row.imaginary) == pytest.approx(complex(z[2, row.frequency, 6]))


def test_nodes_of_a_solution_stand_in_the_table_as_they_are() -> None:
    """Order 6 everywhere: six nodes a frequency, all of one modulus, and abc of each is positive."""
    d = 11
    z = solutions.SOLUTIONS["order 6"].build(d, torch.Generator().manual_seed(0))[None]
    table = tables.node_table(z)
    assert table.groupby("part").size().to_dict() == dict.fromkeys("abc", 6 * (d - 1) // 2)
    assert (table.order == 6).all() and set(table.frequency) == set(range(1, (d - 1) // 2 + 1))
    assert table.modulus.std() < 1e-9 and table.modulus.mean() == pytest.approx(6 ** (-1 / 3))
    values = (table.real + 1j * table.imaginary).to_numpy().reshape(-1, 3)
    for (a, b, c), k in zip(values, table.frequency[::3], strict=True):
        assert any(torch.allclose(torch.tensor([a, b, c]), z[0, :, k, j]) for j in range(z.shape[-1]))
