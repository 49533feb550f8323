"""The diff of whole checkpoints: the frame, resuming after a kill, memory, and every way to ask for the impossible."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from benchmarks import diff as benchmark
from methods.path_not_taken import lattice, masks
from methods.path_not_taken.diff import Tensors, diff
from methods.path_not_taken.measure import Settings
from methods.path_not_taken.shards import DTYPES
from tycho import progress
from tycho.errors import TychoError

COLUMNS = ["run", "tensor", "module", "layer", "rows", "columns", "entries"]
COLUMNS += ["metric", "setting", "value", "expected", "null", "null_sd"]
SHAPES = {"self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32), "mlp.up_proj": (48, 32)}


def save(folder: Path, seed: int, step: float = 0.0, layers: int = 2, start: int = 0) -> Path:
    """A base (step 0), or the same weights plus Gaussian updates of another seed."""
    weights = torch.Generator().manual_seed(start)
    noise = torch.Generator().manual_seed(1000 + seed)
    shapes = {"model.embed_tokens.weight": (40, 32), "model.norm.weight": (32,)}
    shapes |= {f"model.layers.{i}.{name}.weight": shape for i in range(layers) for name, shape in SHAPES.items()}
    tensors = {}
    for name, shape in shapes.items():
        base = (0.02 * torch.randn(shape, generator=weights)).bfloat16()
        tensors[name] = (base + step * torch.randn(shape, generator=noise)).bfloat16()
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("diff")
    return save(folder / "base", 0), save(folder / "first", 1, step=5e-5), save(folder / "second", 2, step=1e-3)


def test_a_row_a_run_tensor_and_metric(made: tuple[Path, ...], tmp_path: Path) -> None:
    base, first, second = made
    frame = diff(base, [first, second], tmp_path / "out", device="cpu")
    assert list(frame.columns) == COLUMNS
    assert not frame.duplicated(["run", "tensor", "metric", "setting"]).any()
    assert set(frame.run) == {"first", "second", "all"}
    assert frame.tensor.nunique() == 8
    pd.testing.assert_frame_equal(frame, pd.read_parquet(tmp_path / "out" / "metrics.parquet"), check_dtype=False)
    assert json.loads((tmp_path / "out" / "skipped.json").read_text()) == {}
    row = frame[(frame.metric == "sparsity") & (frame.tensor == "model.layers.1.mlp.up_proj.weight")].iloc[0]
    assert (row.module, row.layer, row.rows, row.columns, row.entries) == ("up_proj", 1, 48, 32, 1536)
    # Every metric has its null wherever it has a value, and sparsity is matched.
    assert (frame.value.notna() == frame.null.notna()).all()
    sparsity = frame[frame.metric == "sparsity"]
    np.testing.assert_allclose(sparsity.value, sparsity.null, atol=3e-3)
    linear = set(frame[frame.metric == "spectral_shift"].tensor)
    assert linear == {f"model.layers.{i}.{name}.weight" for i in range(2) for name in SHAPES}


def test_numbers_are_those_of_the_files(made: tuple[Path, ...], tmp_path: Path) -> None:
    base, first, _ = made
    frame = diff(base, first, tmp_path / "out", device="cpu").set_index(["tensor", "metric"]).value
    name = "model.layers.0.self_attn.q_proj.weight"
    w0, w1 = (load_file(folder / "model.safetensors")[name] for folder in (base, first))
    mask = lattice.changed(w0, w1)
    assert frame[name, "sparsity"] == 1 - masks.density(mask)
    assert frame[name, "overlap_low"] == masks.overlap(masks.smallest(w0, 0.3), mask)
    shift = np.linalg.norm(np.linalg.svd(w1.float(), compute_uv=False) - np.linalg.svd(w0.float(), compute_uv=False))
    assert frame[name, "spectral_shift"] == pytest.approx(shift / w0.float().norm().item(), rel=2e-3)


def test_a_second_look_reads_what_is_there(made: tuple[Path, ...], tmp_path: Path) -> None:
    first = diff(made[0], made[1], tmp_path / "out", device="cpu")
    kept = (tmp_path / "out" / "rows.jsonl").stat().st_mtime_ns, (tmp_path / "out" / "rows.jsonl").read_bytes()
    again = diff(made[0], made[1], tmp_path / "out", device="cpu")
    assert (tmp_path / "out" / "rows.jsonl").read_bytes() == kept[1]
    pd.testing.assert_frame_equal(first, again)


def test_settings_and_choices_reach_the_frame(made: tuple[Path, ...], tmp_path: Path) -> None:
    settings = Settings(k=(0.1, 0.5), alpha=(0.5,), draws=3)
    tensors = Tensors(only=r"layers\.1\.|norm", spectral="all", curves="q_proj")
    frame = diff(made[0], made[1], tmp_path / "out", settings=settings, tensors=tensors, device="cpu")
    assert frame.tensor.nunique() == 4
    assert set(frame[frame.metric == "angle_left"].setting) == {"k=0.1", "k=0.5"}
    assert frame[frame.metric == "overlap_low"].null_sd.notna().all()
    curves = pd.read_parquet(tmp_path / "out" / "curves.parquet")
    assert list(curves.columns) == ["tensor", "run", "curve", "index", "value", "null"]
    assert curves.tensor.unique().tolist() == ["model.layers.1.self_attn.q_proj.weight"]
    assert curves.groupby("curve").size().to_dict() == {
        "row_share": 32,
        "column_share": 32,
        "angle_left": 3,
        "angle_right": 3,
    }
    none = diff(made[0], made[1], tmp_path / "none", tensors=Tensors(spectral="none"), device="cpu")
    assert "spectral_shift" not in set(none.metric)
    every = diff(made[0], made[1], tmp_path / "all", tensors=Tensors(spectral="all"), device="cpu")
    assert "model.embed_tokens.weight" in set(every[every.metric == "spectral_shift"].tensor)


def test_nulls_depend_on_the_seed_and_on_nothing_else(made: tuple[Path, ...], tmp_path: Path) -> None:
    only = Tensors(only="q_proj")
    frames = {
        name: diff(made[0], made[1], tmp_path / name, tensors=tensors, seed=seed, device="cpu")
        for name, tensors, seed in (("a", only, 0), ("b", Tensors(), 0), ("c", only, 1))
    }
    wide = frames["b"][frames["b"].tensor.isin(frames["a"].tensor)].reset_index(drop=True)
    pd.testing.assert_frame_equal(frames["a"], wide)
    measured = frames["a"].metric != "noise_shape"  # the null's own
    pd.testing.assert_series_equal(frames["a"].value[measured], frames["c"].value[measured])
    assert not np.allclose(frames["a"].null, frames["c"].null, equal_nan=True)


def test_the_frame_does_not_depend_on_how_a_checkpoint_is_stored(made: tuple[Path, ...], tmp_path: Path) -> None:
    """Shards, a wrapper's prefix, a finer dtype, the head stored a second time: one frame."""
    base, first, _ = made
    wanted = diff(base, first, tmp_path / "plain", device="cpu")
    tensors = load_file(first / "model.safetensors")
    for name in ("sharded", "prefixed", "finer", "tied"):
        folder, prefix = tmp_path / name, "_orig_mod." if name == "prefixed" else ""
        folder.mkdir()
        held = {prefix + key: tensor.float() if name == "finer" else tensor for key, tensor in tensors.items()}
        if name == "tied":
            held["lm_head.weight"] = held["model.embed_tokens.weight"].clone()
        parts = [dict(list(held.items())[i::3]) for i in range(3)] if name == "sharded" else [held]
        for number, part in enumerate(parts, 1):
            file = f"model-{number:05}-of-00003.safetensors" if name == "sharded" else "model.safetensors"
            save_file(part, folder / file)
        found = diff(base, folder, tmp_path / f"out-{name}", device="cpu").assign(run="first")
        pd.testing.assert_frame_equal(found, wanted)
        skipped = json.loads((tmp_path / f"out-{name}" / "skipped.json").read_text())
        assert set(skipped) == ({"lm_head.weight"} if name == "tied" else set())


