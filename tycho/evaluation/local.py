"""Tasks of our own as lm-eval tasks: a YAML file and a file of items each, for `tycho lm-eval --tasks`.

tycho_graphs, tycho_graphs_verbose, tycho_products, tycho_products_verbose    the common tasks, for trained checkpoints
tycho_gsm_symbolic                                                           reasoning-gym's word problems
tycho_gsm8k=FILE                                                             GSM8K's test file, or hub://...
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from tycho.errors import unknown
from tycho.files import write_text
from tycho.tasks.common import TASKS

ITEMS = 500  # of a generated task; --limit takes fewer
START = "tycho_"
COMMON = {START + name.replace("-", "_"): name for name in TASKS}
NAMES = (*COMMON, f"{START}gsm_symbolic", f"{START}gsm8k")


def gsm_symbolic(n: int, seed: int) -> pd.DataFrame:
    """n word problems in GSM8K's two columns (question, answer ending in `#### number`), from reasoning-gym's templates."""
    import reasoning_gym

    found = reasoning_gym.create_dataset("gsm_symbolic", size=n, seed=seed)
    rows = [(item["question"], f"#### {item['answer']}") for item in found]
    return pd.DataFrame(rows, columns=["question", "answer"])


def gsm8k(source: str) -> pd.DataFrame:
    """GSM8K's test items (question, answer) from a file or the hub."""
    from tycho.tasks.published import read_gsm8k

    rows = [(item.question, f"#### {item.answer}") for item in read_gsm8k(source)]
    return pd.DataFrame(rows, columns=["question", "answer"])


def dataset(frame: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """The part of an lm-eval task that names its data: `frame` as the split `test`, in a file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "items.parquet"  # of JSON lines, Hugging Face's reader makes dates out of texts that look like one
    frame.to_parquet(path, index=False)
    where = {"data_files": {"test": str(path.resolve())}, "cache_dir": str(folder.resolve() / "cache")}
    return {"dataset_path": "parquet", "dataset_name": None, "dataset_kwargs": where, "test_split": "test"}


def write_task(name: str, folder: Path) -> Path:
    """Writes one of our tasks into `folder` and returns its YAML file. Raises TychoError on a name there is not."""
    import yaml

    name, _, source = name.partition("=")
    if name in COMMON:
        config = _common(COMMON[name], folder / name)
    elif name == f"{START}gsm_symbolic":
        config = _word_problems(gsm_symbolic(ITEMS, seed=0), folder / name)
    elif name == f"{START}gsm8k" and source:
        config = _word_problems(gsm8k(source), folder / name)
    else:
        hint = "(as tycho_gsm8k=FILE)" if name in NAMES else ""
        raise unknown("task of Tycho's", name, NAMES, hint)
    path = folder / f"{name}.yaml"
    write_text(path, yaml.safe_dump({"task": name, "metadata": {"version": 1.0}} | config, sort_keys=False))
    return path


def _common(task: str, folder: Path) -> dict[str, Any]:
    from tycho.harness import common_items

    return dataset(common_items(task, ITEMS), folder) | {
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "target",
        "generation_kwargs": {"until": ["<eos>"], "max_gen_toks": 128, "do_sample": False},
        "filter_list": _filter("answer", r"\[A\]\s*(\S+)"),
        "metric_list": [_exact()],
    }


def _word_problems(frame: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """Zero-shot; the last number counts. For the few-shot protocols of the published tables there is `tycho evaluate`."""
    return dataset(frame, folder) | {
        "output_type": "generate_until",
        "doc_to_text": "question",
        "doc_to_target": "{{answer.split('####')[-1].strip()}}",
        "generation_kwargs": {"until": ["Question:"], "max_gen_toks": 256, "do_sample": False},
        "filter_list": _filter("flexible-extract", r"(-?[0-9][0-9.,]*)"),
        "metric_list": [_exact() | {"regexes_to_ignore": [",", r"\$", r"\.$", r"\.0+$"]}],
    }


def _filter(name: str, pattern: str) -> list[dict[str, Any]]:
    last = {"function": "regex", "regex_pattern": pattern, "group_select": -1}
    return [{"name": name, "filter": [last, {"function": "take_first"}]}]


def _exact() -> dict[str, Any]:
    return {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
