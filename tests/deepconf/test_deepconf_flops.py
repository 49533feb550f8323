"""FLOPs of a question's traces, against every forward pass by itself."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, LlamaConfig

from methods.deepconf.flops import counter, question_flops
from tycho.lm.flops import forward_flops

GPT2 = GPT2Config(vocab_size=50, n_embd=16, n_layer=3, n_head=2)
LLAMA = LlamaConfig(
    vocab_size=50,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)


def pass_by_pass(config, prompt: int, lengths: list[int]) -> int:
    """The question once, with the logits of its end; then each token of each trace but the last, one by one."""
    total = forward_flops(config, prompt, logits=1) if any(lengths) else 0
    for length in lengths:
        for token in range(length - 1):
            total += forward_flops(config, 1, prompt + token)
    return total


@given(
    st.sampled_from([GPT2, LLAMA]), st.integers(1, 30), st.lists(st.lists(st.integers(0, 12), min_size=4, max_size=4), min_size=1)
)  # fmt: skip
def test_a_questions_flops_are_those_of_its_passes(config, prompt, lengths):
    found = question_flops(config, prompt, lengths)
    assert found.tolist() == [pass_by_pass(config, prompt, row) for row in lengths]


def test_behind_a_server_they_are_unknown():
    assert np.isnan(counter(object())("1 + 1", np.ones((3, 4)))).tolist() == [True] * 3
