"""The training loop of all language methods: AdamW, warm-up and decay, clipping, choice of checkpoint by validation.

What is trained on what is the caller's: `batches(step)` gives a batch, `loss(model, batch)` a scalar. The loop yields
after each step, so that the caller logs and checkpoints:

    trainer = Trainer(model, batches, loss, Recipe(steps=4000, rate=2e-3))
    if restored: trainer.restore(restored)
    for point in trainer:
        run.log(point.step, loss=point.loss)
        run.checkpoint(point.step, trainer.state)
    trainer.keep_best()
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

B = TypeVar("B")


@dataclass(frozen=True)
class Recipe:
    """How long and how fast. `rate` is the peak learning rate, `floor` the share of it left at the end of the decay."""

    steps: int
    rate: float = 1e-3
    warmup: int = 100
    decay: Literal["constant", "linear", "cosine"] = "cosine"
    floor: float = 0.0
    hold: float = 0.0  # share of the steps behind the warm-up that stay at the peak before the decay
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0  # largest gradient norm; 0: none
    accumulate: int = 1  # batches a step
    bf16: bool = False


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of step 0, 1, …: linear warm-up that reaches the peak at step `warmup`, a hold, then the decay."""
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / (recipe.warmup + 1)
    if recipe.decay == "constant":
        return recipe.rate
    start = recipe.warmup + recipe.hold * (recipe.steps - recipe.warmup)
    done = min(1.0, max(0.0, step - start) / max(1, recipe.steps - start))
    left = 1 - done if recipe.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return recipe.rate * (recipe.floor + (1 - recipe.floor) * left)


class Point(NamedTuple):
    """One finished step: its number counted from 1, mean loss, learning rate, gradient norm before clipping, and the
    validation score where one was taken."""

    step: int
    loss: float
    rate: float
    norm: float
    score: float | None


class Trainer(Iterator[Point]):
    """Trains `model` in place; iterating it trains.

    batches: step -> batch. A pure function of the step makes a resumed run equal to an undisturbed one bit for bit; a
    curriculum that depends on the loss keeps its own state beside `state()`.
    validate: model -> score, higher is better, called every `validate_every` steps and after the last.
    seed: of torch's global generator, which dropout draws from.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Callable[[int], B],
        loss: Callable[[nn.Module, B], Tensor],
        recipe: Recipe,
        *,
        validate: Callable[[nn.Module], float] | None = None,
        validate_every: int = 0,
        seed: int = 0,
    ) -> None:
        self.model, self.batches, self.loss, self.recipe = model, batches, loss, recipe
        self.validate, self.validate_every = validate, validate_every
        self.step = 0
        self.best: dict[str, Any] | None = None
        self.reset_optimizer()
        torch.manual_seed(seed)

    def reset_optimizer(self) -> None:
        """Forgets the optimizer's moments, as curricula do between stages."""
        recipe = self.recipe
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=recipe.rate, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
        )

    def __next__(self) -> Point:
        if self.step >= self.recipe.steps:
            raise StopIteration
        recipe, rate = self.recipe, learning_rate(self.recipe, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        self.optimizer.zero_grad()
        total = 0.0
        for part in range(recipe.accumulate):
            batch = self.batches(self.step * recipe.accumulate + part)
            with torch.autocast(self._device, torch.bfloat16, enabled=recipe.bf16):
                loss = self.loss(self.model, batch) / recipe.accumulate
            loss.backward()
            total += loss.item()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip or math.inf).item()
        self.optimizer.step()
        self.step += 1
        return Point(self.step, total, rate, norm, self._score())

    def _score(self) -> float | None:
        due = self.validate_every and self.step % self.validate_every == 0
        if self.validate is None or not (due or self.step == self.recipe.steps):
            return None
        self.model.eval()
        with torch.no_grad():
            score = float(self.validate(self.model))
        if self.best is None or score > self.best["score"]:
            weights = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
            self.best = {"score": score, "step": self.step, "model": weights}
        return score

    def keep_best(self) -> int:
        """Gives the model the weights of its best validation (the last where there was none), sets it to evaluation
        and returns their step."""
        self.model.eval()
        if self.best is None:
            return self.step
        self.model.load_state_dict(self.best["model"])
        return self.best["step"]

    def state(self) -> dict[str, Any]:
        """Everything a later process needs to go on: nested dicts of tensors and numbers, to be saved before the next step."""
        return {
            "step": self.step,
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "generator": torch.get_rng_state(),
            "device_generator": torch.cuda.get_rng_state() if self._device == "cuda" else None,
            "best": self.best,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state()`."""
        self.step, self.best = state["step"], state["best"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["generator"])
        if self._device == "cuda":
            torch.cuda.set_rng_state(state["device_generator"])

    @property
    def _device(self) -> str:
        return next(self.model.parameters()).device.type
