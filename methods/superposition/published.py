"""Tables of the paper (arXiv 2505.12514): two-layer GPT-2 on ProsQA of three and four hops."""

from __future__ import annotations

# Inner products of thoughts 1 to 4 with node embeddings, mean of the three printed seeds (Table 5).
PRODUCTS = {
    "not reachable": (-0.317, -0.147, -0.027, -0.25),
    "reachable": (3.64, 1.447, 0.73, 0.6),
    "frontier": (5.2, 2.59, 2.023, 2.227),
    "optimal": (6.59, 4.853, 5.957, 9.347),
}
# Attention of the last layer to an edge, summed over heads, mean (Table 1).
ATTENTION = {
    "not reachable": (0.04, 0.03, 0.08, 0.12),
    "reachable": (2.12, 0.71, 0.38, 0.29),
    "frontier": (2.12, 1.0, 0.67, 0.61),
    "optimal": (2.54, 1.72, 1.67, 2.23),
}
