"""Training, serving, and the published settings, at the size of a test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from methods.token_assorted import mixing, published, serve, train
from methods.token_assorted.method import TokenAssorted, TokenAssortedConfig
from tycho.adapter import JobView, Run
from tycho.config import MethodPlan, job_config, load_settings
from tycho.errors import TychoError
from tycho.harness import Options
from tycho.jobs import plan
from tycho.keys import JobKey
from tycho.lm import small
from tycho.lm.vocabulary import Vocabulary
from tycho.registry import rooms
from tycho.tasks import common
from tycho.worker import run_process


def run_of(folder: Path, arm: str, task: str = "products-verbose", **config) -> Run:
    key = JobKey("quick", "token_assorted", arm, task, 0)
    found = job_config(TokenAssorted(), MethodPlan(config=config), arm, task)
    return Run(key, "train", found, job=JobView(key, folder), work=folder / "work")


def test_arms_train_on_what_they_say(tmp_path):
    """Batches of each arm, with a VQ-VAE as it starts."""
    for arm in ("latent", "cot", "sol_only", "all_replace", "curriculum_replace", "poisson_replace"):
        run = run_of(tmp_path / arm, arm, batch=16, validation_items=4, test_items=4, steps=100)
        task = train.problem_of(run)
        torch.manual_seed(0)
        codes = train.vqvae_of(run.config, task, 64).eval()
        words = train.words_of(task.tokenizer, 64)
        batch = train.batches(run.config, task, codes, 64, 1)(49)
        coded = (batch.labels >= words.first) & (batch.labels < words.first + 64)
        texts = [task.text(row[row >= 0].tolist()) for row in batch.labels]
        counts = coded.sum(dim=1)
        if arm in ("cot", "sol_only"):
            assert not counts.any()
            assert all(text.startswith("[A]") == (arm == "sol_only") for text in texts)
        elif arm == "all_replace":
            assert bool((counts == 14).all()) and all(";" not in text for text in texts)
        elif arm == "curriculum_replace":
            assert bool((counts == round(14 * 0.98)).all())
        else:
            assert len(set(counts.tolist())) > 3
            several = [text for text in texts if text.count("<latent>") > 1]
            assert bool(several) == (arm == "poisson_replace")
        assert all("[A]" in text for text in texts)


def test_only_a_growing_part_waits_with_its_checkpoint():
    assert not train.settled(TokenAssortedConfig(replacement="growing", steps=10), 4)
    assert train.settled(TokenAssortedConfig(replacement="growing", steps=10), 5)
    assert train.settled(TokenAssortedConfig(steps=10), 1)


def test_a_codebook_larger_than_the_vocabulary_is_refused():
    with pytest.raises(TychoError, match="64 codes"):
        TokenAssorted().needs(
            JobKey("quick", "token_assorted", "latent", "products", 0), TokenAssortedConfig(codebook=65)
        )


def test_smoke_is_served_to_the_shell_and_reads_its_prompt(tmp_path):
    found = plan(load_settings({"scale": "smoke", "results": str(tmp_path), "only": ["token_assorted"]}))
    for process in found.ordered():
        assert run_process(found, process) == {}
    key = next(key for key in found.jobs if key.arm == "latent")
    complete = serve.load(str(found.view(key).model))
    one, two = complete(["3 5 2 6 1 , 1 1 1 1 1 , 2 2 2 2 2 =", "1 2 ="], Options(max_gen_toks=5))
    assert one.generated_tokens == len(one.text.split()) + (one.generated_tokens < 5)
    assert one.flops > two.flops > 0
    samples = found.view(key).record("samples")
    assert (samples.generated_tokens == samples.sequential_tokens).all() and len(samples) == 8
    codes = next(key for key in found.jobs if key.arm == "codes")
    table = found.view(codes).table("codes")
    assert set(table.codebook) == {16, 8} and table.groupby("codebook").used.sum().tolist() == [8 * 14] * 2


def test_the_recipe_is_coconuts():
    """Same recipe, bound on steps and stopping rule on the common tasks, so that `cot` may be that room's model; at quick codes may
    take more steps, and a control of the claim says whether CoT needed its own to the last."""
    from tycho import registry
    from tycho.config import method_plan

    names = (
        "batch", "learning_rate", "warmup", "hold", "decay", "weight_decay", "beta2", "clip", "layers", "family",
        "validation_items", "validate_every", "stop_after",
    )  # fmt: skip
    for scale in ("quick", "standard"):
        settings = load_settings({"scale": scale})
        mine, theirs = (method_plan(name, settings) for name in ("token_assorted", "coconut"))
        for task in mine.tasks:
            ours = job_config(TokenAssorted(), mine, "latent", task)
            other = job_config(registry.method("coconut"), theirs, "cot", task)
            assert ours.steps == other.steps or (scale == "quick" and ours.steps > other.steps), f"{scale}, {task}"
            for name in names:
                assert getattr(ours, name) == getattr(other, name), f"{scale}, {task}: {name}"


def test_arms_of_the_ablation_differ_in_what_they_replace_alone():
    """Same start, codes, steps, recipe and choice of checkpoint."""
    planned = plan(load_settings({"scale": "standard", "only": ["token_assorted"]}))
    tuned = ("latent_tuned", "all_replace", "curriculum_replace", "poisson_replace")
    mine = {key: job for key, job in planned.jobs.items() if key.method == "token_assorted" and key.arm in tuned}
    knobs = [job.config.model_dump() | {"replacement": ""} for job in mine.values()]
    assert all(each == knobs[0] for each in knobs) and knobs[0]["start"] == "cot"
    assert {tuple(sorted((key.seed, need.key.arm, need.key.seed) for need in job.needs.values())) for key, job in mine.items()} == {
        ((seed, "codes", seed), (seed, "cot", seed)) for seed in range(5)
    }  # fmt: skip
    claims = yaml.safe_load((rooms()["token_assorted"] / "claims.yaml").read_text())
    for claim in (each for each in claims if ".random-" in each["id"] or ".left-" in each["id"]):
        assert {claim["test"][side]["arm"] for side in ("of", "than")} <= set(tuned), claim["id"]


def test_the_scale_paper_has_the_published_settings():
    scale = yaml.safe_load((rooms()["token_assorted"] / "scales.yaml").read_text())["paper"]
    config = TokenAssortedConfig(**scale["config"])
    assert (config.chunk, config.codebook) == (published.CHUNK, published.CODEBOOK)
    assert config.maxima == [published.chunks(most) for most in published.MAXIMA]
    assert (config.vq_steps, config.vq_rate) == (published.VQVAE_STEPS, published.VQVAE_RATE)
    assert config.batch == published.VQVAE_BATCH and config.model == published.MODEL


def test_claims_quote_the_table_and_the_ablation():
    claims = yaml.safe_load((rooms()["token_assorted"] / "claims.yaml").read_text())
    quoted = {claim["id"]: {k: v for k, v in claim.get("paper", {}).items() if k != "note"} for claim in claims}
    assert any(quoted.values())
    for name, numbers in quoted.items():
        for arm, value in numbers.items():
            printed = published.REPLACEMENT[arm] if ".random-" in name or ".left-" in name else published.PROSQA[arm][0]
            assert value == printed, f"{name}: {arm}"
    assert "10.9 against 49.4" in str(claims) and (published.PROSQA["latent"][1], published.PROSQA["cot"][1]) == (
        10.9,
        49.4,
    )


def test_the_sweep_lies_below_the_number_of_different_chunks():
    """36 factors' pairs in products-verbose; on graphs a few hundred items already have more chunks than codes."""
    config = TokenAssortedConfig()
    found = {}
    for task in ("products-verbose", "graphs-verbose"):
        tokens, _, whole = mixing.chunked(common.ground(task).held_out(500, "test"), config.chunk)
        found[task] = len(torch.unique(tokens[whole], dim=0))
    assert found["products-verbose"] == 36 < config.codebook and found["graphs-verbose"] > 1000
    planned = plan(load_settings({"scale": "standard", "only": ["token_assorted"]}))
    for key, job in planned.jobs.items():
        if key.method == "token_assorted" and key.arm in ("codes", "latent_tuned", "all_replace"):
            assert all(size < found[key.task] for size in job.config.sweep)


