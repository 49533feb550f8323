"""Small causal language models of the GPT-2 and Llama families, built from a config and saved as ordinary checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tycho.errors import TychoError, one_line, unknown
from tycho.lm.factored import factorise, is_factored, materialise
from tycho.lm.vocabulary import Vocabulary

Family = Literal["gpt2", "llama"]


def build(
    words: Vocabulary,
    *,
    family: Family = "gpt2",
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    context: int = 128,
    tied: bool = True,
    dropout: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """A Hugging Face causal LM from scratch, deterministic from `seed`.

    gpt2: learned positions, LayerNorm, GELU (the exact one: on CPU the tanh form costs six times as much).
    llama: rotary positions, RMSNorm, gated SiLU of about as many parameters.
    tied: the output layer is the input embedding. A vocabulary with edges gets factored embeddings (`factored.py`).
    Weights start with standard deviation 0.8 / √width: the usual 0.02 is made for widths near 1,000, and at 96 it keeps
    attention so flat that positions are found late or never (grouped products: stuck after 1,000 steps, against 150).
    Attention is "eager": at this size the fused kernel is no faster, and probes read attention weights.
    """
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = _config(family, layers, width, heads, context, dropout)
        config.update({"vocab_size": len(words), "tie_word_embeddings": tied, "eos_token_id": words.end})
        config.update({"pad_token_id": words.pad, "bos_token_id": None, "initializer_range": 0.8 / width**0.5})
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        if words.nodes:
            factorise(model, words.produced, words.nodes, fresh=True)
    return model


def _config(family: str, layers: int, width: int, heads: int, context: int, dropout: float) -> Any:
    from transformers import GPT2Config, LlamaConfig

    if family == "gpt2":
        rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
        return GPT2Config(
            n_layer=layers, n_embd=width, n_head=heads, n_positions=context, activation_function="gelu", **rates
        )
    if family == "llama":
        return LlamaConfig(
            num_hidden_layers=layers,
            hidden_size=width,
            intermediate_size=8 * width // 3,
            num_attention_heads=heads,
            max_position_embeddings=context,
            attention_dropout=dropout,
        )
    raise unknown("model family", family, ("gpt2", "llama"))


def save(model: nn.Module, tokenizer: Any, folder: Path) -> None:
    """Saves model and tokenizer so that `AutoModelForCausalLM.from_pretrained(folder)` loads them.

    Factored embeddings are written out as a full table. Edges are then words like any other to the checkpoint, so its
    generation config suppresses them.
    """
    _quiet()
    (materialise(model) if is_factored(model) else model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load(source: str | Path, *, device: str = "cpu", revision: str | None = None) -> tuple[nn.Module, Any]:
    """(model, tokenizer) of a folder or of the hub (pinned by `revision`). Factored embeddings are factored again.

    Weights are float32 whatever the checkpoint holds: in bfloat16 a small step would leave the larger ones where they are.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _quiet()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        model = AutoModelForCausalLM.from_pretrained(
            source, revision=revision, dtype=torch.float32, attn_implementation="eager"
        )
    except (OSError, ValueError) as error:
        raise TychoError(f"no language model at {source}: {one_line(error)}") from error
    factors = getattr(model.config, "factored", None)
    if factors:
        factorise(model, factors["produced"], factors["nodes"])
    return model.to(device), tokenizer


def _quiet() -> None:
    """No bars for files that take milliseconds."""
    from transformers.utils import logging

    logging.disable_progress_bar()
