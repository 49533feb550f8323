"""The small model's trainings: its prior tasks, then the new one by reward or on labels until an equal accuracy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from methods.path_not_taken import geometry, interventions, lattice, masks, residues
from methods.path_not_taken import objectives as O
from tycho.adapter import Run
from tycho.lm.flops import forward_flops
from tycho.lm.small import build
from tycho.lm.training import Recipe, Trainer

WEIGHTS = "weights.safetensors"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def model_of(run: Run) -> nn.Module:
    """The untrained model of the run's seed."""
    config = run.config
    return build(
        residues.WORDS, family="llama", layers=config.layers, width=config.width, heads=4, context=8, seed=run.seed("init")
    )  # fmt: skip


def answers(model: nn.Module, prompts: Tensor) -> Tensor:
    """[n, V] logits behind prompts [n, 4]."""
    return model(input_ids=prompts, logits_to_keep=1).logits[:, -1]


def matrices(model: nn.Module) -> dict[str, Tensor]:
    """The linear layers' weights, what the paper compares."""
    found = {name: weight for name, weight in model.named_parameters() if name.endswith("_proj.weight")}
    return {name: found[name] for name in sorted(found)}


def base(run: Run) -> None:
    """Learns the prior tasks and puts every matrix on the grid, where tuning starts."""
    known, model, config = residues.known(), model_of(run), run.config
    order = run.seed("order")

    def batches(step: int) -> Tensor:
        return _rows(len(known.answers), config.base_batch, order, step)

    def loss(model: nn.Module, rows: Tensor) -> Tensor:
        return nn.functional.cross_entropy(answers(model, known.prompts[rows]), known.answers[rows])

    trainer = Trainer(model, batches, loss, Recipe(config.base_steps, config.base_rate, warmup=50, weight_decay=0.0))
    restored = run.restore()
    if restored:
        trainer.restore(restored[1])
    for point in run.progress(trainer, total=config.base_steps, start=trainer.step):
        if point.step % 25 == 0 or point.step == config.base_steps:
            run.log(point.step, loss=point.loss)
        run.checkpoint(point.step, trainer.state)
    model.eval()
    run.metric("prior_accuracy", float(_accuracy(model, known)), variant="before the grid")
    to_grid(model, config.bits)
    run.metric("prior_accuracy", float(_accuracy(model, known)))
    _save(run, [model])
    run.count(flops=config.base_steps * config.base_batch * 3 * forward_flops(model.config, 4, logits=1))


def tune(run: Run) -> None:
    """Tunes copies of the base model (`repeats`) until a right answer has the target's probability."""
    config = run.config
    before = load(run, run.inputs["base"].model, 0)
    if config.intervene:
        intervened(before, run.generator("intervention"))
        to_grid(before, config.bits)
    known, (new,) = residues.known(), residues.new((residues.MODULUS**2,), run.generator("data"))
    with torch.no_grad():
        base_logits = answers(before, new.prompts)
    fixed = torch.multinomial(new.correct.float(), 1, generator=run.generator("data"))[:, 0]
    restored = run.restore()
    done: list[dict[str, Tensor]] = restored[1]["done"] if restored else []
    reached: list[list[float]] = restored[1]["reached"] if restored else []
    state = restored[1]["trainer"] if restored else None
    for repeat in range(len(done), config.repeats):
        model, keep = _start(run, before)
        draw = torch.Generator().manual_seed((run.seed("samples") + repeat) % 2**63)
        trainer = Trainer(
            model,
            lambda step, repeat=repeat: _rows(len(new.prompts), config.batch, run.seed("order") + repeat, step),
            lambda model, rows, draw=draw: _loss(config, answers(model, new.prompts[rows]), rows, new, base_logits, fixed, draw),
            Recipe(config.most_steps, config.learning_rate, warmup=0, decay="constant", weight_decay=0.0),
        )  # fmt: skip
        if state:
            trainer.restore(state["trainer"])
            draw.set_state(state["draw"])
            state = None
        else:
            _evaluate(run, repeat, 0, model, before, known, new, base_logits)
        anchor = {name: weight.clone() for name, weight in matrices(before).items()} if keep else {}
        for point in run.progress(trainer, f"run {repeat}", total=config.most_steps, start=trainer.step):
            if keep:  # Adam's update of a masked-out entry is undone, so that it stays where it was
                with torch.no_grad():
                    for name, weight in matrices(model).items():
                        torch.where(keep[name], weight, anchor[name], out=weight)
            stop = False
            if point.step % config.evaluate_every == 0 or point.step == config.most_steps:
                mass = _evaluate(run, repeat, point.step, model, before, known, new, base_logits)
                stop = mass >= config.target
            run.checkpoint(
                point.step,
                lambda: {
                    "done": done,
                    "reached": reached,
                    "trainer": {"trainer": trainer.state(), "draw": draw.get_state()},  # noqa: B023
                },
            )
            if stop:
                break
        reached.append([trainer.step, float(stop)])
        run.count(flops=trainer.step * config.batch * 3 * forward_flops(model.config, 4, logits=1))
        plain = model.merge_and_unload() if config.adapter else model
        done.append(
            {name: weight.detach().clone() for name, weight in plain.state_dict().items() if name != "lm_head.weight"}
        )
    for repeat, (steps, stopped) in enumerate(reached):
        run.metric("steps_to_target", max(steps, 1.0), variant=_variant(repeat), censored=not stopped)
    start = {f"start/{name}": w for name, w in before.state_dict().items() if name != "lm_head.weight"}
    ends = {f"{repeat}/{name}": w for repeat, weights in enumerate(done) for name, w in weights.items()}
    run.save_model(lambda folder: save_file({n: w.contiguous() for n, w in (start | ends).items()}, folder / WEIGHTS))


