"""First-order influence of training samples on capabilities, and the mixing weights that follow from it.

MobileLLM-R1 (arXiv 2509.24945, data-mix section, its Eq. 5; after AutoMixer, ACL 2025, arXiv 2506.21910). The authors
have released no code and the facts here are second-hand; what was chosen where they are silent stands in the README.

A step of gradient descent on sample z changes a capability's loss by -η ⟨∇ℓ(z), ∇L_c⟩ to first order. The inner product
is the influence of z on c: positive if training on z helps c. It is taken over a few selected layers. For a linear layer
y = W x the gradient of one sample is Σ_t δ_t x_tᵀ over its tokens, so that ⟨∇ℓ(z), G⟩ = Σ_t δ_tᵀ G x_t needs no
per-sample gradient to be formed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from methods.mobilellm_r1.network import Shape, Weights, document_losses, forward


def sample_products(inputs: Tensor, gradients: Tensor, direction: Tensor) -> Tensor:
    """⟨∇_W ℓ(z), G⟩ for each sample.

    inputs [..., B, L, in]: what went into the layer; gradients [..., B, L, out]: of the summed loss by what came out;
    direction G [..., out, in]. Returns [..., B].
    """
    return ((gradients @ direction.unsqueeze(-3)) * inputs).sum(dim=(-2, -1))


def sample_square_norms(inputs: Tensor, gradients: Tensor) -> Tensor:
    """‖∇_W ℓ(z)‖² for each sample, [..., B]: Σ_{t,s} (x_t·x_s)(δ_t·δ_s)."""
    return ((inputs @ inputs.transpose(-1, -2)) * (gradients @ gradients.transpose(-1, -2))).sum(dim=(-2, -1))


def probe_gradients(
    weights: Weights, shape: Shape, ids: Tensor, counted: Tensor | None, layers: Sequence[str]
) -> dict[str, Tensor]:
    """∇L_c over the selected layers, [R, out, in] each, where L_c is the mean loss of a probing set's documents.

    ids, counted [N, L]: one set for all networks. The loss is over the tokens that `counted` marks (None: all).
    """
    chosen = {name: weights[name].detach().requires_grad_() for name in layers}
    R = len(weights["model.embed_tokens.weight"])
    ids = ids.expand(R, *ids.shape)
    counted = None if counted is None else counted.expand(R, *counted.shape)
    loss = document_losses(forward(weights | chosen, shape, ids), ids, counted).mean(-1).sum()
    return dict(zip(layers, torch.autograd.grad(loss, list(chosen.values())), strict=True))


def influences(
    weights: Weights, shape: Shape, ids: Tensor, probes: Sequence[dict[str, Tensor]]
) -> tuple[Tensor, Tensor]:
    """(influence [C, R, B] of each document on each probing set, square of its gradient's norm [R, B]).

    ids [R, B, L]: documents, another set for each network; their loss is over all tokens, as in training.
    probes: one `probe_gradients` a capability, all over the same layers.
    """
    layers = list(probes[0])
    tap: dict[str, tuple[Tensor, Tensor]] = {}
    chosen = {name: weights[name].detach().requires_grad_() for name in layers}
    loss = document_losses(forward(weights | chosen, shape, ids, tap), ids).sum()
    deltas = torch.autograd.grad(loss, [tap[name][1] for name in layers])
    R, B, L = ids.shape
    total = torch.zeros(len(probes), R, B, device=ids.device)
    squares = torch.zeros(R, B, device=ids.device)
    for name, delta in zip(layers, deltas, strict=True):
        x, delta = tap[name][0].detach().view(R, B, L, -1), delta.view(R, B, L, -1)
        squares += sample_square_norms(x, delta)
        for c, probe in enumerate(probes):
            total[c] += sample_products(x, delta, probe[name])
    return total, squares


def checkpoint_weights(count: int) -> Tensor:
    """α_t ∝ t for checkpoints t = 1 … T, of sum 1: later checkpoints, which know more, count more."""
    t = torch.arange(1, count + 1, dtype=torch.float64)
    return t / t.sum()


def lengths(gradients: dict[str, Tensor]) -> Tensor:
    """[R] length of a gradient over its layers, [R, out, in] each."""
    return torch.stack([g.square().sum(dim=(-2, -1)) for g in gradients.values()]).sum(dim=0).sqrt()


def unit(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """A probing set's gradient at unit length, network by network: it then says in which direction the capability
    improves, and not how much of it the network is still lacking. A gradient of zero stays zero."""
    scale = lengths(gradients).clamp_min(torch.finfo(torch.float32).tiny)[:, None, None]
    return {name: g / scale for name, g in gradients.items()}


def corpus_scores(influence: Tensor) -> Tensor:
    """[..., K] from per-sample influences [C, T, ..., K, N]: Σ_c Σ_t α_t times the mean over the corpus's N samples."""
    alpha = checkpoint_weights(influence.shape[1]).to(influence)
    return torch.einsum("ct...,t->...", influence.mean(-1), alpha)


def positive_parts(scores: Tensor) -> Tensor:
    """[..., K] mixing weights in closed form: max(score, 0), divided by their sum.

    Where no score is positive no mixture follows, and all K weights are 0.
    """
    kept = scores.clamp_min(0)
    total = kept.sum(-1, keepdim=True)
    return torch.where(total > 0, kept / total, torch.zeros_like(kept))


def mixture(scores: Tensor) -> tuple[Tensor, bool]:
    """([K] mixing weights, whether they follow from the scores [K]): the positive parts, or, where no score is positive and
    no mixture follows, all corpora alike."""
    weights = positive_parts(scores)
    follows = bool(weights.any())
    return weights if follows else torch.full_like(weights, 1 / len(weights)), follows
