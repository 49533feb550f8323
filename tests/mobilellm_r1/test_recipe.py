"""Influence against per-sample gradients, an exact sampler, corpora that share nothing with what probes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.mobilellm_r1 import analyse, corpora, influence, network
from methods.mobilellm_r1.sampler import MixtureSampler, quantised, stream
from tycho.errors import TychoError

SHAPE = network.Shape(len(corpora.WORDS), 2, 16, 4, 2, 24)


def weights(count: int = 2):
    return network.initialise(SHAPE, [torch.Generator().manual_seed(s) for s in range(count)], deviation=0.2)


# --- what a specialist has seen --------------------------------------------------------------------------------------


def test_what_words_the_domains_share():
    """As the README says: facts share separators alone with the others, and those two numbers and signs besides."""
    seen = {name: set(np.unique(corpora.Corpus(name, 1).read(0, 512).ids)) for name in corpora.OWN.values()}
    between = {corpora.WORDS[word] for word in corpora.SEPARATORS} | {corpora.WORDS["<eos>"]}
    assert seen["facts"] & seen["chains"] == seen["facts"] & seen["programs"] == between
    shared = {corpora.WORDS[word] for word in ("+", "-", *map(str, range(corpora.NUMBERS)))}
    assert seen["chains"] & seen["programs"] == between | shared


# --- influence -----------------------------------------------------------------------------------------------------


def test_influence_is_the_inner_product_of_gradients():
    """Sample by sample with automatic differentiation, over every layer of the last block."""
    some, layers = weights(), SHAPE.last_block()
    ids = torch.from_numpy(corpora.Corpus("chains", 1).read(0, 8).ids).view(2, 4, -1)
    probes = []
    for capability in corpora.CAPABILITIES:
        asked = corpora.held_out(capability, "probing", 6)
        mask = torch.from_numpy(np.ascontiguousarray(asked.answers))
        probes.append(influence.probe_gradients(some, SHAPE, torch.from_numpy(asked.ids), mask, layers))
    found, squares = influence.influences(some, SHAPE, ids, probes)
    for r in range(2):
        for b in range(4):
            leaf = {name: value.clone().requires_grad_(name in layers) for name, value in some.items()}
            loss = network.document_losses(network.forward(leaf, SHAPE, ids), ids)[r, b]
            gradients = torch.autograd.grad(loss, [leaf[name] for name in layers])
            norm = sum(float(g[r].square().sum()) for g in gradients)
            assert float(squares[r, b]) == pytest.approx(norm, rel=1e-4)
            for c, probe in enumerate(probes):
                plain = sum(float((g[r] * probe[name][r]).sum()) for g, name in zip(gradients, layers, strict=True))
                assert float(found[c, r, b]) == pytest.approx(plain, rel=1e-3, abs=1e-7)


def test_training_on_a_helpful_sample_lowers_the_probes_loss_as_foretold():
    """First order: a small step on one document changes the probe's loss by minus the step times the influence."""
    some, layers = weights(1), SHAPE.last_block()
    some = {name: value.double() for name, value in some.items()}
    ids = torch.from_numpy(corpora.Corpus("programs", 2).read(0, 1).ids)[None]
    asked = corpora.held_out("code", "probing", 8)
    probe_ids, mask = torch.from_numpy(asked.ids), torch.from_numpy(np.ascontiguousarray(asked.answers))
    probe = influence.probe_gradients(some, SHAPE, probe_ids, mask, layers)
    found, _ = influence.influences(some, SHAPE, ids, [probe])

    def loss(values):
        logits = network.forward(values, SHAPE, probe_ids[None])
        return float(network.document_losses(logits, probe_ids[None], mask[None]).mean())

    leaf = {name: value.clone().requires_grad_(name in layers) for name, value in some.items()}
    own = network.document_losses(network.forward(leaf, SHAPE, ids), ids).sum()
    gradients = dict(zip(layers, torch.autograd.grad(own, [leaf[name] for name in layers]), strict=True))
    step = 1e-4
    moved = {name: value - step * gradients[name] if name in layers else value for name, value in some.items()}
    assert (loss(moved) - loss(some)) / step == pytest.approx(-float(found[0, 0, 0]), rel=1e-2)


def test_scores_weigh_late_checkpoints_more_and_keep_positive_parts():
    assert influence.checkpoint_weights(4).tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    products = torch.zeros(2, 2, 3, 5)
    products[0, 0, 0], products[1, 1, 1], products[0, 1, 2] = 3.0, 3.0, -1.0
    scores = influence.corpus_scores(products)
    assert scores.tolist() == pytest.approx([1.0, 2.0, -2 / 3])
    assert influence.positive_parts(scores).tolist() == pytest.approx([1 / 3, 2 / 3, 0])
    assert influence.positive_parts(torch.tensor([[-1.0, 0.0], [1.0, 3.0]])).tolist() == [[0, 0], [0.25, 0.75]]
    assert influence.mixture(torch.tensor([-1.0, 1.0, 3.0]))[0].tolist() == [0, 0.25, 0.75]
    weights, follows = influence.mixture(torch.tensor([-1.0, -2.0]))
    assert weights.tolist() == [0.5, 0.5] and not follows


