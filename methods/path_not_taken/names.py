"""What tensor names of language models say: which are the same tensor under a wrapper, and which are weights at all."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Collection

from tycho.errors import TychoError

TORCH_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # anywhere in a name
MODEL_WRAPPERS = {"module", "base_model", "model", "transformer", "language_model", "text_model"}  # in front only
HEADS = {"lm_head.weight", "embed_out.weight", "output.weight"}
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "tok_embeddings.weight", "word_embeddings.weight")
BUFFERS = (".inv_freq", ".masked_bias", "position_ids", "token_type_ids", "num_batches_tracked")
ATTENTION_MASK = ".attn.bias"  # four-dimensional in GPT-2's published files: the causal mask


def canonical(name: str) -> str:
    """A name without what compiling, sharding, adapters and outer model classes put in front of it."""
    parts = [part for part in name.split(".") if part not in TORCH_WRAPPERS]
    while len(parts) > 1 and parts[0] in MODEL_WRAPPERS:
        parts.pop(0)
    return ".".join(parts)


def match(wanted: Collection[str], offered: Collection[str]) -> dict[str, str]:
    """Each wanted name with the offered one that is the same tensor: the same name, else the same `canonical` name.

    Names without a partner are left out. Raises TychoError where two names of one side are one tensor by their
    canonical names.
    """
    offered_set = set(offered)
    found = {name: name for name in wanted if name in offered_set}
    open_wanted = [name for name in wanted if name not in found]
    open_offered = [name for name in offered if name not in found]
    if open_wanted and open_offered:
        for side in (open_wanted, open_offered):
            (name, count), *_ = Counter(map(canonical, side)).most_common(1)
            if count > 1:
                twins = [other for other in side if canonical(other) == name][:2]
                raise TychoError(
                    f"tensors {twins[0]!r} and {twins[1]!r} have one name without their prefixes: rename one"
                )
        by_canonical = {canonical(name): name for name in open_offered}
        found |= {name: by_canonical[canonical(name)] for name in open_wanted if canonical(name) in by_canonical}
    return found


def nearest(name: str, offered: Collection[str]) -> str:
    """The offered name most like a missing one, or nothing."""
    return next(iter(difflib.get_close_matches(name, list(offered), n=1, cutoff=0.8)), "")


def is_head(name: str) -> bool:
    """The matrix that makes logits, which may be tied to the embedding."""
    return canonical(name) in HEADS


def is_embedding(name: str) -> bool:
    """The token embedding."""
    return name.endswith(EMBEDDINGS)


def is_buffer(name: str, shape: tuple[int, ...]) -> bool:
    """Saved beside the weights and not trained."""
    return name.endswith(BUFFERS) or (name.endswith(ATTENTION_MASK) and len(shape) == 4)


def module(name: str) -> str:
    """What a tensor does in its layer: `q_proj` of model.layers.3.self_attn.q_proj.weight; biases keep their suffix."""
    parts = canonical(name).split(".")
    return ".".join(parts[-2:]) if parts[-1] != "weight" or len(parts) == 1 else parts[-2]


def layer(name: str) -> int | None:
    """The layer's number: the first number in a name."""
    found = re.search(r"\.(\d+)\.", f".{canonical(name)}.")
    return int(found[1]) if found else None


def in_order(names: Collection[str]) -> list[str]:
    """Names as a person counts: layer 2 before layer 10."""
    return sorted(names, key=lambda name: [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in name.split(".")])
