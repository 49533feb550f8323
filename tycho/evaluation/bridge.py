"""lm-eval's side of the bridge. Imports lm-eval, so it is imported inside functions only."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lm_eval
import pandas as pd
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate

from tycho.errors import TychoError
from tycho.evaluation.local import dataset
from tycho.harness import Complete, Completion, Options, load_served

COST = "tycho_cost"  # where a request's costs stand in lm-eval's samples: its generation arguments
COLUMNS = Completion._fields[1:]
LENGTH = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


class Bridge(LM):
    """A `Complete` as an lm-eval model. Costs of a request are added to its arguments, which lm-eval's samples log."""

    def __init__(self, complete: Complete, batch: int | None = None) -> None:
        """batch: prompts handed over at once; None: all, which leaves batching to `complete`."""
        super().__init__()
        self.complete, self.batch = complete, batch
        self.total = dict.fromkeys(("completions", *COLUMNS), 0)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        # lm-eval repeats a request by naming it several times in a row.
        groups = [list(group) for _, group in itertools.groupby(requests, key=id)]
        options = [options_of(group[0].args[1], len(group)) for group in groups]
        texts: list[list[str]] = [[] for _ in groups]
        for wanted in dict.fromkeys(options):
            rows = [row for row, option in enumerate(options) if option == wanted]
            size = self.batch or len(rows)
            for start in range(0, len(rows), size):
                some = rows[start : start + size]
                answers = self._call([groups[row][0].args[0] for row in some], wanted)
                for row, found in zip(some, answers, strict=True):
                    texts[row] = [cut(completion.text, wanted.until) for completion in found]
                    self._log(groups[row][0], found)
        return [text for found in texts for text in found]

    def _call(self, prompts: list[str], options: Options) -> list[list[Completion]]:
        """`complete`, with what it returns checked: n completions a prompt."""
        found = list(self.complete(prompts, options))
        if len(found) != len(prompts) * options.n:
            raise TychoError(
                f"{len(found)} completions came back for {len(prompts)} prompts"
                f"{f' with n={options.n}' if options.n > 1 else ''}: {len(prompts) * options.n} are wanted"
            )
        wrong = next((one for one in found if not (isinstance(one, Completion) and isinstance(one.text, str))), None)
        if wrong is not None:
            raise TychoError(f"a Completion with text is wanted, not {wrong!r:.100}")
        return [found[row : row + options.n] for row in range(0, len(found), options.n)]

    def _log(self, request: Instance, found: list[Completion]) -> None:
        for completion in found:
            self.total["completions"] += 1
            for column in COLUMNS:
                self.total[column] += getattr(completion, column)
        if self.cache_hook.dbdict is None:  # a cache of responses is keyed by the arguments
            request.args[1][COST] = [dict(zip(COLUMNS, completion[1:], strict=True)) for completion in found]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        score = getattr(self.complete, "loglikelihood", None)
        if score is None:
            raise TychoError(
                "this method writes text and gives no log-likelihoods: choose tasks whose output_type is generate_until"
            )
        found = list(score([request.args for request in requests]))
        if len(found) != len(requests):
            raise TychoError(f"{len(found)} log-likelihoods came back for {len(requests)} requests")
        return [(float(value), bool(greedy)) for value, greedy in found]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        raise TychoError("perplexity of whole texts is not served: use `--model hf` for it")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        apply = getattr(self.complete, "apply_chat_template", None)
        if apply is None:
            raise TychoError("this method has no chat template: leave out --apply_chat_template")
        return apply(chat_history, add_generation_prompt)

    @property
    def tokenizer_name(self) -> str:
        return str(getattr(self.complete, "tokenizer_name", ""))

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval adds to the `config` of its results: the cost of all completions together."""
        return {"tycho_cost": dict(self.total)}


def served(room: str) -> type[Bridge]:
    """A room as a class for lm-eval's registry; the room is imported when the model is made."""

    def init(self, pretrained: str = "", batch_size: Any = None, max_batch_size: Any = None, device: str | None = None,
             **options: Any) -> None:  # fmt: skip
        if not pretrained:
            raise TychoError(f"--model {room} needs --model_args pretrained=FOLDER, a trained model's folder")
        # lm-eval's default of 1 stands for "not given": what a room writes batches by itself.
        batch = int(batch_size) if str(batch_size).isdigit() and int(batch_size) > 1 else None
        Bridge.__init__(self, load_served(room, pretrained, device=_present(device), **options), batch)

    return type(f"Served_{room}", (Bridge,), {"__init__": init})


