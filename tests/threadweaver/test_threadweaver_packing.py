"""Packing against the units one by one: same log-probs, same gradients, and nothing seen that should not be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from trajectories import EOS, VOCABULARY, encode, trajectories
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from methods.threadweaver.format import render_block
from methods.threadweaver.orchestrator import Unit, units_of
from methods.threadweaver.packing import (
    LOSSES,
    Packed,
    TokenUnit,
    Tree,
    ancestor_mask,
    batch,
    forest,
    log_probs,
    loss,
    mask_mod,
    pack,
    reuse,
    surprise,
    token_units,
    tree_attention,
)

torch.set_num_threads(1)
SIZE = {"vocab_size": len(VOCABULARY), "bos_token_id": None, "eos_token_id": EOS}
LLAMA = LlamaConfig(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, **SIZE
)
GPT2 = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=512, **SIZE)


def model(kind: str, attention: str) -> PreTrainedModel:
    torch.manual_seed(0)
    room, config = {"llama": (LlamaForCausalLM, LLAMA), "gpt2": (GPT2LMHeadModel, GPT2)}[kind]
    made = room._from_config(config, attn_implementation=attention).eval()
    for weight in made.parameters():  # at its small start a transformer predicts nearly alike from every state
        weight.data.mul_(4) if weight.dim() > 1 else None
    return made


MODELS = {(kind, attention): model(kind, attention) for kind in ("llama", "gpt2") for attention in ("sdpa", "eager")}


def forward(net: PreTrainedModel, packed: Packed) -> Tensor:
    """Logits of a packed row [N] or batch [B, N] with the tree's positions and 4-D mask."""
    rows = Packed(*(field if field.dim() == 2 else field[None] for field in packed))
    mask = ancestor_mask(rows.last)[:, None]
    if net.config._attn_implementation == "eager":
        mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    logits = net(input_ids=rows.tokens, attention_mask=mask, position_ids=rows.position).logits
    return logits if packed.tokens.dim() == 2 else logits[0]


def alone(net: PreTrainedModel, unit: TokenUnit) -> Tensor:
    """Log-probs of a unit's tokens after the first, by itself under the ordinary causal mask."""
    ids = torch.tensor([[*unit.context, *unit.completion]])
    logits = net(input_ids=ids).logits[0, :-1]
    return logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]


def places(packed: Packed, unit: TokenUnit) -> list[int]:
    """Where a unit's tokens stand in the packed row, found by walking down from the roots."""
    child = {
        (p, t): node for node, (p, t) in enumerate(zip(packed.parent.tolist(), packed.tokens.tolist(), strict=True))
    }
    node, found = -1, []
    for token in [*unit.context, *unit.completion]:
        node = child[node, token]
        found.append(node)
    return found


def made_units(prompt: str, text: str, loss: str = "completion") -> list[TokenUnit]:
    return token_units(units_of(prompt, text), encode, EOS, loss)


@pytest.mark.parametrize(("kind", "attention"), list(MODELS))
@settings(max_examples=12, deadline=None)
@given(made=trajectories(most_blocks=2, most_threads=3))
def test_packed_log_probs_are_each_units_own(kind: str, attention: str, made) -> None:
    net, units = MODELS[kind, attention], made_units(*made[:2])
    with torch.no_grad():
        packed = pack(units)
        found = log_probs(forward(net, packed), packed)
        for unit in units:
            assert torch.allclose(found[places(packed, unit)[1:]], alone(net, unit), atol=1e-5, rtol=0)