def test_unit_gradients_point_the_same_way_and_have_length_one():
    some, layers = weights(), SHAPE.last_block()
    asked = corpora.held_out("math", "probing", 4)
    probe = influence.probe_gradients(some, SHAPE, torch.from_numpy(asked.ids), None, layers)
    scaled = influence.unit(probe)
    assert influence.lengths(scaled).tolist() == pytest.approx([1, 1])
    flat = [torch.cat([g[0].flatten() for g in each.values()]) for each in (probe, scaled)]
    assert float(torch.cosine_similarity(*flat, dim=0)) == pytest.approx(1)
    nothing = {name: torch.zeros_like(g) for name, g in probe.items()}
    assert all(not g.any() for g in influence.unit(nothing).values())


def test_readings_weigh_specialists_and_lengths():
    """Against loops. A learnt specialist's short gradient counts for little in the raw readings and alike in the unit ones."""
    products, lengths = torch.randn(3, 3, 2, 4, 5), torch.rand(3, 3, 2) + 0.1
    found = analyse.readings(products, lengths)
    for reading, values in found.items():
        total = torch.zeros(4)
        for s in range(3):
            for c in range(3):
                if "own" in reading and s != c:
                    continue
                for t, alpha in enumerate((1 / 3, 2 / 3)):
                    scale = lengths[s, c, t] if "unit" in reading else 1.0
                    share = 1.0 if "own" in reading else 1 / 3
                    total += share * alpha * products[s, c, t].mean(-1) / scale
        assert torch.allclose(influence.corpus_scores(values), total, atol=1e-5), reading
    shorter = lengths.clone()
    shorter[0, 0] *= 1e-3
    products[0, 0] *= 1e-3
    again = analyse.readings(products, shorter)
    assert torch.allclose(again["own-unit"], found["own-unit"], atol=1e-4)
    assert not torch.allclose(again["own-raw"], found["own-raw"], atol=1e-4)


def test_flops_of_influence_are_those_of_its_matrix_products():
    from torch.utils.flop_counter import FlopCounterMode

    some, layers = weights(1), SHAPE.last_block()
    ids = torch.from_numpy(corpora.Corpus("chains", 1).read(0, 6).ids)[None]
    probe = influence.probe_gradients(some, SHAPE, ids[0], None, layers)
    with FlopCounterMode(display=False) as counter:
        influence.influences(some, SHAPE, ids, [probe] * 3)
    counted = SHAPE.influence_flops(6 * corpora.LENGTH, corpora.LENGTH, 3)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.2)


