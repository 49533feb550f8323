"""Every metric of a base matrix against its tuned versions, each beside the same metric of its null."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods.path_not_taken import geometry, lattice, masks, nulls
from tycho.errors import TychoError
from tycho.keys import setting

ALL = "all"  # the run of a metric taken across runs

# Name and meaning of every metric: W0 the base, W+ the tuned matrix, Delta = W+ - W0, all on the grid; M the mask.
METRICS = {
    "sparsity": "share of entries left unchanged; matched by the null",
    "relative_norm": "|Delta|_F / |W0|_F; matched by the null",
    "noise_shape": "exponent of the null's noise that matches both: 1 Gaussian, below more even, above heavier-tailed",
    "row_stripes": "share of M's variance that lies between rows (Var rho_i / d(1 - d)); expected of a random mask",
    "column_stripes": "the same between columns",
    "overlap_low": "share of M in M_low, the bottom alpha of |W0|; expected: density of M_low",
    "overlap_principal": "share of M in M_princ, the top alpha of |W0^(k)|; expected: density of M_princ",
    "overlap_principal_not_low": "share of M in M_princ and not in M_low; expected: density of that mask",
    "most_moved_low": "as overlap_low, with the top share of |Delta| instead of M",
    "most_moved_principal": "as overlap_principal, with the top share of |Delta| instead of M",
    "most_moved_principal_not_low": "as overlap_principal_not_low, with the top share of |Delta| instead of M",
    "spectral_shift": "NSS = |sigma(W+) - sigma(W0)|_2 / |sigma(W0)|_2",
    "angle_left": "largest principal angle between the k leading left singular vectors, degrees",
    "angle_right": "the same of the right singular vectors, degrees",
    "principal_energy": "share of |Delta|_F^2 in the leading k x k singular subspace; expected: k^2 / (rows columns)",
    "stable_rank": "|Delta|_F^2 / |Delta|_2^2",
    "jaccard": "mean over pairs of runs of |M_a and M_b| / |M_a or M_b|; expected: independent masks",
    "consensus": "share of the entries moved in some run that moved in every run; expected: independent masks",
}


@dataclass(frozen=True)
class Settings:
    """What the paper leaves open, explicit. Several k or alpha are a sweep; the decompositions are shared."""

    k: tuple[float, ...] = (0.1,)  # principal rank, as a share of the smaller side
    alpha: tuple[float, ...] = (0.3,)  # share of entries in the principal and the low-magnitude mask
    top: float = 0.1  # share of entries in the mask of the largest updates
    draws: int = 1  # null draws; two or more give the null's standard deviation
    bits: int = lattice.BITS  # mantissa bits of the grid; 7 is bfloat16
    precision: str = "float32"  # of the decompositions

    def __post_init__(self) -> None:
        shares = (*self.k, *self.alpha, self.top)
        if not self.k or not self.alpha or not all(0 < share <= 1 for share in shares):
            raise TychoError("k, alpha and top are shares, above 0 and at most 1, and at least one of each is needed")
        if self.draws < 1:
            raise TychoError("at least one null draw is needed: no metric stands without its null")
        if not 1 <= self.bits <= lattice.BITS:
            raise TychoError(f"bits are the grid's mantissa bits, 1 to {lattice.BITS}, not {self.bits}")
        if self.precision not in ("float32", "float64"):
            raise TychoError(f"precision is float32 or float64, not {self.precision!r}")


DEFAULTS = Settings()


@dataclass
class Found:
    """Rows of the tidy frame and of its curves, as plain values."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)


