"""A real model tuned here on a short task, by labels or by reward, and compared with its base by the diff itself."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import torch
from torch import nn

from methods.path_not_taken import letters, summary
from methods.path_not_taken.analyse import NOISE, record
from methods.path_not_taken.diff import Tensors, diff
from methods.path_not_taken.measure import Settings
from tycho import harness
from tycho.adapter import Run
from tycho.device import inference_dtype
from tycho.keys import setting
from tycho.lm.examples import IGNORED

HELD_OUT = 7  # seed of the questions that are asked before and after; training words have the job's own
GROUP = 8  # answers a prompt, where answers are sampled


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
    """Tunes float32 masters that start on the bf16 grid, asks held-out questions on the way, saves bf16.

    Ends after `real_steps`, or once the held-out accuracy is `rise` above its start.
    """
    model, tokenizer = load(base_path(run))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.bfloat16().float())
    config = run.config
    held = letters.words(config.questions, HELD_OUT)
    drawn = letters.words(config.real_steps * config.real_batch + len(held), run.seed("data"))
    words = [word for word in drawn if word not in held]
    asked = [_ask(run, model, tokenizer, held, 0)]

    def after(step: int) -> bool:
        """Whether to stop."""
        if step % config.ask_every and step < config.real_steps:
            return False
        asked.append(_ask(run, model, tokenizer, held, step))
        return _accuracy(asked[-1]) - _accuracy(asked[0]) >= config.rise - 1e-9

    with tempfile.TemporaryDirectory() as folder:
        make = _reward if run.key.arm.endswith("grpo") else _labels
        trainer = make(run, model, tokenizer, words, folder, _watch(run, after))
        trainer.train()
        for entry in trainer.state.log_history:
            for name in ("loss", "reward"):
                if name in entry:
                    run.log(int(entry["step"]), **{name: entry[name]})
    risen = _accuracy(asked[-1]) - _accuracy(asked[0]) >= config.rise - 1e-9
    run.metric("steps_to_rise", max(trainer.state.global_step, 1), censored=not risen)
    run.samples(pd.concat([asked[0].assign(variant="before"), asked[-1].assign(variant="")]))
    model = model.to("cpu", torch.bfloat16)
    run.save_model(lambda folder: (model.save_pretrained(folder), tokenizer.save_pretrained(folder)))


def _labels(run: Run, model: nn.Module, tokenizer: Any, words: list[str], folder: str, watch: Any) -> Any:
    """TRL's SFT on the right letter alone: neither the prompt nor an end token is learnt."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = []
    for word in words:
        prompt, reply = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (letters.prompt(word), letters.reply(word))
        )
        rows.append({"input_ids": prompt + reply, "labels": [IGNORED] * len(prompt) + reply})
    about = SFTConfig(**_common(run, folder), per_device_train_batch_size=run.config.real_batch)
    return SFTTrainer(
        model, args=about, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[watch]
    )


