from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tycho.errors import TychoError
from tycho.lm import small
from tycho.lm.examples import next_token_loss
from tycho.lm.factored import FactoredEmbedding, factorise, is_factored, materialise
from tycho.lm.training import Recipe, Trainer
from tycho.lm.vocabulary import Vocabulary
from tycho.tasks import arithmetic, graph_text, graphs

WORDS = graph_text.vocabulary(14)
CASES = [(family, tied) for family in ("gpt2", "llama") for tied in (True, False)]


def trained(family, tied, steps=4):
    model = small.build(WORDS, family=family, tied=tied, width=32, heads=2)
    batches = graph_text.stream(graphs.layered, WORDS, "terse", 0, 16)

    def loss(model, examples):
        batch = examples.sequences()
        outputs = model(input_ids=batch.ids, attention_mask=batch.mask.long(), position_ids=batch.positions)
        return next_token_loss(outputs.logits, batch.labels)

    for _ in Trainer(model, batches, loss, Recipe(steps=steps, rate=0.01, warmup=0)):
        pass
    return model.eval(), batches(99).sequences()


def logits(model, batch):
    with torch.no_grad():
        outputs = model(input_ids=batch.ids, attention_mask=batch.mask.long(), position_ids=batch.positions)
    return outputs.logits


@pytest.mark.parametrize(("family", "tied"), CASES)
def test_a_trained_factored_model_is_an_ordinary_checkpoint(family, tied, tmp_path):
    model, batch = trained(family, tied)
    before = logits(model, batch)
    assert before.shape[-1] == WORDS.produced
    small.save(model, WORDS.tokenizer(), tmp_path)
    ordinary = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not is_factored(ordinary) and ordinary.get_input_embeddings().weight.shape[0] == len(WORDS)
    torch.testing.assert_close(logits(ordinary, batch)[..., : WORDS.produced], before, atol=2e-6, rtol=0)
    assert is_factored(model)  # saving leaves the trained model alone
    again, tokenizer = small.load(tmp_path)
    assert is_factored(again) and tokenizer.decode([WORDS["3>7"]]) == "3>7"
    torch.testing.assert_close(logits(again, batch), before, atol=2e-6, rtol=0)
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("family", "tied"), CASES)
def test_hugging_face_generates_no_edges(family, tied, tmp_path):
    model, batch = trained(family, tied, steps=1)
    ordinary = materialise(model)
    prompt = batch.ids[:, :21]
    written = ordinary.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False)
    assert (written[:, 21:] < WORDS.produced).all()


def test_an_edge_is_the_sum_of_its_factors():
    model = small.build(WORDS)
    embedding = model.get_input_embeddings()
    weight = embedding.weight.detach()
    source, target = weight[WORDS.produced : WORDS.produced + 14], weight[WORDS.produced + 14 :]
    table = embedding.table().detach()
    assert torch.equal(table[: WORDS.produced], weight[: WORDS.produced])
    for s, t in ((0, 0), (3, 7), (13, 2)):
        torch.testing.assert_close(table[WORDS.ids[f"{s}>{t}"]], source[s] + target[t])
    ids = torch.tensor([[WORDS["3>7"], WORDS["[Q]"]], [WORDS["5"], WORDS["0>13"]]])
    assert torch.equal(embedding(ids), table[ids])


def test_gradients_of_the_factors_equal_those_of_a_full_table():
    """Summing the dense rows' gradients over an edge's partners gives the factors' gradients."""
    torch.manual_seed(0)
    embedding = FactoredEmbedding(3, 4, torch.randn(3 + 8, 5))
    dense = embedding.table().detach().requires_grad_()
    ids, weights = torch.randint(0, 19, (40,)), torch.randn(40, 5)
    (embedding(ids) * weights).sum().backward()
    (dense[ids] * weights).sum().backward()
    edges = dense.grad[3:].view(4, 4, 5)
    expected = torch.cat([dense.grad[:3], edges.sum(dim=1), edges.sum(dim=0)])
    torch.testing.assert_close(embedding.weight.grad, expected)


def test_tied_and_untied_heads():
    tied, untied = small.build(WORDS), small.build(WORDS, tied=False)
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
    own = untied.get_output_embeddings().weight
    assert own is not untied.get_input_embeddings().weight and own.shape == (WORDS.produced, 64)


def test_factors_are_only_found_where_there_are_some():
    plain = small.build(Vocabulary(tuple("abc")))  # six tokens
    with pytest.raises(ValueError, match=r"has 6 tokens, not 3 and 2\^2 edges"):
        factorise(plain, 3, 2)
    with pytest.raises(ValueError, match="not sums of a source's and a target's vector"):
        factorise(plain, 2, 2)


def test_a_model_is_a_function_of_its_seed():
    words = arithmetic.vocabulary(arithmetic.Shape(7, 2, 3))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (small.build(words, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    pairs = list(zip(one.parameters(), two.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs) and not all(torch.equal(a, c) for a, _, c in pairs)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_weights_start_by_the_width(family):
    """0.02 is made for GPT-2's 768; a narrow model with it starts with flat attention."""
    for width in (32, 128):
        model = small.build(WORDS, family=family, width=width, heads=2)
        weights = dict(model.named_parameters())
        drawn = [weights["transformer.wpe.weight" if family == "gpt2" else "model.layers.0.mlp.up_proj.weight"]]
        drawn.append(model.get_input_embeddings().weight[-2 * WORDS.nodes :])  # factors of the edges
        for weight in drawn:
            assert weight.std().item() == pytest.approx(0.8 / width**0.5, rel=0.08)


def test_plain_vocabularies_make_plain_models(tmp_path):
    words = arithmetic.vocabulary(arithmetic.Shape(7, 2, 3))
    model = small.build(words, family="llama", layers=3, width=48, heads=4)
    assert not is_factored(model) and model.config.num_hidden_layers == 3
    small.save(model, words.tokenizer(), tmp_path)
    again, _ = small.load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_mistakes_are_named(tmp_path):
    with pytest.raises(TychoError, match="unknown model family 'gpt': did you mean 'gpt2'"):
        small.build(WORDS, family="gpt")
    with pytest.raises(TychoError, match="no language model at"):
        small.load(tmp_path / "nothing")


def test_a_bfloat16_checkpoint_is_trained_in_float32(tmp_path):
    plain = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=1)).bfloat16()
    plain.save_pretrained(tmp_path)
    WORDS.tokenizer().save_pretrained(tmp_path)
    model, _ = small.load(tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
