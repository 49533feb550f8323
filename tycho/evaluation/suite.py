"""Benchmarks as published tables measure them, through lm-eval, for any causal LM. Imports lm-eval inside functions.

Two protocols, never mixed:

- `completion`: a base model continues few-shot examples, greedily. lm-eval's own tasks with the shots of the published
  table of base models.
- `chat`: the model's chat template over the bare question, sampled at temperature 0.6 and top-p 0.95; the last boxed or
  else the last plain expression is compared by math-verify. So is the published table of post-trained models measured, but
  with another grader, at full precision and up to 30,000 tokens.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from tycho.errors import TychoError, one_line, unknown

Protocol = Literal["completion", "chat"]
PROTOCOLS = ("completion", "chat")
CHAT = {"do_sample": True, "temperature": 0.6, "top_p": 0.95}


@dataclass(frozen=True)
class Benchmark:
    """One benchmark. `harness`: lm-eval's task under `completion`, with `shots` examples; `metric` and `filter` of its
    results that count; `question`, `target`: its columns under `chat`, if that protocol has it; `hub`: its data."""

    says: str
    harness: str
    shots: int
    metric: str
    filter: str = "none"
    question: str = ""
    target: str = ""
    hub: tuple[str, str | None] | None = None
    most: int = 256  # tokens of an answer, unless said otherwise

    @property
    def protocols(self) -> tuple[str, ...]:
        return PROTOCOLS if self.question else PROTOCOLS[:1]


def _gsm(says: str, hub: tuple[str, str | None] | None) -> Benchmark:
    target = "{{answer.split('####')[-1].replace(',', '').strip()}}"
    return Benchmark(says, "gsm8k/gsm8k-cot", 8, "exact_match", "flexible-extract", "question", target, hub)


BENCHMARKS = {
    "gsm8k": _gsm("GSM8K, test; 8-shot chain of thought, the last number counts", ("openai/gsm8k", "main")),
    "gsm-symbolic": _gsm("word problems from reasoning-gym's gsm_symbolic templates, asked as GSM8K is", None),
    "math500": Benchmark(
        "MATH-500; 4-shot as Minerva, compared by math-verify", "minerva_math/minerva_math500", 4, "math_verify",
        question="problem", target="answer", hub=("HuggingFaceH4/MATH-500", "default"), most=512,
    ),
    "arc_easy": Benchmark("ARC-Easy, 0-shot", "arc/arc_easy", 0, "acc"),
    "arc_challenge": Benchmark("ARC-Challenge, 0-shot", "arc/arc_challenge", 0, "acc"),
    "boolq": Benchmark("BoolQ, 0-shot", "super_glue/boolq/default", 0, "acc"),
    "hellaswag": Benchmark("HellaSwag, 0-shot", "hellaswag/hellaswag", 0, "acc"),
    "openbookqa": Benchmark("OpenBookQA, 0-shot", "openbookqa/openbookqa", 0, "acc"),
    "piqa": Benchmark("PIQA, 0-shot", "piqa/piqa", 0, "acc"),
    "social_iqa": Benchmark("Social IQa, 0-shot", "siqa/siqa", 0, "acc"),
    "winogrande": Benchmark("WinoGrande, 0-shot", "winogrande/default", 0, "acc"),
}  # fmt: skip
COMMONSENSE = tuple(BENCHMARKS)[3:]
SETS = {"commonsense": COMMONSENSE}


class Score(NamedTuple):
    """How a model did on a benchmark. low, high: 95 % by Wilson over items; stderr: lm-eval's. Costs are means an item."""

    model: str
    task: str
    protocol: str
    shots: int
    metric: str
    accuracy: float
    low: float
    high: float
    stderr: float
    items: int
    of: int
    max_gen_toks: int
    capped: float  # share of answers that were cut at max_gen_toks
    generated_tokens: float
    forward_passes: float
    flops: float


