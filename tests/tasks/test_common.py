"""The common ground: same questions and same first weights for every method."""

from __future__ import annotations

import pytest
import torch

from tycho.errors import TychoError
from tycho.tasks import common


@pytest.mark.parametrize("task", list(common.TASKS))
def test_items_fit_the_vocabulary_and_the_base_model(task):
    ground = common.ground(task)
    items = ground.held_out(64, "test")
    batch = items.sequences()
    assert int(batch.ids.max()) < len(ground.words)
    assert int(items.continuation()[0].max()) < ground.words.produced
    # the longest trace, with as many thoughts or tags as a method may add, fits the context
    assert batch.ids.shape[1] + 40 <= ground.context
    model = ground.base(1)
    logits = model(input_ids=batch.ids, attention_mask=batch.mask.long()).logits
    assert logits.shape[:2] == batch.ids.shape and bool(logits.isfinite().all())


@pytest.mark.parametrize("task", list(common.TASKS))
def test_splits_are_fixed_and_share_no_prompt(task):
    ground = common.ground(task)
    test, again = ground.held_out(200, "test"), common.ground(task).held_out(300, "test")
    prompts = prompts_of(ground, test)
    assert prompts == prompts_of(ground, again)[:200]
    with pytest.raises(ValueError, match="2000 items"):
        ground.held_out(2001, "test")
    others = {*prompts_of(ground, ground.held_out(200, "validation")), *prompts_of(ground, ground.batches(3, 256)(0))}
    assert not others & set(prompts)


@pytest.mark.parametrize("family", ["graphs", "products"])
def test_both_trace_styles_ask_the_same_questions(family):
    terse, verbose = common.ground(family), common.ground(f"{family}-verbose")
    a, b = terse.held_out(50, "test"), verbose.held_out(50, "test")
    assert prompts_of(terse, a) == prompts_of(verbose, b) and torch.equal(a.answer, b.answer)
    assert b.trace()[1].sum(dim=1).float().mean() >= 30 > a.trace()[1].sum(dim=1).float().mean()


def test_the_base_model_depends_on_the_seed_alone():
    first, second = (common.ground("graphs").base(5).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = common.ground("graphs").base(6).state_dict()
    assert any(not torch.equal(first[name], other[name]) for name in first)
    deeper = common.ground("graphs").base(5, layers=4)
    assert deeper.config.num_hidden_layers == 4


def test_an_unknown_task_is_named_with_the_nearest():
    with pytest.raises(TychoError, match="products-verbose"):
        common.ground("products-verbos")


def prompts_of(ground: common.Ground, items) -> list[str]:
    ids, mask = items.prompts()
    return [ground.words.write(row[kept].tolist()) for row, kept in zip(ids, mask, strict=True)]
