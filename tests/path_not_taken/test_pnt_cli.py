"""`tycho diff` and `tycho intervene` as a user types them, on small checkpoints."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import torch

from tycho.lm.small import build
from tycho.lm.vocabulary import Vocabulary


def tycho(*words: str) -> subprocess.CompletedProcess:
    code = "import sys; from tycho.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)


def test_diff_prints_metrics_beside_their_noise(tmp_path):
    words = Vocabulary(tuple("abcdef"))
    model = build(words, family="llama", layers=1, width=32, seed=1)
    model.save_pretrained(tmp_path / "base")
    for name, seed in (("first", 2), ("second", 3)):
        generator = torch.Generator().manual_seed(seed)
        moved = build(words, family="llama", layers=1, width=32, seed=1)
        with torch.no_grad():
            for weight in moved.parameters():
                weight += 1e-3 * torch.randn(weight.shape, generator=generator)
        moved.save_pretrained(tmp_path / name)
    base, first, second, out = (str(tmp_path / name) for name in ("base", "first", "second", "out"))
    done = tycho("diff", base, first, second, "--out", out, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    for text in ("spectral_shift", "overlap_low", "jaccard", "null", "what their noise explains"):
        assert text in done.stdout
    frame = pd.read_parquet(tmp_path / "out" / "metrics.parquet")
    assert set(frame.run) == {"first", "second", "all"} and frame.null.notna().any()
    missing = tycho("diff", base, str(tmp_path / "nowhere"), "--out", out)
    assert missing.returncode == 1 and "there is no checkpoint" in missing.stderr and "Traceback" not in missing.stderr


def test_intervene_keeps_the_function(tmp_path):
    model = build(Vocabulary(tuple("abcdef")), family="llama", layers=2, width=32, seed=1)
    model.save_pretrained(tmp_path / "base")
    done = tycho("intervene", str(tmp_path / "base"), str(tmp_path / "turned"), "--plan", "1:rotate+permute")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.rsplit(":", 1)[1]) < 1e-4
