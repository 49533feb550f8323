"""The in-process back end against transformers' `generate` at equal batch, and once early stop frees rows.

    OMP_NUM_THREADS=1 python benchmarks/engines_generate.py

SmolLM2-135M in bf16, one prompt, as many sampled tokens a row in both (no end token), temperature 1, the 20 largest
log-probs of every token on our side and none on theirs. Then half of the rows are stopped after a quarter of their
tokens, as DeepConf does, which `generate` cannot do: it decodes all rows to the end. Interleaved; CPU seconds, one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from tycho.engines import Settings
from tycho.engines.local import Local
from tycho.lm.smollm2 import load_smollm2


def seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load_smollm2()
    ids = torch.randint(1000, 40_000, (options.prompt,), generator=torch.Generator().manual_seed(0)).tolist()
    engine = Local(model, tokenizer, rows=options.rows)
    engine.ends = set()
    asked = Settings(most=options.tokens, top_logprobs=20)

    def theirs() -> None:
        torch.manual_seed(0)
        model.generate(
            torch.tensor([ids] * options.rows), max_new_tokens=options.tokens, min_new_tokens=options.tokens,
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        )  # fmt: skip

    def ours() -> None:
        made = engine.complete([ids] * options.rows, asked)
        assert all(one.tokens == options.tokens for one in made)

    def stopped() -> None:
        with engine.stream([ids] * options.rows, asked) as stream:
            for number, _ in enumerate(stream, 1):
                if number == options.tokens // 4:
                    stream.abort(range(0, options.rows, 2))

    engine.complete([ids] * 2, Settings(most=2))  # warm; the prompt's cache is emptied before each run
    found: dict[str, list[float]] = {"generate": [], "engine": [], "engine, half the rows stopped early": []}
    for _ in range(options.repeats):
        for name, work in zip(found, (theirs, ours, stopped), strict=True):
            engine._kept.clear()
            found[name].append(seconds(work))
    best = {name: min(times) for name, times in found.items()}
    print(
        f"{options.rows} rows x {options.tokens} tokens after {options.prompt}; CPU seconds, best of {options.repeats}"
    )
    for name, value in best.items():
        print(f"{name:40}{value:8.2f}{value / best['generate']:8.2f} x generate")
    print("wanted: engine <= 1.30, with early stop < 1.00")


if __name__ == "__main__":
    main()