# --- stopping and going on ------------------------------------------------------------------------------------------

RUN = """
import sys
from methods.path_not_taken.diff import diff
diff(sys.argv[1], sys.argv[2:-1], sys.argv[-1], device="cpu")
"""


def started(*arguments: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", RUN, *map(str, arguments)], stderr=subprocess.PIPE, text=True)


def test_a_killed_diff_goes_on_and_ends_in_the_same_frame(tmp_path: Path) -> None:
    base = save(tmp_path / "base", 0, layers=20)
    tuned = [save(tmp_path / name, seed, step=5e-5, layers=20) for seed, name in enumerate(["one", "two"])]
    out = tmp_path / "killed"
    process = started(base, *tuned, out)
    rows = out / "rows.jsonl"
    while not (rows.exists() and rows.read_bytes().count(b"\n") >= 5):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "metrics.parquet").exists()
    finished = rows.read_bytes()[: rows.read_bytes().rfind(b"\n") + 1]
    assert finished.count(b"\n") < 62
    rows.write_bytes(finished + b'{"tensor": "model.layers.9')  # a line cut off in the middle
    resumed = diff(base, tuned, out, device="cpu")
    assert rows.read_bytes().startswith(finished)
    assert rows.read_bytes().count(b"\n") == 62
    pd.testing.assert_frame_equal(resumed, diff(base, tuned, tmp_path / "whole", device="cpu"))


