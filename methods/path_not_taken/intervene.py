"""Rotated and permuted copies of a checkpoint (Llama-like or GPT-2), and their check on logits."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods.path_not_taken import interventions, shards
from methods.path_not_taken.checkpoints import FLOATS, open_base
from methods.path_not_taken.folders import Checkpoint
from methods.path_not_taken.interventions import Attention
from tycho.errors import TychoError, unknown
from tycho.files import check_writable

KINDS = ("rotate", "permute")
ROTATIONS = {"haar": interventions.haar, "hadamard": interventions.hadamard}
IN_LAYER = re.compile(r"(?:.*\.)?(?:layers|h)\.(\d+)\.(?:self_attn|attn)\.(.+)\Z")
# Whatever else a layer's attention holds is refused, but for norms within a head, which both changes leave alone.
LLAMA = {f"{name}_proj.{kind}" for name in "qkvo" for kind in ("weight", "bias")}
GPT2 = {f"{name}.{kind}" for name in ("c_attn", "c_proj") for kind in ("weight", "bias")} | {"bias", "masked_bias"}
NORMS = ("q_norm.weight", "k_norm.weight")


def read_plan(text: str) -> dict[int, tuple[str, ...]]:
    """`20:rotate+permute,25:rotate` as {20: ("rotate", "permute"), 25: ("rotate",)}."""
    plan = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)\s*:\s*([a-z+ ]+?)\s*", part)
        if not found:
            raise TychoError(f"{part.strip()!r} is not LAYER:CHANGE, as in 20:rotate+permute")
        plan[int(found[1])] = tuple(kind.strip() for kind in found[2].split("+"))
    return plan


def intervene(
    source: str | Path, out: str | Path, plan: Mapping[int, Sequence[str]], seed: int = 0, rotation: str = "haar"
) -> Path:
    """Copies a checkpoint to `out` with the named layers rotated, permuted or both; every other byte stays.

    One layer is in memory at a time. Changes are made in float64 and stored in the checkpoint's own dtype: a
    permutation is exact, a rotation as exact as that dtype is. Raises TychoError where a layer is missing or of
    another kind.
    """
    checkpoint, out = open_base(source), Path(out)
    for kind in (kind for kinds in plan.values() for kind in kinds):
        if kind not in KINDS:
            raise unknown("intervention", kind, KINDS)
    if rotation not in ROTATIONS:
        raise unknown("rotation", rotation, ROTATIONS)
    found = _layers(checkpoint)
    for layer in plan:
        if layer not in found:
            raise TychoError(f"{source} has no attention layer {layer}: it has {min(found)} to {max(found)}")
        _check(checkpoint, layer, found[layer], plan[layer])
    if out.exists() and any(out.iterdir()):
        raise TychoError(f"{out} is not empty: name a new folder for the changed checkpoint")
    check_writable(out)
    beside = out.with_name(f".{out.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(checkpoint.folder, beside, ignore=_only_needed(checkpoint))
    for layer, kinds in sorted(plan.items()):
        _change(checkpoint, beside, layer, found[layer], kinds, seed, rotation)
    out.rmdir()
    beside.rename(out)
    return out


def logit_difference(a: str | Path, b: str | Path, tokens: Tensor | None = None) -> float:
    """Largest |difference| of two checkpoints' logits in float32, on token ids [batch, length] or 64 arbitrary ones.

    Loads one model after the other with transformers.
    """
    from transformers import AutoModelForCausalLM

    logits = []
    for place in (a, b):
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
        if tokens is None:
            generator = torch.Generator().manual_seed(0)
            tokens = torch.randint(model.config.vocab_size, (2, 32), generator=generator)
        with torch.no_grad():
            logits.append(model(tokens).logits)
        del model
    return (logits[0] - logits[1]).abs().max().item()


def _layers(checkpoint: Checkpoint) -> dict[int, dict[str, str]]:
    """layer -> {name within attention: the tensor's full name}."""
    found: dict[int, dict[str, str]] = {}
    for name in checkpoint.names:
        matched = IN_LAYER.match(name)
        if matched:
            found.setdefault(int(matched[1]), {})[matched[2]] = name
    if not found:
        raise TychoError(f"{checkpoint.source} has no layers.N.self_attn or h.N.attn: only Llama-like and GPT-2 models")
    return found


def _check(checkpoint: Checkpoint, layer: int, parts: Mapping[str, str], kinds: Sequence[str]) -> None:
    _, few, size = _heads(checkpoint)
    if few == 1 and "permute" in kinds:
        raise TychoError(f"{checkpoint.source} has one key and value head a layer: there is nothing to permute")
    known = GPT2 if "c_attn.weight" in parts else LLAMA
    for part, name in parts.items():
        if part in NORMS and checkpoint.stored(name).shape == (size,):
            continue
        if checkpoint.stored(name).dtype not in FLOATS:
            raise TychoError(
                f"tensor {name!r} is stored as {checkpoint.stored(name).dtype}: dequantise it to bf16 first"
            )
        if part not in known:
            raise TychoError(f"tensor {name!r} makes layer {layer}'s attention none that rotate or permute know")
    needed = {"c_attn.weight", "c_proj.weight"} if known is GPT2 else {f"{part}_proj.weight" for part in "qkvo"}
    if needed - set(parts):
        raise TychoError(f"layer {layer} of {checkpoint.source} lacks {min(needed - set(parts))}")


def _heads(checkpoint: Checkpoint) -> tuple[int, int, int]:
    """(query heads, key and value heads, size of a head) from config.json."""
    config: dict[str, Any] = checkpoint.config.get("text_config") or checkpoint.config
    queries = config.get("num_attention_heads") or config.get("n_head")
    width = config.get("hidden_size") or config.get("n_embd")
    if not queries or not width:
        raise TychoError(f"{checkpoint.folder} has no config.json that gives the number of attention heads")
    return queries, config.get("num_key_value_heads") or queries, config.get("head_dim") or width // queries


def _change(
    checkpoint: Checkpoint,
    copy: Path,
    layer: int,
    parts: Mapping[str, str],
    kinds: Sequence[str],
    seed: int,
    rotation: str,
) -> None:
    generator = torch.Generator().manual_seed(seed * 100_003 + layer)
    queries, few, size = _heads(checkpoint)
    attention = _read(checkpoint, parts)
    if attention.key.shape[0] != few * size or attention.query.shape[0] != queries * size:
        raise TychoError(f"layer {layer} of {checkpoint.source} has not the heads its config.json says")
    if "rotate" in kinds:
        try:
            attention = interventions.rotate(attention, ROTATIONS[rotation](size, generator))
        except ValueError as error:
            raise TychoError(str(error)) from error
    if "permute" in kinds:
        attention = interventions.permute(attention, _derangement(few, generator), size)
    for part, tensor in _parts(attention, parts).items():
        file = checkpoint.where[parts[part]]
        shards.overwrite(copy / file.relative_to(checkpoint.folder), parts[part], tensor)


def _derangement(heads: int, generator: torch.Generator) -> Tensor:
    """A random order that leaves no head in place, where there are two or more."""
    order = torch.randperm(heads, generator=generator)
    while heads > 1 and (order == torch.arange(heads)).any():
        order = torch.randperm(heads, generator=generator)
    return order


def _read(checkpoint: Checkpoint, parts: Mapping[str, str]) -> Attention:
    tensors = {part: checkpoint.read(name).double() for part, name in parts.items() if part not in NORMS}
    if "c_attn.weight" in tensors:  # GPT-2: one matrix [in, 3 out] for query, key and value
        biases = tensors["c_attn.bias"].chunk(3) if "c_attn.bias" in tensors else (None, None, None)
        return Attention(*tensors["c_attn.weight"].T.chunk(3), tensors["c_proj.weight"].T.contiguous(), *biases)
    weights = (tensors[f"{part}_proj.weight"] for part in "qkvo")
    return Attention(*weights, *(tensors.get(f"{part}_proj.bias") for part in "qkv"))


def _parts(attention: Attention, parts: Mapping[str, str]) -> dict[str, Tensor]:
    """The reverse of `_read`: what is to be stored, by name within attention."""
    projections, biases = attention[:3], attention[4:]
    if "c_attn.weight" in parts:
        found = {"c_attn.weight": torch.cat(projections).T, "c_proj.weight": attention.output.T}
        return found | ({"c_attn.bias": torch.cat(biases)} if biases[0] is not None else {})
    found = {f"{part}_proj.weight": tensor for part, tensor in zip("qkvo", attention[:4], strict=True)}
    return found | {f"{part}_proj.bias": b for part, b in zip("qkv", biases, strict=True) if b is not None}


def _only_needed(checkpoint: Checkpoint) -> Any:
    """Leaves out weights in other formats and other copies of them."""
    keep = {file.name for file in checkpoint.files}

    def ignore(folder: str, entries: list[str]) -> list[str]:
        weights = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".msgpack", ".h5")
        return [e for e in entries if (e.endswith(weights) and e not in keep) or (Path(folder) / e).is_dir()]

    return ignore
