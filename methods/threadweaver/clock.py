"""Wall-clock of decodings that are to be compared: all in one process, in turns, so that what else the machine does meets all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import pandas as pd


def in_turns(decodings: Mapping[str, Callable[[], object]], repeats: int) -> pd.DataFrame:
    """decoding, repeat, wall_seconds, cpu_seconds: each decoding once a turn. A turn before the first warms up."""
    rows = []
    for repeat in range(-1, repeats):
        for name, decode in decodings.items():
            wall, cpu = time.perf_counter(), time.process_time()
            decode()
            rows.append((name, repeat, time.perf_counter() - wall, time.process_time() - cpu))
    frame = pd.DataFrame(rows, columns=["decoding", "repeat", "wall_seconds", "cpu_seconds"])
    return frame[frame.repeat >= 0].reset_index(drop=True)


def speedups(times: pd.DataFrame, base: str, own: str) -> dict[str, float]:
    """Of `base` over `own`, turn by turn: the median ratio of wall-clock with the lowest and the highest, and of CPU time.

    "wall-clock over CPU": median over all turns. Above 1, one thread on a CPU had to wait for others of the machine.
    """
    turns = {name: frame.set_index("repeat") for name, frame in times.groupby("decoding")}
    wall = list(turns[base].wall_seconds / turns[own].wall_seconds)
    cpu = list(turns[base].cpu_seconds / turns[own].cpu_seconds)
    return {
        "wall-clock speed-up": statistics.median(wall),
        "lowest": min(wall),
        "highest": max(wall),
        "CPU speed-up": statistics.median(cpu),
        "wall-clock over CPU": statistics.median(times.wall_seconds / times.cpu_seconds),
    }