def test_progress_counts_what_was_done_before(
    made: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("TYCHO_QUIET", raising=False)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    out = tmp_path / "out"
    diff(made[0], made[1], out, device="cpu")
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"diff: {n} of 8" for n in range(1, 9)
    ]
    kept = (out / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (out / "rows.jsonl").write_bytes(b"".join(kept[:6]))
    diff(made[0], made[1], out, device="cpu")
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == ["diff: 7 of 8", "diff: 8 of 8"]


@pytest.mark.parametrize("change", ["settings", "tensors", "seed", "tuned", "base"])
def test_a_folder_of_another_diff_is_not_mixed_in(tmp_path: Path, change: str) -> None:
    base, tuned = save(tmp_path / "base", 0, layers=1), save(tmp_path / "tuned", 1, step=1e-4, layers=1)
    kept = diff(base, tuned, tmp_path / "out", device="cpu")
    given: dict = {"base": base, "tuned": tuned}
    if change == "settings":
        given["settings"] = Settings(draws=2)
    elif change == "tensors":
        given["tensors"] = Tensors(only="q_proj")
    elif change == "seed":
        given["seed"] = 1
    else:
        shutil.rmtree(given[change])
        save(given[change], 7, step=2e-4, layers=1)
    with pytest.raises(TychoError, match=f"holds a diff with other {change}: name another folder, or delete it"):
        diff(out=tmp_path / "out", device="cpu", **given)
    pd.testing.assert_frame_equal(kept, pd.read_parquet(tmp_path / "out" / "metrics.parquet"), check_dtype=False)


def test_two_at_once_are_refused(made: tuple[Path, ...], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(TychoError, match="another diff is writing to"):
        diff(made[0], made[1], tmp_path / "out", device="cpu")


# --- what cannot be asked -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tuned": []}, "no TUNED checkpoint was given"),
        ({"tensors": {"only": "no_such"}}, "no weight's name matches 'no_such'"),
        ({"tensors": {"only": "("}}, r"'\(' is not a pattern"),
        ({"tensors": {"spectral": "some"}}, "spectral is linear, all or none"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"device": "cuda"}, "no GPU is visible"),
    ],
)
def test_impossible_wishes_are_one_line(made: tuple[Path, ...], tmp_path: Path, given: dict, says: str) -> None:
    if "cuda" in given.values() and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(TychoError, match=says) as raised:
        given = {"device": "cpu"} | given
        tensors = Tensors(**given.pop("tensors", {}))
        diff(made[0], given.pop("tuned", made[1]), tmp_path / "out", tensors=tensors, **given)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out" / "metrics.parquet").exists()


def test_one_checkpoint_twice(made: tuple[Path, ...], tmp_path: Path) -> None:
    with pytest.raises(TychoError, match="is given twice as TUNED"):
        diff(made[0], [made[1], made[1]], tmp_path / "out", device="cpu")


def test_runs_of_one_folder_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    base = save(tmp_path / "base", 0, layers=1)
    tuned = [save(tmp_path / name / "final", seed, step=1e-4, layers=1) for seed, name in enumerate("ab")]
    frame = diff(base, tuned, tmp_path / "out", device="cpu")
    assert set(frame.run) == {str(tuned[0]), str(tuned[1]), "all"}


