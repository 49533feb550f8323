"""Full-batch training of R networks as a generator that can be stopped, saved and resumed bit for bit.

The whole state is one flat dict of tensors: "W", "V", "epoch", and "optimiser.*".
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from methods.grokking.network import Examples, accuracy, backward, forward, squared_error
from methods.grokking.optimisers import OPTIMISERS, Rate
from methods.grokking.step import Gradients


class Evaluation(NamedTuple):
    """Measured before the step of `epoch`; accuracies and losses are [R]. `state` is live: copy it to keep it."""

    epoch: int
    train_accuracy: Tensor
    train_loss: Tensor
    test_accuracy: Tensor
    test_loss: Tensor
    state: dict[str, Tensor]


def start(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """State at epoch 0 from initial weights, which are copied."""
    return {name: value.clone() for name, value in parameters.items()} | {"epoch": torch.tensor(0)}


def schedule(epochs: int, dense: int = 20, every: int = 25, per_decade: int = 10) -> list[int]:
    """Epochs to evaluate at: each of the first `dense`, `per_decade` log-spaced ones, each `every`-th, and the last."""
    spaced = {round(10 ** (i / per_decade)) for i in range(per_decade * 7)}
    chosen = set(range(dense)) | spaced | set(range(0, epochs, every)) | {epochs}
    return sorted(epoch for epoch in chosen if epoch <= epochs)


def select(state: dict[str, Tensor], networks: Tensor) -> dict[str, Tensor]:
    """The state of some of the networks (index or mask over R), to drop those that are done from a sweep."""
    return {name: value[networks] if value.ndim else value for name, value in state.items()}


def train(
    state: dict[str, Tensor],
    training: Examples,
    testing: Examples,
    epochs: int,
    evaluate_at: Collection[int],
    rate: Rate = 1e-3,
    decay: Rate = 0.0,
    optimiser: str = "adam",
    activation: str = "square",
    centre: str = "classes",
) -> Iterator[Evaluation]:
    """Train from `state["epoch"]` to `epochs`, in place, and yield an evaluation at each epoch of `evaluate_at`.

    Each evaluation precedes its epoch's step, as in the public code; one at `epochs` itself is after the last step.
    A state copied at any yield, or when the generator ends, continues to the same bits (at the same thread count);
    a run resumed from a yield repeats that evaluation first. `rate` and `decay` broadcast over [R, 1, 1].
    """
    if optimiser not in OPTIMISERS:
        raise ValueError(f"optimiser {optimiser!r} is not one of {', '.join(OPTIMISERS)}")
    step = OPTIMISERS[optimiser]
    parameters = {"W": state["W"], "V": state["V"]}
    memory = {name.removeprefix("optimiser."): v for name, v in state.items() if name.startswith("optimiser.")}
    chosen = set(evaluate_at)
    # The mean over classes leaves each example's error to itself; the mean over samples needs all outputs first.
    quick = None if centre == "samples" else Gradients(training, *reversed(state["V"].shape[1:]), activation)
    for epoch in range(int(state["epoch"]), epochs + 1):
        if epoch == epochs and epoch not in chosen:
            break
        if epoch in chosen or quick is None:
            outputs = forward(**parameters, left=training.left, right=training.right, activation=activation)
            loss, error = squared_error(outputs, training.target, training.weight, centre)
        if epoch in chosen:
            unseen = forward(**parameters, left=testing.left, right=testing.right, activation=activation)
            yield Evaluation(
                epoch,
                accuracy(outputs, training.target, training.weight),
                loss,
                accuracy(unseen, testing.target, testing.weight),
                squared_error(unseen, testing.target, testing.weight, centre)[0],
                state,
            )
        if epoch == epochs:
            break
        if quick is None:
            examples = {"left": training.left, "right": training.right, "error": error}
            gradients = backward(**parameters, **examples, activation=activation)
        else:
            gradients = quick(**parameters)
        step(parameters, gradients, memory, rate, decay)
        state["epoch"] = torch.tensor(epoch + 1)
        state.update({f"optimiser.{name}": value for name, value in memory.items()})
