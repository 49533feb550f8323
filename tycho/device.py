"""Where a job computes: CPU threads, a GPU slot of its own, and what to do when memory runs out."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from tycho.errors import TychoError, unknown

T = TypeVar("T")
DEVICES = ("auto", "cpu", "cuda", "mps")
_had: set[str] = set()  # GPUs this process has computed on


def check_device(name: str) -> str:
    """A device's name as configured, or one clear line."""
    if name not in DEVICES:
        raise unknown("device", name, DEVICES, "(a GPU is called cuda)")
    return name


def inference_dtype(device: str = "cpu"):
    """The torch dtype that runs a pretrained model fastest: bfloat16 where the hardware multiplies it, else float32.

    On CPUs with AMX or AVX-512 BF16 generation is many times faster in bfloat16; on others (AVX2) it is emulated and the
    slower by as much.
    """
    import torch

    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if device != "cpu" or native else torch.float32


def visible_gpus() -> list[str]:
    """GPU ids this process may use, without importing torch. TYCHO_GPUS="0,1" stands in where there are none (tests)."""
    for variable in ("CUDA_VISIBLE_DEVICES", "TYCHO_GPUS"):
        if variable in os.environ:
            names = [name.strip() for name in os.environ[variable].split(",")]
            # As CUDA reads it: the first name that is none (-1, NoDevFiles) ends the list.
            return list(itertools.takewhile(re.compile(r"\d+|(GPU|MIG)-.+").fullmatch, names))
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(i) for i, line in enumerate(listing.splitlines()) if line.startswith("GPU ")]


@contextlib.contextmanager
def slot(wanted: str, locks: Path, poll: float = 1.0, count: int = 1) -> Iterator[str]:
    """Takes `count` GPUs for the length of the block, all or none, and yields the torch device to use; on CPU at once.

    Snakemake does not keep local jobs apart by itself, so a slot is a file lock and the GPU is set in
    CUDA_VISIBLE_DEVICES before torch looks. The lock goes with the process, however that ends. torch looks once: a
    process that takes a slot again waits for the GPU it had. Locks are the machine's own (the results may lie on a disk
    that many share), and a SLURM job's own (each counts the GPUs it was given from 0).
    """
    check_device(wanted)
    gpus = visible_gpus() if wanted in ("auto", "cuda") else []
    if gpus and len(gpus) < count:
        raise TychoError(f"{count} GPUs were asked for, {len(gpus)} visible: set the method's `gpus` to what there is")
    had = [gpu for gpu in gpus if gpu in _had]
    gpus = had if len(had) >= count else gpus
    if not gpus:
        if wanted == "cuda":
            raise TychoError("device 'cuda' was asked for and no GPU is visible: use device=auto or device=cpu")
        yield wanted if wanted == "mps" else "cpu"
        return
    from filelock import FileLock, Timeout

    locks.mkdir(parents=True, exist_ok=True)
    place = "-".join(filter(None, (platform.node(), os.environ.get("SLURM_JOB_ID"))))
    while True:
        with contextlib.ExitStack() as held:
            taken: list[str] = []
            for gpu in gpus:
                lock = FileLock(locks / f"{place}-gpu-{gpu.replace('/', '_')}.lock")
                with contextlib.suppress(Timeout):
                    held.enter_context(lock.acquire(timeout=0))
                    taken.append(gpu)
                if len(taken) == count:
                    break
            if len(taken) == count:
                _had.update(taken)
                before = os.environ.get("CUDA_VISIBLE_DEVICES")
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
                try:
                    yield "cuda"
                finally:
                    if before is None:
                        del os.environ["CUDA_VISIBLE_DEVICES"]
                    else:
                        os.environ["CUDA_VISIBLE_DEVICES"] = before
                return
        time.sleep(poll)


def halving(step: Callable[[int], T], batch: int) -> tuple[T, int]:
    """Calls `step(batch)`, with half the batch each time memory runs out. Returns the result and the batch that fitted."""
    import torch

    while True:
        try:
            return step(batch), batch
        except (torch.OutOfMemoryError, MemoryError):
            if batch <= 1:
                raise
            batch //= 2
        # Outside of the handler, where the error's frames no longer hold on to tensors.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