def _reward(run: Run, model: nn.Module, tokenizer: Any, words: list[str], folder: str, watch: Any) -> Any:
    """TRL's GRPO with the verifier as its reward: no KL term, groups of eight, fully on-policy."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    rows = Dataset.from_dict({"prompt": [letters.prompt(word) for word in words], "word": words})

    def right(completions: list[str], word: list[str], **_: Any) -> list[float]:
        return [float(letters.is_right(text, w)) for text, w in zip(completions, word, strict=True)]

    about = GRPOConfig(
        **_common(run, folder),
        per_device_train_batch_size=run.config.real_batch * GROUP,
        num_generations=GROUP,
        max_completion_length=1,
        beta=0.0,
        temperature=1.0,
    )
    return GRPOTrainer(
        model, reward_funcs=right, args=about, train_dataset=rows, processing_class=tokenizer, callbacks=[watch]
    )


def _common(run: Run, folder: str) -> dict[str, Any]:
    """What both trainers are given alike: AdamW without decay at one constant rate, float32 masters."""
    return {
        "output_dir": folder,
        "learning_rate": run.config.real_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_steps": run.config.real_steps,
        "bf16": inference_dtype(run.device) == torch.bfloat16,
        "gradient_checkpointing": False,
        "use_cpu": run.device == "cpu",
        "save_strategy": "no",
        "report_to": [],
        "logging_steps": 1,
        "disable_tqdm": True,
        "seed": run.seed("samples") % 2**31,
    }


def _watch(run: Run, after: Callable[[int], bool]) -> Any:
    """Shows progress, and stops a training when `after(step)` says so."""
    from transformers import TrainerCallback

    steps = run.progress(range(run.config.real_steps), total=run.config.real_steps)

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            next(steps, None)
            control.should_training_stop = after(state.global_step) or control.should_training_stop

    return Watch()


@torch.no_grad()
def _ask(run: Run, model: nn.Module, tokenizer: Any, held: list[str], step: int) -> pd.DataFrame:
    """The held-out questions with the greedy answers, as samples; logs their accuracy."""
    asked = copy.deepcopy(model).eval().to("cpu", inference_dtype("cpu"))
    replies = letters.answers(asked, tokenizer, held)
    items = harness.make_items([letters.prompt(word) for word in held], [letters.reply(word).strip() for word in held])
    right = [letters.is_right(reply, word) for reply, word in zip(replies, held, strict=True)]
    found = items.assign(response=replies, answer=[reply.strip() for reply in replies], correct=right)
    run.log(step, held_out_accuracy=_accuracy(found))
    return found.assign(generated_tokens=1)


def _accuracy(asked: pd.DataFrame) -> float:
    return float(asked.correct.mean())


def analyse(run: Run) -> None:
    """The diff of the tuned checkpoint: metrics with their noise, a table, and what of it the noise does not explain."""
    tuned = run.config.tuned or run.job.model
    settings = Settings(k=(run.config.k,), alpha=(run.config.alpha,), draws=run.config.draws)
    with tempfile.TemporaryDirectory() as folder:
        frame = diff(
            base_path(run), tuned, Path(folder) / "diff",
            settings=settings, tensors=Tensors(only=run.config.tensors), seed=run.seed("noise"), device=run.device,
        )  # fmt: skip
    record(run, summary.summarise(frame))
    for row in frame[frame.metric == "overlap_low"].dropna(subset=["value", "null"]).itertuples():
        place = setting(tensor=row.tensor)
        run.metric("overlap_low_by_tensor", row.value, setting=place)
        run.metric("overlap_low_by_tensor", row.null, variant=NOISE, setting=place)
    curves = run.job.record("metrics")
    asked = curves[curves.name == "held_out_accuracy"].sort_values("step")
    if len(asked):
        _learnt(run, asked[["step", "value"]])
    _figure(run, frame)


def _learnt(run: Run, asked: pd.DataFrame) -> None:
    """Whether the tuning taught anything: the held-out accuracy on the way."""
    first, last, steps = asked.value.iloc[0], asked.value.iloc[-1], int(asked.step.max())
    run.metric("held_out_accuracy", first, variant="before")
    run.metric("held_out_accuracy", last)
    risen = last - first >= run.config.rise - 1e-9
    chart = (
        alt.Chart(asked.astype({"step": "int64"}))
        .mark_line(point=True)
        .encode(
            x=alt.X("step:Q", title="step", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("value:Q", title="held-out questions right", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
        )
        .properties(width=320, height=170)
    )  # fmt: skip
    run.figure(
        "held-out", chart,
        f"The real model's held-out accuracy while it is tuned: from {first:.0%} to {last:.0%} in {steps} steps, "
        f"so it {'has' if risen else 'has not'} risen by the {100 * run.config.rise:.0f} points it was to be tuned for.",
    )  # fmt: skip


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