def compare(
    base: Tensor,
    tuned: Iterable[Tensor],
    runs: Sequence[str],
    generator: Callable[[str, int], torch.Generator],
    settings: Settings = DEFAULTS,
    spectral: bool = True,
    curves: bool = False,
) -> Found:
    """Measures one tensor's tuned versions, taken from `tuned` one at a time and in the order of `runs`.

    base and each version have one shape and device; they are cast to the grid first. Matrices get every metric,
    without decompositions where not `spectral`; other shapes get sparsity and norm. `generator(run, draw)` seeds a
    null.
    A row: run, metric (of `METRICS`), setting, value, expected (of a random mask or an isotropic update, where there is
    a formula), null and null_sd (mean and standard deviation over the draws). Angles are in degrees.
    """
    found = Found()
    anchor = _Anchor(lattice.cast(base, settings.bits), settings, spectral)
    del base
    kept: list[list[_Packed]] = []
    versions = iter(tuned)
    for run in runs:  # not zip, which would keep a second reference to the version
        version = lattice.cast(next(versions), settings.bits)
        observed = anchor.measure(version)
        del version
        drawn, shapes = [], []
        for draw in range(settings.draws):
            null = nulls.matched(anchor.weights, observed.moved, observed.norm, generator(run, draw), settings.bits)
            shapes.append(null.shape)
            drawn.append(anchor.measure(null.weights))
            del null
        for (metric, point), value in observed.values.items():
            expected = anchor.expected.get((metric, point), math.nan)
            found.rows.append(_row(run, metric, point, value, expected, [d.values[metric, point] for d in drawn]))
        found.rows.append(_row(run, "noise_shape", "", float(np.mean(shapes)), 1.0, shapes))
        if curves:
            found.curves += _curves(run, observed, drawn)
        if len(runs) > 1:
            kept.append([observed.mask, *(d.mask for d in drawn)])
    if len(runs) > 1:
        found.rows += _across(kept)
    return found


@dataclass
class _Packed:
    """A mask in an eighth of its memory."""

    bits: np.ndarray
    shape: torch.Size
    device: torch.device

    @classmethod
    def of(cls, mask: Tensor) -> _Packed:
        return cls(np.packbits(mask.cpu().numpy()), mask.shape, mask.device)

    def mask(self) -> Tensor:
        flat = np.unpackbits(self.bits, count=self.shape.numel()).view(np.bool_)
        return torch.from_numpy(flat).to(self.device).view(self.shape)


@dataclass
class _Measured:
    moved: int  # entries
    norm: float  # of the update
    values: dict[tuple[str, str], float]
    mask: _Packed
    lines: dict[str, Tensor]  # curves


class _Anchor:
    """What of the base all versions are held against. Holds the bf16 weights, packed masks and leading vectors only."""

    def __init__(self, weights: Tensor, settings: Settings, spectral: bool) -> None:
        self.weights, self.settings = weights, settings
        self.norm = _norm(weights)
        self.matrix = weights.ndim == 2
        self.spectrum: geometry.Spectrum | None = None
        self.reference: dict[tuple[str, str], _Packed] = {}
        self.expected: dict[tuple[str, str], float] = {}
        if not self.matrix:
            return
        rows, columns = weights.shape
        self.expected["row_stripes", ""] = masks.random_stripes(rows, columns)
        self.expected["column_stripes", ""] = masks.random_stripes(columns, rows)
        if spectral:
            self.ranks = {share: geometry.rank(share, rows, columns) for share in settings.k}
            self.spectrum = self._spectrum(weights)
        self._references()

    def _spectrum(self, weights: Tensor) -> geometry.Spectrum:
        return geometry.spectrum(weights.to(getattr(torch, self.settings.precision)), max(self.ranks.values()))

    def _references(self) -> None:
        low = {alpha: masks.smallest(self.weights, alpha) for alpha in self.settings.alpha}
        for alpha, mask in low.items():
            self._refer("low", setting(alpha=alpha), mask)
        if self.spectrum is None:
            return
        for share, k in self.ranks.items():
            rows, columns = self.weights.shape
            self.expected["principal_energy", setting(k=share)] = geometry.isotropic_energy(k, rows, columns)
            rebuilt = geometry.reconstruction(self.spectrum, k)
            for alpha in self.settings.alpha:
                mask = masks.principal(rebuilt, alpha)
                point = setting(k=share, alpha=alpha)
                self._refer("principal", point, mask)
                self._refer("principal_not_low", point, mask & ~low[alpha])

    def _refer(self, name: str, point: str, mask: Tensor) -> None:
        self.reference[name, point] = _Packed.of(mask)
        top = f"{point},top={self.settings.top:g}"
        self.expected[f"overlap_{name}", point] = self.expected[f"most_moved_{name}", top] = masks.density(mask)

    def measure(self, version: Tensor) -> _Measured:
        """All metrics of one version on the grid. The update is freed before the decomposition, the peak of memory."""
        mask = version != self.weights
        moved = int(mask.count_nonzero())
        values = {("sparsity", ""): 1 - moved / mask.numel()}
        lines = {}
        if self.matrix:
            lines = {"row_share": masks.row_share(mask), "column_share": masks.column_share(mask)}
            values["row_stripes", ""] = masks.stripes(lines["row_share"])
            values["column_stripes", ""] = masks.stripes(lines["column_share"])
        delta = version.float() - self.weights.float()
        norm = _norm(delta)
        values["relative_norm", ""] = masks.ratio(norm, self.norm)
        if self.matrix:
            self._overlaps(values, mask, masks.moved_most(delta, self.settings.top))
        if self.spectrum is not None:
            self._energies(values, delta)
        packed = _Packed.of(mask)
        del mask, delta
        if self.spectrum is not None:
            self._spectral(values, lines, self._spectrum(version))
        return _Measured(moved, norm, values, packed, lines)

    def _overlaps(self, values: dict[tuple[str, str], float], mask: Tensor, most: Tensor) -> None:
        for (name, point), packed in self.reference.items():
            reference = packed.mask()
            values[f"overlap_{name}", point] = masks.overlap(reference, mask)
            top = f"{point},top={self.settings.top:g}"
            values[f"most_moved_{name}", top] = masks.overlap(reference, most)

    def _energies(self, values: dict[tuple[str, str], float], delta: Tensor) -> None:
        _, left, right = self.spectrum
        delta = delta.to(left.dtype)
        values["stable_rank", ""] = geometry.stable_rank(delta)
        for share, k in self.ranks.items():
            energy = geometry.principal_energy(delta, left[:, :k], right[:, :k])
            values["principal_energy", setting(k=share)] = energy.item()

    def _spectral(
        self, values: dict[tuple[str, str], float], lines: dict[str, Tensor], version: geometry.Spectrum
    ) -> None:
        values["spectral_shift", ""] = geometry.spectral_shift(self.spectrum.values, version.values).item()
        for share, k in self.ranks.items():
            for side in ("left", "right"):
                before, after = getattr(self.spectrum, side)[:, :k], getattr(version, side)[:, :k]
                angles = geometry.principal_angles(before, after).rad2deg()
                values[f"angle_{side}", setting(k=share)] = angles[-1].item()
                lines.setdefault(f"angle_{side}", angles)


