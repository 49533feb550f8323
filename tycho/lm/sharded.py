"""The training loop over several processes, for a model that does not fit one GPU: each holds a share of the weights, gradients
and moments (torch's FSDP2) and takes its share of a step's batches.

A process a GPU, all with the same code. A stage is the first of them and starts the others itself:

    def follow(device, given): ...                                                  # at the top of a module
    with leading(8, "cuda", follow, given) as device:
        trainer = ShardedTrainer(model.to(device), batches, loss, recipe, parts=model.model.layers)
        trainer.restore(restored)                                                   # in every process; read by the first
        for point in trainer:
            state = trainer.state()                                                 # in every process; whole in the first

or torchrun starts them all (`together`). Losses, norms and weights are those of one process up to rounding.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard

from tycho.errors import TychoError
from tycho.lm.training import B, Point, Recipe, Trainer

log = logging.getLogger("tycho")

T = TypeVar("T")
# Between two collectives the first process may write a checkpoint or another sample the longest answers. Processes that
# are gone are noticed sooner (`leading`).
PATIENCE = datetime.timedelta(hours=24)
GRACE = 60.0  # seconds that a collective has to fail by itself where a process is gone
FROM_FIRST = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
TO_FIRST = StateDictOptions(full_state_dict=True, cpu_offload=True)
TO_ALL = StateDictOptions(full_state_dict=True)


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


# --- processes that a stage starts -----------------------------------------------------------------------------------


@contextlib.contextmanager
def leading(processes: int, device: str, follow: Callable[..., None], *given: Any) -> Iterator[torch.device]:
    """Makes this process the first of several, starts the others with `follow(their device, *given)`, yields its device.

    device: cpu or cuda, a GPU a process. A process that fails or is killed ends them all: this one raises TychoError, the
    others do not outlive it.
    """
    if device != "cpu" and (device != "cuda" or torch.cuda.device_count() < processes):
        seen = f"{torch.cuda.device_count()} visible" if device == "cuda" else f"device is {device}"
        raise TychoError(f"{processes} processes want a GPU each ({seen}): set `gpus` and `processes` to what there is")
    store = dist.TCPStore("127.0.0.1", 0, processes, is_master=True, wait_for_workers=False)
    spawn = multiprocessing.get_context("spawn")
    about = (processes, store.port, device, torch.get_num_threads(), follow, given)
    others = [spawn.Process(target=_follow, args=(rank, *about), daemon=True) for rank in range(1, processes)]
    ended = threading.Event()
    try:
        for process in others:
            process.start()
        while not store.check([f"here {rank}" for rank in range(1, processes)]):
            if wait([process.sentinel for process in others], timeout=0.05):
                raise RuntimeError("a process has not begun")
        threading.Thread(target=_give_up, args=(others, ended), daemon=True).start()
        with _joined(0, processes, store, device) as mine:
            yield mine
    except RuntimeError as error:
        ending = wait([process.sentinel for process in others], timeout=5)  # where one of them is the reason
        for process in others:
            if process.sentinel in ending:
                process.join(GRACE)  # the sentinel goes with its files, a moment before it has ended and has a code
        gone = [(rank, process.exitcode) for rank, process in enumerate(others, 2) if process.exitcode]
        if not gone:
            raise
        rank, code = gone[0]
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}, its own words are in the log"
        raise TychoError(f"process {rank} of {processes} {how}: the training goes on from its checkpoint") from error
    finally:
        ended.set()
        for process in others:
            process.kill()
            process.join()


def _follow(
    rank: int, size: int, port: int, device: str, threads: int, follow: Callable[..., None], given: tuple[Any, ...]
) -> None:
    """What a started process does, settled as the first is; it ends with the first, however that ends."""

    def orphaned() -> None:
        multiprocessing.parent_process().join()  # type: ignore[union-attr]
        os._exit(1)

    threading.Thread(target=orphaned, daemon=True).start()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    store = dist.TCPStore("127.0.0.1", port, size, is_master=False)
    store.set(f"here {rank}", "")
    with _joined(rank, size, store, device) as mine:
        follow(mine, *given)


@contextlib.contextmanager
def _joined(rank: int, size: int, store: dist.Store, device: str) -> Iterator[torch.device]:
    gpu = device == "cuda"
    if gpu:
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if gpu else "gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield torch.device("cuda", rank) if gpu else torch.device("cpu")
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _give_up(others: list[Any], ended: threading.Event) -> None:
    """Ends this process where another is gone and the collective that waits for it does not notice, as on GPUs."""
    while not ended.wait(1.0):
        if any(process.exitcode for process in others):
            if not ended.wait(GRACE):
                log.critical(
                    "a process of the training is gone: ended, to go on from the checkpoint when started again"
                )
                os._exit(1)
            return


def from_first(value: T) -> T:
    """The first process's value, in every process."""
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def added(value: float) -> float:
    """The sum of all processes' values, in every process."""
    total = torch.tensor(float(value), dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(total)
    return total.item()


def in_turns(make: Callable[[], T]) -> T:
    """Calls `make` in one process after the other, so that what it needs for a while is needed once."""
    made = None
    for rank in range(dist.get_world_size()):
        if rank == dist.get_rank():
            made = make()
        dist.barrier()
    return made  # type: ignore[return-value]


# --- the loop --------------------------------------------------------------------------------------------------------


class ShardedTrainer(Trainer):
    """`Trainer` over all processes of the group. A step's `recipe.accumulate` batches are dealt out in equal shares.

    All begin with the first process's weights.
    parts: modules that are gathered one at a time when they are needed, as a transformer's layers.
    validate: called in every process with a whole model of its own; has to return the same in all (`added`).
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Callable[[int], B],
        loss: Callable[[nn.Module, B], Tensor],
        recipe: Recipe,
        *,
        parts: Iterable[nn.Module] = (),
        validate: Callable[[nn.Module], float] | None = None,
        validate_every: int = 0,
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

        for value in (*model.parameters(), *model.buffers()):
            dist.broadcast(value.data, 0)
        # The same modules without weights, to be filled now and then.
        empty = {id(value): nn.Parameter(value.to("meta")) for value in model.parameters()}
        self._whole = copy.deepcopy(model, empty)
        self._empty = {name: value.to("meta") for name, value in model.state_dict().items()}
        mesh = dist.init_device_mesh(next(model.parameters()).device.type, (size,))
        for part in (*parts, model):
            fully_shard(part, mesh=mesh)
        settings = {"validate": validate, "validate_every": validate_every, "seed": seed}
        super().__init__(model, dealt, loss, replace(recipe, accumulate=share), **settings)

    def __next__(self) -> Point:
        point = super().__next__()
        mean = torch.tensor(point.loss, device=self._device)
        dist.all_reduce(mean)
        return point._replace(loss=mean.item() / dist.get_world_size())

    @contextlib.contextmanager
    def gathered(self) -> Iterator[nn.Module]:
        """The model with whole weights in every process, set to evaluation; in the block none waits for another."""
        self._whole.load_state_dict(get_model_state_dict(self.model, options=TO_ALL), assign=True)
        try:
            yield self._whole.eval()
        finally:
            self._whole.load_state_dict(self._empty, assign=True)

    def _score(self) -> float | None:
        due = self.validate_every and self.step % self.validate_every == 0
        if self.validate is None or not (due or self.step == self.recipe.steps):
            return None
        with torch.no_grad(), self.gathered() as whole:
            score = float(self.validate(whole))
            if self.best is None or score > self.best["score"]:
                first = dist.get_rank() == 0
                weights = {name: value.to("cpu", copy=True) for name, value in whole.state_dict().items() if first}
                self.best = {"score": score, "step": self.step, "model": weights}
        return score

    def keep_best(self) -> int:
        """As `Trainer.keep_best`; every process has to call it."""
        self.model.eval()
        if self.best is None:
            return self.step
        set_model_state_dict(self.model, self.best["model"], options=FROM_FIRST)
        return self.best["step"]

    def state(self) -> dict[str, Any]:
        """Whole in the first process, to be saved there; every process has to call it."""
        model, optimizer = get_state_dict(self.model, self.optimizer, options=TO_FIRST)
        generator = torch.get_rng_state()
        return {"step": self.step, "model": model, "optimizer": optimizer, "generator": generator, "best": self.best}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Goes on from the whole state, which the first process has; every process has to call it."""
        given = state if dist.get_rank() == 0 else {}
        # Apart: `set_state_dict` takes no weights where it is given none, as in the other processes.
        set_model_state_dict(self.model, given.get("model", {}), options=FROM_FIRST)
        set_optimizer_state_dict(self.model, self.optimizer, given.get("optimizer", {}), options=FROM_FIRST)
        best = given.get("best")
        small = (given.get("step"), given.get("generator"), best and (best["score"], best["step"]))
        self.step, generator, known = from_first(small)
        torch.set_rng_state(generator)
        held = best["model"] if best else {}
        self.best = known and {"score": known[0], "step": known[1], "model": held}
