"""FLOPs of a language model's forward passes, from its shape: 2 for each multiply-add of its matrix products.

Norms, activations and softmax are left out, as in PyTorch's own counter. Training costs three times the forward pass.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

N = TypeVar("N", int, np.ndarray)  # a number, or one an example


def forward_flops(config: Any, new: N, cached: N = 0, *, logits: N | None = None, vocabulary: int | None = None) -> N:
    """FLOPs of one forward pass of one sequence.

    new: tokens (or thoughts) passed in; cached: positions in the cache before; logits: positions whose logits are
    computed (None: all new ones); vocabulary: width of the output layer (None: the config's). Attention is counted
    over all new + cached keys for each query, masked or not, which is what is computed.
    """
    width = config.hidden_size
    inner = getattr(config, "n_inner", None) or getattr(config, "intermediate_size", None) or 4 * width
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or width // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    gates = 3 if config.model_type != "gpt2" else 2  # matrices of the feed-forward block
    matrices = 2 * width * head * heads + 2 * width * head * shared + gates * width * inner
    attention = 2 * heads * head * (new + cached)
    rows = config.vocab_size if vocabulary is None else vocabulary
    head_flops = 2 * width * rows * (new if logits is None else logits)
    return 2 * config.num_hidden_layers * new * (matrices + attention) + head_flops


def generate_flops(config: Any, prompt: N, generated: N, *, vocabulary: int | None = None) -> N:
    """FLOPs of writing `generated` tokens after `prompt` tokens with a cache: the last token is never passed in."""
    later = np.maximum(generated - 1, 0)
    first = forward_flops(config, prompt, logits=1, vocabulary=vocabulary)
    one = forward_flops(config, 1, prompt, vocabulary=vocabulary)  # grows by the same amount with each position
    growth = forward_flops(config, 1, prompt + 1, vocabulary=vocabulary) - one
    return first + later * one + growth * later * (later - 1) // 2


def training_flops(config: Any, tokens: N, *, vocabulary: int | None = None) -> N:
    """FLOPs of forward and backward pass of one sequence of `tokens`."""
    return 3 * forward_flops(config, tokens, vocabulary=vocabulary)
