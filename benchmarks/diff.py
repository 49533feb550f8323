"""Seconds of a diff against the bare decompositions it needs, and its peak memory against the largest tensor.

python -m benchmarks.diff --hidden 1024 --layers 1 --threads 1 --repeats 3
A generated pair with the matrices of a Llama layer (keys and values a quarter as wide, the MLP 8/3) is diffed with the
default settings: three decompositions a matrix (base, tuned, null). Turns alternate, so that a busy machine slows both
alike; CPU seconds are counted, the median of the repeats is printed. Memory is what the diff adds to the process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from methods.path_not_taken.diff import diff


def layer_shapes(hidden: int) -> dict[str, tuple[int, int]]:
    """Shapes (out, in) by name."""
    wide = hidden * 8 // 3 // 64 * 64
    attention = {"q": hidden, "k": hidden // 4, "v": hidden // 4, "o": hidden}
    shapes = {f"self_attn.{name}_proj": (out, hidden) for name, out in attention.items()}
    return shapes | {"mlp.gate_proj": (wide, hidden), "mlp.up_proj": (wide, hidden), "mlp.down_proj": (hidden, wide)}


def write_pair(folder: Path, hidden: int, layers: int, step: float = 2e-5) -> dict[str, tuple[int, int]]:
    """Base and tuned, a shard a tensor: weights N(0, 0.02^2), updates N(0, step^2), both bf16."""
    shapes = {
        f"model.layers.{layer}.{name}.weight": shape
        for layer in range(layers)
        for name, shape in layer_shapes(hidden).items()
    }
    for side in ("base", "tuned"):
        (folder / side).mkdir(parents=True)
        index = {"weight_map": {name: f"{name}.safetensors" for name in shapes}}
        (folder / side / "model.safetensors.index.json").write_text(json.dumps(index))
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        base = (torch.randn(shape, generator=generator) * 0.02).bfloat16()
        tuned = (base + step * torch.randn(shape, generator=generator)).bfloat16()
        save_file({name: base}, folder / "base" / f"{name}.safetensors")
        save_file({name: tuned}, folder / "tuned" / f"{name}.safetensors")
    return shapes


def bare(shapes: dict[str, tuple[int, int]]) -> None:
    """What no diff can do without: the decompositions of base, tuned and null."""
    for shape in shapes.values():
        matrix = torch.randn(shape) * 0.02
        for _ in range(3):
            torch.linalg.svd(matrix, full_matrices=False)


def cpu_seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def memory(field: str) -> int:
    """VmRSS or VmHWM (the peak) of this process in bytes; Linux."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, nargs="+", default=[576, 1024])
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ["TYCHO_QUIET"] = "1"
    torch.linalg.svd(torch.randn(64, 64))  # loads the libraries
    for hidden in options.hidden:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            shapes = write_pair(folder, hidden, options.layers)
            largest = max(2 * rows * columns for rows, columns in shapes.values())
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
            before = memory("VmRSS")
            diffs, bares = [], []
            for repeat in range(options.repeats):
                sides = folder / "base", folder / "tuned", folder / f"out{repeat}"
                diffs.append(cpu_seconds(lambda sides=sides: diff(*sides, device="cpu")))
                if not repeat:
                    peak = memory("VmHWM") - before
                bares.append(cpu_seconds(lambda shapes=shapes: bare(shapes)))
        ratio = statistics.median(a / b for a, b in zip(diffs, bares, strict=True))
        print(
            f"hidden {hidden}, {len(shapes)} matrices, {options.threads} threads: "
            f"diff {statistics.median(diffs):.2f} s, bare decompositions {statistics.median(bares):.2f} s, "
            f"ratio {ratio:.2f}; "
            f"peak {peak / 2**20:.0f} MB, {peak / largest:.1f} times the largest tensor ({largest / 2**20:.1f} MB)"
        )


if __name__ == "__main__":
    main()