def load(run: Run, folder: Path, repeat: int | str) -> nn.Module:
    """A saved model: number `repeat`, or the one a tuning started from ("start")."""
    model = model_of(run)
    saved = load_file(folder / WEIGHTS)
    mine = {name.removeprefix(f"{repeat}/"): w for name, w in saved.items() if name.startswith(f"{repeat}/")}
    model.load_state_dict(mine, strict=False)
    return model.eval()


@torch.no_grad()
def to_grid(model: nn.Module, bits: int) -> None:
    """Rounds every matrix of the linear layers to the grid, in place; they stay float32 masters."""
    for weight in matrices(model).values():
        weight.copy_(lattice.cast(weight, bits).float())


@torch.no_grad()
def intervened(model: nn.Module, generator: torch.Generator) -> None:
    """Rotates the values and permutes the heads of the last layer, in place; the function is the same up to rounding."""
    attention = model.model.layers[-1].self_attn
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    found = interventions.Attention(*(getattr(attention, name).weight.double() for name in names))
    found = interventions.rotate(found, interventions.haar(attention.head_dim, generator))
    heads = model.config.num_key_value_heads
    order = torch.arange(heads).roll(1)  # no head stays in its place
    found = interventions.permute(found, order, attention.head_dim)
    for name, weight in zip(names, found[:4], strict=True):
        getattr(attention, name).weight.copy_(weight.float())


def _start(run: Run, before: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy of the base to tune, and the entries that may move where only some may."""
    config, model = run.config, copy.deepcopy(before)
    if config.adapter:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(run.seed("init") % 2**63)
        about = LoraConfig(
            r=config.adapter_rank,
            lora_alpha=config.adapter_rank,
            target_modules=list(PROJECTIONS),
            init_lora_weights="pissa" if config.adapter == "pissa" else True,
        )
        return get_peft_model(model, about), {}
    if not config.mask:
        return model, {}
    keep = {}
    generator = run.generator("mask")
    for name, weight in matrices(before).items():
        k = geometry.rank(0.1, *weight.shape)
        if config.mask in ("principal", "complement"):
            mask = masks.principal(geometry.reconstruction(geometry.spectrum(weight.detach(), k), k), 0.5)
            keep[name] = mask if config.mask == "principal" else ~mask
        elif config.mask == "low":
            # The grid has many ties: half of all entries exactly, so that all masks have one size.
            order = (weight.detach().abs() + 1e-9 * torch.rand(weight.shape, generator=generator)).flatten().argsort()
            keep[name] = _first_half(order, weight.shape)
        else:
            keep[name] = _first_half(torch.randperm(weight.numel(), generator=generator), weight.shape)
    return model, keep


def _first_half(order: Tensor, shape: torch.Size) -> Tensor:
    mask = torch.zeros(order.numel(), dtype=torch.bool)
    mask[order[: order.numel() // 2]] = True
    return mask.view(shape)


def _loss(config, logits, rows, new, base_logits, fixed, draw) -> Tensor:
    """The arm's loss on a batch of new prompts."""
    correct = new.correct[rows]
    targets: dict[str, Callable[[], Tensor]] = {
        "fixed": lambda: O.one_hot(fixed[rows], logits.shape[1]),
        "uniform": lambda: O.uniform_correct(correct),
        "oracle": lambda: O.oracle(base_logits[rows], correct),
        "rejection": lambda: O.accepted(O.sample(logits, config.group, draw), correct),
    }
    if config.objective in targets:
        return O.cross_entropy(logits, targets[config.objective]())
    sampled = O.sample(logits, config.group, draw)
    advantage = O.group_advantage(O.rewards(sampled, correct), divide=config.objective == "grpo")
    return O.policy_gradient(logits, sampled, advantage)


@torch.no_grad()
def _evaluate(run: Run, repeat: int, step: int, model, before, known, new, base_logits) -> float:
    """Logs where a tuning is: the new task, what is left of the old ones, and how far the policy and the weights went."""
    model.eval()
    logits = answers(model, new.prompts)
    mass = float(O.mass(logits, new.correct))
    plain = model.get_base_model() if run.config.adapter else model
    values = {
        "new_accuracy": mass,
        "prior_accuracy": float(_accuracy(model, known)),
        "kl_forward": float(O.kl(base_logits, logits)),
        "kl_reverse": float(O.kl(logits, base_logits)),
    }
    if not run.config.adapter:
        a, b = matrices(before), matrices(plain)
        moved = sum((a[n] - b[n]).square().sum() for n in a).sqrt() / sum(w.square().sum() for w in a.values()).sqrt()
        values["norm"] = float(moved)
    run.log(step, variant=_variant(repeat), **values)
    return mass


def _accuracy(model: nn.Module, known: residues.Known) -> Tensor:
    with torch.no_grad():
        return (answers(model, known.prompts).argmax(dim=1) == known.answers).float().mean()


def _variant(repeat: int) -> str:
    """The first tuning is the arm's own; further ones are told apart."""
    return f"run {repeat}" if repeat else ""


def _rows(n: int, batch: int, seed: int, step: int) -> Tensor:
    mixed = (seed * 1_000_003 + step) % 2**63
    return torch.randint(n, (batch,), generator=torch.Generator().manual_seed(mixed))


def _save(run: Run, models: list[nn.Module]) -> None:
    tensors = {
        f"{place}/{name}": weight.detach().contiguous()
        for place, model in enumerate(models)
        for name, weight in model.state_dict().items()
        if name != "lm_head.weight"
    }
    run.save_model(lambda folder: save_file(tensors, folder / WEIGHTS))
