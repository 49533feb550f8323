"""Wall-clock of fork-join decoding against decoding in sequence, on the common ground: both interleaved in one process.

    OMP_NUM_THREADS=1 python benchmarks/threadweaver_wallclock.py [--batches 1 8 64]

What a model writes does not change what it costs, so an untrained one is made to write as many tokens as a right trajectory
has: 59 in sequence; or a plan, three threads as further rows of the batch, and the joins. Every request reads its context anew.
Prints the median over repetitions of each ratio, beside the ratio of critical paths.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from methods.threadweaver.layout import Frame, packed, text
from methods.threadweaver.metrics import critical_path
from methods.threadweaver.orchestrator import units_of
from methods.threadweaver.problems import problems
from tycho.lm.examples import left_padded
from tycho.lm.sampling import generate

TASK = "products-verbose"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = problems(TASK)
    words, model = task.words, task.base(0).eval()
    piece = task.batches(0, 1)(0)[0]
    prompt, response = text(piece, words, fork=True)
    plain = words.encode(text(piece, words, fork=False)[1])
    units = [unit for unit in units_of(prompt, response) if unit.kind != "whole"]
    path = critical_path([*words.encode(response), words.end], words.tags)
    saved = (len(plain) + 1) / path.longest
    print(
        f"{TASK}: {len(plain) + 1} tokens in sequence; path {path.longest} of {path.total}: {saved:.3f} times shorter"
    )
    print(f"packed: {len(packed(piece, Frame.of(words), fork=True).tokens)} tokens; {len(units)} requests")

    def write(contexts: list[list[int]], tokens: int) -> None:
        ids, mask = left_padded(contexts, words.vocabulary.pad)
        generate(model, ids, mask, most=tokens, stop=[])

    def sequence(rows: int) -> None:
        write([words.encode(prompt)] * rows, len(plain) + 1)

    def threads(rows: int) -> None:
        plan, *middle, join = units
        for group in ([plan], middle, [join]):
            tokens = len(words.encode(group[0].completion)) + group[0].ends
            write([words.encode(unit.context) for unit in group] * rows, tokens)

    for rows in options.batches:
        wall, cpu = [], []
        for _ in range(options.repeat + 1):
            taken = {}
            for run in (sequence, threads):
                started = time.perf_counter(), time.process_time()
                run(rows)
                taken[run] = time.perf_counter() - started[0], time.process_time() - started[1]
            wall.append(taken[sequence][0] / taken[threads][0])
            cpu.append(taken[sequence][1] / taken[threads][1])
        wall, cpu = wall[1:], cpu[1:]  # the first warms up
        print(
            f"batch {rows:3d}: sequence / threads {statistics.median(wall):.2f} wall-clock, {statistics.median(cpu):.2f} CPU"
        )


if __name__ == "__main__":
    main()
