"""What a scaled-down copy of scale `paper` is given in the place of the hub: models of two layers and files of a few items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SUMS = [(2, 3), (4, 1), (3, 3), (5, 2)]


def tokenizer(*special: str) -> Any:
    """A byte for a token, behind the end of text and further special words; with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<|endoftext|>", *special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={word: place for place, word in enumerate(words)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    fast.add_special_tokens({"additional_special_tokens": list(special)})
    fast.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    return fast


def causal(
    folder: Path, kind: str, dtype: torch.dtype = torch.float32, seed: int = 0, *, says: str = "", tied: bool = False
) -> str:
    """A checkpoint of one of transformers' architectures; `says`: what it has learnt to write behind the first letter of this."""
    from transformers import AutoConfig, AutoModelForCausalLM

    words = tokenizer()
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 1024}
    if kind != "gpt2":
        shape |= {"intermediate_size": 24, "num_key_value_heads": 1, "head_dim": 8}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, vocab_size=len(words), tie_word_embeddings=tied, **shape)
    config.update({"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id, "bos_token_id": None})
    model = AutoModelForCausalLM.from_config(config)
    if says:
        taught = torch.tensor([[*words(says)["input_ids"], words.eos_token_id]])
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        for _ in range(150):  # behind whatever stands before
            ids = torch.cat([torch.randint(1, len(words), (1, 40)), taught], dim=1)
            labels = torch.where(torch.arange(ids.shape[1]) > 40, ids, -100)
            optimizer.zero_grad()
            model(input_ids=ids, labels=labels).loss.backward()
            optimizer.step()
    model.to(dtype).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def llada(folder: Path) -> str:
    """A checkpoint under LLaDA's names."""
    from methods.spg import llada

    words = tokenizer("<|mdm_mask|>")
    words.mask_token = "<|mdm_mask|>"
    words.save_pretrained(folder)
    config = llada.LLaDAConfig(16, 2, 2, 16, len(words), words.mask_token_id, 0, 0, max_sequence_length=700)
    llada.save(llada.build(config, 0), folder)
    return str(folder)


def corpus(folder: Path, name: str, *, chats: bool = False) -> None:
    """A few documents as text, in one file of JSON lines and one of parquet; or conversations."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    folder.mkdir(parents=True, exist_ok=True)
    if chats:
        rows = [
            {"messages": [{"role": "user", "content": f"{a} plus {b}?"}, {"role": "assistant", "content": str(a + b)}]}
            for a, b in SUMS
        ]
    else:
        rows = [{"text": f"{name}: {a} plus {b} is {a + b}. " * a} for a, b in SUMS]
        parquet.write_table(pa.Table.from_pylist(rows[2:]), folder / "b.parquet", row_group_size=1)
        rows = rows[:2]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def sums(folder: Path) -> str:
    """Questions with steps and answers, as Coconut's files have them."""
    items = [
        {"question": f"What is {a} plus {b}?", "steps": [f"<<{a}+{b}={a + b}>>"] * 3, "answer": str(a + b)}
        for a, b in SUMS
    ]
    (folder / "sums.json").write_text(json.dumps(items))
    return str(folder / "sums.json")


def sums_as_text(folder: Path) -> str:
    """The same in iCoT's text form, as GSM8K's training set is published."""
    lines = [f"What is {a} plus {b}?||<<{a}+{b}={a + b}>> <<{a}+{b}={a + b}>> #### {a + b}" for a, b in SUMS]
    (folder / "sums.txt").write_text("\n".join(lines))
    return str(folder / "sums.txt")


def trajectories(folder: Path) -> str:
    """ThreadWeaver's fork-join text with an answer in a box."""
    from methods.threadweaver.format import render_block

    rows = []
    for a, b in SUMS:
        block = render_block([" the first", " the second"], [f" {a}.\n", f" {b}.\n"])
        rows.append(
            {
                "prompt": f"What is {a} plus {b}?\n",
                "response": f"Two.\n{block}\nSo \\boxed{{{a + b}}}.",
                "answer": str(a + b),
            }
        )
    (folder / "trajectories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "trajectories.jsonl")