def run_benchmark(
    model: Any,
    name: str,
    protocol: Protocol,
    *,
    label: str,
    folder: Path,
    data: pd.DataFrame | None = None,
    limit: int | None = None,
    most: int | None = None,
    seed: int = 0,
) -> tuple[Score, pd.DataFrame]:
    """Runs one benchmark (a `Causal` model) and returns its score and its samples, in the columns of `records.samples`.

    data: items in the benchmark's own columns, instead of the hub's; `limit`: the first so many; `most`: tokens of an
    answer; `folder`: for the task's files. Raises TychoError on unknown names, on data that do not fit and where the hub
    cannot be reached.
    """
    from lm_eval.evaluator import evaluate

    from tycho.evaluation.bridge import quiet

    found = benchmark(name, protocol)
    most = most or found.most
    if data is None and name == "gsm-symbolic":
        from tycho.evaluation.local import ITEMS, gsm_symbolic

        data = gsm_symbolic(limit or ITEMS, seed=0)
    with quiet():
        task = _task(found, name, protocol, data, folder, {"max_gen_toks": most, "seed": seed})
        results = evaluate(
            lm=model, task_dict={"tasks": {name: task}}, limit=limit, bootstrap_iters=1 if limit != 1 else 0,
            apply_chat_template=protocol == "chat", fewshot_as_multiturn=protocol == "chat",
        )  # fmt: skip
    key = f"{found.metric},{found.filter}" if protocol == "completion" else "acc,answer"
    samples = _samples(results["samples"][name], found, protocol, model)
    right, items = int(samples.correct.sum()), len(samples)
    low, high = wilson(right, items)
    stderr = results["results"][name][key.replace(",", "_stderr,")]
    score = Score(
        label, name, protocol, found.shots if protocol == "completion" else 0, key,
        float(results["results"][name][key]), low, high, float(stderr) if isinstance(stderr, float) else float("nan"),
        items, len(task.eval_docs), most, float((samples.generated_tokens >= most).mean()),
        *(float(samples[column].mean()) for column in ("generated_tokens", "forward_passes", "flops")),
    )  # fmt: skip
    return score, samples


def benchmark(name: str, protocol: str) -> Benchmark:
    if name not in BENCHMARKS:
        raise unknown("benchmark", name, [*BENCHMARKS, *SETS])
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    if protocol not in BENCHMARKS[name].protocols:
        raise TychoError(f"{name} is scored by log-likelihoods: it has the protocol completion only")
    return BENCHMARKS[name]


def expand(names: Sequence[str]) -> list[str]:
    """Names of benchmarks and sets, apart by commas or not, as benchmarks, each once."""
    words = [word for name in names for word in name.split(",") if word]
    return list(dict.fromkeys(one for word in words for one in SETS.get(word, (word,))))


