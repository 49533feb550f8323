"""A scaled-down copy of the paper's setting: a subword model on files of trajectories, two steps of each training."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from methods.threadweaver.format import render_block
from methods.threadweaver.method import ThreadWeaverConfig
from methods.threadweaver.own import SPECIAL, Own, Subwords, add_tags, read_rows
from methods.threadweaver.train import must_fit
from tycho.config import load_settings, method_plan
from tycho.errors import TychoError
from tycho.jobs import plan
from tycho.worker import run_process

TEXT = "What is 3*5*2 plus 4*6? Multiply the first numbers. So the sum is \\boxed{54}. Thread Outline Parallel Think 1: 2: 30 24\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama with a byte-level tokenizer that knows no tags."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    place = tmp_path_factory.mktemp("base")
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([TEXT * 20], vocab_size=300, special_tokens=["<eos>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, eos_token="<eos>", pad_token="<eos>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=400, eos_token_id=0, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def data(folder):
    block = render_block([" the first product", " the second product"], [" 3*5*2 = 30.\n", " 4*6 = 24.\n"])
    row = {"prompt": "What is 3*5*2 plus 4*6?\n", "response": f"Two parts.\n{block}\nSo \\boxed{{54}}.", "answer": "54"}
    rows = [row, {**row, "prompt": "And 4*6 plus 3*5*2?\n"}]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "data.jsonl"


def test_tags_are_single_tokens_that_start_as_the_mean_of_their_word(folder) -> None:
    found = Own(SimpleNamespace(model=str(folder), revision=""))
    words = found.words
    assert words.added == SPECIAL and all(words.encode(tag) == [words.ids[tag]] for tag in SPECIAL)
    text = TEXT + render_block([" a"], [" b"])
    assert words.decode(words.encode(text)) == text
    model = found.base(0)
    table = model.get_input_embeddings().weight
    assert len(table) % 64 == 0 and len(table) >= len(words.tokenizer)
    for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        for tag in ("<Thread>", "</Thread>"):
            assert torch.allclose(table[words.ids[tag]], table[words.encode("Thread")].mean(dim=0))
    again = Subwords(words.tokenizer)
    assert not again.added
    before = len(model.get_input_embeddings().weight)
    add_tags(model, again)
    assert len(model.get_input_embeddings().weight) == before


def test_two_steps_of_every_training_run_on_it(folder, data, tmp_path) -> None:
    change = {
        "arms": ["parallel", "p_grpo"], "tasks": ["own"], "seeds": 1,
        "arm_config": {"parallel": {"start": ""}, "p_grpo": {"start": "parallel"}},
        "config": {"model": str(folder), "data": str(data), "first_steps": 2, "more_steps": 2, "batch": 2, "most": 24,
                   "validation_items": 2, "test_items": 2, "longest": 400,
                   "sets": {"one": {"questions": str(data)}, "two": {"questions": str(data), "samples": 2}}},
    }  # fmt: skip
    settings = load_settings(
        {"scale": "smoke", "results": str(tmp_path), "only": ["threadweaver"], "methods": {"threadweaver": change}}
    )
    found = plan(settings)
    for process in found.ordered():
        assert run_process(found, process) == {}
    key = next(key for key in found.jobs if key.arm == "p_grpo")
    samples = found.view(key).record("samples")
    assert samples.groupby("setting").size().to_dict() == {"set=one": 3 * 2, "set=two": 3 * 2 * 2}
    assert set(samples.target) == {"54"} and (samples.groupby(["setting", "variant"])["item"].nunique() == 2).all()
    curve = found.view(key).record("metrics").query("name == 'reward'")
    assert len(curve) == 2


def test_what_is_missing_is_named(folder, data, tmp_path) -> None:
    with pytest.raises(TychoError, match="knob `model`"):
        Own(SimpleNamespace(model="", revision=""))
    with pytest.raises(TychoError, match="name its commit"):
        Own(SimpleNamespace(model="Qwen/Qwen3-8B", revision=""))
    with pytest.raises(TychoError, match="needs its commit"):
        read_rows("owner/questions")
    with pytest.raises(TychoError, match="knob `data`"):
        read_rows(None)
    bad = tmp_path / "bad.jsonl"
    config = SimpleNamespace(
        model=str(folder), revision="", data=bad, closing="orchestrator", loss="completion", longest=None, overflow="refuse",
        sets={},
    )  # fmt: skip
    for line, why in (
        ("{", "line 1 is not JSON"),
        ("[]", "no object"),
        ('{"prompt": "p"}', "a prompt and a response"),
        ('{"prompt": "p", "response": "<Parallel>"}', "line 1: .*never closed"),
    ):
        bad.write_text(line + "\n")
        with pytest.raises(TychoError, match=why):
            Own(config).trees(0, 1, "completion")
    bad.write_text('{"prompt": "p"}\n')
    with pytest.raises(TychoError, match="an answer"):
        Own(config).items(1, "test")


def test_the_paper_scale_has_the_published_numbers() -> None:
    """arXiv 2512.07843: SFT and RL settings; the rest of the recipe stands in the comments of scales.yaml."""
    found = method_plan("threadweaver", load_settings({"scale": "paper"}))
    config = ThreadWeaverConfig(**found.config)
    assert config.model == "Qwen/Qwen3-8B" and config.longest == 40_960
    assert (config.batch, config.learning_rate, config.more_rate) == (16, 1e-5, 1e-5)
    assert config.more_steps == round(8 * 959 / 16) and config.self_steps == round(17_491 / 16)
    assert config.self_prompts == 53_291
    assert (config.rl_prompts, config.rl_rollouts, config.rl_steps, config.rl_rate) == (16, 8, 350, 5e-6)
    assert (config.bonus, config.rho, config.rho_clip, config.wrong) == ("paper", 0.5, 0.2, 0.0)
    assert config.temperature == 1.0 and config.closing == "orchestrator" and config.loss == "hybrid"
    samples = {name: one.samples for name, one in config.sets.items()}
    assert samples == {"aime24": 32, "aime25": 32, "amc23": 8, "math500": 1, "minerva": 4, "olympiad": 8}


def test_what_does_not_fit_a_gpu_says_so() -> None:
    must_fit(1_000_000_000, 80_000_000_000)
    with pytest.raises(TychoError, match=r"8.2 billion parameters need 131 GB .* this GPU has 80"):
        must_fit(8_190_735_360, 80_000_000_000)
    must_fit(8_190_735_360, 80_000_000_000, 8)  # a share of 16.4 GB, and 32.8 GB whole weights at a validation
    with pytest.raises(TychoError, match=r"need 98 GB .* over 2 GPUs"):
        must_fit(8_190_735_360, 80_000_000_000, 2)
