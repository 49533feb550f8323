"""Decodings timed in turns: against a clock that the test sets."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from methods.threadweaver.clock import in_turns, speedups


def test_decodings_take_turns_and_the_first_turn_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(wall=0.0, cpu=0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: now.wall)
    monkeypatch.setattr(time, "process_time", lambda: now.cpu)
    lasts = {"slow": iter([99.0, 6.0, 8.0, 9.0]), "fast": iter([99.0, 2.0, 4.0, 3.0])}
    order = []

    def decode(name: str) -> None:
        order.append(name)
        taken = next(lasts[name])
        now.wall, now.cpu = now.wall + taken, now.cpu + taken / 2

    times = in_turns({"slow": lambda: decode("slow"), "fast": lambda: decode("fast")}, repeats=3)
    assert order == ["slow", "fast"] * 4
    assert times.wall_seconds.tolist() == [6, 2, 8, 4, 9, 3] and times.cpu_seconds.tolist() == [3, 1, 4, 2, 4.5, 1.5]
    found = speedups(times, "slow", "fast")
    assert found.pop("wall-clock over CPU") == 2
    assert found == {"wall-clock speed-up": 3, "lowest": 2, "highest": 3, "CPU speed-up": 3}  # 3, 2 and 3
