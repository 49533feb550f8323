"""Continuous thoughts against the formulation without cache, one by one, and the loss written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.coconut import curriculum, thoughts
from methods.coconut.model import Thinker, find_marks
from methods.coconut.thoughts import Marks
from tycho.lm import small
from tycho.lm.examples import IGNORED, Batch, left_padded, next_token_loss, positions_of
from tycho.lm.vocabulary import Vocabulary
from tycho.tasks import arithmetic, common

WORDS = Vocabulary((*"abcdefgh", *common.THOUGHTS))
MARKS = Marks(*(WORDS[word] for word in common.THOUGHTS))
SHAPE = arithmetic.Shape(5, 2, 3, fewest_groups=1, fewest_numbers=2)
SUMS = arithmetic.vocabulary(SHAPE, common.SPECIAL)
EXAMPLES = arithmetic.symbols(arithmetic.generate(12, SHAPE, 0), SUMS, "verbose")
SUM_MARKS = find_marks(SUMS.tokenizer())
FAMILIES = ("gpt2", "llama")
TOLERANCE = {"gpt2": 1e-9, "llama": 1e-5}


def sharp(family, words=WORDS, seed=0, layers=2):
    """A random model whose likeliest tokens are far apart, so that rounding decides nothing."""
    model = small.build(words, family=family, width=32, heads=2, layers=layers, seed=seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4 if weight.ndim > 1 else 1)
    return model


def exact(family, seed=0):
    """In double where the model allows: Llama's softmax is a float one, and a mask in double overflows there."""
    if family == "gpt2":
        return sharp(family, SUMS, seed).double()
    return small.build(SUMS, family=family, width=32, heads=2, seed=seed)


def rebuilt(model, batch, latent):
    """The published formulation, without a cache: every pass runs the whole prefix on a list of embeddings built anew."""
    ids, mask, positions, _ = batch
    table = [[vector for vector in row] for row in model.get_input_embeddings()(ids)]
    for column in latent.any(dim=0).nonzero()[:, 0].tolist():
        out = model(
            inputs_embeds=torch.stack([torch.stack(row) for row in table])[:, :column],
            attention_mask=mask[:, :column].long(),
            position_ids=positions[:, :column],
            output_hidden_states=True,
            use_cache=False,
        )
        for row in latent[:, column].nonzero()[:, 0].tolist():
            table[row][column] = out.hidden_states[-1][row, -1]
    whole = torch.stack([torch.stack(row) for row in table])
    return model(
        inputs_embeds=whole, attention_mask=mask.long(), position_ids=positions, use_cache=False
    ).logits  # fmt: skip


def ragged(counts=None, rows=slice(None), marked=True):
    """A batch with 0 to 3 thoughts a row and prompts of different lengths."""
    examples = EXAMPLES.select(rows)
    counts = torch.arange(len(EXAMPLES))[rows] % 4 if counts is None else counts
    return curriculum.compose(examples, counts, counts, "thoughts", SUM_MARKS, marked=marked)


