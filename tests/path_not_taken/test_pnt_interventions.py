"""Rotated and permuted models say the same: logits of small Llama, Qwen and GPT-2 models built from their configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from methods.path_not_taken import interventions, lattice
from methods.path_not_taken.checkpoints import pairs
from methods.path_not_taken.folders import open_folder
from methods.path_not_taken.intervene import intervene, logit_difference, read_plan
from methods.path_not_taken.interventions import Attention
from tycho.errors import TychoError

SIZES: dict[str, Any] = dict(vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=3)
HEADS: dict[str, Any] = dict(num_attention_heads=8, num_key_value_heads=2)
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS)),
    "llama, biases, own head size": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, num_attention_heads=8, num_key_value_heads=4, head_dim=8, attention_bias=True)
    ),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, **HEADS)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, **HEADS, head_dim=16)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=3, n_head=4, n_positions=64)),
}


def saved(folder: Path, kind: str, dtype: torch.dtype = torch.float32, shard: str = "1GB") -> Path:
    """A model with every bias and norm away from where it starts."""
    torch.manual_seed(0)
    model = MODELS[kind]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    return folder


@pytest.mark.parametrize("change", ["rotate", "permute", "rotate+permute"])
@pytest.mark.parametrize("kind", MODELS)
def test_logits_stay(tmp_path: Path, kind: str, change: str) -> None:
    source = saved(tmp_path / "source", kind)
    changed = intervene(source, tmp_path / "changed", read_plan(f"0:{change},2:{change}"), seed=1)
    assert logit_difference(source, changed) < 1e-5
    touched = {name for name, a, b in pairs(open_folder(source), open_folder(changed)) if not torch.equal(a, b)}
    assert touched
    assert all(".0." in name or ".2." in name for name in touched)
    values = {"v_proj", "o_proj"} if "permute" not in change else {"q_proj", "k_proj", "v_proj", "o_proj"}
    expected = {"c_attn", "c_proj"} if kind == "gpt2" else values
    assert {name.split(".")[-2] for name in touched} == expected


def test_half_a_change_is_seen(tmp_path: Path) -> None:
    """The check can fail: values turned and not turned back."""
    source = saved(tmp_path / "source", "llama")
    changed = intervene(source, tmp_path / "changed", {1: ["rotate"]})
    tensors = load_file(changed / "model.safetensors")
    name = "model.layers.1.self_attn.o_proj.weight"
    tensors[name] = load_file(source / "model.safetensors")[name]
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    assert logit_difference(source, changed) > 1e-3


def test_small_entries_move_elsewhere(tmp_path: Path) -> None:
    """Why the intervention is made: which entries a small update shows on is another set after it."""
    source = saved(tmp_path / "source", "llama")
    changed = intervene(source, tmp_path / "changed", {1: ["rotate", "permute"]})
    name = "model.layers.1.self_attn.v_proj.weight"
    before, after = (open_folder(folder).read(name) for folder in (source, changed))
    update = 2e-4 * torch.randn(before.shape, generator=torch.Generator().manual_seed(0))
    a, b = (lattice.changed(weights.bfloat16(), weights.bfloat16() + update) for weights in (before, after))
    assert 0.1 < a.float().mean() < 0.9
    assert not torch.equal(a, b)


def test_shards_and_dtype_are_kept(tmp_path: Path) -> None:
    source = saved(tmp_path / "source", "llama", torch.bfloat16, shard="20KB")
    assert len(list(source.glob("*.safetensors"))) > 2
    changed = intervene(source, tmp_path / "changed", {0: ["permute"]})
    assert sorted(p.name for p in changed.iterdir()) == sorted(p.name for p in source.iterdir())
    for name, a, b in pairs(open_folder(source), open_folder(changed)):
        assert a.dtype == b.dtype == torch.bfloat16
        assert torch.equal(a.flatten().sort().values, b.flatten().sort().values), name  # entries only change places


def test_hadamard_and_seed(tmp_path: Path) -> None:
    source = saved(tmp_path / "source", "qwen3")
    name = "model.layers.0.self_attn.v_proj.weight"
    found = {}
    for label, seed, rotation in (("a", 0, "hadamard"), ("b", 0, "hadamard"), ("c", 1, "hadamard"), ("d", 0, "haar")):
        changed = intervene(source, tmp_path / label, {0: ["rotate"]}, seed=seed, rotation=rotation)
        assert logit_difference(source, changed) < 1e-5
        found[label] = open_folder(changed).read(name)
    assert torch.equal(found["a"], found["b"])
    assert not torch.equal(found["a"], found["c"])
    assert not torch.equal(found["a"], found["d"])


# --- the mathematics ------------------------------------------------------------------------------------------------


@given(st.integers(1, 16), st.integers(0, 2**32))
def test_haar_is_orthogonal(size: int, seed: int) -> None:
    matrix = interventions.haar(size, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size, dtype=torch.float64))


def test_haar_is_uniform() -> None:
    """Entries have mean 0 and mean square 1/d, and the trace has mean square 1 (all not so without the sign fix)."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([interventions.haar(4, generator) for _ in range(4000)])
    assert drawn.mean(dim=0).abs().max() < 4 * 0.5 / 4000**0.5
    assert (drawn.square().mean(dim=0) - 0.25).abs().max() < 0.02
    traces = drawn.diagonal(dim1=1, dim2=2).sum(dim=1)
    assert traces.square().mean().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("size", [1, 2, 8, 64])
