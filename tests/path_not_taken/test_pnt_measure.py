"""All rows of one tensor against a plain numpy and scipy reference, and the contract of nulls, runs and settings."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from methods.path_not_taken import nulls
from methods.path_not_taken.measure import ALL, METRICS, Found, Settings, compare
from tycho.errors import TychoError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_run(runs: list[str]) -> Callable[[str, int], torch.Generator]:
    return lambda run, draw: seeded(10_000 + 1000 * runs.index(run) + draw)  # not the seeds of the weights


def make(rows: int, columns: int, step: float, seed: int, stripes: bool = False) -> tuple[Tensor, Tensor]:
    base = (0.02 * torch.randn(rows, columns, generator=seeded(seed))).bfloat16()
    delta = step * torch.randn(rows, columns, generator=seeded(seed + 1))
    if stripes:
        delta *= (torch.arange(rows) % 4 == 0)[:, None]
    return base, (base + delta).bfloat16()


def rows(found: Found, run: str) -> dict[tuple[str, str], dict]:
    return {(row["metric"], row["setting"]): row for row in found.rows if row["run"] == run}


def reference(base: Tensor, tuned: Tensor, k: int, alpha: float, top: float) -> dict[str, float]:
    """Every metric of section 2.1 again, in float64 and without a line of the code under test."""
    w0, w1 = base.double().numpy(), tuned.double().numpy()
    delta, mask = w1 - w0, w1 != w0
    (u0, s0, v0), (u1, s1, v1) = (np.linalg.svd(w, full_matrices=False) for w in (w0, w1))
    rebuilt = np.abs(u0[:, :k] * s0[:k] @ v0[:k])
    n = base.numel()
    principal = rebuilt >= np.sort(rebuilt, axis=None)[n - round(alpha * n)]
    low = np.abs(w0) <= np.sort(np.abs(w0), axis=None)[round(alpha * n) - 1]
    most = (np.abs(delta) >= np.sort(np.abs(delta), axis=None)[n - round(top * n)]) & mask
    inside = u0[:, :k].T @ delta @ v0[:k].T
    found = {
        "sparsity": 1 - mask.mean(),
        "relative_norm": np.linalg.norm(delta) / np.linalg.norm(w0),
        "spectral_shift": np.linalg.norm(s1 - s0) / np.linalg.norm(s0),
        "angle_left": np.rad2deg(scipy.linalg.subspace_angles(u0[:, :k], u1[:, :k])[0]),
        "angle_right": np.rad2deg(scipy.linalg.subspace_angles(v0[:k].T, v1[:k].T)[0]),
        "principal_energy": np.linalg.norm(inside) ** 2 / np.linalg.norm(delta) ** 2,
        "stable_rank": np.linalg.norm(delta) ** 2 / np.linalg.norm(delta, 2) ** 2,
        "row_stripes": mask.mean(axis=1).var() / mask.var(),
        "column_stripes": mask.mean(axis=0).var() / mask.var(),
    }
    for name, chosen in (("principal", principal), ("low", low), ("principal_not_low", principal & ~low)):
        found[f"overlap_{name}"] = (chosen & mask).sum() / mask.sum()
        found[f"most_moved_{name}"] = (chosen & most).sum() / most.sum()
    return found


@pytest.mark.parametrize("shape", [(120, 80), (60, 160)])
@pytest.mark.parametrize("stripes", [False, True])
def test_every_metric_and_its_null_against_plain_numpy(shape: tuple[int, int], stripes: bool) -> None:
    base, tuned = make(*shape, step=4e-5, seed=0, stripes=stripes)
    settings = Settings(k=(0.1,), alpha=(0.3,), top=0.05, precision="float64")
    found = rows(compare(base, [tuned], ["run"], by_run(["run"]), settings), "run")
    fitted = found.pop(("noise_shape", ""))["value"]
    moved, norm = int((base != tuned).sum()), (tuned.float() - base.float()).norm().item()
    null, exponent = nulls.matched(base, moved, norm, seeded(10_000))
    assert fitted == exponent
    k = round(0.1 * min(shape))
    values, null_values = (reference(base, version, k, 0.3, 0.05) for version in (tuned, null))
    assert {metric for metric, _ in found} == set(values)
    for (metric, _), row in found.items():
        assert row["value"] == pytest.approx(values[metric], rel=1e-3, abs=1e-7), metric
        assert row["null"] == pytest.approx(null_values[metric], rel=1e-3, abs=1e-7), metric


def test_every_metric_is_explained() -> None:
    base, tuned = make(30, 20, step=1e-4, seed=0)
    found = compare(base, [tuned, base + 1e-3], ["a", "b"], by_run(["a", "b"]))
    assert {row["metric"] for row in found.rows} == set(METRICS)


def test_formulas_stand_where_there_are_any() -> None:
    base, tuned = make(50, 40, step=1e-4, seed=0)
    found = rows(compare(base, [tuned], ["run"], by_run(["run"])), "run")
    expected = {metric: row["expected"] for (metric, _), row in found.items()}
    assert expected["principal_energy"] == pytest.approx(4 * 4 / 2000)
    assert expected["row_stripes"] == pytest.approx(49 / 1999)
    assert expected["column_stripes"] == pytest.approx(39 / 1999)
    assert expected["overlap_low"] == expected["most_moved_low"] == pytest.approx(0.3, abs=0.01)
    assert expected["overlap_principal"] == pytest.approx(0.3, abs=1e-3)
    assert all(math.isnan(expected[name]) for name in ("sparsity", "spectral_shift", "angle_left", "stable_rank"))


def test_a_gaussian_update_is_its_null_and_stripes_are_not() -> None:
    """What the null explains and what it does not: with 20 draws a Gaussian update lies among them, stripes do not."""
    settings = Settings(draws=20)
    for stripes in (False, True):
        base, tuned = make(128, 96, step=4e-5, seed=0, stripes=stripes)
        found = rows(compare(base, [tuned], ["run"], by_run(["run"]), settings), "run")
        z = {
            metric: (row["value"] - row["null"]) / row["null_sd"]
            for (metric, _), row in found.items()
            if row["null_sd"]
        }
        if stripes:
            assert z["row_stripes"] > 20
            assert abs(z["column_stripes"]) < 4
        else:
            assert max(abs(z[name]) for name in z if name not in ("sparsity", "relative_norm", "noise_shape")) < 5


def test_a_sweep_has_a_row_a_setting_and_shares_no_numbers() -> None:
    base, tuned = make(60, 50, step=1e-4, seed=0)
    swept = rows(compare(base, [tuned], ["run"], by_run(["run"]), Settings(k=(0.1, 0.4), alpha=(0.2, 0.5))), "run")
    single = rows(compare(base, [tuned], ["run"], by_run(["run"]), Settings(k=(0.4,), alpha=(0.5,))), "run")
    assert sum(metric == "overlap_principal" for metric, _ in swept) == 4
    assert sum(metric == "overlap_low" for metric, _ in swept) == 2
    assert sum(metric == "angle_left" for metric, _ in swept) == 2
    for point, row in single.items():
        assert swept[point]["value"] == pytest.approx(row["value"], rel=1e-5), point
        assert swept[point]["null"] == pytest.approx(row["null"], rel=1e-5), point


def test_across_runs_jaccard_and_consensus_stand_beside_both_baselines() -> None:
    base, first = make(80, 60, step=5e-5, seed=0)
    others = [(base + 5e-5 * torch.randn(80, 60, generator=seeded(s))).bfloat16() for s in (7, 8)]
    runs = ["a", "b", "c"]
    found = rows(compare(base, [first, *others], runs, by_run(runs)), ALL)
    masks = [(version != base).numpy() for version in (first, *others)]
    pairs = [(masks[i] & masks[j]).sum() / (masks[i] | masks[j]).sum() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found["jaccard", ""]["value"] == pytest.approx(np.mean(pairs))
    every, some = np.logical_and.reduce(masks).sum(), np.logical_or.reduce(masks).sum()
    assert found["consensus", ""]["value"] == pytest.approx(every / some)
    p = [mask.mean() for mask in masks]
    bernoulli = [p[i] * p[j] / (p[i] + p[j] - p[i] * p[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found["jaccard", ""]["expected"] == pytest.approx(np.mean(bernoulli))
    assert found["consensus", ""]["expected"] == pytest.approx(math.prod(p) / (1 - math.prod(1 - q for q in p)))
    # Gaussian updates agree as their nulls do, far above the Bernoulli baseline.
    assert found["jaccard", ""]["null"] == pytest.approx(found["jaccard", ""]["value"], abs=0.03)
    assert found["jaccard", ""]["null"] > found["jaccard", ""]["expected"] + 0.08


def test_each_run_is_measured_as_if_alone() -> None:
    base, first = make(40, 30, step=5e-5, seed=0)
    second = (base + 1e-3 * torch.randn(40, 30, generator=seeded(9))).bfloat16()
    runs = ["a", "b"]
    both = compare(base, [first, second], runs, by_run(runs))
    alone = compare(base, [second], ["b"], lambda run, draw: by_run(runs)(run, draw))
    together = rows(both, "b")
    for point, row in rows(alone, "b").items():
        for column in ("value", "null", "expected"):
            assert together[point][column] == pytest.approx(row[column], nan_ok=True), point


@pytest.mark.parametrize("shape", [(37,), (4, 5, 6)])
def test_other_shapes_have_sparsity_and_norm(shape: tuple[int, ...]) -> None:
    base = torch.randn(shape, generator=seeded(0)).bfloat16()
    tuned = (base + 0.01).bfloat16()
    found = rows(compare(base, [tuned], ["run"], by_run(["run"])), "run")
    assert {metric for metric, _ in found} == {"sparsity", "relative_norm", "noise_shape"}


def test_without_decompositions_what_needs_none_stays() -> None:
    base, tuned = make(40, 30, step=5e-5, seed=0)
    found = rows(compare(base, [tuned], ["run"], by_run(["run"]), spectral=False), "run")
    names = {
        "sparsity",
        "relative_norm",
        "noise_shape",
        "overlap_low",
        "most_moved_low",
        "row_stripes",
        "column_stripes",
    }
    assert {metric for metric, _ in found} == names


def test_an_unmoved_tensor_has_no_overlap_and_no_direction() -> None:
    base, _ = make(40, 30, step=5e-5, seed=0)
    found = {metric: row for (metric, _), row in rows(compare(base, [base.clone()], ["r"], by_run(["r"])), "r").items()}
    assert found["sparsity"]["value"] == found["sparsity"]["null"] == 1
    assert found["relative_norm"]["value"] == found["spectral_shift"]["value"] == 0
    for metric in ("overlap_low", "overlap_principal", "principal_energy", "stable_rank", "row_stripes"):
        assert math.isnan(found[metric]["value"]), metric
        assert math.isnan(found[metric]["null"]), metric


def test_a_zero_base_and_a_single_row_are_measured() -> None:
    for base in (torch.zeros(6, 5), torch.ones(1, 7)):
        tuned = (base + 0.1 * torch.randn(base.shape, generator=seeded(0))).bfloat16()
        found = rows(compare(base, [tuned], ["run"], by_run(["run"])), "run")
        assert found["sparsity", ""]["value"] == 0


def test_an_update_too_small_for_its_own_square_is_measured() -> None:
    base = torch.zeros(6, 5)
    found = rows(compare(base, [base + 1e-30], ["run"], by_run(["run"])), "run")
    assert found["sparsity", ""]["value"] == found["sparsity", ""]["null"] == 0


def test_finer_weights_are_cast_first() -> None:
    base, tuned = make(40, 30, step=5e-5, seed=0)
    noise = 1 + 1e-4 * torch.rand(40, 30, generator=seeded(3))
    cast = rows(compare(base, [tuned], ["run"], by_run(["run"])), "run")
    fine = rows(compare(base.float(), [(tuned.float() * noise)], ["run"], by_run(["run"])), "run")
    same = rows(compare(base.float(), [(tuned.float() * noise).bfloat16()], ["run"], by_run(["run"])), "run")
    assert fine["sparsity", ""] == same["sparsity", ""]
    assert fine["sparsity", ""]["value"] == pytest.approx(cast["sparsity", ""]["value"], abs=0.02)


def test_curves_are_the_lines_behind_the_numbers() -> None:
    base, tuned = make(60, 40, step=5e-5, seed=0)
    found = compare(base, [tuned], ["run"], by_run(["run"]), curves=True)
    curves = {curve["curve"]: curve for curve in found.curves}
    assert {name: len(curve["value"]) for name, curve in curves.items()} == {
        "row_share": 60,
        "column_share": 40,
        "angle_left": 4,
        "angle_right": 4,
    }
    numbers = rows(found, "run")
    assert max(curves["angle_left"]["value"]) == numbers["angle_left", "k=0.1"]["value"]
    assert np.mean(curves["row_share"]["value"]) == pytest.approx(1 - numbers["sparsity", ""]["value"])
    assert np.mean(curves["row_share"]["null"]) == pytest.approx(1 - numbers["sparsity", ""]["null"])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"k": ()}, "at least one of each"),
        ({"k": (16,)}, "shares, above 0 and at most 1"),
        ({"alpha": (0.0,)}, "shares, above 0 and at most 1"),
        ({"draws": 0}, "no metric stands without its null"),
        ({"precision": "half"}, "float32 or float64"),
        ({"bits": 9}, "bits"),
    ],
)
def test_wrong_settings_are_one_line(wrong: dict, says: str) -> None:
    with pytest.raises(TychoError, match=says):
        Settings(**wrong)
