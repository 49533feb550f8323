"""The published models: shapes against an independent count, the schedule against its own arithmetic."""

from __future__ import annotations

import pytest
import torch

from methods.mobilellm_r1 import models
from tycho.errors import TychoError


@pytest.mark.parametrize("name", models.architectures())
def test_parameters_are_the_published_number(name):
    """Counted from the shapes by hand and from the model on the meta device; both within 0.5 % of the table."""
    shape = models.architectures()[name]
    head = shape.width // shape.heads
    attention = 2 * shape.width * shape.heads * head + 2 * shape.width * shape.kv_heads * head
    layer = attention + 3 * shape.width * shape.feed_forward + 2 * shape.width
    by_hand = 128256 * shape.width + shape.layers * layer + shape.width
    model = models.build(name)
    assert sum(weights.numel() for weights in model.parameters()) == by_hand
    assert by_hand == pytest.approx(shape.parameters * 1e6, rel=0.005)
    assert all(weights.is_meta for weights in model.parameters())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_head_widths_divide_and_the_recounts_of_the_table():
    for shape in models.architectures().values():
        assert shape.width % shape.heads == 0 and shape.heads % shape.kv_heads == 0
        assert shape.width // shape.heads == 64


def test_the_final_context_multiplies_rope_theta():
    short, long = models.config("MobileLLM-R1-140M"), models.config("MobileLLM-R1-140M", final=True)
    assert (short.max_position_embeddings, long.max_position_embeddings) == (4096, 32768)
    assert long.rope_parameters["rope_theta"] == 8 * short.rope_parameters["rope_theta"]


def test_a_scaled_down_copy_trains():
    torch.manual_seed(0)
    model = models.build(
        "MobileLLM-R1-140M", device="cpu", layers=2, heads=2, kv_heads=1, width=32, feed_forward=64, vocabulary=50,
        context=64,
    )  # fmt: skip
    ids = torch.randint(1, 50, (4, 16))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2, betas=tuple(models.published()["optimiser"]["betas"]))
    losses = []
    for _ in range(3):
        loss = model(input_ids=ids, labels=ids).loss
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[2] < losses[0]


def test_stages_agree_with_their_own_tokens():
    """Steps times tokens a step give the published budget to within the rounding of `2T` and `100B`."""
    stages = models.stages()
    assert list(stages) == ["pretrain-1", "pretrain-2", "midtrain-1", "midtrain-2", "general-sft", "reasoning-sft"]
    for stage in stages.values():
        assert stage.gpus == 128 and (stage.steps > 0) != (stage.epochs > 0)
        if stage.tokens:
            assert stage.steps * stage.tokens_a_step == pytest.approx(stage.tokens, rel=0.06)
    # The text says 4.2T tokens of pre-training and below 5T in all.
    assert sum(s.steps * s.tokens_a_step for s in list(stages.values())[:2]) == pytest.approx(4.2e12, rel=0.005)
    assert sum(s.steps * s.tokens_a_step for s in stages.values()) < 5e12


@pytest.mark.parametrize("phase", [0, 1])
@pytest.mark.parametrize("stage", ["pretrain", "midtrain"])
def test_mixes_sum_to_a_hundred(stage, phase):
    assert sum(shares[phase] for shares in models.published()["mixes"][stage].values()) == pytest.approx(100, abs=0.05)


def test_hub_ids_and_branches():
    assert models.hub_id("MobileLLM-R1-950M") == "facebook/MobileLLM-R1-950M"
    assert models.hub_id("MobileLLM-R1-140M", base=True) == "facebook/MobileLLM-R1-140M-base"
    assert [branch.rpartition("140M-")[2] for branch in models.branches("MobileLLM-R1-140M", base=True)] == [
        "pretrain-stage1", "pretrain", "midtrain-stage1",
    ]  # fmt: skip
    assert models.branches("MobileLLM-R1-360M") == ["MobileLLM-R1-360M-tulu3"]
    with pytest.raises(TychoError, match="did you mean 'MobileLLM-R1-140M'"):
        models.hub_id("MobileLLM-R1-14M")


def test_scores_are_percentages_of_known_benchmarks():
    for table in models.published()["scores"].values():
        for row in table["rows"].values():
            assert set(row) <= set(table["shots"]) and all(0 <= value <= 100 for value in row.values())
    scores = models.published()["scores"]
    assert scores["post-trained"]["rows"]["HuggingFaceTB/SmolLM2-135M-Instruct"]["gsm8k"] == 2.4
    assert scores["base"]["rows"]["facebook/MobileLLM-R1-950M-base"]["gsm8k"] == 61.6
