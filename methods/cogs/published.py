"""The table of the paper (arXiv 2410.01779): what Adam's solutions are made of, q = 512, weight decay 5e-5.

Means over five seeds, by group order d. Shares of products are of the factorable frequencies; the limit of what is
factorable is the public code's. All is second-hand; `CONFIRMED` rows stand in two sources, the others in one, but
the shares of each d add up to one.
"""

from __future__ import annotations

# Rows as `tables.census` calls them -> d -> value.
SHARES = {
    "nu=i * xi": {23: 0.4707, 71: 0.7257, 127: 0.8296},
    "nu=i * syn_alphabeta": {23: 0.1131, 71: 0.0400, 127: 0.0225},
    "nu * syn": {23: 0.3980, 71: 0.2114, 127: 0.1413},
    "other product": {23: 0.0182, 71: 0.0229, 127: 0.0066},
}
TABLE = SHARES | {
    "not factorisable, order 4": {23: 0.0, 71: 0.0, 127: 0.015},
    "not factorisable, order 6": {23: 0.0571, 71: 0.0, 127: 0.0},
    "error, order 4": {23: 0.0005, 71: 0.0003, 127: 0.0026},
    "error, order 6": {23: 0.0480, 71: 0.0502, 127: 0.0093},
}
CONFIRMED = {"nu=i * xi", "nu * syn", "not factorisable, order 4", "error, order 4"}

# Rows of `tables.census` -> metrics.
MEASURES = {
    "order 4": "order_4",
    "order 6": "order_6",
    "other order": "other_order",
    "order 0": "order_0",
    "nu=i * xi": "share_nu_i_xi",
    "nu=i * syn_alphabeta": "share_nu_i_syn",
    "nu * syn": "share_nu_syn",
    "other product": "share_other",
    "not factorisable, order 4": "not_factorisable_4",
    "not factorisable, order 6": "not_factorisable_6",
    "error, order 4": "error_4",
    "error, order 6": "error_6",
}

# Products as the paper writes them.
WRITTEN = {
    "nu=i * xi": "ν=i ∗ ξ",
    "nu=i * syn": "ν=i ∗ syn",
    "nu=i * syn_alphabeta": "ν=i ∗ syn_αβ",
    "nu * syn": "ν ∗ syn",
}