def cut(batch, latent, row):
    """One row of a batch without its padding."""
    keep = batch.mask[row]
    return Batch(*(part[row][keep][None] for part in batch)), latent[row][keep][None]


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_training_equals_uncached_in_values_and_gradients(family):
    batch, latent = ragged()
    assert len(latent.any(dim=0).nonzero()) == 3 and not batch.mask.all()
    cached, plain = (exact(family) for _ in range(2))
    passes = thoughts.forward(cached, batch, latent)
    assert len(passes.outputs) == 4
    expected = rebuilt(plain, batch, latent)
    seen = batch.mask[:, passes.start :]
    torch.testing.assert_close(passes.logits[seen], expected[:, passes.start :][seen], rtol=0, atol=1e-5)
    next_token_loss(passes.logits, batch.labels[:, passes.start :]).backward()
    next_token_loss(expected, batch.labels).backward()
    for (name, mine), (_, theirs) in zip(cached.named_parameters(), plain.named_parameters(), strict=True):
        assert theirs.grad.abs().max() > 0, name
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize(("family", "marked"), [("gpt2", True), ("gpt2", False), ("llama", False)])
def test_a_ragged_batch_equals_its_items_alone(family, marked):
    model = exact(family)
    batch, latent = ragged(marked=marked)
    together = thoughts.forward(model, batch, latent)
    losses, predicted = [], []
    for row in range(len(batch.ids)):
        alone, thinks = cut(batch, latent, row)
        passes = thoughts.forward(model, alone, thinks)
        tail = batch.mask[row, together.start :]
        mine = together.logits[row][tail][-passes.logits.shape[1] :]
        torch.testing.assert_close(mine, passes.logits[0, -len(mine) :], rtol=0, atol=TOLERANCE[family])
        used = together.thoughts[row, : int(latent[row].sum())]
        torch.testing.assert_close(used, passes.thoughts[0], rtol=0, atol=TOLERANCE[family])
        predicted.append(int((alone.labels != IGNORED).sum()))
        losses.append(next_token_loss(passes.logits, alone.labels[:, passes.start :]) * predicted[-1])
    torch.testing.assert_close(thoughts.loss(model, batch, latent), sum(losses) / sum(predicted), rtol=0, atol=1e-5)


def test_a_thought_is_the_last_hidden_state_behind_the_final_norm():
    for family in FAMILIES:
        model = sharp(family, SUMS)
        batch, latent = ragged(torch.full((3,), 2), slice(3))
        passes = thoughts.forward(model, batch, latent)
        place = int(latent.any(dim=0).nonzero()[0])
        body = model.base_model(
            input_ids=batch.ids[:, :place], attention_mask=batch.mask[:, :place].long(),
            position_ids=batch.positions[:, :place],
        )  # fmt: skip
        torch.testing.assert_close(passes.thoughts[:, 0], body.last_hidden_state[:, -1], rtol=0, atol=1e-5)
        normed = passes.thoughts[:, 0].square().mean(dim=1)
        assert (normed - 1).abs().max() < 1e-2, "a norm with unit weights leaves unit mean squares"


def test_gradients_flow_through_the_cache_and_the_thoughts():
    """The loss of the answer alone moves the embedding of a prompt's first word by way of thoughts only, if nothing may
    attend to the prompt but the first thought's pass."""
    model = sharp("gpt2", SUMS)
    batch, latent = ragged(torch.full((2,), 3), slice(2))
    embedding = model.get_input_embeddings()
    embedding.weight.requires_grad_(True)
    last = batch.labels.clone()
    last[:, :-2] = IGNORED
    thoughts.loss(model, batch._replace(labels=last), latent).backward()
    prompt = batch.ids[0, 0]
    assert embedding.weight.grad[prompt].abs().max() > 0
    assert embedding.weight.grad[SUM_MARKS.thought].abs().max() == 0 or model.config.tie_word_embeddings


def test_a_thought_needs_something_before_it():
    batch, latent = ragged(torch.ones(2, dtype=torch.long), slice(2))
    wrong = torch.zeros_like(latent)
    wrong[:, 0] = True
    with pytest.raises(ValueError, match="before it"):
        thoughts.forward(sharp("gpt2", SUMS), batch, wrong)


# --- generation ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def one_by_one(model, prompt, count, most, stop, marked):
    """The plain reference: one row, no cache, the whole sequence again for each thought and each word."""
    table = model.get_input_embeddings()
    vectors = table(torch.tensor([[*prompt, *[MARKS.begin] * marked]]))
    for _ in range(count):
        hidden = model(inputs_embeds=vectors, output_hidden_states=True).hidden_states[-1][:, -1:]
        vectors = torch.cat([vectors, hidden], dim=1)
    if marked:
        vectors = torch.cat([vectors, table(torch.tensor([[MARKS.end]]))], dim=1)
    written = []
    while len(written) < most:
        written.append(model(inputs_embeds=vectors).logits[0, -1].argmax().item())
        vectors = torch.cat([vectors, table(torch.tensor([[written[-1]]]))], dim=1)
        if written[-1] in stop:
            break
    return written


