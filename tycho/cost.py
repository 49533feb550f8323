"""What a stage costs: seconds, memory, tokens, forward passes, FLOPs. Timings live in `costs` and nowhere else."""

from __future__ import annotations

import contextlib
import datetime
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

COUNTERS = ("generated_tokens", "forward_passes", "flops")


@dataclass
class Meter:
    """Adds up a stage's cost; `spent` carries over what a killed start had used when it last wrote a checkpoint."""

    spent: dict[str, float] = field(default_factory=dict)
    counts: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        _forget_peak_memory()

    def count(self, **amounts: float) -> None:
        """Adds tokens, forward passes or FLOPs."""
        for name, amount in amounts.items():
            if name not in COUNTERS:
                raise TypeError(f"a cost is one of {COUNTERS}, not {name!r}")
            self.counts[name] += float(amount)

    def state(self) -> dict[str, float]:
        """What has been spent so far, for a checkpoint."""
        return {
            "wall_seconds": self.spent.get("wall_seconds", 0.0) + time.perf_counter() - self._wall,
            "cpu_seconds": self.spent.get("cpu_seconds", 0.0) + time.process_time() - self._cpu,
            **self.counts,
        }

    def resume(self, state: dict[str, float]) -> None:
        """Goes on from a checkpoint's state."""
        self.spent = {name: state[name] for name in ("wall_seconds", "cpu_seconds")}
        self.counts = Counter({name: state[name] for name in COUNTERS if name in state})

    def row(self) -> dict[str, object]:
        return {
            "started": self.started,
            "peak_memory_mb": peak_memory_mb(),
            **dict.fromkeys(COUNTERS),
            **self.state(),
        }


def peak_memory_mb() -> float:
    """Peak resident memory of this process since the last meter started (since the process started outside Linux)."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def _forget_peak_memory() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@contextlib.contextmanager
def counted_flops() -> Iterator[dict[str, int]]:
    """PyTorch's own count of a block's FLOPs, to check an analytic formula once. The total stands under 'flops' after the block."""
    from torch.utils.flop_counter import FlopCounterMode

    total: dict[str, int] = {}
    with FlopCounterMode(display=False) as counter:
        yield total
    total["flops"] = counter.get_total_flops()


def cpu_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
