"""What is read off a training that ends in a spike of the loss."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from methods.grokking import progress, stages
from methods.grokking.method import Grokking, GrokkingConfig
from tycho.adapter import JobView, Run
from tycho.keys import JobKey
from tycho.records import read
from tycho.tasks import groups

KEPT = [0, 40, 60, 80, 100]


def run_of(place: Path, accuracy: dict[int, float], loss: dict[int, float]) -> Run:
    """The analyse stage of a job on Z11 whose training logged these curves."""
    key = JobKey("quick", "grokking", "weight_decay", "z11", 0)
    config = GrokkingConfig(train_pairs=60, epochs=100, **Grokking.arms["weight_decay"].config)
    train = Run(key, "train", config, job=JobView(key, place / "none"), work=place / "train")
    for epoch, value in accuracy.items():
        train.log(epoch, train_accuracy=1.0, test_accuracy=value, train_loss=loss[epoch], test_loss=1 - value)
    train.finish(place / "job")
    return Run(key, "analyse", config, job=JobView(key, place / "job"), work=place / "analyse")


def metrics_of(run: Run, place: Path) -> pd.Series:
    run.finish(place / "job")
    found = read(place / "job" / "analyse" / "metrics.parquet", "")
    return found[found.step.isna()].set_index("name").value


def adds(frequencies: list[int]) -> Tensor:
    """Outputs sum_k cos k(x + y - z) over the whole table of Z11."""
    h = torch.arange(11).double()
    away = h[:, None, None] + h[:, None] - h
    return sum(torch.cos(2 * math.pi * k * away / 11) for k in frequencies)


def memorises() -> Tensor:
    """The right answer on 60 pairs and nothing on the others."""
    table = groups.pairs(groups.group("Z11"))
    rows, _ = groups.split(121, 60, 0)
    outputs = torch.zeros(121, 11).double()
    outputs[rows, table[rows, 2]] = 1
    return outputs.view(11, 11, 11)


def test_accuracy_at_the_end_is_not_that_of_a_spike(tmp_path: Path) -> None:
    epochs = [0, 20, 40, 60, 80, *range(95, 101)]
    accuracy = {epoch: 0.1 if epoch < 60 else 0.97 for epoch in epochs} | {80: 0.4, 100: 0.6}
    run = run_of(tmp_path, accuracy, dict.fromkeys(epochs, 1e-3))
    stages.times(run)
    found = metrics_of(run, tmp_path)
    assert found["test_accuracy"] == pytest.approx(0.97) and found["epochs_to_test"] == 60


def test_accuracy_at_the_end_of_a_network_that_still_learns_is_its_last() -> None:
    curve = pd.Series({epoch: epoch / 400 for epoch in range(0, 401, 25)})
    assert stages.ending(curve) == 1


def test_the_last_kept_epoch_that_counts_is_not_in_a_spike() -> None:
    loss = pd.Series({0: 4.0, 40: 1e-5, 60: 3e-3, 80: 2e-4, 95: 1e-4, 98: 1e-4, 100: 5e-2})
    assert stages.settled(loss, [0, 40, 60, 80, 100]) == 80
    assert stages.settled(loss, [0, 40, 60, 80, 98]) == 98
    assert stages.settled(loss, [0, 60, 100]) == 100  # all of them are: the last


def test_progress_measures_are_read_before_a_spike_and_its_fall_is_not_before_generalisation(tmp_path: Path) -> None:
    """Kept: memorised, memorised, adds, adds, and a spike in which less than half of the test set is right."""
    epochs = [*KEPT[:-1], 97, 98, 99, 100]
    loss = dict.fromkeys(epochs, 1e-3) | {0: 1.0, 100: 0.5}
    accuracy = dict.fromkeys(epochs, 1.0) | {0: 0.0, 40: 0.1, 100: 0.3}
    run = run_of(tmp_path, accuracy, loss)
    spike = adds([5]) + 3 * torch.randn(11, 11, 11, generator=torch.Generator().manual_seed(0)).double()
    stages.progress_measures(
        run, dict(zip(KEPT, [memorises(), memorises(), adds([2, 3]), adds([2, 3]), spike], strict=True))
    )
    found = metrics_of(run, tmp_path)
    assert found["final_epoch"] == 80 and found["key_frequencies"] == 2
    assert found["final_wave_share"] == pytest.approx(1)
    assert found["final_restricted_loss"] == pytest.approx(found["final_whole_loss"])
    memorised = float(progress.wave_share(memorises(), [2, 3]))
    assert found["before_wave_share"] == found["start_wave_share"] == pytest.approx(memorised) and memorised < 0.3
