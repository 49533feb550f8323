"""The base by masked diffusion training, and every arm from it by its policy gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from methods.spg import bounds, llada, masking, worlds
from methods.spg.learner import Learner, greedy_reward
from methods.spg.policy import Policy, add_lora, merge_lora
from methods.spg.worlds import World
from tycho.adapter import Run
from tycho.errors import TychoError
from tycho.lm.flops import training_flops
from tycho.lm.training import Recipe, Trainer


def train(run: Run) -> None:
    if run.key.arm == "base":
        _published(run) if run.config.pretrained else _base(run)
    else:
        _reinforce(run)


def small_config(world: World, config: Any) -> llada.LLaDAConfig:
    """The shape of a model from scratch; prompts of the puzzles have at most 16 tokens."""
    words = worlds.VOCABULARIES[world.task]
    return llada.LLaDAConfig(
        d_model=config.width,
        n_heads=config.heads,
        n_layers=config.layers,
        mlp_hidden_size=config.inner,
        embedding_size=len(words),
        mask_token_id=world.mask_token,
        eos_token_id=words.end,
        pad_token_id=words.pad,
        max_sequence_length=16 + world.n,
        learned_positions=True,
    )


def _base(run: Run) -> None:
    """ELBO training on targets some tokens of which are wrong, so that reinforcement has something to mend."""
    config, world = run.config, worlds.terse(run.key.task, run.config.blanks, run.config.rewards)
    policy = Policy(llada.build(small_config(world, config), run.seed("init")).to(run.device), world)
    puzzles = world.draw(config.puzzles, "train", run.seed("data"))
    prompts, _ = world.prompts([puzzles.prompt(row) for row in range(len(puzzles))])
    targets = world.targets([_written(puzzles, row) for row in range(len(puzzles))])
    tokens = targets.unique()  # what a wrong token may be
    seed = run.seed("order")

    def batches(step: int) -> tuple[torch.Tensor, torch.Tensor, masking.Masks]:
        generator = torch.Generator().manual_seed((seed + 1_000_003 * step) % 2**63)
        rows = torch.randint(len(puzzles), (config.base_batch,), generator=generator)
        x = targets[rows]
        wrong = torch.rand(x.shape, generator=generator) < config.base_noise
        x = torch.where(wrong, tokens[torch.randint(len(tokens), x.shape, generator=generator)], x)
        full = torch.full((len(x),), world.n)  # end tokens behind the answer are learnt, too
        masks = masking.random_masks(full, world.n, prompts.shape[1], m=1, generator=generator, p_mask=0.0)
        return prompts[rows].to(run.device), x.to(run.device), masking.Masks(*(part.to(run.device) for part in masks))

    def loss(_: Any, batch: tuple[torch.Tensor, torch.Tensor, masking.Masks]) -> torch.Tensor:
        prompt, x, masks = batch
        return -bounds.elbo(policy.log_p(prompt, None, x, masks), masks.scored).mean()

    recipe = Recipe(config.base_steps, config.base_rate, warmup=min(20, config.base_steps // 4))
    trainer = Trainer(policy, batches, loss, recipe)
    if restored := run.restore():
        trainer.restore(restored[1])
    for point in run.progress(trainer, "base", total=recipe.steps, start=trainer.step):
        if point.step % 10 == 0 or point.step == recipe.steps:
            run.log(point.step, base_loss=point.loss)
        run.checkpoint(point.step, trainer.state)
    one = training_flops(policy.model.config, prompts.shape[1] + world.n)
    run.count(flops=float(recipe.steps * config.base_batch * one))
    run.save_model(lambda folder: save(policy, run, folder))


def _written(puzzles: Any, row: int) -> str:
    return puzzles.answers[row] if hasattr(puzzles, "answers") else puzzles.target(row)


def _published(run: Run) -> None:
    """A published checkpoint is its own base: the model's folder says where it lies."""
    from tycho.files import write_json

    run.save_model(lambda folder: write_json(folder / "published.json", {"pretrained": run.config.pretrained}))