def _norm(values: Tensor) -> float:
    return values.float().norm().item()


def _row(run: str, metric: str, point: str, value: float, expected: float, null: Sequence[float]) -> dict[str, Any]:
    spread = float(np.std(null, ddof=1)) if len(null) > 1 else math.nan
    row = {"run": run, "metric": metric, "setting": point, "value": value, "expected": expected}
    return row | {"null": float(np.mean(null)), "null_sd": spread}


def _curves(run: str, observed: _Measured, drawn: Sequence[_Measured]) -> list[dict[str, Any]]:
    """Angles by index (of the first k) and the share moved of every row and column, beside the null's mean."""
    return [
        {
            "run": run,
            "curve": name,
            "value": line.tolist(),
            "null": torch.stack([d.lines[name] for d in drawn]).mean(dim=0).tolist(),
        }
        for name, line in observed.lines.items()
    ]


def _across(kept: Sequence[Sequence[_Packed]]) -> list[dict[str, Any]]:
    """Jaccard (mean over pairs of runs) and consensus (share of the entries ever moved that moved in every run).

    kept[run] holds the run's mask and then its nulls'. Expected: independent masks of the runs' densities.
    """
    jaccards, consensuses = [], []
    for versions in zip(*kept, strict=True):
        pairs = [masks.jaccard(a.mask(), b.mask()) for a, b in combinations(versions, 2)]
        jaccards.append(float(np.mean(pairs)))
        agreed = masks.consensus([packed.mask() for packed in versions])
        consensuses.append(masks.ratio((agreed == 1).count_nonzero().item(), (agreed > 0).count_nonzero().item()))
    densities = [masks.density(versions[0].mask()) for versions in kept]
    independent = float(np.mean([masks.independent_jaccard(p, q) for p, q in combinations(densities, 2)]))
    together, never = math.prod(densities), math.prod(1 - d for d in densities)
    return [
        _row(ALL, "jaccard", "", jaccards[0], independent, jaccards[1:]),
        _row(ALL, "consensus", "", consensuses[0], masks.ratio(together, 1 - never), consensuses[1:]),
    ]
