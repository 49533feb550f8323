"""The published models, built on the meta device, have the published numbers of parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

MODELS = yaml.safe_load((Path(__file__).parent / "architectures.yaml").read_text())


def build(name: str) -> nn.Module:
    """A model with shapes and no numbers."""
    kind, config = MODELS[name]["kind"], MODELS[name].get("config", {})
    with torch.device("meta"):
        if kind == "methods.spg.llada":
            from methods.spg import llada

            return llada.LLaDA(llada.LLADA_8B)
        if kind == "methods.mobilellm_r1.models":
            from methods.mobilellm_r1 import models

            return models.build(name.removeprefix("facebook/").removesuffix("-base"))
        from transformers import AutoConfig, AutoModelForCausalLM

        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config))


def parameters(model: nn.Module) -> int:
    return sum(weights.numel() for weights in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_a_model_on_the_meta_device_has_the_published_parameters(name):
    model = build(name)
    assert all(weights.is_meta for weights in model.parameters())
    assert parameters(model) == pytest.approx(MODELS[name]["parameters"] * 1e6, rel=0.005)


def test_the_tolerance_tells_a_model_from_its_neighbours():
    """Tied embeddings alone are 13 % of the smallest Qwen: a row with the wrong flag would not pass."""
    tied, untied = (
        parameters(build(name)) for name in ("Qwen/Qwen2.5-Math-1.5B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B")
    )
    assert untied - tied == 151936 * 1536
    assert untied != pytest.approx(MODELS["Qwen/Qwen2.5-Math-1.5B"]["parameters"] * 1e6, rel=0.1)
