"""Benchmarks through lm-eval: prompts, shots, graders, intervals and costs, over items in the hubs' own columns."""

from __future__ import annotations

import re

import letters
import numpy as np
import pandas as pd
import pytest
import torch

from tycho import records
from tycho.errors import TychoError
from tycho.evaluation import local, suite
from tycho.evaluation.bridge import Bridge
from tycho.evaluation.causal import Causal
from tycho.evaluation.command import load
from tycho.harness import Completion

GSM8K = pd.DataFrame({
    "question": [f"Tom has {n} apples and buys {n} more. How many?" for n in range(1, 9)],
    "answer": [f"He has {n} + {n} = <<{n}+{n}={2 * n}>>{2 * n}.\n#### {2 * n}" for n in range(1, 9)],
})  # fmt: skip
MATH = pd.DataFrame({
    "problem": ["What is $1/2$ of $3$?", "Solve $x+1=3$."],
    "solution": [r"So \boxed{\frac{3}{2}}.", r"Hence \boxed{2}."],
    "answer": [r"\frac{3}{2}", "2"],
})  # fmt: skip
CHOICES = {"text": ["the sun", "a cold stone", "rain", "bread"], "label": ["A", "B", "C", "D"]}
HUB = {
    "arc_easy": {"question": "What is hot?", "choices": CHOICES, "answerKey": "A"},
    "arc_challenge": {"question": "What is wet?", "choices": CHOICES, "answerKey": "C"},
    "boolq": {"passage": "Rain is water.", "question": "is rain wet", "label": 1},
    "hellaswag": {"activity_label": "Baking", "ctx_a": "A man", "ctx_b": "he bakes", "endings": ["bread.", "a car [title]."], "label": "0"},
    "openbookqa": {"question_stem": "The sun is", "choices": CHOICES, "answerKey": "D"},
    "piqa": {"goal": "To cook an egg", "sol1": "boil it", "sol2": "paint it", "label": 0},
    "social_iqa": {"context": "Ann fell.", "question": "How is she?", "answerA": "glad", "answerB": "hurt", "answerC": "rich", "label": "2"},
    "winogrande": {"sentence": "Ann beat Bob as _ was fast.", "option1": "Ann", "option2": "Bob", "answer": "1"},
}  # fmt: skip


class Knowing:
    """Adds the numbers of the last question; wrong where their sum is divisible by four. Notes what it was asked."""

    def __init__(self, form: str) -> None:
        self.form, self.prompts, self.options = form, [], []

    def __call__(self, prompts, options):
        self.prompts, self.options = prompts, [*self.options, options]
        sums = [sum(map(int, re.findall(r"\d+", re.split(r"Q: |<user>", prompt)[-1]))) for prompt in prompts]
        return [Completion(self.form.format(n + (n % 4 == 0)), 7, 7, 7, 70.0) for n in sums]

    def apply_chat_template(self, messages, add_generation_prompt):
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>" * add_generation_prompt


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Causal:
    loaded = load(str(letters.make(tmp_path_factory.mktemp("letters"))), dtype="float32")
    return Causal(loaded.model, loaded.tokenizer, 8)


def run(complete, name, protocol, tmp_path, **more):
    model = complete if isinstance(complete, Causal) else Bridge(complete)
    return suite.run_benchmark(model, name, protocol, label="m", folder=tmp_path, **more)


def test_gsm8k_has_eight_examples_and_the_last_number_counts(tmp_path):
    asked = Knowing("Well. The answer is {}.\n\nQ: next 99")
    score, samples = run(asked, "gsm8k", "completion", tmp_path, data=GSM8K, most=40)
    assert all(prompt.count("Q: ") == 9 and prompt.endswith("\nA:") for prompt in asked.prompts)
    assert [prompt.rpartition("Q: ")[2] for prompt in asked.prompts] == [f"{q}\nA:" for q in GSM8K.question]
    assert asked.options[0].temperature == 0 and asked.options[0].max_gen_toks == 40
    right = [2 * n % 4 != 0 for n in range(1, 9)]
    assert samples.correct.tolist() == right and score.accuracy == 0.5 and (score.items, score.of) == (8, 8)
    assert (score.shots, score.protocol, score.capped) == (8, "completion", 0.0)
    assert (score.low, score.high) == suite.wilson(4, 8) and score.stderr == pytest.approx(
        np.std(right, ddof=1) / 8**0.5
    )
    assert score.flops == 70.0 and score.generated_tokens == 7
    kept = records.tidy("samples", samples, scale="s", method="m", arm="a", task="t", seed=0)
    assert kept.item.is_unique and kept.answer[0].rstrip(".") == "2" and "99" not in kept.response[0]


def test_the_chat_protocol_asks_the_bare_question_and_samples(tmp_path):
    asked = Knowing(r"I think 5, so \boxed{{{}}} it is")
    score, samples = run(asked, "gsm8k", "chat", tmp_path, data=GSM8K, limit=4, seed=3)
    assert asked.prompts == [f"<user>{question}<assistant>" for question in GSM8K.question[:4]]
    (options,) = asked.options
    assert (options.temperature, options.top_p, options.seed, options.until) == (0.6, 0.95, 3, ())
    assert samples.answer.tolist() == ["2", "5", "6", "9"] and samples.correct.tolist() == [True, False] * 2
    assert (score.shots, score.items, score.of) == (0, 4, 8) and score.metric == "acc,answer"