def test_out_that_is_a_file(made: tuple[Path, ...], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(TychoError, match="cannot be written"):
        diff(made[0], made[1], tmp_path / "out", device="cpu")


def test_leniently_what_one_run_lacks_is_left_out_of_all(tmp_path: Path) -> None:
    base = save(tmp_path / "base", 0, layers=2)
    whole, short = save(tmp_path / "whole", 1, 1e-4, layers=2), save(tmp_path / "short", 2, 1e-4, layers=1)
    with pytest.raises(TychoError, match=r"layers\.1\..* is only in BASE"):
        diff(base, [whole, short], tmp_path / "strict", device="cpu")
    frame = diff(base, [whole, short], tmp_path / "out", lenient=True, device="cpu")
    assert frame.groupby("run").tensor.nunique().to_dict() == {"all": 5, "short": 5, "whole": 5}
    skipped = json.loads((tmp_path / "out" / "skipped.json").read_text())
    assert set(skipped) == {f"model.layers.1.{name}.weight" for name in SHAPES}


# --- speed ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_diff_takes_at_most_1_7_times_its_bare_decompositions(tmp_path: Path) -> None:
    """CPU seconds on the matrices of one Llama layer, in turns; the better of two each, since the machine may be busy."""
    shapes = benchmark.write_pair(tmp_path, hidden=576, layers=1)
    torch.linalg.svd(torch.randn(64, 64))  # loads the library
    sides = tmp_path / "base", tmp_path / "tuned"
    diffs, bares = [], []
    for repeat in range(2):
        out = tmp_path / f"out{repeat}"
        diffs.append(benchmark.cpu_seconds(lambda out=out: diff(*sides, out, device="cpu")))
        bares.append(benchmark.cpu_seconds(lambda: benchmark.bare(shapes)))
    assert min(diffs) <= 1.7 * min(bares)


# --- memory ---------------------------------------------------------------------------------------------------------

MEASURE = """
import sys
from pathlib import Path
import torch
from methods.path_not_taken.diff import diff
def memory(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field)) * 1024
torch.set_num_threads(1)
diff(sys.argv[1], sys.argv[2], sys.argv[3] + "-first", device="cpu")  # loads the libraries
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
frame = diff(sys.argv[4], sys.argv[5], sys.argv[3], device="cpu")
print(memory("VmHWM") - before, frame.tensor.nunique())
"""


def many(folder: Path, count: int, shape: tuple[int, int], dtype: torch.dtype) -> tuple[Path, Path]:
    """A pair of one file each, written tensor by tensor; every tensor is a rotation of one block of random numbers."""
    generator = torch.Generator().manual_seed(0)
    base = (0.02 * torch.randn(shape, generator=generator)).bfloat16()
    tuned = (base + 2e-5 * torch.randn(shape, generator=generator)).bfloat16()
    size = base.numel() * dtype.itemsize
    code = next(name for name, known in DTYPES.items() if known == dtype)
    header = {
        f"layers.{i}.up_proj.weight": {"dtype": code, "shape": shape, "data_offsets": [i * size, (i + 1) * size]}
        for i in range(count)
    }
    text = json.dumps(header).encode()
    for name, tensor in (("base", base), ("tuned", tuned)):
        (folder / name).mkdir(parents=True)
        with (folder / name / "model.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for i in range(count):
                file.write(tensor.roll(i, dims=0).to(dtype).contiguous().view(torch.uint8).numpy().tobytes())
    return folder / "base", folder / "tuned"


def peak(tmp_path: Path, base: Path, tuned: Path, name: str) -> tuple[int, int]:
    """(bytes a diff adds to a process that has its libraries, tensors compared)."""
    small = tmp_path / "small"
    if not small.exists():
        many(small, 1, (64, 32), torch.bfloat16)
    arguments = [small / "base", small / "tuned", tmp_path / name, base, tuned]
    ran = subprocess.run([sys.executable, "-c", MEASURE, *map(str, arguments)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    added, tensors = ran.stdout.split()
    return int(added), int(tensors)


linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads peak memory from /proc")


@linux
def test_peak_memory_does_not_depend_on_the_number_of_tensors(tmp_path: Path) -> None:
    shape, found = (65_536, 32), {}
    for count in (3, 11):
        base, tuned = many(tmp_path / str(count), count, shape, torch.float32)
        found[count], tensors = peak(tmp_path, base, tuned, f"out{count}")
        assert tensors == count
    more = 8 * 2 * 4 * shape[0] * shape[1]  # bytes the larger pair holds more
    assert found[11] - found[3] < more / 6


@linux
@pytest.mark.slow
def test_a_pair_of_two_gigabytes_needs_twenty_times_its_largest_tensor(tmp_path: Path) -> None:
    shape = (131_072, 64)
    base, tuned = many(tmp_path / "large", 16, shape, torch.float64)  # eight bytes an entry, to be quick
    try:
        size = sum((folder / "model.safetensors").stat().st_size for folder in (base, tuned))
        assert size > 2e9
        added, tensors = peak(tmp_path, base, tuned, "out")
        assert tensors == 16
        assert added <= 20 * 2 * shape[0] * shape[1]
        assert added < size / 6
    finally:
        shutil.rmtree(tmp_path / "large")
