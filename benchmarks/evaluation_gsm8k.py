"""Eight-shot word problems through lm-eval: our causal model against lm-eval's own, the same texts from both.

    OMP_NUM_THREADS=1 python benchmarks/evaluation_gsm8k.py

SmolLM2-135M, greedy. lm-eval's model reads the eight examples once an item and lets a batch go on until its last row has
ended. CPU seconds, one core; each runs once after a warm-up of one item, since a run takes a minute.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from tycho.evaluation.causal import Causal
from tycho.evaluation.suite import run_benchmark
from tycho.lm.smollm2 import load_smollm2


class Plain(HFLM):
    """lm-eval's model with the costs filled in that `run_benchmark` reads."""

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        for request in requests:
            request.args[1].pop("seed", None)  # transformers knows no such argument; decoding is greedy
        texts = super().generate_until(requests, disable_tqdm=True)
        none = {"generated_tokens": 0, "sequential_tokens": 0, "forward_passes": 0, "flops": 0.0}
        for request in requests:
            request.args[1]["tycho_cost"] = [none]
        return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load_smollm2()
    ours = Causal(model, tokenizer, options.items)
    theirs = Plain(pretrained=model, tokenizer=tokenizer, batch_size=options.items)

    def run(lm: Any, items: int) -> tuple[float, list[str]]:
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            _, samples = run_benchmark(
                lm, "gsm-symbolic", "completion", label="", folder=Path(folder), limit=items, most=options.tokens
            )
        return time.process_time() - start, samples.response.tolist()

    run(ours, 1)
    ours.engine._kept.clear()  # the examples are to be read in the measured run
    (plain, expected), (fast, found) = run(theirs, options.items), run(ours, options.items)
    same = sum(a.strip() == b.strip() for a, b in zip(expected, found, strict=True))
    print(f"{options.items} items of gsm-symbolic, up to {options.tokens} tokens; CPU seconds")
    print(f"lm-eval's model {plain:8.1f}\nours            {fast:8.1f}   {plain / fast:.1f} times faster")
    print(f"equal texts: {same} of {options.items}")


if __name__ == "__main__":
    main()
