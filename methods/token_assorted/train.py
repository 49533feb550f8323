"""Training: the ingredient `codes` (one VQ-VAE a size of codebook), and the language models of all other arms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from methods.coconut.data import Problem, problem
from methods.coconut.model import Thinker
from methods.coconut.train import accuracy
from methods.token_assorted import mixing
from methods.token_assorted.mixing import Words
from methods.token_assorted.vqvae import Chunks, ChunkVQVAE
from tycho.adapter import Run
from tycho.errors import TychoError
from tycho.files import load_state, save_state
from tycho.keys import setting
from tycho.lm import small
from tycho.lm.examples import Batch, Examples, next_token_loss
from tycho.lm.training import Recipe, Trainer
from tycho.tasks.common import TASKS


def train(run: Run) -> None:
    """One training a size of codebook, one after the other; a killed one goes on where it was."""
    if "cot" in run.inputs:
        adopt(run)
        return
    codes = run.key.arm == "codes"
    task = problem_of(run)
    sizes = codebooks(run.config)
    restored = run.restore()
    first, kept, state = (restored[1][part] for part in ("point", "kept", "trainer")) if restored else (0, {}, None)
    perfect = restored[1]["perfect"] if restored else 0
    for point in range(first, len(sizes)):
        size, where = sizes[point], setting_of(run.config, sizes[point])
        trainer = codes_trainer(run, task, size) if codes else model_trainer(run, task, size)
        if state is not None:
            trainer.restore(state)
            state = None
        else:
            perfect = 0
        for at in run.progress(trainer, f"{size} codes", total=trainer.recipe.steps, start=trainer.step):
            if at.step % run.config.log_every == 0 or at.score is not None:
                run.log(at.step, setting=where, loss=at.loss, rate=at.rate)
            if at.score is not None:
                run.log(at.step, setting=where, validation=at.score)
                perfect = perfect + 1 if at.score == 1 else 0
            if perfect >= run.config.stop_after and settled(run.config, at.step):
                break
            now = perfect
            run.checkpoint(
                at.step,
                lambda point=point, now=now, trainer=trainer: {
                    "point": point, "kept": kept, "trainer": trainer.state(), "perfect": now,
                },
            )  # fmt: skip
        run.metric("chosen_step", trainer.keep_best(), setting=where)
        run.metric("steps", trainer.step, setting=where)
        kept[str(size)] = dict(trainer.model.state_dict())
    run.save_model(lambda folder: save(run, task, kept, folder))


def adopt(run: Run) -> None:
    """Takes over Coconut's model of the same arm: same base weights, data, recipe and stopping rule, trained there once."""
    source = run.inputs["cot"]
    finals = source.record("metrics").query("step.isna() and setting == ''").set_index("name").value
    run.metric("chosen_step", finals["chosen_step"])
    run.metric("steps", finals["steps"])
    run.save_model(lambda folder: small.save(*small.load(source.model), folder))


def save(run: Run, task: Problem, kept: dict[str, Any], folder: Path) -> None:
    """The first size in the folder itself, as an ordinary checkpoint; the others in folders of their own."""
    for point, size in enumerate(codebooks(run.config)):
        place = folder if point == 0 else folder / f"codebook-{size}"
        place.mkdir(exist_ok=True)
        if run.key.arm == "codes":
            model = vqvae_of(run.config, task, size)
            save_state(place / "codes.safetensors", {"shape": model.shape, "weights": kept[str(size)]})
        else:
            model = task.base()
            model.load_state_dict(kept[str(size)])
            small.save(model, task.tokenizer, place)


def codebooks(config: Any) -> list[int]:
    """Sizes of the codebook that a job trains with: the arm's own first, then the sweep."""
    return [config.codebook, *[size for size in config.sweep if size != config.codebook]]


def setting_of(config: Any, size: int) -> str:
    return "" if size == config.codebook else setting(codebook=size)


# --- the task --------------------------------------------------------------------------------------------------------------


def problem_of(run: Run) -> Problem:
    """The task as all latent methods have it; a pretrained model's tokenizer gets the codes."""
    config = run.config
    task = problem(run.key.task, config, data=run.seed("data"), order=run.seed("order"), init=run.seed("init"))
    if run.key.task in TASKS:
        return task
    add_codes(task.tokenizer, max(codebooks(config)))
    plain = task.base

    def base(layers: int | None = None) -> nn.Module:
        model = plain(layers)
        model.resize_token_embeddings(max(len(task.tokenizer), model.config.vocab_size))
        return model

    return Problem(task.tokenizer, task.batches, task.validation, task.test, base, task.read)


def add_codes(tokenizer: Any, size: int) -> None:
    """Gives a tokenizer the delimiters and that many codes."""
    names = ["<latent>", "</latent>", *(f"<c{code}>" for code in range(size))]
    tokenizer.add_tokens(names, special_tokens=True)


def words_of(tokenizer: Any, size: int) -> Words:
    """Ids of delimiters and codes. Raises TychoError where the tokenizer has fewer codes."""
    names = ("<latent>", "</latent>", "<c0>", f"<c{size - 1}>")
    begin, end, first, last = (tokenizer.convert_tokens_to_ids(name) for name in names)
    if None in (begin, end, first, last) or tokenizer.unk_token_id in (begin, last) or last - first != size - 1:
        raise TychoError(f"the tokenizer has no {size} latent codes in a row: choose a smaller codebook")
    return Words(begin, end, first)


