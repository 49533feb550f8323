"""LLaDA's architecture against an independent implementation, its published size, its checkpoints, adapters."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from methods.spg import llada
from methods.spg.policy import add_lora, merge_lora
from tycho.cost import counted_flops
from tycho.errors import TychoError
from tycho.lm.flops import forward_flops

TINY = llada.LLaDAConfig(
    32, 4, 2, 48, 40, mask_token_id=39, eos_token_id=1, pad_token_id=1, max_sequence_length=64, rope_theta=10_000.0
)
# Names in a published LLaDA checkpoint -> names in Hugging Face's Llama.
LLAMA = {
    "attn_norm": "input_layernorm", "ff_norm": "post_attention_layernorm", "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj", "v_proj": "self_attn.v_proj", "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj", "up_proj": "mlp.up_proj", "ff_out": "mlp.down_proj",
}  # fmt: skip


def as_llama(model: llada.LLaDA):
    """The same weights in transformers' Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = model.config
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.embedding_size,
            hidden_size=config.d_model,
            intermediate_size=config.mlp_hidden_size,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            max_position_embeddings=config.max_sequence_length,
            tie_word_embeddings=False,
            attn_implementation="eager",
        )
    )
    names = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
    state = {}
    for name, value in model.state_dict().items():
        parts = name.removeprefix("model.transformer.").removesuffix(".weight").split(".")
        new = f"model.layers.{parts[1]}.{LLAMA[parts[2]]}" if parts[0] == "blocks" else names[parts[0]]
        state[f"{new}.weight"] = value
    llama.load_state_dict(state)
    return llama.eval()


@pytest.fixture
def model() -> llada.LLaDA:
    found = llada.build(TINY, 3)
    with torch.no_grad():
        for name, weight in found.named_parameters():
            if "norm" in name or "ln_f" in name:
                weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
            else:
                weight.mul_(5)  # large enough for attention and gates to matter
    return found.eval()


def test_it_is_llama_without_the_causal_mask(model):
    ids = torch.randint(0, 40, (2, 9), generator=torch.Generator().manual_seed(0))
    everything = torch.zeros(2, 1, 9, 9)
    with torch.no_grad():
        wanted = as_llama(model)(input_ids=ids, attention_mask=everything).logits
        assert torch.allclose(model(ids), wanted, atol=2e-5)
        assert torch.allclose(model(ids, last=4), wanted[:, -4:], atol=2e-5)


def test_padding_is_seen_by_nobody(model):
    ids = torch.randint(0, 40, (1, 7), generator=torch.Generator().manual_seed(1))
    padded = torch.cat([torch.tensor([[5, 6]]), ids], dim=1)
    keep = torch.arange(9)[None] >= 2
    with torch.no_grad():  # rotary positions are relative, so a shift changes nothing
        assert torch.allclose(model(padded, keep, last=7), model(ids), atol=2e-5)
        assert not torch.allclose(model(padded, last=7), model(ids), atol=1e-3)


def test_a_later_token_changes_an_earlier_position(model):
    ids = torch.randint(0, 39, (1, 6), generator=torch.Generator().manual_seed(2))
    other = ids.clone()
    other[0, -1] = 39
    assert not torch.allclose(model(ids)[:, 0], model(other)[:, 0], atol=1e-4)


def test_llada_8b_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = llada.LLaDA(llada.LLADA_8B)
    assert sum(weight.numel() for weight in model.parameters()) == 8_015_581_184
    names = set(model.state_dict())
    assert {"model.transformer.wte.weight", "model.transformer.ff_out.weight", "model.transformer.ln_f.weight"} < names
    assert {f"model.transformer.blocks.31.{name}.weight" for name in LLAMA} < names
    assert len(names) == 3 + 32 * len(LLAMA)


def test_flops_are_what_torch_counts(model):
    ids = torch.zeros(3, 10, dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH), counted_flops() as total, torch.no_grad():  # the fused kernel is not counted
        model(ids, last=4)
    assert total["flops"] == 3 * forward_flops(TINY, 10, logits=4)


def test_a_checkpoint_comes_back_whole_or_in_shards(model, tmp_path):
    llada.save(model, tmp_path, tycho={"task": "sudoku"})
    again, given = llada.load(tmp_path)
    assert given["tycho"] == {"task": "sudoku"} and again.config == TINY
    state = load_file(tmp_path / "model.safetensors")
    half = sorted(state)[: len(state) // 2]
    save_file({name: state[name] for name in half}, tmp_path / "model-1.safetensors")
    save_file({name: state[name] for name in state if name not in half}, tmp_path / "model-2.safetensors")
    (tmp_path / "model.safetensors").unlink()
    sharded, _ = llada.load(tmp_path)
    for found in (again, sharded):
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in found.state_dict().items())


def test_another_architecture_and_lacking_tensors_are_named(model, tmp_path):
    with pytest.raises(TychoError, match="no LLaDA checkpoint"):
        llada.load(tmp_path / "nowhere")
    llada.save(model, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state.pop("model.transformer.ln_f.weight")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(TychoError, match=r"lacks 1 tensors, first model\.transformer\.ln_f\.weight"):
        llada.load(tmp_path)
    given = json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(TychoError, match="n_kv_heads = 2"):
        llada.config_of(given | {"n_kv_heads": 2})
    with pytest.raises(TychoError, match="weight_tying"):
        llada.config_of(given | {"weight_tying": True})


def test_published_names_of_the_size_are_read():
    given = dataclasses.asdict(llada.LLADA_8B) | {"model_type": "llada", "vocab_size": 126_464, "n_kv_heads": 32}
    assert llada.config_of(given | {"weight_tying": False, "activation_type": "silu"}) == llada.LLADA_8B


def test_adapters_start_as_nothing_and_merge_into_the_weights(model):
    ids = torch.randint(0, 40, (2, 5), generator=torch.Generator().manual_seed(4))
    before, names = model(ids).detach(), set(model.state_dict())
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"]
    add_lora(model, 4, 8, 0.0, targets)
    assert torch.equal(model(ids), before)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    # Of the published list LLaDA has these four; its attn_out, ff_proj and ff_out are named otherwise and stay as they are.
    assert {name.split(".")[4] for name in trained} == {"q_proj", "k_proj", "v_proj", "up_proj"}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in trained:
                weight.normal_(generator=torch.Generator().manual_seed(1))
    adapted = model.eval()(ids).detach()
    assert not torch.allclose(adapted, before, atol=1e-2)
    merge_lora(model)
    assert set(model.state_dict()) == names
    assert torch.allclose(model(ids), adapted, atol=1e-3)