def test_math500_has_minervas_four_examples_and_math_verify(tmp_path):
    seen = []

    def complete(prompts, options):
        seen.extend(prompts)
        return [
            Completion(" Final Answer: The final answer is $1.5$. I hope it is correct.", 5, 5, 5, 5.0) for _ in prompts
        ]

    score, samples = run(complete, "math500", "completion", tmp_path, data=MATH)
    assert all(prompt.count("Problem:") == 5 and prompt.endswith("Solution:") for prompt in seen)
    assert samples.correct.tolist() == [True, False] and score.shots == 4
    chat, _ = run(Chat(complete), "math500", "chat", tmp_path / "chat", data=MATH)
    assert chat.accuracy == 0.5


class Chat:
    def __init__(self, complete) -> None:
        self.complete = complete

    def __call__(self, prompts, options):
        return self.complete(prompts, options)

    apply_chat_template = Knowing.apply_chat_template


@pytest.mark.parametrize("name", suite.COMMONSENSE)
def test_common_sense_takes_the_likeliest_choice(tiny, name, tmp_path):
    """Against log-probabilities summed here, from one pass a choice; on the columns of the hub's data."""
    score, samples = run(tiny, name, "completion", tmp_path, data=pd.DataFrame([HUB[name]] * 2).assign(id=[0, 1]))
    assert (score.shots, score.metric, score.items) == (0, "acc,none", 2)
    pairs = list(tiny.costs)
    sums = {}
    for context, continuation in pairs:
        prompt = tiny.tokenizer(context)["input_ids"]
        ids = torch.tensor([[*prompt, *tiny.tokenizer(continuation)["input_ids"]]])
        with torch.no_grad():
            logs = tiny.model(ids).logits[0, :-1].log_softmax(-1)
        sums[context, continuation] = logs[torch.arange(len(logs)), ids[0, 1:]][len(prompt) - 1 :].sum().item()
    tiny.costs.clear()
    best = max(sums, key=sums.get)
    shared = len({context for context, _ in pairs}) == 1
    assert samples.answer[0] == (best[1] if shared else best[0]).strip()
    assert samples.forward_passes[0] == len(pairs) and samples.flops[0] > 0 and samples.generated_tokens[0] == 0
    assert score.accuracy in (0.0, 1.0) and samples.correct.tolist() == [bool(score.accuracy)] * 2
    if name == "arc_easy":
        assert bool(score.accuracy) == (best[1] == " the sun")


def test_a_causal_model_writes_and_pays(tiny, tmp_path):
    score, samples = run(tiny, "gsm-symbolic", "completion", tmp_path, limit=3, most=5)
    assert samples.generated_tokens.between(1, 5).all() and (samples.flops > 0).all() and score.accuracy == 0
    assert score.capped == (samples.generated_tokens == 5).mean()
    again, same = run(tiny, "gsm-symbolic", "completion", tmp_path / "again", limit=3, most=5)
    assert again == score and same.equals(samples)


def test_gsm_symbolics_first_items_do_not_depend_on_how_many():
    few, many = local.gsm_symbolic(3, 0), local.gsm_symbolic(6, 0)
    assert few.equals(many[:3]) and many.answer.str.fullmatch(r"#### -?[\d.]+").all()
    assert not few.question.equals(local.gsm_symbolic(3, 1).question)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("5 + 6 = 11 dollars.", "11"),
        (r"so \boxed{1,234} and 7", "1,234"),
        ("it is $18.", "18"),
        ("no number", ""),
        ("", ""),
    ],
)
def test_answers_as_math_verify_reads_them(text, answer):
    assert suite.math_answer(text) == answer


@pytest.mark.parametrize(
    ("answer", "target", "equal"),
    [
        ("18.0", "18", True),
        ("1,234", "1234", True),
        (r"\frac{1}{2}", "0.5", True),
        ("19", "18", False),
        ("", "18", False),
    ],
)
def test_equality_is_of_values(answer, target, equal):
    assert suite.math_equal(answer, target) is equal


@pytest.mark.parametrize(("right", "items"), [(0, 32), (3, 100), (100, 100)])
def test_wilsons_interval_by_its_formula(right, items):
    z, p = 1.959963984540054, right / items
    middle = (p + z * z / 2 / items) / (1 + z * z / items)
    half = z / (1 + z * z / items) * (p * (1 - p) / items + z * z / 4 / items**2) ** 0.5
    assert suite.wilson(right, items) == pytest.approx((middle - half, middle + half))


def test_sets_and_names():
    assert len(suite.COMMONSENSE) == 8 and suite.COMMONSENSE[0] == "arc_easy"
    assert suite.expand(["gsm8k,commonsense", "piqa"]) == ["gsm8k", *suite.COMMONSENSE]
    with pytest.raises(TychoError, match="unknown benchmark 'gsm9k': did you mean 'gsm8k'"):
        suite.benchmark("gsm9k", "completion")
    with pytest.raises(TychoError, match="completion only"):
        suite.benchmark("piqa", "chat")
    with pytest.raises(TychoError, match="unknown protocol"):
        suite.benchmark("gsm8k", "chats")


def test_data_that_do_not_fit_or_cannot_be_reached_are_named(tiny, tmp_path):
    with pytest.raises(TychoError, match="do not fit piqa"):
        run(tiny, "piqa", "completion", tmp_path, data=GSM8K)
    with pytest.raises(TychoError, match="--data gsm8k=FILE"):
        run(tiny, "gsm8k", "completion", tmp_path)  # HF_HUB_OFFLINE is set
