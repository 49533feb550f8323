"""Analytic FLOPs against PyTorch's counter on the models themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tycho.cost import counted_flops
from tycho.lm import small
from tycho.lm.flops import forward_flops, generate_flops, training_flops
from tycho.lm.sampling import generate
from tycho.tasks import arithmetic, graph_text

PLAIN = arithmetic.vocabulary(arithmetic.Shape(11, 3, 5))
EDGES = graph_text.vocabulary(14)


def counted(function):
    with counted_flops() as total:
        function()
    return total["flops"]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(
    ("words", "layers", "width", "heads"), [(PLAIN, 2, 64, 4), (EDGES, 3, 96, 6), (PLAIN, 1, 32, 2)]
)
def test_forward_and_training(family, words, layers, width, heads):
    model = small.build(words, family=family, layers=layers, width=width, heads=heads)
    ids = torch.randint(0, words.produced, (3, 40))
    expected = 3 * forward_flops(model.config, 40, vocabulary=words.produced)
    measured = counted(lambda: model(input_ids=ids, use_cache=False))
    assert measured == pytest.approx(expected, rel=0.02)  # rotary angles are a product, too
    trained = counted(lambda: model(input_ids=ids, use_cache=False).logits.sum().backward())
    assert trained == pytest.approx(3 * training_flops(model.config, 40, vocabulary=words.produced), rel=0.02)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_generation_with_a_cache(family):
    model = small.build(PLAIN, family=family)
    ids = torch.randint(0, len(PLAIN), (2, 17))
    run = lambda: generate(model, ids, torch.ones_like(ids).bool(), most=9, stop=[])  # noqa: E731
    assert counted(run) == pytest.approx(2 * generate_flops(model.config, 17, 9), rel=0.02)


def test_llama_with_shared_keys():
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=50, hidden_size=64, intermediate_size=100, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=2, head_dim=16, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    measured = counted(lambda: model(input_ids=torch.randint(0, 50, (1, 33)), use_cache=False))
    assert measured == pytest.approx(forward_flops(config, 33), rel=0.02)


def test_generation_is_the_sum_of_its_passes_for_arrays():
    config = small.build(PLAIN).config
    prompts, written = np.array([5, 30, 17]), np.array([1, 12, 0])
    for flops, prompt, count in zip(generate_flops(config, prompts, written), prompts, written, strict=True):
        passes = [forward_flops(config, int(prompt), logits=1)]
        passes += [forward_flops(config, 1, int(prompt) + place) for place in range(count - 1)]
        assert flops == sum(passes)


def test_gpt2_124m_by_its_parameters():
    """The published model: 2 FLOPs a weight and token of its 84.9 M block matrices and 38.6 M output layer."""
    from transformers import GPT2Config

    config = GPT2Config()
    weights = 12 * 12 * 768**2 + 768 * 50257
    attention = 12 * 2 * 2 * 768 * 1024
    assert forward_flops(config, 1024) == 1024 * (2 * weights + attention)