MODELS = {family: sharp(family).eval() for family in FAMILIES}
PROMPTS = st.lists(
    st.tuples(st.lists(st.integers(3, 10), min_size=1, max_size=7), st.integers(0, 4)), min_size=2, max_size=6
)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=10)
@given(PROMPTS, st.booleans())
def test_batched_generation_with_a_cache_equals_one_by_one_without(family, rows, marked):
    stop = [WORDS["a"], WORDS["b"]]
    tokenizer = WORDS.tokenizer()
    thinker = Thinker(MODELS[family], tokenizer, "thoughts", 2, marked)
    ids, mask = left_padded([prompt for prompt, _ in rows], WORDS.pad)
    counts = torch.tensor([count for _, count in rows])
    found = thinker.generate(ids, mask, most=8, stop=stop, thoughts=counts).rows()
    assert found == [one_by_one(thinker.model, prompt, count, 8, stop, marked) for prompt, count in rows]


def test_pauses_and_bare_marks_are_words_in_the_prompt():
    model, tokenizer = MODELS["gpt2"], WORDS.tokenizer()
    ids, mask = left_padded([[4, 5, 6], [7]], WORDS.pad)
    for fill, count, inner in (("pauses", 2, [MARKS.pause] * 2), ("nothing", 0, [])):
        thinker = Thinker(model, tokenizer, fill, count)
        found = thinker.generate(ids, mask, most=6, stop=[]).rows()
        for row, prompt in zip(found, ([4, 5, 6], [7]), strict=True):
            text = [*prompt, MARKS.begin, *inner, MARKS.end]
            for word in row:
                assert word == model(input_ids=torch.tensor([text])).logits[0, -1].argmax().item()
                text.append(word)


def test_costs_count_thoughts_as_steps_and_pauses_as_given():
    model, tokenizer = MODELS["gpt2"], WORDS.tokenizer()
    thinking = Thinker(model, tokenizer, "thoughts", 3).cost(prompt=10, written=4, count=3)
    pausing = Thinker(model, tokenizer, "pauses", 3).cost(prompt=10, written=4, count=3)
    silent = Thinker(model, tokenizer, "nothing", 0, marked=False).cost(prompt=10, written=4, count=0)
    assert thinking[:3] == (7, 7, 7) and pausing[:3] == (4, 4, 4) and silent[:3] == (4, 4, 4)
    assert thinking.flops == pausing.flops > silent.flops


def test_flops_are_those_pytorch_counts():
    from tycho.cost import counted_flops

    model, tokenizer = MODELS["gpt2"], WORDS.tokenizer()
    thinker = Thinker(model, tokenizer, "thoughts", 3)
    ids, mask = left_padded([[4, 5, 6, 7]], WORDS.pad)
    with counted_flops() as counted:
        written = thinker.generate(ids, mask, most=5, stop=[]).rows()[0]
    expected = thinker.cost(4, len(written), 3).flops
    assert counted["flops"] == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_loads_again_and_thinks_the_same(family, tmp_path):
    from transformers import AutoModelForCausalLM

    thinker = Thinker(MODELS[family], WORDS.tokenizer(), "thoughts", 2)
    thinker.save(tmp_path)
    again = Thinker.load(tmp_path)
    assert (again.fill, again.thoughts, again.marked) == ("thoughts", 2, True)
    ids, mask = left_padded([[4, 5, 6], [7]], WORDS.pad)
    assert again.generate(ids, mask, most=6).rows() == thinker.generate(ids, mask, most=6).rows()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(plain(input_ids=ids).logits, thinker.model(input_ids=ids).logits)


def test_positions_skip_the_padding_between_thoughts_and_words():
    between = curriculum.enclosed(torch.tensor([0, 3]), "thoughts", MARKS, marked=True)
    found = thoughts.think(MODELS["gpt2"], *left_padded([[4], [4]], WORDS.pad), between)
    assert positions_of(found.mask)[:, -1].tolist() == [2, 5]
    assert found.passes.tolist() == [1, 4]