def test_hadamard_is_orthogonal_and_even(size: int) -> None:
    matrix = interventions.hadamard(size, torch.Generator().manual_seed(0))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size, dtype=torch.float64))
    torch.testing.assert_close(matrix.abs(), torch.full((size, size), size**-0.5, dtype=torch.float64))


def attend(attention: Attention, x: Tensor, size: int) -> Tensor:
    """Grouped-query causal attention of [length, model], head by head."""
    length = x.shape[0]
    bias = [0 if b is None else b for b in attention[4:]]
    q, k, v = ((x @ w.T + b).view(length, -1, size).transpose(0, 1) for w, b in zip(attention[:3], bias, strict=True))
    group = q.shape[0] // k.shape[0]
    heads = []
    for h in range(q.shape[0]):
        scores = (q[h] @ k[h // group].T / size**0.5).masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
        heads.append(scores.softmax(dim=-1) @ v[h // group])
    return torch.cat(heads, dim=-1) @ attention.output.T


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.booleans(), st.integers(0, 2**32))
def test_both_changes_leave_grouped_attention_alone(few: int, group: int, size: int, biases: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    many, width = few * group, 7

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    attention = Attention(
        normal(many * size, width),
        normal(few * size, width),
        normal(few * size, width),
        normal(width, many * size),
        *((normal(many * size), normal(few * size), normal(few * size)) if biases else ()),
    )
    x = normal(6, width)
    expected = attend(attention, x, size)
    turned = interventions.rotate(attention, interventions.haar(size, generator))
    torch.testing.assert_close(attend(turned, x, size), expected)
    permuted = interventions.permute(turned, torch.randperm(few, generator=generator), size)
    torch.testing.assert_close(attend(permuted, x, size), expected)


# --- what cannot be changed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "rotation", "says"),
    [
        ({9: ["rotate"]}, "haar", "has no attention layer 9: it has 0 to 2"),
        ({0: ["rotat"]}, "haar", "unknown intervention 'rotat': did you mean 'rotate'"),
        ({0: ["rotate"]}, "har", "unknown rotation 'har': did you mean 'haar'"),
    ],
)
def test_wrong_plans_are_one_line(tmp_path: Path, plan: dict, rotation: str, says: str) -> None:
    source = saved(tmp_path / "source", "llama")
    with pytest.raises(TychoError, match=says):
        intervene(source, tmp_path / "changed", plan, rotation=rotation)
    assert not (tmp_path / "changed").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"add": "model.layers.0.self_attn.sinks"}, r"tensor 'model\.layers\.0\.self_attn\.sinks' makes layer 0's"),
        ({"drop": "model.layers.0.self_attn.k_proj.weight"}, r"layer 0 of .* lacks k_proj\.weight"),
        ({"config": {"num_attention_heads": 4}}, "has not the heads its config.json says"),
        ({"config": {"num_key_value_heads": 1}}, "one key and value head a layer: there is nothing to permute"),
        ({"config": {"num_attention_heads": None}}, "no config.json that gives the number of attention heads"),
    ],
)
def test_models_of_another_kind_are_one_line(tmp_path: Path, change: dict, says: str) -> None:
    source = saved(tmp_path / "source", "llama")
    tensors = load_file(source / "model.safetensors")
    if "add" in change:
        tensors[change["add"]] = torch.ones(8)
    if "drop" in change:
        del tensors[change["drop"]]
    save_file(tensors, source / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | change.get("config", {})))
    with pytest.raises(TychoError, match=says):
        intervene(source, tmp_path / "changed", {0: ["permute"]})
    assert not (tmp_path / "changed" / "config.json").exists()


def test_a_hadamard_of_another_size_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    LlamaForCausalLM(LlamaConfig(**SIZES, num_attention_heads=4, head_dim=6)).save_pretrained(folder)
    with pytest.raises(TychoError, match="power of two, not 6: use haar"):
        intervene(folder, tmp_path / "changed", {0: ["rotate"]}, rotation="hadamard")


def test_a_full_folder_is_left_alone(tmp_path: Path) -> None:
    source = saved(tmp_path / "source", "llama")
    (tmp_path / "changed").mkdir()
    (tmp_path / "changed" / "precious").write_text("")
    with pytest.raises(TychoError, match="is not empty"):
        intervene(source, tmp_path / "changed", {0: ["rotate"]})


@pytest.mark.parametrize("text", ["rotate", "1:", "x:rotate", "1;rotate", ""])
def test_a_plan_that_cannot_be_read(text: str) -> None:
    with pytest.raises(TychoError, match="is not LAYER:CHANGE"):
        read_plan(text)


def test_a_plan_is_read() -> None:
    assert read_plan("20:rotate+permute, 25:rotate") == {20: ("rotate", "permute"), 25: ("rotate",)}