@settings(max_examples=25, deadline=None)
@given(trajectories(most_blocks=2), st.sampled_from(LOSSES))
def test_gradients_are_the_units_summed(made, variant: str) -> None:
    """Where no two units learn the same token, the packed loss is the sum over units, gradient included."""
    net, units = MODELS["llama", "sdpa"], made_units(*made[:2], variant)
    packed = pack(units)
    net.zero_grad()
    loss(forward(net, packed), packed).backward()
    together = [weight.grad.clone() for weight in net.parameters()]
    net.zero_grad()
    done: set[int] = set()
    total = torch.zeros(())
    for unit in units:
        nodes, own = places(packed, unit), alone(net, unit)
        fresh = [p for p in range(len(unit.context), len(nodes)) if unit.learnt and p > 0 and nodes[p] not in done]
        done.update(nodes[p] for p in fresh)
        total = total - own[[p - 1 for p in fresh]].sum()
    (total / len(done)).backward()
    for mine, weight in zip(together, net.parameters(), strict=True):
        assert torch.allclose(mine, weight.grad, atol=2e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@settings(max_examples=10, deadline=None)
@given(st.lists(trajectories(most_blocks=1, most_threads=3), min_size=2, max_size=3))
def test_one_batch_and_one_forest_are_one_by_one(kind: str, many) -> None:
    net = MODELS[kind, "sdpa"]
    packs = [pack(made_units(*made[:2])) for made in many]
    with torch.no_grad():
        single = [log_probs(forward(net, packed), packed) for packed in packs]
        rows, row = batch(packs), forest(packs)
        assert torch.allclose(log_probs(forward(net, row), row), torch.cat(single), atol=1e-5)
        for found, own in zip(log_probs(forward(net, rows), rows), single, strict=True):
            assert torch.allclose(found[: len(own)], own, atol=1e-5) and (found[len(own) :] == 0).all()
        assert rows.loss.sum() == row.loss.sum() == sum(int(packed.loss.sum()) for packed in packs)


def test_siblings_are_invisible_to_each_other() -> None:
    """Other tokens in one thread change that thread and the join behind it, and not one bit of any sibling."""
    text = render_block(["a", "b", "c"], ["111", "222", "333"]) + "c"
    packed = pack(made_units("?", text))
    _, _, *threads, _ = made_units("?", text)
    subtree = {name: places(packed, unit)[len(unit.context) :] for name, unit in zip("123", threads, strict=True)}
    net = MODELS["llama", "sdpa"]
    for name in "23":
        changed = packed._replace(tokens=packed.tokens.clone())
        changed.tokens[subtree[name][0]] = encode("A")[0]
        with torch.no_grad():
            moved = (forward(net, changed) != forward(net, packed)).any(-1)
        inside = torch.zeros_like(moved)
        inside[subtree[name]] = True
        assert moved[subtree[name]].all() and not moved[~inside].any()


@settings(max_examples=40, deadline=None)
@given(trajectories())
def test_the_intervals_are_the_ancestors(made) -> None:
    packed = pack(made_units(*made[:2]))
    mask = ancestor_mask(packed.last)
    for node in range(len(packed.tokens)):
        above, at = set(), node
        while at >= 0:
            above.add(at)
            at = int(packed.parent[at])
        assert set(torch.nonzero(mask[node])[:, 0].tolist()) == above
        assert packed.position[node] == len(above) - 1


@given(trajectories())
def test_the_whole_trajectory_comes_first_and_nothing_is_stored_twice(made) -> None:
    units = made_units(*made[:2])
    packed = pack(units)
    whole = [*units[0].context, *units[0].completion]
    assert packed.tokens[: len(whole)].tolist() == whole
    prefixes = {
        tuple([*u.context, *u.completion][:n]) for u in units for n in range(1, len(u.context) + len(u.completion) + 1)
    }
    assert len(packed.tokens) == len(prefixes)


def test_the_first_thread_costs_nothing_and_each_further_one_its_own_tokens() -> None:
    """As published: a trajectory of two threads grows by the second thread alone."""
    text = render_block(["a", "b"], ["11", "22"])
    units = made_units("?", text)
    second = encode("2:22</Thread>")  # "<Thread>" and the line break are shared with the first
    assert len(pack(units).tokens) == len(encode("?" + text)) + 1 + len(second)
    one = made_units("?", render_block(["a"], ["11"]))
    assert len(pack(one).tokens) == len(one[0].context) + len(one[0].completion)


def test_what_is_learnt_under_each_named_loss() -> None:
    """The paper learns completions only; the public collator also the injected headers, and threads >= 2 twice."""
    text = render_block(["a", "b"], ["1", "2"]) + "c"

    def learnt(variant: str) -> str:
        packed = pack(made_units("?", text, variant))
        return "".join(VOCABULARY[token] for token in packed.tokens[packed.loss].tolist())

    plan = text[: text.index("</Outlines>") + len("</Outlines>")]
    assert learnt("completion") == plan + "1</Thread>" + "c<eos>" + "2</Thread>"
    assert learnt("hybrid") == text + "<eos>" + "2</Thread>"
    assert learnt("everything") == text + "<eos>" + "2:2</Thread>"
    with pytest.raises(ValueError, match="completion, hybrid, everything"):
        made_units("?", text, "all")


def test_flat_labels_train_branches_from_the_wrong_state() -> None:
    """Public code shifts labels in flat order: the second branch's first token is predicted from the end of text."""
    packed = pack(made_units("?", render_block(["a", "b"], ["1", "2"]) + "c", "everything"))
    branches = torch.nonzero(packed.parent != torch.arange(len(packed.tokens)) - 1)[:, 0].tolist()
    assert len(branches) == 1 and packed.tokens[branches[0] - 1] == EOS
    (branch,) = branches
    with torch.no_grad():
        logits = forward(MODELS["llama", "sdpa"], packed)
        right, flat = log_probs(logits, packed), log_probs(logits, packed, "flat")
        assert flat[branch] == pytest.approx(float(logits[branch - 1].log_softmax(-1)[packed.tokens[branch]]), abs=1e-6)
        own = float(logits[packed.parent[branch]].log_softmax(-1)[packed.tokens[branch]])
        assert right[branch] == pytest.approx(own, abs=1e-6) and abs(right[branch] - flat[branch]) > 1e-3
    same = [node for node in range(len(packed.tokens)) if node != branch]
    assert torch.equal(right[same], flat[same])
    with pytest.raises(ValueError, match="'parent' or 'flat'"):
        log_probs(logits, packed, "shifted")


def test_too_long_an_example_is_refused_and_cut_only_on_request() -> None:
    """Public code truncates, which silently drops the last branches."""
    units = made_units("?", render_block(["a", "b"], ["1", "2"]))
    packed = pack(units)
    size = len(packed.tokens)
    with pytest.raises(ValueError, match=f"{size} tokens, at most {size - 2} wanted"):
        pack(units, size - 2)
    cut = pack(units, size - 2, overflow="cut")
    assert torch.equal(cut.tokens, packed.tokens[:-2]) and int(cut.last.max()) == size - 3
    assert torch.equal(ancestor_mask(cut.last), ancestor_mask(packed.last)[:-2, :-2])


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=8))
def test_the_tree_is_the_set_of_prefixes(sequences: list[list[int]]) -> None:
    tree = Tree()
    for sequence in sequences:
        path = tree.insert(sequence)
        assert [tree.tokens[node] for node in path] == sequence
        assert [tree.parent[node] for node in path] == [-1, *path][: len(path)]
    assert len(tree.tokens) == len({tuple(s[:n]) for s in sequences for n in range(1, len(s) + 1)})
    packed = pack([TokenUnit([], sequence) for sequence in sequences])
    assert len(packed.tokens) == len(tree.tokens) and packed.loss.all()


