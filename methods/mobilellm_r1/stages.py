"""The published training, one stage a job: each goes on from the model of the stage before, on a mixture of corpora."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.mobilellm_r1 import models
from methods.mobilellm_r1.documents import Corpus, Mixture, encoder, files_of
from tycho.adapter import Run
from tycho.errors import TychoError, one_line
from tycho.lm.examples import IGNORED, next_token_loss
from tycho.lm.flops import forward_flops, training_flops
from tycho.lm.training import Recipe, Trainer

Batch = tuple[Tensor, Tensor]  # ids and labels [n, L]


def train(run: Run) -> None:
    """Trains the stage; a killed one goes on from its checkpoint, model and readers of the corpora alike."""
    stage = run.config.stage
    corpora = files_of(list(stage.mixture), stage.folder, stage.files)  # before anything is loaded
    tokenizer = _pretrained("AutoTokenizer", stage.tokenizer)
    model = first_model(run, len(tokenizer)).to(run.device)
    encode = encoder(tokenizer)
    mixture = Mixture(
        [Corpus(files, encode, stage.sequence, packed=stage.packed) for files in corpora],
        list(stage.mixture.values()),
        tokenizer.eos_token_id,
    )
    trainer = Trainer(
        model,
        lambda _: tuple(
            part.to(run.device) for part in mixture.take(stage.at_once)
        ),  # a stream: its state is kept below
        loss_of(run),
        recipe(stage),
        seed=run.seed("dropout"),
    )
    if restored := run.restore():
        trainer.restore(restored[1]["trainer"])
        mixture.restore(restored[1]["mixture"])
    for at in run.progress(trainer, stage.name, total=stage.steps, start=trainer.step):
        if at.step % stage.log_every == 0 or at.step == stage.steps:
            run.log(at.step, loss=at.loss, rate=at.rate, norm=at.norm)
        run.checkpoint(at.step, lambda: {"trainer": trainer.state(), "mixture": mixture.state()})
    for name, corpus, count in zip(stage.mixture, mixture.corpora, mixture.sampler.counts, strict=True):
        run.metric("share", count / mixture.sampler.taken, variant=name)
        run.metric("documents", corpus.documents, variant=name)
        run.metric("passes", corpus.passes, variant=name)
    run.save_model(lambda folder: (model.save_pretrained(folder), tokenizer.save_pretrained(folder)))


def recipe(stage: Any) -> Recipe:
    """Linear warm-up, then linear to `end` times the rate; the batches of all published GPUs, one after the other."""
    return Recipe(
        steps=stage.steps,
        rate=stage.learning_rate,
        warmup=stage.warmup,
        decay="linear",
        floor=stage.end,
        weight_decay=stage.weight_decay,
        betas=tuple(models.published()["optimiser"]["betas"]),
        clip=stage.clip,
        accumulate=stage.batch * stage.gpus // stage.at_once,
        bf16=stage.bf16,
    )


def first_model(run: Run, words: int) -> nn.Module:
    """The model that a stage starts from, weights in float32: a new one, or that of the stage before."""
    stage = run.config.stage
    if "start" in run.inputs:
        from transformers import AutoConfig, AutoModelForCausalLM

        folder = run.inputs["start"].model
        config = AutoConfig.from_pretrained(folder)
        config.max_position_embeddings = max(config.max_position_embeddings, stage.sequence)
        config.rope_parameters["rope_theta"] *= stage.rope_theta_factor
        model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)
    else:
        torch.manual_seed(run.seed("init"))
        model = models.build(f"MobileLLM-R1-{stage.size}", device="cpu", **stage.shape)
    if words > model.config.vocab_size:
        raise TychoError(
            f"{stage.tokenizer} has {words} tokens, the model {model.config.vocab_size}: name its own tokenizer"
        )
    return model


def loss_of(run: Run) -> Callable[[nn.Module, Batch], Tensor]:
    """The loss of a batch, its FLOPs counted: of the next token, or the divergence from the teacher."""
    teacher = teacher_of(run)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        ids, labels = batch
        run.count(flops=len(ids) * training_flops(model.config, ids.shape[1]))
        logits = model(input_ids=ids, use_cache=False).logits
        if teacher is None:
            return next_token_loss(logits, labels)
        run.count(flops=len(ids) * forward_flops(teacher.config, ids.shape[1]))
        with torch.no_grad():
            wanted = teacher(input_ids=ids, use_cache=False).logits
        if wanted.shape != logits.shape:
            raise TychoError(f"{run.config.stage.teacher} has {wanted.shape[-1]} tokens, the model {logits.shape[-1]}")
        return divergence(logits, wanted, labels != IGNORED)

    return loss


def divergence(logits: Tensor, teacher: Tensor, kept: Tensor) -> Tensor:
    """Mean over kept positions of KL(teacher || model) in nats: logits of both [n, L, V], kept [n, L] bool."""
    ours, wanted = F.log_softmax(logits.float(), dim=-1), F.log_softmax(teacher.float(), dim=-1)
    return F.kl_div(ours, wanted, reduction="none", log_target=True).sum(dim=-1)[kept].mean()


def teacher_of(run: Run) -> nn.Module | None:
    """The frozen teacher in evaluation mode, if the stage has one."""
    stage = run.config.stage
    if not stage.teacher:
        return None
    dtype = torch.bfloat16 if stage.bf16 else torch.float32
    return _pretrained("AutoModelForCausalLM", stage.teacher, dtype=dtype).to(run.device).eval().requires_grad_(False)


def _pretrained(kind: str, source: str, **more: Any) -> Any:
    """Of a folder, or of `owner/name@revision` on the hub."""
    import transformers

    name, _, revision = (source, "", "") if Path(source).is_dir() else source.partition("@")
    try:
        return getattr(transformers, kind).from_pretrained(name, revision=revision or None, **more)
    except (OSError, ValueError) as error:
        raise TychoError(f"{source} cannot be loaded: {one_line(error)}") from error