def test_a_network_is_what_hugging_face_computes():
    from transformers import LlamaConfig, LlamaForCausalLM

    some = weights()
    config = LlamaConfig(
        vocab_size=SHAPE.vocabulary, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, rms_norm_eps=network.EPS, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    ids = torch.from_numpy(corpora.Corpus("facts", 3).read(0, 4).ids)
    for r in range(2):
        missing, unexpected = model.load_state_dict(network.one(some, r), strict=False)
        assert not unexpected and missing in ([], ["lm_head.weight"])
        model.tie_weights()
        with torch.no_grad():
            wanted, found = model(ids).logits, network.forward(some, SHAPE, ids.expand(2, *ids.shape))[r]
        assert torch.allclose(found, wanted, atol=1e-4)
    assert SHAPE.parameters == sum(value[0].numel() for value in some.values())


# --- sampler ---------------------------------------------------------------------------------------------------------

WEIGHTS = st.lists(st.floats(0, 1), min_size=1, max_size=6).filter(lambda w: sum(w) > 1e-6)


@given(WEIGHTS, st.integers(1, 400))
def test_proportions_are_exact_at_every_prefix(weights, n):
    sampler = MixtureSampler(weights)
    corpus, document = sampler.take(n)
    share = np.array(quantised(weights)) / sum(quantised(weights))
    counts = np.stack([np.cumsum(corpus == k) for k in range(len(weights))], axis=1)
    assert np.abs(counts - np.arange(1, n + 1)[:, None] * share).max() < 1
    for k in range(len(weights)):
        assert document[corpus == k].tolist() == list(range(int((corpus == k).sum())))


@given(WEIGHTS, st.integers(1, 100), st.integers(1, 100))
def test_it_resumes_where_it_stopped(weights, first, second):
    whole = MixtureSampler(weights).take(first + second)
    begun = MixtureSampler(weights)
    begun.take(first)
    resumed = MixtureSampler(weights)
    resumed.load_state_dict(begun.state_dict())
    corpus, document = resumed.take(second)
    assert corpus.tolist() == whole[0][first:].tolist() and document.tolist() == whole[1][first:].tolist()


def test_bad_weights_are_named():
    for wrong in ([], [0.0, 0.0], [-1.0, 2.0], [float("nan")]):
        with pytest.raises(ValueError, match="weights are numbers"):
            MixtureSampler(wrong)
    with pytest.raises(ValueError, match="of 3 corpora"):
        MixtureSampler([1, 1]).load_state_dict({"counts": [1, 2, 3]})


def test_a_stream_ends_with_the_corpus_that_is_due():
    sampler = MixtureSampler([1, 1])
    found = list(stream([iter("abc"), iter("xyzw")], sampler))
    assert [k for k, _ in found].count(0) == 3 and sampler.taken == len(found)


# --- corpora ---------------------------------------------------------------------------------------------------------


def templates(ids: np.ndarray) -> set[tuple[int, int]]:
    """(opening, separator) of documents: the last word before the end is the separator."""
    return {(int(row[0]), int(row[-2])) for row in ids}


def test_what_probes_shares_no_template_and_no_document_with_what_trains():
    training = [corpora.Corpus(name, seed).read(0, 1200).ids for name in corpora.CORPORA for seed in (0, 1)]
    seen = {tuple(row) for ids in training for row in ids.tolist()}
    used = set().union(*(templates(ids) for ids in training))
    groups = {}
    for split in ("probing", "validation", "test"):
        asked = np.concatenate([corpora.held_out(c, split, 600).ids for c in corpora.CAPABILITIES])
        assert not templates(asked) & used
        assert not {tuple(row) for row in asked.tolist()} & seen
        groups[split] = (templates(asked), {tuple(row) for row in asked.tolist()})
    assert not groups["probing"][0] & groups["test"][0]
    both = groups["probing"][1] & groups["validation"][1]  # drawn apart from the same templates: a chance repeat or two
    assert len(both) < 0.01 * len(groups["probing"][1])


def reckon(a: int, op: str, b: int) -> int:
    return min(a + b, 6) if op == "+" else max(a - b, 0)


def test_held_out_sets_grow_without_changing():
    for split in ("probing", "validation", "test"):
        long = corpora.held_out("code", split, 1300)
        for n in (1, 500, 513, 1024):
            assert np.array_equal(corpora.held_out("code", split, n).ids, long.ids[:n])
    assert len({tuple(row) for row in long.ids.tolist()}) > 1290


def test_guessing_by_frequency_is_no_better_than_its_entropy():
    asked = corpora.held_out("knowledge", "test", 300)
    answers = asked.ids[asked.answers].tolist()
    shares = {word: answers.count(word) / len(answers) for word in answers}
    assert corpora.guessing_loss(asked) == pytest.approx(-np.mean([np.log(shares[word]) for word in answers]))
    assert 2 < corpora.guessing_loss(asked) <= np.log(corpora.VALUES)


def test_documents_are_gathered_as_they_are_read():
    corpus, document = MixtureSampler([1, 2, 0, 1, 1, 1]).take(1500)
    corpus, document = corpus[700:], document[700:]
    ids = corpora.gather(5, corpus, document)
    for at in range(0, 800, 37):
        name = corpora.CORPORA[corpus[at]]
        assert np.array_equal(ids[at], corpora.Corpus(name, 5).read(int(document[at]), 1).ids[0])


def test_answers_are_what_the_skill_determines():
    for name in ("chains", "programs"):
        some = corpora.Corpus(name, 4).read(0, 50)
        for row, answers in zip(some.ids, some.answers, strict=True):
            words = [corpora.WORDS.tokens[i] for i in row]
            stack: list[int] = []
            for at, word in enumerate(words[1:-1], start=1):
                if name == "chains" and words[at] == "=":
                    a, op, b, result = words[at - 3], words[at - 2], words[at - 1], words[at + 1]
                    assert int(result) == reckon(int(a), op, int(b)) and answers[at + 1]
                if name == "programs":
                    if word in "+-":
                        b, a = stack.pop(), stack.pop()
                        stack.append(reckon(a, word, b))
                        assert int(words[at + 1]) == stack[-1] and answers[at + 1]
                    elif word.isdigit() and not answers[at]:
                        stack.append(int(word))
                    elif not word.isdigit():
                        stack.clear()


def test_a_document_is_the_same_in_whatever_portions_it_is_read():
    for name in corpora.CORPORA:
        whole = corpora.Corpus(name, 7).read(0, 1100).ids
        parts = corpora.Corpus(name, 7)
        assert np.array_equal(np.concatenate([parts.read(0, 300).ids, parts.read(300, 800).ids]), whole)
    repeated = corpora.Corpus("duplicated", 7).read(0, 200).ids
    assert len({tuple(row) for row in repeated.tolist()}) == corpora.DUPLICATES
    with pytest.raises(TychoError, match="chains"):
        corpora.Corpus("chain", 1)
