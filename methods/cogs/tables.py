"""What the ring says about trained networks, as tidy tables: decomposition, census, potentials, nodes.

z is an element [R, 3, d, q] of `algebra.coefficients`, one for each of R networks; `network` is its index.
"""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from methods.cogs.algebra import cross_potentials, loss
from methods.cogs.decomposition import LIVE, PRODUCTS, TOLERANCE, decompose, members, node_frequencies, nodes_of_order
from methods.cogs.solutions import frequencies


def decomposition_table(
    z: Tensor, tolerance: float = TOLERANCE, limit: float = TOLERANCE, live: float = LIVE
) -> pd.DataFrame:
    """One row a network and frequency: network, frequency, order, product, error, factorisable.

    `product` and `error` are those of `decompose`; orders other than 4 and 6 have none (error NaN).
    """
    orders = members(z, live).sum(dim=-1)
    network, index = torch.cartesian_prod(*map(torch.arange, orders.shape)).T
    table = pd.DataFrame({"network": network, "frequency": index + 1, "order": orders.flatten()})
    table = table.set_index(["network", "frequency"]).assign(product="", error=float("nan"), factorisable=False)
    for order in PRODUCTS:
        network, frequency, nodes = nodes_of_order(z, order, live)
        if not len(nodes):
            continue
        found = decompose(nodes, tolerance, limit)
        rows = pd.MultiIndex.from_arrays([network.numpy(), frequency.numpy()])
        table.loc[rows, "product"] = found.product
        table.loc[rows, "error"] = found.error.numpy()
        table.loc[rows, "factorisable"] = found.factorisable.numpy()
    return table.reset_index()


def census(table: pd.DataFrame) -> pd.DataFrame:
    """The paper's table for each network: network, measure, value, count, of. value = count / of, except for errors.

    Orders are shares of all frequencies; "not factorisable" of the frequencies of that order; products of the
    factorisable ones of orders 4 and 6; "explained", a named product, of all frequencies with a live node. Errors are
    means over the frequencies of an order (the paper prints 100 times that). 0 of 0 is NaN.
    """
    four, six, some = table.order.eq(4), table.order.eq(6), table.order.gt(0)
    named = some & ~table["product"].isin(["", "unknown"])
    syn = table["product"].isin(["nu=i * syn", "nu=i * syn_alphabeta"])
    splits = table.factorisable
    shares = {
        "order 4": (four, some | ~some),
        "order 6": (six, some | ~some),
        "order 0": (~some, some | ~some),
        "other order": (some & ~four & ~six, some | ~some),
        "not factorisable, order 4": (four & ~splits, four),
        "not factorisable, order 6": (six & ~splits, six),
        "nu=i * xi": (table["product"].eq("nu=i * xi"), splits),
        "nu=i * syn_alphabeta": (syn, splits),
        "nu * syn": (table["product"].eq("nu * syn"), splits),
        "other product": (splits & ~named, splits),
        "explained": (named, some),
    }
    rows = []
    for measure, (counted, among) in shares.items():
        sums = pd.DataFrame({"network": table.network, "count": counted, "of": among}).groupby("network").sum()
        rows.append(sums.assign(measure=measure, value=sums["count"] / sums["of"].where(sums["of"] > 0)))
    for order, among in ((4, four), (6, six)):
        errors = table.error.where(among).groupby(table.network)
        rows.append(pd.DataFrame({"measure": f"error, order {order}", "value": errors.mean(), "of": errors.count()}))
    result = pd.concat([part.reset_index() for part in rows], ignore_index=True)
    return result.astype({"count": "Int64", "of": "Int64"})[["network", "measure", "value", "count", "of"]]


def summary(counts: pd.DataFrame) -> pd.DataFrame:
    """`census` over networks: measure, mean and standard error of the networks' values, their number, summed counts.

    Networks where a measure is 0 of 0 are left out of its mean; one network has no standard error (NaN).
    """
    grouped = counts.groupby("measure", sort=False)
    return grouped.agg(
        mean=("value", "mean"),
        standard_error=("value", "sem"),
        networks=("value", "count"),
        count=("count", lambda column: column.sum(min_count=1)),
        of=("of", "sum"),
    ).reset_index()


def potentials_table(z: Tensor) -> pd.DataFrame:
    """network, frequency, potential, value: the parts of the loss (`algebra.Loss`) at +-k together, and r_kkk (real).

    Frequencies 1 .. (d-1)/2; ValueError for even d. Goal, cross, norm and star add up to the network's loss.
    """
    k = frequencies(z.shape[-2])
    half = len(k)
    values = {name: part[:, :half] + part[:, half:].flip(dims=[-1]) for name, part in loss(z)._asdict().items()}
    values["r_kkk"] = cross_potentials(z)[:, k, k, k].real
    network, index = torch.cartesian_prod(torch.arange(len(z)), torch.arange(half)).T
    parts = [
        pd.DataFrame({"network": network, "frequency": k[index], "potential": name, "value": value.flatten()})
        for name, value in values.items()
    ]
    return pd.concat(parts, ignore_index=True)


def nodes_table(z: Tensor, live: float = LIVE) -> pd.DataFrame:
    """network, node, frequency, part ("a", "b", "c"), real, imaginary: each live node at its frequency."""
    frequency, _ = node_frequencies(z)
    network, node = members(z, live).any(dim=-2).nonzero(as_tuple=True)
    own = frequency[network, node]
    columns = z[network, :, own, node]
    parts = [
        pd.DataFrame({"network": network, "node": node, "frequency": own, "part": name}).assign(
            real=column.real.numpy(), imaginary=column.imag.numpy()
        )
        for name, column in zip("abc", columns.unbind(dim=1), strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def node_table(z: Tensor, live: float = LIVE) -> pd.DataFrame:
    """One row a live node and part: network, frequency, order of the frequency, part (a, b, c), real, imaginary, modulus.

    Coefficients are those at the node's frequency, as trained; modulus is their modulus.
    """
    belongs = members(z, live)
    network, index, node = belongs.nonzero(as_tuple=True)
    columns = z[network, :, index + 1, node]  # [nodes, 3]
    frame = pd.DataFrame(
        {
            "network": network.repeat_interleave(3),
            "frequency": (index + 1).repeat_interleave(3),
            "order": belongs.sum(dim=-1)[network, index].repeat_interleave(3),
            "part": list("abc") * len(network),
            "real": columns.real.flatten(),
            "imaginary": columns.imag.flatten(),
        }
    )
    return frame.assign(modulus=(frame.real**2 + frame.imaginary**2) ** 0.5)