# --- the VQ-VAE --------------------------------------------------------------------------------------------------------------


def vqvae_of(config: Any, task: Problem, size: int) -> ChunkVQVAE:
    return ChunkVQVAE(len(task.tokenizer), config.chunk, size, width=config.vq_width, hidden=4 * config.vq_width)


def codes_trainer(run: Run, task: Problem, size: int) -> Trainer:
    config = run.config
    torch.manual_seed(run.seed("codes"))
    model = vqvae_of(config, task, size).to(run.device)

    def batches(step: int) -> Chunks:
        return on(chunks_of(task.batches(step), config.chunk), run.device)

    held_out = on(chunks_of(task.validation, config.chunk), run.device)
    return Trainer(
        model,
        batches,
        lambda model, chunks: model(chunks)[0],
        Recipe(steps=config.vq_steps, rate=config.vq_rate, warmup=config.warmup, decay="linear", weight_decay=0.0),
        validate=lambda model: reconstructed(model, held_out),
        validate_every=config.vq_steps,  # the last one is used
        seed=run.seed("codes"),
    )


def chunks_of(examples: Examples, size: int) -> Chunks:
    """The whole chunks of all traces."""
    tokens, _, whole = mixing.chunked(examples, size)
    return Chunks(tokens[whole], *examples.prompts(), whole.nonzero()[:, 0])


def on(chunks: Chunks, device: str) -> Chunks:
    return Chunks(*(part.to(device) for part in chunks))


def reconstructed(model: ChunkVQVAE, chunks: Chunks) -> float:
    """Share of chunks that come back without a mistake."""
    logits = model(chunks)[2]
    return float((logits.argmax(dim=2) == chunks.tokens).all(dim=1).double().mean())


def load_codes(folder: Path, size: int, first: int) -> ChunkVQVAE:
    """A VQ-VAE that `save` wrote; `first` is the size in the folder itself."""
    place = folder if size == first else folder / f"codebook-{size}"
    saved = load_state(place / "codes.safetensors")
    shape = saved["shape"]
    model = ChunkVQVAE(shape["tokens"], shape["chunk"], shape["codes"], width=shape["width"], hidden=shape["hidden"])
    model.load_state_dict(saved["weights"])
    return model.eval()


# --- the language model --------------------------------------------------------------------------------------------------


def model_trainer(run: Run, task: Problem, size: int) -> Trainer:
    config = run.config
    model = (small.load(run.inputs["start"].model)[0] if "start" in run.inputs else task.base()).to(run.device)
    codes = load_codes(run.inputs["codes"].model, size, config.codebook) if "codes" in run.inputs else None
    make = batches(config, task, codes, size, run.seed("mix"))
    thinker = Thinker(model, task.tokenizer, "nothing", 0, False)

    def score(_: nn.Module) -> float:
        return accuracy(thinker, task, task.validation, config.most) if settled(config, trainer.step) else -1.0

    trainer = Trainer(
        model,
        lambda step: Batch(*(part.to(run.device) for part in make(step))),
        loss,
        Recipe(
            steps=config.steps, rate=config.learning_rate, warmup=config.warmup, decay=config.decay, hold=config.hold,
            weight_decay=config.weight_decay, betas=(0.9, config.beta2), clip=config.clip,
        ),
        validate=score,
        validate_every=config.validate_every,
        seed=run.seed("dropout"),
    )  # fmt: skip
    return trainer


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Next-token loss on codes, text and answer. The output layer sees no column that is only read."""
    start = max(int((batch.labels >= 0).any(dim=0).nonzero()[0]) - 1, 0)
    outputs = model(
        input_ids=batch.ids,
        attention_mask=batch.mask.long(),
        position_ids=batch.positions,
        logits_to_keep=batch.ids.shape[1] - start,
    )
    return next_token_loss(outputs.logits, batch.labels[:, start:])


def batches(config: Any, task: Problem, codes: ChunkVQVAE | None, size: int, seed: int) -> Callable[[int], Batch]:
    """Training batches by step, as the arm replaces chunks by codes."""
    words = words_of(task.tokenizer, size)

    def make(step: int) -> Batch:
        examples, rng = task.batches(step), np.random.default_rng([seed, step])
        if config.replacement == "no_trace":
            return examples.sequences(skip=examples.steps.shape[1])
        if config.replacement == "nothing" or codes is None:
            return examples.sequences()
        tokens, kept, whole = mixing.chunked(examples, config.chunk)
        progress = step / max(1, growth(config))
        count = mixing.counts(config.replacement, whole, config.maxima, progress, rng)
        replaced = mixing.places(config.replacement, whole, count, rng)
        trace = mixing.mixed(tokens, kept, codes.encode(tokens), replaced, words, examples.pad)
        return mixing.sequences(examples, trace)

    return make


def growth(config: Any) -> int:
    """Steps over which a growing part becomes everything: the first half."""
    return config.steps // 2


def settled(config: Any, step: int) -> bool:
    """Whether what is trained is what will be evaluated; only a growing part changes on the way."""
    return config.replacement != "growing" or step >= growth(config)


def models(run: Run) -> Iterator[tuple[str, Path]]:
    """(setting, folder) of the job's trained models."""
    for size in codebooks(run.config):
        yield (
            setting_of(run.config, size),
            run.job.model if size == run.config.codebook else run.job.model / f"codebook-{size}",
        )
