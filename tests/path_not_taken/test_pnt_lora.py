"""Adapters merged tensor by tensor, against peft's own merge of the whole model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from methods.path_not_taken.checkpoints import align, open_base, open_tuned, pairs
from methods.path_not_taken.diff import diff
from methods.path_not_taken.lora import Merged
from tycho.errors import TychoError

LLAMA: dict[str, Any] = dict(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    attention_bias=True,
)
GPT2 = dict(vocab_size=40, n_embd=16, n_layer=2, n_head=4, n_positions=32)


def save_base(folder: Path, kind: str, tied: bool) -> Path:
    torch.manual_seed(0)
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(**GPT2))
    else:
        model = LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=tied))
    model.save_pretrained(folder)
    return folder


def save_adapter(folder: Path, base: Path, **config: Any) -> Path:
    """An adapter with every factor away from where it starts."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**config))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return folder


CASES: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "plain": ("llama", False, dict(r=4, lora_alpha=12, target_modules="all-linear")),
    "square": ("llama", False, dict(r=2, target_modules=["q_proj", "o_proj"])),
    "patterns": (
        "llama",
        False,
        dict(
            r=4,
            use_rslora=True,
            target_modules=["q_proj", "v_proj", "up_proj"],
            rank_pattern={"v_proj": 2},
            alpha_pattern={"layers.1.self_attn.q_proj": 32, "up_proj": 1},
        ),
    ),
    "biases": ("llama", False, dict(r=4, target_modules=["q_proj"], bias="all")),
    "saved modules": (
        "llama",
        False,
        dict(r=4, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"]),
    ),
    "saved tied head": ("llama", True, dict(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])),
    "embedding": ("llama", False, dict(r=4, target_modules=["embed_tokens", "down_proj"])),
    "head": ("llama", False, dict(r=4, target_modules=["lm_head"])),
    "dora": ("llama", False, dict(r=4, lora_alpha=12, use_dora=True, target_modules=["q_proj", "down_proj"])),
    "conv1d": (
        "gpt2",
        True,
        dict(r=4, lora_alpha=12, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True),
    ),
    "conv1d dora": ("gpt2", True, dict(r=4, use_dora=True, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_merging_is_pefts(tmp_path: Path, case: str) -> None:
    kind, tied, config = CASES[case]
    place = save_base(tmp_path / "base", kind, tied)
    adapter = save_adapter(tmp_path / "adapter", place, task_type="CAUSAL_LM", **config)
    whole = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(place), adapter).merge_and_unload()
    expected = {name: tensor for name, tensor in whole.state_dict().items()}
    base = open_base(place)
    tuned = open_tuned(adapter, base)
    found = {name: (a, b) for name, a, b in pairs(base, tuned)}
    moved = [name for name, (a, b) in found.items() if not torch.equal(a, b)]
    assert moved
    for name, (_, b) in found.items():
        torch.testing.assert_close(
            b.float(), expected[name], rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}"
        )
    # Nothing the adapter changes is overlooked.
    original = load_file(place / "model.safetensors")
    changed = {
        name
        for name, tensor in expected.items()
        if not torch.equal(tensor, original.get(name, original.get(str(base.embedding))))
    }
    assert changed <= set(moved)


def test_a_diff_of_an_adapter_is_that_of_the_merged_model(made: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = made
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload().save_pretrained(
        tmp_path / "merged"
    )
    frame = diff(base, [adapter, tmp_path / "merged"], tmp_path / "out", device="cpu")
    sides = {run: rows.drop(columns="run").reset_index(drop=True) for run, rows in frame.groupby("run")}
    measured = sides["adapter"].metric != "noise_shape"  # of the null, whose draws are each run's own
    columns = ["tensor", "metric", "setting", "value", "expected"]
    pd.testing.assert_frame_equal(
        sides["adapter"].loc[measured, columns], sides["merged"].loc[measured, columns], rtol=1e-4
    )
    sparsity = frame[(frame.run == "adapter") & (frame.metric == "sparsity")].set_index("tensor").value
    assert set(sparsity[sparsity < 1].index) == {f"model.layers.{i}.self_attn.q_proj.weight" for i in range(2)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("lora")
    base = save_base(folder / "base", "llama", tied=False)
    return base, save_adapter(folder / "adapter", base, r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")


def spoilt(
    made: tuple[Path, Path], folder: Path, rename: tuple[str, str] = ("", ""), drop: str = "\0", **config: Any
) -> Path:
    """A copy of the adapter with some of its config or tensors changed."""
    tensors = load_file(made[1] / "adapter_model.safetensors")
    tensors = {name.replace(*rename): tensor for name, tensor in tensors.items() if drop not in name}
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    saved = json.loads((made[1] / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(saved | config))
    return folder


WRONG = {
    "other base": (
        dict(rename=("layers.1", "layers.9")),
        r"changes '.*layers\.9\..*', which BASE .* does not have; nearest",
    ),
    "one half": (dict(drop="layers.1.self_attn.q_proj.lora_B"), r"tensor '.*layers\.1.*' has one half of its factors"),
    "pissa": (dict(init_lora_weights="pissa_niter_4"), "starts from 'pissa_niter_4', which changes the base as well"),
    "olora": (dict(init_lora_weights="olora"), "starts from 'olora'"),
    "other type": (dict(peft_type="IA3"), "is of type IA3, not LORA"),
    "repeats": (dict(layer_replication=[[0, 2]]), "layer_replication"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_merged_is_one_line(made: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    change, says = WRONG[kind]
    with pytest.raises(TychoError, match=says) as raised:
        open_tuned(spoilt(made, tmp_path / "adapter", **change), open_base(made[0]))
    assert "\n" not in str(raised.value)


def test_a_base_of_another_size_is_named(made: tuple[Path, Path], tmp_path: Path) -> None:
    tensors = load_file(made[0] / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = torch.ones(16, 20)
    (tmp_path / "base").mkdir()
    save_file(tensors, tmp_path / "base" / "model.safetensors")
    base = open_base(tmp_path / "base")
    tuned = open_tuned(made[1], base)
    with pytest.raises(
        TychoError, match=rf"tensor '{name}' is \[16, 20\] in BASE and the adapter .* is for \[16, 16\]"
    ):
        tuned.read(name)


def test_an_adapter_without_weights(made: tuple[Path, Path], tmp_path: Path) -> None:
    adapter = spoilt(made, tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(TychoError, match=r"no adapter_model[.]safetensors: save the adapter as safetensors"):
        open_tuned(adapter, open_base(made[0]))


def test_a_merged_model_beside_its_adapters_config_is_the_model(made: tuple[Path, Path], tmp_path: Path) -> None:
    folder = spoilt(made, tmp_path / "both")
    save_file(load_file(made[0] / "model.safetensors"), folder / "model.safetensors")
    base = open_base(made[0])
    tuned = open_tuned(folder, base)
    assert not isinstance(tuned, Merged)
    assert len(align(base, tuned).pairs) == len(base.names)
