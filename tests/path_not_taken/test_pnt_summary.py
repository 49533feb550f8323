"""Means over tensors, weights by entries, and a difference that splits into what its null explains and the rest."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from methods.path_not_taken.diff import diff
from methods.path_not_taken.summary import summarise, surviving


def rows(run: str, metric: str, values: list[float], nulls: list[float], expected: float = math.nan) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "run": run,
            "tensor": [f"t{i}" for i in range(len(values))],
            "entries": [10 ** (i + 1) for i in range(len(values))],
            "metric": metric,
            "setting": "",
            "value": values,
            "expected": expected,
            "null": nulls,
        }
    )


def test_sparsity_is_over_entries_and_others_over_tensors() -> None:
    frame = pd.concat(
        [
            rows("a", "sparsity", [0.0, 1.0], [0.0, 1.0]),
            rows("a", "overlap_low", [0.2, 0.4], [0.3, 0.3], expected=0.3),
            rows("a", "angle_left", [1.0, math.nan], [2.0, math.nan]),
        ]
    )
    found = summarise(frame).set_index("metric")
    assert found.value["sparsity"] == pytest.approx(100 / 110)
    assert found.value["overlap_low"] == pytest.approx(0.3)
    assert found.expected["overlap_low"] == pytest.approx(0.3)
    assert found.above_null["overlap_low"] == 0.5
    assert found.above_null["sparsity"] == 0.5  # ties
    assert found.above_null["angle_left"] == 0.0
    assert found.tensors["angle_left"] == 1
    assert math.isnan(found.expected["sparsity"])


def test_a_difference_is_what_its_null_explains_and_the_rest() -> None:
    frame = pd.concat(
        [
            rows("sft", "angle_left", [4.0, 6.0], [3.0, 3.0]),
            rows("rl", "angle_left", [1.0, 2.0], [1.0, 2.5]),
            rows("rl", "sparsity", [0.5], [0.5]),
        ]
    )
    (row,) = surviving(frame, "rl", "sft").to_dict("records")
    assert row["metric"] == "angle_left"
    assert row["tensors"] == 2
    assert row["difference"] == pytest.approx(3.5)
    assert row["explained"] == pytest.approx(1.25)
    assert row["surviving"] == pytest.approx(2.25)
    assert row["same_sign"] == 1.0


def test_of_two_gaussian_updates_size_explains_all_and_of_a_directed_one_not(tmp_path: Path) -> None:
    """An update along principal directions differs from a Gaussian one of its size in energy; a larger one does not."""
    generator = torch.Generator().manual_seed(0)
    base = {
        f"layers.{i}.up_proj.weight": (0.02 * torch.randn(64, 48, generator=generator)).bfloat16() for i in range(6)
    }
    updates: dict[str, dict[str, torch.Tensor]] = {"small": {}, "large": {}, "directed": {}}
    for name, weights in base.items():
        left, _, right = torch.linalg.svd(weights.float(), full_matrices=False)
        directed = left[:, :4] @ torch.randn(4, 4, generator=generator) @ right[:4]
        updates["small"][name] = 5e-5 * torch.randn(64, 48, generator=generator)
        updates["large"][name] = 5e-4 * torch.randn(64, 48, generator=generator)
        updates["directed"][name] = 5e-4 * directed / directed.std()
    for run, tensors in {"base": {}, **updates}.items():
        (tmp_path / run).mkdir()
        moved = {name: (weights + tensors.get(name, 0)).bfloat16() for name, weights in base.items()}
        save_file(moved, tmp_path / run / "model.safetensors")
    frame = diff(tmp_path / "base", [tmp_path / run for run in updates], tmp_path / "out", device="cpu")
    by_size = surviving(frame, "small", "large").set_index("metric")
    assert by_size.difference["spectral_shift"] > 1e-3
    assert abs(by_size.surviving["spectral_shift"]) < 0.1 * by_size.difference["spectral_shift"]
    assert abs(by_size.surviving["overlap_low"]) < 0.1 * abs(by_size.difference["overlap_low"])
    by_direction = surviving(frame, "large", "directed").set_index("metric")
    assert by_direction.surviving["principal_energy"] > 0.8
    assert by_direction.same_sign["principal_energy"] == 1
