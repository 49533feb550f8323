"""A causal LM under lm-eval: the same text as lm-eval's own model, and costs that are exact."""

from __future__ import annotations

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from tycho.errors import TychoError
from tycho.evaluation.bridge import COST
from tycho.evaluation.causal import Causal
from tycho.lm.flops import forward_flops, generate_flops
from tycho.tasks.common import ground

FEW = "5 2 5 1 3 , 2 6 2 6 1 , 5 4 3 3 1 = "
PROMPTS = [FEW + tail for tail in ("5 2", "5", "5 3 1 4", "2 2", "3 1 1", "6")]


@pytest.fixture(scope="module")
def model():
    task = ground("products")
    found = task.base(3, tied=False).eval()
    for weights in found.parameters():  # untrained logits are nearly flat: make greedy choices clear ones
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.3, generator=torch.Generator().manual_seed(weights.numel()))
    return found, task.words.tokenizer()


def requests(until: list[str], most: int = 12, **more) -> list[Instance]:
    return [
        Instance("generate_until", {}, (prompt, {"until": until, "max_gen_toks": most, "do_sample": False} | more), 0)
        for prompt in PROMPTS
    ]


@pytest.mark.parametrize("batch", [1, 4])
def test_text_is_that_of_lm_evals_own_model(model, batch):
    theirs = HFLM(pretrained=model[0], tokenizer=model[1], batch_size=1).generate_until(requests([]), disable_tqdm=True)
    assert len({word for text in theirs for word in text.split()}) > 3
    assert Causal(*model, batch).generate_until(requests([])) == theirs


def test_each_row_ends_at_its_own_stop_and_is_counted_until_there(model):
    whole = Causal(*model, 6).generate_until(requests([]))
    stop = whole[0].split()[4]
    asked = requests([stop])
    texts = Causal(*model, 6).generate_until(asked)
    for text, full, request in zip(texts, whole, asked, strict=True):
        words = full.split()
        wanted = words.index(stop) + 1 if stop in words else 12
        assert text.split() == words[: wanted - 1 if stop in words else 12]
        (cost,) = request.args[1][COST]
        assert cost["generated_tokens"] == cost["forward_passes"] == wanted
        assert cost["flops"] == generate_flops(model[0].config, len(request.args[0].split()), wanted)


def test_costs_do_not_depend_on_the_batch(model):
    one, many = requests(["4"]), requests(["4"])
    Causal(*model, 1).generate_until(one)
    Causal(*model, 6).generate_until(many)
    assert [r.args[1][COST] for r in one] == [r.args[1][COST] for r in many]


def test_scores_are_lm_evals_and_cost_one_pass(model):
    pairs = [Instance("loglikelihood", {}, (FEW, f" {word}"), 0) for word in ("1", "2 3", "4")]
    mine = Causal(*model, 2)
    theirs = HFLM(pretrained=model[0], tokenizer=model[1], batch_size=2)
    assert mine.loglikelihood(pairs) == theirs.loglikelihood(pairs)
    cost = mine.costs[(FEW, " 2 3")]
    assert cost.forward_passes == 1 and cost.generated_tokens == 0
    assert cost.flops == forward_flops(model[0].config, len(FEW.split()) + 1)


def test_samples_are_those_of_their_seed_whatever_the_batch(model):
    drawn = {"do_sample": True, "temperature": 1.0, "top_p": 0.95}
    one = Causal(*model, 6)
    texts = [lm.generate_until(requests([], seed=seed, **drawn)) for lm, seed in ((one, 1), (one, 1), (one, 2))]
    assert texts[0] == texts[1] != texts[2]
    assert Causal(*model, 2).generate_until(requests([], seed=1, **drawn)) == texts[0]


def test_options_that_cannot_be_followed_are_refused(model):
    with pytest.raises(TychoError, match="repetition_penalty"):
        Causal(*model, 6).generate_until(requests([], repetition_penalty=1.2))
