"""Reinforcement learning of a masked diffusion policy: rollouts, and the loss of each method on them.

One loop for all methods: sample a group of g completions for each prompt, centre their rewards, then take μ gradient
steps on fresh masks. `Learner.batch` and `Learner.loss` are what `tycho.lm.training.Trainer` calls.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from methods.spg import baselines, bounds, masking
from methods.spg.masking import Masks
from methods.spg.policy import Policy
from methods.spg.worlds import World
from tycho.lm.flops import forward_flops

MASKINGS = ("block", "random", "one_step")


class Rollouts(NamedTuple):
    """prompt [B, P], keep [B, P] or None, x [B, n], lengths [B], rewards [B], advantages [B]; groups of g rows."""

    prompt: Tensor
    keep: Tensor | None
    x: Tensor
    lengths: Tensor
    rewards: Tensor
    advantages: Tensor

    def part(self, rows: slice) -> Rollouts:
        return Rollouts(*(None if field is None else field[rows] for field in self))


class Batch(NamedTuple):
    """What one loss is taken over; old and reference log-probabilities [B, n] where the method wants them."""

    rollouts: Rollouts
    masks: Masks
    old: Tensor | None
    reference: Tensor | None


class Learner:
    """Rollouts and losses of one run. Everything drawn at a step depends on the run's seeds and the step alone.

    config: the room's knobs. seeds: of the axes order, rollout, masks.
    """

    def __init__(self, policy: Policy, world: World, config: Any, seeds: dict[str, int], data_seed: int) -> None:
        self.policy, self.world, self.config, self.seeds = policy, world, config, seeds
        self.puzzles = world.draw(config.puzzles, "train", data_seed)
        self.rollouts: Rollouts | None = None
        self.old: dict[int, Tensor] = {}
        self.reference = self._snapshot()
        self.rewards: list[float] = []
        self.sequences = 0  # passed through the network forward; a backward pass counts as two more

    # --- what Trainer calls --------------------------------------------------------------------------------------

    def batch(self, index: int) -> Batch:
        """Part `index mod accumulate` of gradient step `index // accumulate`."""
        config = self.config
        step, part = divmod(index, config.accumulate)
        if config.kl and part == 0 and step % config.reference_every == 0:
            self.reference = self._snapshot()
        if part == 0 and step % config.mu == 0:
            self.roll_out(step // config.mu)
        rollouts = self.rollouts.part(self._rows(part))
        masks = self.masks(index, rollouts)
        reference = None
        if config.objective in ("diffu_grpo", "unigrpo"):
            with torch.no_grad():
                reference = self._under(self.reference, rollouts, masks)
        return Batch(rollouts, masks, self.old.get(index), reference)

    def loss(self, _: nn.Module, batch: Batch) -> Tensor:
        config, (rollouts, masks) = self.config, batch[:2]
        log_p = self.policy.log_p(rollouts.prompt, rollouts.keep, rollouts.x, masks)
        self.sequences += 3 * log_p.shape[0] * log_p.shape[1]
        if config.objective == "spg":
            return bounds.spg_loss(
                log_p,
                masks.scored,
                rollouts.lengths,
                rollouts.advantages,
                negatives=config.negatives,
                beta=config.beta,
                omega=config.omega,
            )
        log_p, scored = log_p[:, 0], masks.scored[:, 0]
        if config.objective == "wd1":
            return baselines.wd1_loss(log_p, scored, rollouts.advantages, config.group)
        old = log_p.detach() if batch.old is None else batch.old  # the first step after a rollout is on-policy
        loss = baselines.diffu_grpo_loss if config.objective == "diffu_grpo" else baselines.unigrpo_loss
        return loss(log_p, old, batch.reference, scored, rollouts.advantages, epsilon=config.epsilon, kl=config.kl)

    def state(self) -> dict[str, Any]:
        """What a later process needs to go on, right before a rollout."""
        return {"reference": self.reference, "rewards": self.rewards, "forward": self.sequences}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state()`."""
        device = self.policy.device
        self.reference = {name: value.to(device) for name, value in state["reference"].items()}
        self.rewards, self.sequences = list(state["rewards"]), state["forward"]

    # --- inside --------------------------------------------------------------------------------------------------

    def roll_out(self, number: int) -> Rollouts:
        """Samples group × prompts completions with the present policy; rewards and what later steps need of it."""
        config, world = self.config, self.world
        rng = np.random.default_rng([self.seeds["order"], number])
        chosen = rng.choice(len(self.puzzles), config.prompts, replace=config.prompts > len(self.puzzles))
        rows = [int(row) for row in chosen for _ in range(config.group)]
        prompt, keep = world.prompts([self.puzzles.prompt(row) for row in rows])
        prompt, keep = (None if part is None else part.to(self.policy.device) for part in (prompt, keep))
        self.policy.eval()
        x, calls = self.policy.sample(
            prompt,
            keep,
            block=config.block,
            steps=config.block_steps,
            temperature=config.temperature,
            generator=self._generator("rollout", number),
        )
        self.policy.train()
        self.sequences += calls * len(x)
        texts = world.texts(x)
        rewards = torch.tensor([self.puzzles.reward(row, text) for row, text in zip(rows, texts, strict=True)])
        advantages = bounds.group_advantages(rewards.view(-1, config.group)).flatten()
        device = self.policy.device
        self.rollouts = Rollouts(
            prompt, keep, x, world.lengths(x).to(device), rewards.to(device), advantages.to(device)
        )
        self.rewards.append(float(rewards.mean()))
        self._remember_old(number * config.mu)
        return self.rollouts

    def _remember_old(self, step: int) -> None:
        """Log-probabilities of the sampling policy under the masks of the later inner steps."""
        self.old = {}
        if self.config.objective not in ("diffu_grpo", "unigrpo"):
            return
        accumulate = self.config.accumulate
        for index in range((step + 1) * accumulate, (step + self.config.mu) * accumulate):
            rollouts = self.rollouts.part(self._rows(index % accumulate))
            with torch.no_grad():
                self.old[index] = self._under(None, rollouts, self.masks(index, rollouts))

    def masks(self, index: int, rollouts: Rollouts) -> Masks:
        """The masks of a gradient step's part."""
        config, generator = self.config, self._generator("masks", index)
        lengths, n, prompt = rollouts.lengths.cpu(), rollouts.x.shape[1], rollouts.prompt.shape[1]
        common = {"generator": generator, "p_mask": config.p_mask}
        if config.objective == "unigrpo":
            inner = index // config.accumulate % config.mu
            share = baselines.structured_noise(inner, config.mu, len(lengths), generator)
            found = masking.random_masks(lengths, n, prompt, m=1, share=share, **common)
        elif config.objective in ("diffu_grpo", "wd1"):
            found = masking.one_step_masks(lengths, n, prompt, m=1, **common)
        elif config.masking == "one_step":
            found = masking.one_step_masks(lengths, n, prompt, m=config.m, **common)
        elif config.masking == "random":
            found = masking.random_masks(lengths, n, prompt, m=config.m, **common)
        else:
            more = {"block": config.block, "min_t": config.min_t, "max_t": config.max_t}
            more["published_choice"] = config.published_choice
            found = masking.block_masks(lengths, n, prompt, m=config.m, **more, **common)
        return Masks(*(part.to(self.policy.device) for part in found))

    def _under(self, weights: dict[str, Tensor] | None, rollouts: Rollouts, masks: Masks) -> Tensor:
        """[B, n] log-probabilities under other weights (None: the policy's own)."""
        own = self._snapshot() if weights is not None else None
        if weights is not None:
            self._put(weights)
        log_p = self.policy.log_p(rollouts.prompt, rollouts.keep, rollouts.x, masks)[:, 0]
        self.sequences += len(log_p)
        if own is not None:
            self._put(own)
        return log_p

    def _snapshot(self) -> dict[str, Tensor]:
        if self.config.objective not in ("diffu_grpo", "unigrpo"):
            return {}
        return {name: value.detach().clone() for name, value in self.policy.state_dict().items()}

    def _put(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in self.policy.named_parameters():
                if name in weights:
                    weight.copy_(weights[name])

    def _rows(self, part: int) -> slice:
        size = self.config.prompts * self.config.group // self.config.accumulate
        return slice(part * size, (part + 1) * size)

    def _generator(self, axis: str, number: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.seeds[axis] + 1_000_003 * number) % 2**63)

    def flops(self) -> float:
        """Of all passes so far."""
        tokens = self.rollouts.prompt.shape[1] + self.rollouts.x.shape[1] if self.rollouts else 0
        return float(self.sequences * forward_flops(self.policy.model.config, tokens, logits=self.world.n))


def greedy_reward(policy: Policy, puzzles: Any, config: Any, most: int = 256) -> float:
    """Mean reward of greedy completions: what checkpoints are chosen by."""
    world, found = policy.world, []
    for start in range(0, len(puzzles), most):
        rows = range(start, min(start + most, len(puzzles)))
        prompt, keep = world.prompts([puzzles.prompt(row) for row in rows])
        prompt, keep = (None if part is None else part.to(policy.device) for part in (prompt, keep))
        x, _ = policy.sample(prompt, keep, block=config.block, steps=config.block_steps, temperature=0.0)
        found += [puzzles.reward(row, text) for row, text in zip(rows, world.texts(x), strict=True)]
    return float(np.mean(found))
