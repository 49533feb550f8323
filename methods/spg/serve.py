"""SPG's models for the evaluation harness: completions by the semi-autoregressive sampler, log-likelihoods by the ELBO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tycho.errors import TychoError
from tycho.harness import Complete, Completion, Options

if TYPE_CHECKING:
    from methods.spg.policy import Policy


class Served:
    """A policy as a `Complete`. length: tokens of a completion (always all of them are generated, end token or not)."""

    def __init__(
        self,
        policy: Policy,
        *,
        block: int,
        block_steps: int,
        batch: int = 256,
        draws: int = 128,
        confidence: str = "low",
    ) -> None:
        self.policy, self.block, self.steps = policy, block, block_steps
        self.batch, self.draws, self.confidence = batch, draws, confidence
        self.tokenizer_name = f"spg-{policy.world.task}"

    def __call__(self, prompts: list[str], options: Options) -> list[Completion]:
        import torch

        if options.top_k or options.top_p < 1:
            raise TychoError("this sampler has no top_k or top_p: set the temperature")
        generator = torch.Generator().manual_seed(options.seed)
        repeated = [prompt for prompt in prompts for _ in range(options.n)]
        # A small model's completions have one length; a pretrained one's are as long as asked for.
        tagged = self.policy.world.style == "tagged"
        n = -(-options.max_gen_toks // self.block) * self.block if tagged else self.policy.world.n
        found: list[Completion] = []
        for start in range(0, len(repeated), self.batch):
            found += self._batch(repeated[start : start + self.batch], n, options, generator)
        return found

    def _batch(self, prompts: list[str], n: int, options: Options, generator: Any) -> list[Completion]:
        from tycho.lm.flops import forward_flops

        world = self.policy.world
        ids, keep = world.prompts(prompts)
        device = self.policy.device
        x, calls = self.policy.sample(
            ids.to(device),
            None if keep is None else keep.to(device),
            block=self.block,
            steps=self.steps,
            temperature=options.temperature,
            generator=generator,
            confidence=self.confidence,
            n=n,
        )
        flops = float(calls * forward_flops(self.policy.model.config, ids.shape[1] + n, logits=n))
        return [Completion(text, n, calls, calls, flops) for text in world.texts(x)]

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """(ELBO by `draws` random masks, as LLaDA is evaluated; whether greedy completion gives it) of continuations."""
        import torch

        from methods.spg import masking

        world, device, found = self.policy.world, self.policy.device, []
        for number, (context, continuation) in enumerate(pairs):
            prompt = torch.tensor([world.encode(context)], device=device)
            x = torch.tensor([world.encode(continuation)], device=device)
            n = x.shape[1]
            generator = torch.Generator().manual_seed(number)
            masks = masking.random_masks(
                torch.tensor([n]), n, prompt.shape[1], m=self.draws, generator=generator, p_mask=0.0
            )
            masks = masking.Masks(*(part.to(device) for part in masks))
            with torch.no_grad():
                log_p = self.policy.log_p(prompt, None, x, masks)
                block = n if n % self.block else self.block
                greedy, _ = self.policy.sample(
                    prompt, None, block=block, steps=min(self.steps, block), temperature=0.0, n=n
                )
            from methods.spg.bounds import elbo

            found.append((n * float(elbo(log_p, masks.scored)), bool((greedy == x).all())))
        return found


def load(
    pretrained: str,
    *,
    device: str = "cpu",
    block: int | None = None,
    block_steps: int | None = None,
    draws: int = 128,
    confidence: str = "low",
    dtype: str = "float32",
) -> Complete:
    """A folder that this room trained, or LLaDA's own checkpoint (a folder or hub id).

    block, block_steps: the sampler's, as trained if left out (LLaDA: 32 and 16). confidence: low (the most confident
    tokens first) or random. draws: masks of a log-likelihood.
    """
    import torch

    from methods.spg import llada, worlds
    from methods.spg.policy import Policy
    from methods.spg.train import locate

    folder = Path(locate(pretrained))
    model, given = llada.load(folder, device=device, dtype=getattr(torch, dtype))
    ours = given.get("tycho", {})
    if ours.get("style") == "terse":
        world = worlds.terse(ours["task"])
    else:
        tokenizer = worlds.tokenizer_of(folder)
        world = worlds.tagged(
            ours.get("task", "sudoku"), tokenizer, model.config.mask_token_id, ours.get("length", 256)
        )
    return Served(
        Policy(model.eval(), world),
        block=block or ours.get("block", 32),
        block_steps=block_steps or ours.get("block_steps", 16),
        draws=draws,
        confidence=confidence,
    )
