"""`tycho evaluate`: models, benchmarks, one table with intervals, costs and published numbers beside ours."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from tycho.device import inference_dtype
from tycho.errors import TychoError, one_line
from tycho.evaluation.suite import COMMONSENSE, Score, benchmark, expand, run_benchmark

DTYPES = ("auto", "bfloat16", "float32", "float16")


class Published(NamedTuple):
    """A published number (percent) and where it stands."""

    value: float
    where: str


class Loaded(NamedTuple):
    model: Any
    tokenizer: Any
    hub: str  # the repository its weights come from, "" for a folder
    label: str


def evaluate(
    sources: Sequence[str],
    tasks: Sequence[str],
    protocol: str,
    *,
    data: dict[str, str],
    limit: int | None,
    most: int | None,
    batch: int,
    device: str,
    dtype: str,
    seed: int,
    output: Path | None,
) -> None:
    """Runs and prints. A benchmark that cannot be run is named at the end, after the others' numbers."""
    names = expand(tasks)
    for name in names:
        benchmark(name, protocol)
    astray = set(data) - set(names)
    if astray:
        raise TychoError(f"--data for {sorted(astray)}, which are not among the tasks {names}")
    frames = {name: read_data(name, source) for name, source in data.items()}
    scores, samples, hubs, failed = [], [], {}, []
    for source in sources:
        from tycho.evaluation.causal import Causal

        loaded = load(source, device, dtype)
        hubs[loaded.label] = loaded.hub
        bridge = Causal(loaded.model, loaded.tokenizer, batch)
        for name in names:
            try:
                with tempfile.TemporaryDirectory(prefix="tycho-evaluate-") as folder:
                    score, rows = run_benchmark(
                        bridge, name, protocol, label=loaded.label, folder=Path(folder), data=frames.get(name),
                        limit=limit, most=most, seed=seed,
                    )  # fmt: skip
            except TychoError as error:
                failed.append(f"{source}: {error}")
                continue
            scores.append(score)
            samples.append(rows.assign(model=loaded.label, task=name, protocol=protocol))
    beside = {score.model: published(hubs[score.model], protocol) for score in scores}
    show(scores, beside)
    if output and scores:
        write(output, scores, samples, beside)
    if failed:
        raise TychoError("; ".join(failed))


def load(source: str, device: str = "cpu", dtype: str = "auto") -> Loaded:
    """A causal LM: `smollm2`, a folder, or `owner/name@revision` on the hub."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tycho.lm.small import _quiet

    if dtype not in DTYPES:
        raise TychoError(f"--dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
    kind = inference_dtype(device) if dtype == "auto" else getattr(torch, dtype)
    dtype = str(kind).removeprefix("torch.")
    if source == "smollm2":
        from tycho.lm import smollm2

        model, tokenizer = smollm2.load_smollm2(kind, device=device)
        return Loaded(model, tokenizer, smollm2.HUB, f"{smollm2.HUB}, 4-bit weights, {dtype}")
    name, at, revision = source.partition("@")
    if not Path(source).is_dir() and not (at and revision and name.count("/") == 1):
        raise TychoError(
            f"{source!r} is no model: name a folder, smollm2, or owner/name@revision (a commit, so that the same weights "
            "come tomorrow)"
        )
    _quiet()
    place, more = (source, {}) if Path(source).is_dir() else (name, {"revision": revision})
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, padding_side="left", **more)
        model = AutoModelForCausalLM.from_pretrained(place, dtype=kind, **more).to(device).eval()
    except (OSError, ValueError, KeyError) as error:
        raise TychoError(f"{source} cannot be loaded: {one_line(error)[:200]}") from error
    return Loaded(model, tokenizer, name if more else "", f"{source}, {dtype}")


def read_data(name: str, source: str) -> pd.DataFrame:
    """A benchmark's items from a file (JSON lines, JSON or parquet, in the benchmark's own columns) or hub://..."""
    from tycho.evaluation.local import gsm8k
    from tycho.tasks.published import fetch

    if name in ("gsm8k", "gsm-symbolic"):
        return gsm8k(source)
    path = fetch(source)
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        text = path.read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines() if line] if path.suffix == ".jsonl" else json.loads(text)
        return pd.DataFrame(rows)
    except (ValueError, OSError) as error:
        raise TychoError(f"{source} cannot be read: {one_line(error)[:200]}") from error


def published(hub: str, protocol: str) -> dict[str, Published]:
    """Published scores of a hub repository under a protocol, by benchmark, from the rooms' `models.yaml`."""
    import yaml

    import methods

    found: dict[str, Published] = {}
    for path in sorted(path for place in methods.__path__ for path in Path(place).glob("[!.]*/models.yaml")):
        for table in yaml.safe_load(path.read_text(encoding="utf-8")).get("scores", {}).values():
            if table["protocol"] == protocol and hub in table["rows"]:
                found |= {task: Published(value, table["where"]) for task, value in table["rows"][hub].items()}
    return found


def means(scores: Sequence[Score]) -> Iterator[tuple[str, float]]:
    """The mean over the common-sense set, for models that ran all eight."""
    for model in dict.fromkeys(score.model for score in scores):
        own = {score.task: score.accuracy for score in scores if score.model == model}
        if set(COMMONSENSE) <= set(own):
            yield model, sum(own[task] for task in COMMONSENSE) / len(COMMONSENSE)


def sentence(score: Score) -> str:
    """A score in words, with its interval and its limits."""
    few = "" if score.items == score.of else f" (the first of {score.of})"
    cut = f", {score.capped:.0%} of answers cut at {score.max_gen_toks} tokens" if score.generated_tokens else ""
    return (
        f"{score.accuracy:.1%} [{score.low:.1%}, {score.high:.1%}] of {score.items} items{few}, "
        f"{score.shots}-shot, {score.protocol}{cut}"
    )


def show(scores: Sequence[Score], beside: dict[str, dict[str, Published]]) -> None:
    """Two lines a score, under its model's name, and notes on where published numbers stand."""
    notes: list[str] = []

    def known(model: str, task: str) -> str:
        found = beside[model].get(task)
        if not found:
            return "nothing published for this model under this protocol"
        if found.where not in notes:
            notes.append(found.where)
        return f"published: {found.value} % [{notes.index(found.where) + 1}]"

    average = dict(means(scores))
    for model in dict.fromkeys(score.model for score in scores):
        print(model)
        for score in (score for score in scores if score.model == model):
            print(f"  {score.task}: {sentence(score)}")
            print(
                f"    by {score.metric}; {score.generated_tokens:.1f} tokens, {score.forward_passes:.1f} forward passes, "
                f"{score.flops / 1e9:.1f} GFLOP an item; {known(model, score.task)}"
            )
        if model in average:
            print(f"  mean of the eight common-sense tasks: {average[model]:.1%}; {known(model, 'commonsense')}")
    print("Intervals are Wilson's 95 %, over items.")
    for number, where in enumerate(notes, 1):
        print(f"[{number}] {where}; measured otherwise than here, so ours is no reproduction of it.")


def write(
    folder: Path, scores: Sequence[Score], samples: Sequence[pd.DataFrame], beside: dict[str, dict[str, Published]]
) -> None:
    from tycho.files import write_json

    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for score in scores:
        known = beside[score.model].get(score.task)
        rows.append(score._asdict() | {"published": known._asdict() if known else None})
    write_json(folder / "scores.json", rows)
    pd.concat(samples, ignore_index=True).to_parquet(folder / "samples.parquet", index=False)