def test_a_scaled_down_copy_of_it_trains(tmp_path):
    """A small Llama with a tokenizer that has never heard of codes, on items from a file, through codes and model."""
    words = Vocabulary(("Q", "\n", "###", *map(str, range(10)), "+", "="), isolate="\n")
    folder, data = tmp_path / "llama", tmp_path / "items.json"
    small.save(small.build(words, family="llama", width=16, heads=2, context=256), words.tokenizer(), folder)
    items = [
        {"question": f"Q {i} + {i}", "steps": [f"{i} + {i} = {2 * i % 10}"] * 3, "answer": str(i)} for i in range(10)
    ]
    data.write_text(json.dumps(items))
    scale = yaml.safe_load((rooms()["token_assorted"] / "scales.yaml").read_text())["paper"]
    small_copy = {"model": str(folder), "data": str(data), "test_data": None, "codebook": 12, "chunk": 2, "vq_width": 8}
    small_copy |= {
        "steps": 2,
        "vq_steps": 2,
        "batch": 2,
        "validation_items": 2,
        "test_items": 2,
        "validate_every": 1,
        "most": 4,
    }
    for name in ("codes", "latent"):
        run = run_of(tmp_path / name, name, "own", **scale["config"] | small_copy)
        if name == "latent":
            run.inputs["codes"] = JobView(run.key, tmp_path / "codes" / "work" / "out")
        train.train(run)
    model, tokenizer = small.load(run._out / "model")
    found = train.words_of(tokenizer, 12)
    assert model.get_input_embeddings().weight.shape[0] >= found.first + 12