def wilson(right: int, items: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    from scipy.stats import binomtest

    interval = binomtest(right, items).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def math_answer(text: str) -> str:
    """The last boxed or else the last plain expression of a text, as math-verify reads it; "" where there is none."""
    from math_verify import parse

    found = parse(text)
    return str(found[-1]) if found else ""


def math_equal(answer: str, target: str) -> bool:
    """Whether two expressions say the same, by math-verify."""
    from math_verify import parse, verify

    return bool(answer) and bool(verify(parse(f"${target}$"), parse(f"${answer}$")))


def _task(
    found: Benchmark, name: str, protocol: str, data: pd.DataFrame | None, folder: Path, generation: dict[str, int]
) -> Any:
    from tycho.evaluation.bridge import LocalTask
    from tycho.evaluation.local import dataset

    config = _completion(found) if protocol == "completion" else _chat(found)
    if data is not None:
        config |= {"training_split": None, "validation_split": None, "fewshot_split": None}
        config |= dataset(data, folder / name)
    if config["output_type"] == "generate_until":
        config["generation_kwargs"] = config["generation_kwargs"] | generation
    config.pop("tag", None)
    try:
        return LocalTask(config=config | {"task": name})
    except (OSError, ValueError, RuntimeError, ConnectionError) as error:
        raise TychoError(
            f"the data of {name} ({config['dataset_path']}) cannot be loaded: {one_line(error)[:200]}; without a network, "
            f"name a file with --data {name}=FILE"
        ) from error
    except Exception as error:  # a template over columns that are not there
        if data is None:
            raise
        raise TychoError(f"the given data do not fit {name}: {one_line(error)[:200]}") from error


def _completion(found: Benchmark) -> dict[str, Any]:
    """lm-eval's own task with the published shots."""
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    with _any_antlr():
        config = load_yaml(Path(lm_eval.tasks.__file__).parent / f"{found.harness}.yaml", resolve_func=True)
    if found.metric == "math_verify":  # Minerva's own comparison beside it would call the parser that is not there
        metric = {"metric": found.metric, "aggregation": "mean", "higher_is_better": True}
        config |= {"process_results": _solved, "metric_list": [metric]}
    return config | {"num_fewshot": found.shots}


def _solved(doc: dict[str, Any], responses: list[str]) -> dict[str, float]:
    """MATH: whether a written solution ends in the value of the published one."""
    from math_verify import parse, verify

    return {"math_verify": float(verify(parse(doc["solution"]), parse(responses[0])))}


def _chat(found: Benchmark) -> dict[str, Any]:
    def read(responses: list[list[str]], docs: Any) -> list[list[str]]:
        return [[math_answer(text) for text in of_item] for of_item in responses]

    path, subset = found.hub or ("", None)
    return {
        "dataset_path": path,
        "dataset_name": subset,
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": found.question,
        "doc_to_target": found.target,
        "generation_kwargs": {"until": []} | CHAT,
        "filter_list": [{"name": "answer", "filter": [{"function": "custom", "filter_fn": read}]}],
        "process_results": _Judge(found.target),
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "num_fewshot": 0,
    }


class _Judge:
    """Whether the answer read out of a response equals the item's target (a column or a template)."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __call__(self, doc: dict[str, Any], answers: list[list[str]]) -> dict[str, float]:
        from lm_eval.utils import apply_template

        target = doc[self.target] if self.target in doc else apply_template(self.target, doc)
        return {"acc": float(math_equal(answers[0][0], str(target)))}


def _samples(logged: list[dict[str, Any]], found: Benchmark, protocol: str, model: Any) -> pd.DataFrame:
    from tycho.evaluation.bridge import COST

    metric, chosen = (found.metric, found.filter) if protocol == "completion" else ("acc", "answer")
    rows = []
    for sample in logged:
        if sample["filter"] != chosen:
            continue
        row = {"item": sample["doc_hash"][:16], "correct": bool(sample[metric])}
        if isinstance(sample["arguments"][0][1], dict):  # generated
            (arguments,), (responses,) = sample["arguments"], sample["resps"]
            answer = sample["filtered_resps"][0]
            row |= {"prompt": arguments[0], "response": responses[0], "target": str(sample["target"])}
            row |= {"answer": str(answer[0] if isinstance(answer, list) else answer)} | arguments[1][COST][0]
        else:  # chosen by log-likelihood
            pairs = [tuple(pair) for pair in sample["arguments"]]
            values = [response[0] for response in sample["filtered_resps"]]
            best = max(range(len(pairs)), key=values.__getitem__)
            said = pairs[best][1] if len({pair[0] for pair in pairs}) == 1 else pairs[best][0]
            costs = [model.costs[pair] for pair in pairs]
            row |= {"prompt": pairs[0][0], "response": said, "answer": said.strip(), "target": str(sample["target"])}
            row |= {name: sum(getattr(cost, name) for cost in costs) for name in costs[0]._fields[1:]}
        rows.append(row)
    return pd.DataFrame(rows).assign(split="test")


@contextlib.contextmanager
def _any_antlr() -> Iterator[None]:
    """lm-eval's Minerva tasks refuse to load beside any antlr but 4.11, which math-verify does not run with. Their parser
    is not used here (math-verify compares), so they are told what they want to hear."""
    asked = importlib.metadata.version

    def answer(package: str) -> str:
        return "4.11.0" if package == "antlr4-python3-runtime" else asked(package)

    importlib.metadata.version = answer
    try:
        yield
    finally:
        importlib.metadata.version = asked
