"""Pairs of tensors from every layout a checkpoint comes in, and one clear line for every broken one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from methods.path_not_taken import shards
from methods.path_not_taken.checkpoints import align, open_base, open_tuned, pairs
from tycho.errors import TychoError

Tensors = dict[str, Tensor]


def model(seed: int, layers: int = 2, vocabulary: int = 12, prefix: str = "model.") -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    shapes = {f"{prefix}embed_tokens.weight": (vocabulary, 8), f"{prefix}norm.weight": (8,)}
    shapes |= {f"{prefix}layers.{i}.mlp.up_proj.weight": (16, 8) for i in range(layers)}
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}


def save(folder: Path, tensors: Tensors, shards_of: int = 0) -> Path:
    """One file, or shards of so many tensors each with an index."""
    folder.mkdir(parents=True)
    if not shards_of:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names = list(tensors)
    groups = [names[i : i + shards_of] for i in range(0, len(names), shards_of)]
    where = {}
    for number, group in enumerate(groups, 1):
        file = f"model-{number:05}-of-{len(groups):05}.safetensors"
        save_file({name: tensors[name] for name in group}, folder / file)
        where |= dict.fromkeys(group, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def opened(base: Path, tuned: Path) -> tuple:
    first = open_base(base)
    return first, open_tuned(tuned, first)


# --- the format -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [t for t in shards.DTYPES.values()])
def test_every_dtype_is_read_as_safetensors_reads_it(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"odd": torch.arange(3).to(torch.bool), "a": (torch.arange(15) - 3).reshape(3, 5).abs().to(dtype)}
    tensors |= {"scalar": torch.tensor(2).to(dtype), "none": torch.empty(0, 4).to(dtype)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    for name, expected in load_file(tmp_path / "x.safetensors").items():
        found = shards.read(tmp_path / "x.safetensors", name)
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


def test_overwriting_leaves_every_other_byte(tmp_path: Path) -> None:
    tensors = model(0)
    save_file(tensors, tmp_path / "x.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    shards.overwrite(tmp_path / "x.safetensors", name, torch.ones(16, 8, dtype=torch.float64))
    for other, found in load_file(tmp_path / "x.safetensors").items():
        assert torch.equal(found, torch.ones(16, 8).bfloat16() if other == name else tensors[other])
    with pytest.raises(ValueError, match=r"is \[16, 8\]"):
        shards.overwrite(tmp_path / "x.safetensors", name, torch.ones(8, 16))


def test_a_header_is_read_again_when_its_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(2)}, file)
    assert list(shards.header(file)) == ["a"]
    save_file({"b": torch.ones(3, 3)}, file)
    assert list(shards.header(file)) == ["b"]


# --- layouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["folder", "file", "index", "loose shards", "other name"])
@pytest.mark.parametrize("sharded_base", [False, True])
def test_pairs_from_every_layout(tmp_path: Path, layout: str, sharded_base: bool) -> None:
    base, tuned = model(0), model(1)
    first = save(tmp_path / "base", base, shards_of=2 if sharded_base else 0)
    second = save(tmp_path / "tuned", tuned, shards_of=3 if layout in ("index", "loose shards") else 0)
    if layout == "file":
        second /= "model.safetensors"
    elif layout == "index":
        second /= "model.safetensors.index.json"
    elif layout == "loose shards":
        (second / "model.safetensors.index.json").unlink()
    elif layout == "other name":
        (second / "model.safetensors").rename(second / "weights.safetensors")
    found = {name: (a, b) for name, a, b in pairs(*opened(first, second))}
    assert set(found) == set(base)
    for name, (a, b) in found.items():
        assert torch.equal(a, base[name])
        assert torch.equal(b, tuned[name])


@pytest.mark.parametrize(
    ("base_prefix", "tuned_prefix"),
    [
        ("model.", ""),
        ("model.", "module.model."),
        ("model.", "_orig_mod.model."),
        ("transformer.", ""),
        ("model.language_model.", "model."),
        ("model.", "_fsdp_wrapped_module.model._fsdp_wrapped_module."),
    ],
)
def test_prefixes_are_seen_through(tmp_path: Path, base_prefix: str, tuned_prefix: str) -> None:
    base, tuned = model(0, prefix=base_prefix), model(1, prefix=tuned_prefix)
    found = {name: (a, b) for name, a, b in pairs(*opened(save(tmp_path / "a", base), save(tmp_path / "b", tuned)))}
    assert set(found) == set(base)
    for name, (_, b) in found.items():
        assert torch.equal(b, tuned[tuned_prefix + name.removeprefix(base_prefix)])


def test_layers_come_in_the_order_of_a_person(tmp_path: Path) -> None:
    checkpoint = open_base(save(tmp_path / "a", model(0, layers=12)))
    layers = [name for name in checkpoint.names if ".layers." in name]
    assert layers == [f"model.layers.{i}.mlp.up_proj.weight" for i in range(12)]


@pytest.mark.parametrize("other", [torch.float32, torch.float16, torch.float64])
def test_another_float_is_compared_all_the_same(tmp_path: Path, other: torch.dtype) -> None:
    base = model(0)
    tuned = {name: tensor.to(other) for name, tensor in base.items()}
    for _, a, b in pairs(*opened(save(tmp_path / "a", base), save(tmp_path / "b", tuned))):
        assert torch.equal(a.double(), b.double())


# --- tied heads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored_by", ["base", "tuned"])
def test_a_head_one_side_ties_is_held_against_its_embedding(tmp_path: Path, stored_by: str) -> None:
    sides = {"base": model(0), "tuned": model(1)}
    tied = "tuned" if stored_by == "base" else "base"
    head = torch.randn(12, 8, generator=torch.Generator().manual_seed(2)).bfloat16()
    sides[stored_by]["lm_head.weight"] = head
    found = {
        name: {"base": a, "tuned": b}
        for name, a, b in pairs(*opened(save(tmp_path / "a", sides["base"]), save(tmp_path / "b", sides["tuned"])))
    }
    assert torch.equal(found["lm_head.weight"][stored_by], head)
    assert torch.equal(found["lm_head.weight"][tied], sides[tied]["model.embed_tokens.weight"])


@pytest.mark.parametrize("stored_by", ["base", "tuned", "both"])
def test_a_head_that_only_repeats_the_embedding_counts_once(tmp_path: Path, stored_by: str) -> None:
    sides = {"base": model(0), "tuned": model(1)}
    for side, tensors in sides.items():
        if stored_by in (side, "both"):
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    aligned = align(*opened(save(tmp_path / "a", sides["base"]), save(tmp_path / "b", sides["tuned"])))
    assert "lm_head.weight" not in {pair.name for pair in aligned.pairs}
    assert aligned.skipped == {"lm_head.weight": "tied: the embedding, stored a second time"}


# --- what cannot be compared ----------------------------------------------------------------------------------------


def without(name: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__delitem__(name)


def with_tensor(name: str, tensor: Tensor) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: tensor})


UP = "model.layers.1.mlp.up_proj.weight"
WRONG = {
    "missing": (without(UP), rf"tensor '{UP}' is only in BASE \(.*not in .*--lenient"),
    "extra": (
        with_tensor("model.layers.7.mlp.up_proj.weight", torch.ones(2)),
        "layers.7.* is only in TUNED.*nearest there",
    ),
    "shape": (with_tensor(UP, torch.ones(16, 9)), rf"tensor '{UP}' is \[16, 8\] in .* and \[16, 9\] in "),
    "quantised": (
        with_tensor(UP, torch.ones(16, 8, dtype=torch.uint8)),
        f"tensor '{UP}' is stored as U8 in .*dequantise",
    ),
    "eight bits": (with_tensor(UP, torch.ones(16, 8).to(torch.float8_e4m3fn)), f"tensor '{UP}' is stored as F8_E4M3"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_has_no_partner_is_named_or_leniently_left_out(tmp_path: Path, kind: str) -> None:
    spoil, says = WRONG[kind]
    tuned = model(1)
    spoil(tuned)
    base, other = opened(save(tmp_path / "a", model(0)), save(tmp_path / "b", tuned))
    with pytest.raises(TychoError, match=says) as raised:
        align(base, other)
    assert "\n" not in str(raised.value)
    lenient = align(base, other, lenient=True)
    assert len(lenient.skipped) == 1
    expected = {name for name in model(0) if name not in lenient.skipped}
    assert {pair.name for pair in lenient.pairs} == expected


def test_buffers_are_left_out_without_asking(tmp_path: Path) -> None:
    base, tuned = model(0), model(1)
    base["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    tuned["h.0.attn.bias"] = torch.ones(1, 1, 4, 4, dtype=torch.uint8)
    tuned["embeddings.position_ids"] = torch.arange(4)
    aligned = align(*opened(save(tmp_path / "a", base), save(tmp_path / "b", tuned)))
    assert set(aligned.skipped.values()) == {"a buffer, not a weight"}
    assert len(aligned.skipped) == 3
    assert len(aligned.pairs) == len(model(0))


def test_nothing_in_common(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a", model(0)), save(tmp_path / "b", {"x": torch.ones(2)})
    with pytest.raises(TychoError, match="no weight in common"):
        align(*opened(first, second), lenient=True)


def test_two_names_for_one_tensor(tmp_path: Path) -> None:
    tuned = model(1, prefix="") | {f"module.{name}": tensor for name, tensor in model(1, prefix="").items()}
    with pytest.raises(TychoError, match=r"have one name without their prefixes"):
        align(*opened(save(tmp_path / "a", model(0)), save(tmp_path / "b", tuned)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_weight_is_named(tmp_path: Path, bad: float) -> None:
    tuned = model(1)
    tuned[UP][3, 4] = bad
    with pytest.raises(TychoError, match=f"tensor '{UP}' of .* holds nan or infinity"):
        list(pairs(*opened(save(tmp_path / "a", model(0)), save(tmp_path / "b", tuned))))


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def header_only(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0not a header")


def no_json(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x05\0\0\0\0\0\0\0[1,2]")


def wrong_bytes(folder: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def emptied(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def two_files(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    save_file({"a": torch.ones(2)}, folder / "two.safetensors")


BROKEN = {
    cut: "lies beyond the end of .*cut off",
    header_only: "not a whole safetensors file",
    no_json: "header cannot be read",
    wrong_bytes: r"tensor 'a' of .* has not the bytes of its shape \[3\]",
    pickled: "holds pytorch_model.bin and no safetensors",
    emptied: "holds no safetensors file",
    two_files: "several safetensors files and no model.safetensors.index.json",
}


@pytest.mark.parametrize("breaks", BROKEN, ids=lambda function: function.__name__)
def test_a_broken_folder_is_one_line(tmp_path: Path, breaks: Callable[[Path], None]) -> None:
    folder = save(tmp_path / "a", model(0))
    breaks(folder)
    with pytest.raises(TychoError, match=BROKEN[breaks]) as raised:
        open_base(folder)
    assert "\n" not in str(raised.value)


def test_broken_indexes_name_the_tensor(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", model(0), shards_of=2)
    index = folder / "model.safetensors.index.json"
    where = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": where | {"model.extra.weight": where[UP]}}))
    with pytest.raises(TychoError, match=r"tensor 'model[.]extra[.]weight' is not in"):
        open_base(folder)
    index.write_text(json.dumps({"weight_map": where}))
    (folder / where[UP]).unlink()
    with pytest.raises(TychoError, match=r"tensor '.*' should be in .*, which is missing"):
        open_base(folder)
    index.unlink()
    with pytest.raises(TychoError, match="lacks shard 2 of 2"):
        open_base(folder)
    index.write_text("{}")
    with pytest.raises(TychoError, match="has no weight_map"):
        open_base(folder)


def test_a_mistyped_path_names_the_nearest(tmp_path: Path) -> None:
    save(tmp_path / "checkpoint-100", model(0))
    with pytest.raises(TychoError, match=r"there is no checkpoint .*did you mean '.*/checkpoint-100'"):
        open_base(tmp_path / "chekpoint-100")


def test_an_adapter_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(TychoError, match="is an adapter"):
        open_base(tmp_path)
