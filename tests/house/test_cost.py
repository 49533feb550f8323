"""Costs are what was used: checked against known work."""

from __future__ import annotations

import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

from tycho import records
from tycho.cost import COUNTERS, Meter, counted_flops, cpu_count, peak_memory_mb


def test_seconds_of_sleep_and_of_work():
    meter = Meter()
    time.sleep(0.2)
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    spent = meter.state()
    assert 0.3 <= spent["wall_seconds"] < 5 and 0.1 <= spent["cpu_seconds"] < 0.19


def test_counts_add_up_and_other_names_are_refused():
    meter = Meter()
    meter.count(generated_tokens=2, flops=1e15)
    meter.count(generated_tokens=3, forward_passes=1)
    assert {name: meter.row()[name] for name in COUNTERS} == {
        "generated_tokens": 5,
        "forward_passes": 1,
        "flops": 1e15,
    }
    with pytest.raises(TypeError, match="not 'tokens'"):
        meter.count(tokens=1)


def test_a_resumed_meter_goes_on():
    first = Meter()
    first.count(flops=5)
    first.spent = {"wall_seconds": 10.0, "cpu_seconds": 4.0}
    again = Meter()
    again.count(flops=100)  # counted before the checkpoint was read: it stands in there
    again.resume(first.state())
    again.count(flops=1)
    spent = again.state()
    assert spent["flops"] == 6 and 10 <= spent["wall_seconds"] < 15 and 4 <= spent["cpu_seconds"] < 6


def test_a_row_fits_the_records():
    row = pd.DataFrame([Meter().row()]).assign(device="cpu", threads=1, stage="train")
    found = records.tidy("costs", row, scale="smoke", method="m", arm="a", task="t", seed=0)
    assert found.flops.isna().all() and found.started[0].endswith("+00:00")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is that of the whole process")
def test_the_peak_is_that_of_the_stage():
    """In a process of its own, since memory that was given back stays with the allocator in others."""
    code = (
        "from tycho.cost import Meter, peak_memory_mb\n"
        "open('/proc/self/clear_refs', 'w').write('5')\n"
        "Meter(); base = peak_memory_mb()\n"
        "meter = Meter(); block = bytearray(b'x' * (200 << 20)); high = meter.row()['peak_memory_mb']\n"
        "del block; meter = Meter(); print(base, high, meter.row()['peak_memory_mb'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if "clear_refs" in done.stderr:
        pytest.skip("this kernel does not let a process forget its peak")
    base, high, after = map(float, done.stdout.split())
    assert 195 < high - base < 500
    assert after - base < 50


def test_peak_memory_is_in_megabytes():
    assert 20 < peak_memory_mb() < 50_000


def test_torch_counts_the_flops_of_a_block():
    """A product of [m, k] and [k, n] takes 2mkn."""
    with counted_flops() as total:
        torch.ones(3, 5) @ torch.ones(5, 7)
    assert total["flops"] == 2 * 3 * 5 * 7


def test_cores():
    assert cpu_count() >= 1
