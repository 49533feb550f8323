"""A real model tuned here on a short task, by labels or by reward, and compared with its base by the diff itself."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import torch
from torch import Tensor, nn

from methods.path_not_taken import letters, summary
from methods.path_not_taken.analyse import record
from methods.path_not_taken.diff import Tensors, diff
from methods.path_not_taken.measure import Settings
from tycho.adapter import Run
from tycho.device import inference_dtype
from tycho.lm.examples import IGNORED, left_padded
from tycho.lm.training import Recipe, Trainer

HELD_OUT = 7  # seed of the questions that are asked before and after; training words have the job's own


def base_path(run: Run) -> Path | str:
    """The folder or hub id of the base model."""
    if run.config.model != "smollm2":
        return run.config.model
    from tycho.lm.smollm2 import path

    return path()


def load(source: Path | str) -> tuple[nn.Module, Any]:
    """(float32 model, tokenizer)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32), AutoTokenizer.from_pretrained(source)


def train(run: Run) -> None:
    """Tunes float32 masters that start on the bf16 grid, asks the held-out questions before and after, saves bf16."""
    model, tokenizer = load(base_path(run))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.bfloat16().float())
    held = letters.words(run.config.questions, HELD_OUT)
    train_words = [
        w
        for w in letters.words(run.config.real_steps * run.config.real_batch + len(held), run.seed("data"))
        if w not in held
    ]
    _ask(run, model, tokenizer, held, 0)
    (_reward if run.key.arm.endswith("grpo") else _labels)(run, model, tokenizer, train_words)
    _ask(run, model, tokenizer, held, run.config.real_steps)
    model = model.bfloat16()
    run.save_model(lambda folder: (model.save_pretrained(folder), tokenizer.save_pretrained(folder)))


def _labels(run: Run, model: nn.Module, tokenizer: Any, words: list[str]) -> None:
    config = run.config

    def batches(step: int) -> tuple[Tensor, Tensor, Tensor]:
        chosen = words[step * config.real_batch : (step + 1) * config.real_batch]
        prompts = [tokenizer(letters.prompt(w), add_special_tokens=False)["input_ids"] for w in chosen]
        replies = [tokenizer(letters.reply(w), add_special_tokens=False)["input_ids"] for w in chosen]
        ids, mask = left_padded([p + r for p, r in zip(prompts, replies, strict=True)], tokenizer.pad_token_id)
        labels = torch.full_like(ids, IGNORED)
        for row, reply in enumerate(replies):
            labels[row, -len(reply) :] = torch.tensor(reply)
        return ids, mask, labels

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        ids, mask, labels = batch
        return model(input_ids=ids, attention_mask=mask.long(), labels=labels).loss

    bf16 = inference_dtype(run.device) == torch.bfloat16
    recipe = Recipe(config.real_steps, config.real_rate, warmup=0, decay="constant", weight_decay=0.0, bf16=bf16)
    trainer = Trainer(model, batches, loss, recipe)
    restored = run.restore()
    if restored:
        trainer.restore(restored[1])
    for point in run.progress(trainer, total=config.real_steps, start=trainer.step):
        run.log(point.step, loss=point.loss)
        run.checkpoint(point.step, trainer.state)
    model.eval()


def _reward(run: Run, model: nn.Module, tokenizer: Any, words: list[str]) -> None:
    """TRL's GRPO with the verifier as its reward: no KL term, groups of eight, fully on-policy."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    config, group = run.config, 8
    bf16 = inference_dtype(run.device) == torch.bfloat16
    rows = Dataset.from_dict({"prompt": [letters.prompt(word) for word in words], "word": words})

    def right(completions: list[str], word: list[str], **_: Any) -> list[float]:
        return [float(letters.is_right(text, w)) for text, w in zip(completions, word, strict=True)]

    with tempfile.TemporaryDirectory() as folder:
        about = GRPOConfig(
            output_dir=folder,
            learning_rate=config.real_rate,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            per_device_train_batch_size=config.real_batch * group,
            num_generations=group,
            max_completion_length=1,
            max_steps=config.real_steps,
            beta=0.0,
            temperature=1.0,
            bf16=bf16,
            use_cpu=run.device == "cpu",
            save_strategy="no",
            report_to=[],
            logging_steps=1,
            disable_tqdm=True,
            seed=run.seed("samples") % 2**31,
        )
        trainer = GRPOTrainer(model, reward_funcs=right, args=about, train_dataset=rows, processing_class=tokenizer)
        trainer.train()
        for entry in trainer.state.log_history:
            if "reward" in entry:
                run.log(int(entry["step"]), reward=entry["reward"])
    model.eval()


def _ask(run: Run, model: nn.Module, tokenizer: Any, held: list[str], step: int) -> None:
    asked = copy.deepcopy(model).eval().to(inference_dtype(run.device))
    replies = letters.answers(asked, tokenizer, held)
    right = [letters.is_right(reply, word) for reply, word in zip(replies, held, strict=True)]
    run.log(step, held_out_accuracy=sum(right) / len(right))


def analyse(run: Run) -> None:
    """The diff of the tuned checkpoint: metrics with their noise, a table, and what of it the noise does not explain."""
    tuned = run.config.tuned or run.job.model
    settings = Settings(k=(run.config.k,), alpha=(run.config.alpha,), draws=1)
    with tempfile.TemporaryDirectory() as folder:
        frame = diff(
            base_path(run), tuned, Path(folder) / "diff",
            settings=settings, tensors=Tensors(only=run.config.tensors), seed=run.seed("noise"), device=run.device,
        )  # fmt: skip
    record(run, summary.summarise(frame))
    curves = run.job.record("metrics")
    asked = curves[curves.name == "held_out_accuracy"].sort_values("step").value.tolist()
    if asked:
        run.metric("held_out_accuracy", asked[0], variant="before")
        run.metric("held_out_accuracy", asked[-1])
    _figure(run, frame)


def _figure(run: Run, frame: pd.DataFrame) -> None:
    names = {
        "spectral_shift": "spectral shift",
        "row_stripes": "row stripes",
        "overlap_principal": "overlap with principal",
    }
    found = frame[frame.metric.isin(list(names))].dropna(subset=["value", "null"])
    long = found.melt(["tensor", "module", "layer", "metric"], ["value", "null"], "what", "y")
    long = long.assign(
        what=long.what.map({"value": "measured", "null": "matched noise"}), metric=long.metric.map(names), layer=long.layer.astype("float")
    )  # fmt: skip
    chart = (
        alt.Chart(long)
        .mark_point(filled=True, size=40, opacity=0.75)
        .encode(
            x=alt.X("y:Q", title=None, scale=alt.Scale(zero=False)),
            y=alt.Y("module:N", title=None),
            color=alt.Color("what:N", title=None, sort=["measured", "matched noise"]),
            shape=alt.Shape("what:N", title=None, sort=["measured", "matched noise"]),
            tooltip=["tensor:N", alt.Tooltip("y:Q", format=".3g")],
        )
        .properties(width=170, height=150)
        .facet(column=alt.Column("metric:N", title=None))
        .resolve_scale(x="independent")
    )
    run.figure(
        "diff", chart,
        "The real model's tuned weights by module, each beside noise of the same density and norm: what the two share is the size of the update.",
    )  # fmt: skip