def _present(device: str | None) -> str:
    """lm-eval says cuda where nothing is said; without such a GPU that means the CPU, as for its own models."""
    import torch

    return "cpu" if not device or (device.startswith("cuda") and not torch.cuda.is_available()) else device


def options_of(arguments: dict[str, Any], n: int = 1) -> Options:
    """lm-eval's generation arguments as Options, refused where they ask for what no method here can do."""
    given = {name: value for name, value in arguments.items() if name != COST and value is not None}
    until = given.pop("until", ())
    lengths = [given.pop(name) for name in LENGTH if name in given]
    temperature = float(given.pop("temperature", 0.0))
    sample = given.pop("do_sample", temperature > 0)
    if sample and temperature == 0:
        temperature = 1.0
    if given.get("num_beams") == 1:
        del given["num_beams"]
    known = {
        name: kind(given.pop(name)) for name, kind in (("top_p", float), ("top_k", int), ("seed", int)) if name in given
    }
    if given:
        raise TychoError(
            f"generation arguments {sorted(given)} are not known here: there is until, {', '.join(LENGTH)}, "
            "do_sample, temperature, top_p, top_k, seed"
        )
    return Options(
        max_gen_toks=int(lengths[0]) if lengths else Options.max_gen_toks,
        until=tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop),
        temperature=temperature if sample else 0.0,
        n=n,
        **known,
    )


def cut(text: str, until: tuple[str, ...]) -> str:
    """The text before the first of the stop strings."""
    return text[: min((place for stop in until if (place := text.find(stop)) >= 0), default=len(text))]


class LocalTask(ConfigurableTask):
    """A task whose contexts are built without a progress bar."""

    def build_all_requests(self, **options: Any) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            super().build_all_requests(**options)


def run_items(
    model: LM,
    items: pd.DataFrame,
    task: str,
    answer: Callable[[str], str | None],
    correct: Callable[[str, str], bool],
    options: Options,
) -> pd.DataFrame:
    """`harness.measure` without its checks."""

    def read(responses: list[list[str]], docs: Any) -> list[list[str]]:
        return [[answer(text) or "" for text in of_item] for of_item in responses]

    judged: dict[str, list[bool]] = {}

    def judge(doc: dict[str, str], answers: list[list[str]]) -> dict[str, float]:
        verdicts = judged[doc["item"]] = [bool(correct(found, doc["target"])) for found in answers[0]]
        return {"acc": sum(verdicts) / len(verdicts)}

    with tempfile.TemporaryDirectory(prefix="tycho-items-") as folder:
        config = local_config(Path(folder), items, task, options)
        config["filter_list"] = [{"name": "answer", "filter": [{"function": "custom", "filter_fn": read}]}]
        config["process_results"] = judge
        config["metric_list"] = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
        local = LocalTask(config=config)
        # Of a mean lm-eval computes the standard error in closed form; of a single item it has none.
        found = evaluate(lm=model, task_dict={"tasks": {task: local}}, bootstrap_iters=1 if len(items) > 1 else 0)
    rows = []
    for sample in found["samples"][task]:
        (arguments,), (responses,), (answers,) = (sample[name] for name in ("arguments", "resps", "filtered_resps"))
        for response, said, verdict, cost in zip(
            responses, answers, judged[sample["doc"]["item"]], arguments[1][COST], strict=True
        ):
            row = {"item": sample["doc"]["item"], "prompt": arguments[0], "response": response, "answer": said}
            rows.append(row | {"target": sample["target"], "correct": verdict} | cost)
    frame = pd.DataFrame(rows).assign(split="test")
    result = found["results"][task]
    error = result["acc_stderr,answer"]
    frame.attrs["lm_eval"] = {
        "accuracy": result["acc,answer"],
        "stderr": error if isinstance(error, float) else math.nan,
        "items": found["n-samples"][task]["effective"],
        "version": lm_eval.__version__,
    }
    return frame


def local_config(folder: Path, items: pd.DataFrame, task: str, options: Options) -> dict[str, Any]:
    """An lm-eval task over a file of items, as a dictionary. The caller adds filters and metrics."""
    return dataset(items[["item", "prompt", "target"]], folder) | {
        "task": task,
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "target",
        "generation_kwargs": {
            "max_gen_toks": options.max_gen_toks,
            "until": list(options.until),
            "do_sample": options.temperature > 0,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "top_k": options.top_k,
            "seed": options.seed,
        },
        "repeats": options.n,
        "num_fewshot": 0,
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences lm-eval's log and the data sets' bars, and puts both back."""
    import datasets

    log = logging.getLogger("lm_eval")
    level, shown = log.level, datasets.is_progress_bar_enabled()
    log.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        log.setLevel(level)
        if shown:
            datasets.enable_progress_bars()
