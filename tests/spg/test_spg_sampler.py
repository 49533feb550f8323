"""The sampler's schedule, distribution and order; masks against their written rules; the policy under masks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.spg import llada, masking, sampler, worlds
from methods.spg.policy import Policy

MASK = 5


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 40), st.data())
def test_a_block_is_filled_evenly(block, data):
    steps = data.draw(st.integers(1, block))
    counts = sampler.schedule(block, steps)
    assert sum(counts) == block and len(counts) == steps
    assert max(counts) - min(counts) <= 1 and counts == sorted(counts, reverse=True)


def test_neither_the_mask_nor_a_forbidden_token_is_ever_written():
    """The untrained official sampler leaves masks in its result; here the mask has all the probability."""
    logits = torch.full((6,), -20.0)
    logits[MASK], logits[3] = 20.0, 15.0
    for temperature in (0.0, 1.0):
        found = sampler.sample(
            lambda z: logits.expand(*z.shape, -1),
            50,
            8,
            block=4,
            steps=2,
            mask_token=MASK,
            temperature=temperature,
            generator=seeded(0),
            forbidden=(3,),
        )
        assert found.calls == 4 and not torch.isin(found.tokens, torch.tensor([3, MASK])).any()


def test_tokens_are_drawn_from_the_tempered_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5, 9.0])
    found = sampler.sample(
        lambda z: logits.expand(*z.shape, -1),
        4000,
        4,
        block=4,
        steps=1,
        mask_token=MASK,
        temperature=0.7,
        generator=seeded(1),
    )
    share = torch.bincount(found.tokens.flatten(), minlength=5) / found.tokens.numel()
    assert torch.allclose(share, (logits[:5] / 0.7).softmax(0), atol=0.012)


def test_noise_is_single_precision_whatever_the_network_computes_in():
    """In bfloat16 2,000 draws would share a few hundred values and ties would be common."""
    assert sampler.gumbel(torch.Size([3]), seeded(0)).dtype == torch.float32
    rounded = torch.randn(2000, 6, generator=seeded(2)).bfloat16()

    def draw(logits: torch.Tensor) -> torch.Tensor:
        return sampler.sample(
            lambda z: logits[:, None].expand(-1, z.shape[1], -1), 2000, 1, block=1, steps=1, mask_token=MASK, temperature=1,
            generator=seeded(1),
        ).tokens  # fmt: skip

    assert torch.equal(draw(rounded), draw(rounded.float()))


def test_a_private_generator_decides_and_the_global_one_is_left_alone():
    def draw(seed: int) -> torch.Tensor:
        return sampler.sample(
            lambda z: torch.zeros(*z.shape, 6),
            8,
            8,
            block=4,
            steps=2,
            mask_token=MASK,
            temperature=1,
            generator=seeded(seed),
        ).tokens

    before = torch.get_rng_state()
    first = draw(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(draw(3), first) and not torch.equal(draw(4), first)


def test_the_most_confident_tokens_of_a_block_come_first_and_stay():
    """Token i is sure by `sure[i]`; positions of the second block are surer and must wait."""
    sure = torch.tensor([0.1, 3.0, 0.2, 2.0, 9.0, 9.0, 9.0, 9.0])
    seen = []

    def denoise(z: torch.Tensor) -> torch.Tensor:
        seen.append((z[0] != MASK).tolist())
        logits = torch.zeros(*z.shape, 6)
        logits[..., len(seen) % 4] = sure  # the likeliest token changes with every call
        return logits

    found = sampler.sample(denoise, 1, 8, block=4, steps=2, mask_token=MASK)
    assert seen[1] == [False, True, False, True] + [False] * 4
    assert seen[2] == [True] * 4 + [False] * 4
    assert found.tokens[0].tolist() == [2, 1, 2, 1, 3, 3, 0, 0] or found.tokens[0, :4].tolist() == [2, 1, 2, 1]


def test_a_schedule_that_does_not_fit_is_refused():
    for n, block, steps in ((10, 4, 2), (8, 4, 5), (8, 4, 0)):
        with pytest.raises(ValueError, match="cannot be scheduled"):
            sampler.sample(lambda z: torch.zeros(*z.shape, 6), 1, n, block=block, steps=steps, mask_token=MASK)


# --- Masks -----------------------------------------------------------------------------------------------------------


def plain_block_masks(b: int, length: int, n: int, block: int, hidden: torch.Tensor) -> None:
    """What the rule says of one masked copy whose chosen block is b, position by position."""
    count = 0
    for i in range(n):
        if i >= length or i >= (b + 1) * block:
            assert hidden[i]
        elif i >= b * block:
            count += int(hidden[i])
    assert 1 <= count <= min(block, length - b * block)


@given(st.integers(0, 200))
def test_block_masks_follow_their_rule_position_by_position(seed):
    lengths = torch.tensor([16, 9, 1])
    masks = masking.block_masks(lengths, 16, 3, block=4, m=2, generator=seeded(seed), p_mask=0.0)
    chosen = masking.blocks(lengths, 4, 4, 2, seeded(seed))  # the first draw of the same generator
    for j, length in enumerate(lengths.tolist()):
        for tau in range(2):
            plain_block_masks(int(chosen[j, tau]), length, 16, 4, masks.hidden[j, tau])
            assert not masks.hidden[j, tau, : int(chosen[j, tau]) * 4].any()  # p_mask 0: earlier blocks are clean
    assert not masks.prompt.any()
    assert torch.equal(masks.scored, masks.hidden & (torch.arange(16) < lengths[:, None, None]))


def test_the_number_hidden_in_a_block_is_uniform_within_its_limits():
    lengths = torch.full((6000,), 4)
    masks = masking.block_masks(lengths, 4, 1, block=4, m=1, generator=seeded(5))
    share = torch.bincount(masks.hidden[:, 0].sum(dim=1), minlength=5)[1:] / 6000
    assert torch.allclose(share, torch.full((4,), 0.25), atol=0.025)
    masks = masking.block_masks(lengths, 4, 1, block=4, m=1, generator=seeded(5), min_t=0.5, max_t=0.75)
    assert set(masks.hidden[:, 0].sum(dim=1).tolist()) == {2, 3}
    each = masks.hidden[:, 0].float().mean(dim=0)
    assert torch.allclose(each, torch.full((4,), 0.625), atol=0.03)


def test_earlier_blocks_and_prompts_are_hidden_with_the_given_probability():
    lengths = torch.full((3000,), 8)
    masks = masking.block_masks(lengths, 8, 5, block=4, m=2, generator=seeded(6), p_mask=0.15)
    later = masks.hidden[..., 4:].sum(dim=2) < 4  # the chosen block was the second, and not wholly hidden
    early = masks.hidden[..., :4][later].float().mean()
    assert abs(float(early) - 0.15) < 0.015 and abs(float(masks.prompt.float().mean()) - 0.15) < 0.01


def test_blocks_are_uniform_and_apart_where_the_public_choice_is_neither():
    lengths = torch.full((20_000,), 12)  # 3 of 8 blocks hold tokens
    ours = masking.blocks(lengths, 8, 4, 2, seeded(7))
    theirs = masking.published_blocks(lengths, 8, 4, 2, seeded(7))
    assert (ours[:, 0] != ours[:, 1]).all()
    share = torch.bincount(ours[:, 0], minlength=3) / len(ours)
    assert torch.allclose(share, torch.full((3,), 1 / 3), atol=0.012)
    # 0, 3, 6 and 1, 4, 7 fall on the first two blocks, 2 and 5 on the third; two of eight agree in 7 of 28 pairs.
    share = torch.bincount(theirs[:, 0], minlength=3) / len(theirs)
    assert torch.allclose(share, torch.tensor([0.375, 0.375, 0.25]), atol=0.012)
    assert abs(float((theirs[:, 0] == theirs[:, 1]).float().mean()) - 7 / 28) < 0.012
    few = masking.blocks(torch.full((50,), 3), 8, 4, 2, seeded(8))
    assert (few == 0).all()  # one block alone is taken twice


def test_random_masks_hide_a_uniform_number_or_the_given_share():
    lengths = torch.tensor([6]).repeat(6000)
    masks = masking.random_masks(lengths, 8, 4, m=1, generator=seeded(9), p_mask=0.0)
    share = torch.bincount(masks.scored.sum(dim=2).flatten(), minlength=7)[1:] / 6000
    assert torch.allclose(share, torch.full((6,), 1 / 6), atol=0.02)
    assert masks.hidden[..., 6:].all() and not masks.scored[..., 6:].any() and not masks.prompt.any()
    share = torch.full((6000, 1), 0.4)
    assert (masking.random_masks(lengths, 8, 4, m=1, generator=seeded(9), share=share).scored.sum(dim=2) == 3).all()


# --- The policy ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy() -> Policy:
    world = worlds.terse("countdown")
    config = llada.LLaDAConfig(
        16, 2, 1, 16, len(worlds.VOCABULARIES["countdown"]), world.mask_token, 1, 0, 32, learned_positions=True
    )
    return Policy(llada.build(config, 0), world).eval()


def test_log_probabilities_are_those_of_one_copy_at_a_time(policy):
    prompt, keep = policy.world.prompts(["1 2 3 = 0 6", "4 5 6 = 1 5"])
    x = policy.world.targets(["1 + 2 + 3", "(4+5) + 6"])
    masks = masking.block_masks(policy.world.lengths(x), 8, prompt.shape[1], block=4, m=3, generator=seeded(2))
    together = policy.log_p(prompt, keep, x, masks)
    for j in range(2):
        for tau in range(3):
            c, z = prompt[j].clone(), x[j].clone()
            c[masks.prompt[j, tau]] = policy.world.mask_token
            z[masks.hidden[j, tau]] = policy.world.mask_token
            logits = policy.model(torch.cat([c, z])[None], last=8)[0]
            logits[:, list(policy.world.never)] = -torch.inf
            wanted = logits.log_softmax(dim=1)[torch.arange(8), x[j]]
            assert torch.allclose(together[j, tau], wanted, atol=1e-5)


def test_rewards_of_paper_and_code_reach_the_puzzles_that_are_trained_on():
    for rewards, worth in (("paper", 0.0), ("code", 0.1)):
        assert worlds.terse("countdown", rewards=rewards).draw(1, "train", 0).reward(0, "hello") == worth


def test_countdown_completions_end_and_are_read(policy):
    x = policy.world.targets(["(4+5)*6", "7-2"])
    assert policy.world.lengths(x).tolist() == [8, 4]
    assert policy.world.texts(x) == ["( 4 + 5 ) * 6", "7 - 2"]
    rollout = policy.sample(
        policy.world.prompts(["4 5 6 = 5 4"])[0], None, block=4, steps=2, temperature=1.0, generator=seeded(0)
    )
    assert not torch.isin(rollout.tokens, torch.tensor(policy.world.never)).any()