def _reinforce(run: Run) -> None:
    config = run.config
    policy = load_policy(run.inputs["base"].model, run.key.task, config, run.device)
    world, policy.model.recompute = policy.world, config.recompute
    if config.lora_rank:
        targets = config.lora_targets
        add_lora(policy.model, config.lora_rank, config.lora_alpha, config.lora_dropout, targets).to(run.device)
    seeds = {axis: run.seed(axis) for axis in ("order", "rollout", "masks")}
    learner = Learner(policy, world, config, seeds, run.seed("data"))
    validation = world.held_out(config.validation_items, "validation")
    recipe = Recipe(
        config.steps,
        config.rate,
        warmup=0,
        decay="constant",
        weight_decay=config.weight_decay,
        betas=config.betas,
        clip=config.clip,
        accumulate=config.accumulate,
    )
    trainer = Trainer(
        policy,
        learner.batch,
        learner.loss,
        recipe,
        validate=lambda _: greedy_reward(policy, validation, config),
        validate_every=config.validate_every,
        seed=run.seed("dropout"),
    )
    score = None  # of the last validation; a run killed behind its last checkpoint has no step left to take one
    if restored := run.restore():
        trainer.restore(restored[1]["trainer"])
        learner.restore(restored[1]["learner"])
        score = restored[1]["score"]
    for point in run.progress(trainer, "rl", total=config.steps, start=trainer.step):
        if (point.step - 1) % config.mu == 0:
            run.log(point.step, reward=learner.rewards[-1], loss=point.loss, gradient_norm=point.norm)
        if point.score is not None:
            score = point.score
            run.log(point.step, validation_reward=score)
        if point.step % config.mu == 0:  # the next step samples anew, so no rollout need be kept
            state = {"score": score}
            run.checkpoint(
                point.step, lambda state=state: {"trainer": trainer.state(), "learner": learner.state(), **state}
            )
    last = max(1, len(learner.rewards) // 4)
    run.metric("train_reward", float(np.mean(learner.rewards[-last:])))
    run.metric("final_validation_reward", score)
    run.metric("chosen_step", trainer.keep_best())
    run.count(flops=learner.flops())
    if config.lora_rank:
        merge_lora(policy.model)
    run.save_model(lambda folder: save(policy, run, folder))


def save(policy: Policy, run: Run, folder: Path) -> None:
    """A checkpoint with its tokenizer; config.json says how it decodes."""
    config, world = run.config, policy.world
    decoding = {"block": config.block, "block_steps": config.block_steps, "length": world.n}
    llada.save(policy.model, folder, tycho={"task": world.task, "style": world.style, **decoding})
    if world.style == "terse":
        worlds.VOCABULARIES[world.task].tokenizer().save_pretrained(folder)
    else:
        worlds.tokenizer_of(locate(config.pretrained)).save_pretrained(folder)


def load_policy(folder: Path, task: str, config: Any, device: str) -> Policy:
    """The policy of a job's model folder, small or published."""
    from tycho.files import read_json

    dtype = torch.bfloat16 if config.bf16 else torch.float32
    if (folder / "published.json").exists():
        folder = locate(read_json(folder / "published.json")["pretrained"])
    model, given = llada.load(folder, device=device, dtype=dtype)
    if given.get("tycho", {}).get("style") == "terse":
        return Policy(model, worlds.terse(task, config.blanks, config.rewards))
    if not config.length:
        raise TychoError("a published model needs the length of its completions: set `length`")
    tokenizer = worlds.tokenizer_of(folder)
    given = tokenizer, model.config.mask_token_id, config.length, config.blanks, config.rewards
    return Policy(model, worlds.tagged(task, *given))


def locate(pretrained: str) -> Path:
    """A folder as it is; `owner/name` or `owner/name@revision` is fetched from the hub once."""
    if Path(pretrained).expanduser().is_dir():
        return Path(pretrained).expanduser()
    from huggingface_hub import snapshot_download

    name, _, revision = pretrained.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None))
    except Exception as error:  # the hub's client raises a dozen kinds
        raise TychoError(f"{pretrained} is neither a folder nor to be had from the hub: {str(error)[:120]}") from error