@settings(max_examples=15, deadline=None)
@given(trajectories(), st.integers(1, 40))
def test_attention_by_intervals_is_attention_under_the_mask(made, rows: int) -> None:
    packed = pack(made_units(*made[:2]))
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, len(packed.tokens), 8, generator=generator, dtype=torch.float64).requires_grad_() for _ in "qkv"
    )
    mask = ancestor_mask(packed.last)
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    found = tree_attention(q, k, v, packed.last, rows)
    assert torch.allclose(found, plain, atol=1e-12)
    weights = torch.randn(plain.shape, generator=generator, dtype=torch.float64)
    for mine, theirs in zip(
        torch.autograd.grad((found * weights).sum(), (q, k, v)),
        torch.autograd.grad((plain * weights).sum(), (q, k, v)),
        strict=True,
    ):
        assert torch.allclose(mine, theirs, atol=1e-12)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_training_on_long_rows_makes_no_mask_of_n_by_n(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same logits and gradients as under the dense mask; of the mask only tiles are made."""
    from methods.threadweaver import packing, train

    net = MODELS[kind, "sdpa"]
    rows = batch([pack(made_units("?", render_block(["a"] * n, ["12"] * n) + "c" * n)) for n in (2, 4)])

    def taken() -> tuple[Tensor, list[Tensor]]:
        net.zero_grad()
        found = train.logits(net, rows)
        loss(found, rows).backward()
        return found.detach(), [weight.grad.clone() for weight in net.parameters() if weight.grad is not None]

    dense, gradients = taken()
    whole = packing.ancestor_mask

    def tile(last: Tensor, *where) -> Tensor:
        assert where, "the whole mask was asked for"
        return whole(last, *where)

    monkeypatch.setattr(train, "LONG", 1)
    monkeypatch.setattr(packing, "ancestor_mask", tile)
    tiled, theirs = taken()
    assert torch.allclose(tiled, dense, atol=1e-4) and net.config._attn_implementation == "sdpa"
    for mine, other in zip(theirs, gradients, strict=True):
        assert torch.allclose(mine, other, atol=1e-4)


def test_flex_attention_takes_the_same_mask() -> None:
    from torch.nn.attention.flex_attention import create_mask

    packs = [pack(made_units("?", render_block(["a"] * n, ["12"] * n))) for n in (2, 3)]
    rows = batch(packs)
    N = rows.tokens.shape[1]
    assert torch.equal(create_mask(mask_mod(rows.last), 2, None, N, N, device="cpu")[:, 0], ancestor_mask(rows.last))


def test_a_prefix_cache_prefills_headers_and_joined_siblings_only() -> None:
    """Each thread costs its header; the join costs what follows the first thread, which the cache already holds."""
    text = render_block(["a", "b"], ["11", "22"]) + "c"
    requests = [unit for unit in made_units("?", text) if unit.learnt]
    asked, prefilled = reuse(requests)
    assert asked == sum(len(unit.context) for unit in requests)
    headers = len(encode("\n<Thread>\n1:")) + len(encode("2:"))
    joined = len(encode("<Thread>\n2:22</Thread>\n</Parallel>"))
    assert prefilled == len(encode("?")) + headers + joined


def test_units_of_a_rollout_without_the_whole_can_be_packed_too() -> None:
    units = [Unit("?", "a", "sequence"), Unit("?ab", "c", "sequence", ends=True)]
    packed = pack(token_units(units, encode, EOS))
    assert [VOCABULARY[t] for t in packed.tokens] == ["?", "a", "b", "c", "<eos>"]
    assert packed.loss.tolist() == [False, True, False, True, True]


def test_logits_some_at_a_time_are_all_logits() -> None:
    """The sum over a tree's learnt tokens and its gradient, whatever the number of rows; nothing learnt is nothing."""
    torch.manual_seed(0)
    head, states = (
        torch.nn.Linear(4, 7, dtype=torch.float64),
        torch.randn(6, 4, dtype=torch.float64, requires_grad=True),
    )
    tree = Packed(
        torch.tensor([1, 4, 2, 6, 3, 5]), torch.tensor([-1, 0, 1, 1, 3, -1]), torch.arange(6), torch.arange(6),
        torch.tensor([True, True, False, True, True, True]),
    )  # fmt: skip
    said = torch.log_softmax(head(states), -1)
    whole = -(said[0, 4] + said[1, 6] + said[3, 3])  # the learnt tokens that have a parent, from the state of that
    expected = torch.autograd.grad(whole, [states, *head.parameters()])
    for rows in (1, 2, 1024):
        found = surprise(states, head, tree, rows)
        torch.testing.assert_close(found.double(), whole, rtol=1e-6, atol=0)
        for one, other in zip(torch.autograd.grad(found, [states, *head.parameters()]), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    nothing = surprise(states, head, tree._replace(loss=torch.zeros(6, dtype=torch.bool)))
    assert nothing == 0 and (torch.autograd.grad(nothing, states)[0] == 0).all()
