"""The training loop over several processes, for a model that does not fit one GPU: each holds a share of the weights, gradients
and moments (torch's FSDP2) and takes its share of a step's batches.

A process a GPU, all with the same code, as torchrun starts them:

    with together() as device:
        trainer = ShardedTrainer(model.to(device), batches, loss, recipe, parts=model.model.layers)
        if restored: trainer.restore(restored)                                      # in every process
        for point in trainer:
            state = trainer.state()                                                 # in every process; whole in the first

Losses, norms and weights are those of one process up to rounding.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

from tycho.errors import TychoError
from tycho.lm.training import B, Point, Recipe, Trainer


@contextlib.contextmanager
def together() -> Iterator[torch.device]:
    """Joins the processes that torchrun started and yields this one's device: its GPU, or the CPU where there is none."""
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if gpu else "gloo")
    try:
        yield torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")
    finally:
        dist.destroy_process_group()


class ShardedTrainer(Trainer):
    """`Trainer` over all processes of the group. A step's `recipe.accumulate` batches are dealt out in equal shares.

    parts: modules that are gathered one at a time when they are needed, as a transformer's layers.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Callable[[int], B],
        loss: Callable[[nn.Module, B], Tensor],
        recipe: Recipe,
        *,
        parts: Iterable[nn.Module] = (),
        seed: int = 0,
    ) -> None:
        rank, size = dist.get_rank(), dist.get_world_size()
        if recipe.accumulate % size:
            raise TychoError(
                f"{recipe.accumulate} batches a step cannot be dealt out to {size} processes: name a multiple"
            )
        share = recipe.accumulate // size

        def dealt(place: int) -> B:
            step, part = divmod(place, share)
            return batches(step * recipe.accumulate + rank * share + part)

        mesh = dist.init_device_mesh(next(model.parameters()).device.type, (size,))
        for part in (*parts, model):
            fully_shard(part, mesh=mesh)
        super().__init__(model, dealt, loss, replace(recipe, accumulate=share), seed=seed)

    def __next__(self) -> Point:
        point = super().__next__()
        mean = torch.tensor(point.loss, device=self._device)
        dist.all_reduce(mean)
        return point._replace(loss=mean.item() / dist.get_world_size())

    def state(self) -> dict[str, Any]:
        """Whole in the first process, to be saved there; every process has to call it."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        model, optimizer = get_state_dict(self.model, self.optimizer, options=options)
        return {"step": self.step, "model": model, "optimizer": optimizer, "generator": torch.get_rng_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from the whole state, given to every process."""
        options = StateDictOptions(full_state_dict=True)
        weights, moments = state["model"], state["optimizer"]
        set_state_dict(self.model, self.optimizer, model_state_dict=weights, optim_state_dict=moments, options=options)
        self.step = state["step"]
        torch.set_rng_state(state["generator"])
