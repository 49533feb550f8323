"""A trained policy's exact likelihood between its bounds, and the variance of Mix's gradient against ω."""

from __future__ import annotations

import altair as alt
import pandas as pd
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from methods.spg import exact, identities
from methods.spg.train import load_policy
from tycho.adapter import Run


@torch.no_grad()
def measure(run: Run) -> None:
    config = run.config
    policy = load_policy(run.job.model, run.key.task, config, run.device).eval()
    world = policy.world
    if world.style == "tagged":
        return  # an answer among words has no handful of tokens whose masks could be enumerated
    puzzles = world.held_out(config.sandwich_items, "test")
    prompts, keep = world.prompts([puzzles.prompt(row) for row in range(len(puzzles))])
    targets = world.targets([_answer(puzzles, row) for row in range(len(puzzles))])
    generator = run.generator("sandwich")
    rows, curves, order = [], [], max(config.beta, 1.0)
    for row in range(len(puzzles)):
        n = min(config.sandwich_tokens, world.n)
        positions = torch.randperm(world.n, generator=generator)[:n].sort().values
        kept = None if keep is None else keep[row]
        table, scores = _table(policy, prompts[row], kept, targets[row], positions, generator)
        rows.append(
            {
                "elbo": float(exact.elbo(table)),
                "log_likelihood": float(exact.log_likelihood(table)),
                "eubo": float(exact.eubo(table, float(n))),
                "eubo_beta": float(exact.eubo(table, order)),
                "scaled_eubo": float(exact.scaled_eubo(table, order)),
            }
        )
        curves += [{"omega": w, "variance": v} for w, v in identities.curve(table, scores, order)]
    frame = pd.DataFrame(rows).sort_values("log_likelihood", ignore_index=True)
    run.table("sandwich", frame.reset_index(names="puzzle"))
    for upper in ("eubo", "scaled_eubo"):
        violated = [frame.elbo - frame.log_likelihood, frame.log_likelihood - frame[upper]]
        run.metric("sandwich_violation", max(0.0, *(float(part.max()) for part in violated)), variant=upper)
    run.metric("above_without_constant", float((frame.eubo_beta >= frame.log_likelihood).mean()))
    run.metric("sandwich_width", float((frame.eubo - frame.elbo).mean()))
    variance = pd.DataFrame(curves).groupby("omega").variance.median()
    run.metric("least_variance_omega", float(variance.idxmin()))
    run.metric("mix_variance", float(variance.loc[0.5]))
    run.metric("eubo_variance", float(variance.loc[1.0]))
    if run.key.seed == 0:
        _sandwich(run, frame)
        _variance(run, variance)


def _answer(puzzles, row: int) -> str:
    return puzzles.answers[row] if hasattr(puzzles, "answers") else puzzles.target(row)


def _table(policy, prompt, keep, x, positions, generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The conditionals of one completion [2^n, n], and their derivatives along a random direction of the weights."""
    weights = {name: value.detach() for name, value in policy.named_parameters()}
    direction = {name: torch.randn(value.shape, generator=generator) for name, value in weights.items()}

    def table(moved: dict[str, torch.Tensor]) -> torch.Tensor:
        def denoise(z: torch.Tensor) -> torch.Tensor:
            kept = None if keep is None else keep.expand(len(z), -1)
            inputs = (prompt.expand(len(z), -1), kept, z)
            return policy.log_softmax(torch.func.functional_call(_Logits(policy), moved, inputs))

        return exact.conditionals(denoise, x, positions, policy.world.mask_token)

    moved, tangent = ({f"policy.{name}": value for name, value in part.items()} for part in (weights, direction))
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no forward-mode derivative
        return torch.func.jvp(table, (moved,), (tangent,))


class _Logits(torch.nn.Module):
    """The policy's logits as a module's forward pass."""

    def __init__(self, policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, prompt, keep, z):
        return self.policy.logits(prompt, keep, z)


def _sandwich(run: Run, frame: pd.DataFrame) -> None:
    long = frame.reset_index(names="puzzle").melt("puzzle", ["elbo", "log_likelihood", "eubo"], "what", "value")
    names = {"elbo": "ELBO", "log_likelihood": "log π", "eubo": "EUBO (β = n)"}
    long = long.assign(what=long.what.map(names))
    base = alt.Chart().encode(
        x=alt.X("puzzle:O", title="puzzle, by likelihood", axis=alt.Axis(labels=False, ticks=False))
    )
    rule = base.mark_rule(opacity=0.5).encode(y="min(value):Q", y2="max(value):Q")
    dots = base.mark_point(filled=True, size=34).encode(
        y=alt.Y("value:Q", title="nats"), color=alt.Color("what:N", title=None, sort=list(names.values()))
    )
    run.figure(
        "sandwich", alt.layer(rule, dots, data=long).properties(width=380, height=220),
        f"The exact likelihood of {run.config.sandwich_tokens} hidden tokens, by enumeration, lies between its bounds in every "
        f"puzzle: {(frame.log_likelihood - frame.elbo).mean():.2f} nats above the lower one, {(frame.eubo - frame.log_likelihood).mean():.2f} "
        f"below the upper one of order n, which needs no constant. The order that is trained with, {max(run.config.beta, 1.0):g}, is "
        f"above the likelihood without its constant in {(frame.eubo_beta >= frame.log_likelihood).mean():.0%} of the puzzles.",
    )  # fmt: skip


def _variance(run: Run, variance: pd.Series) -> None:
    frame = variance.reset_index()
    chart = (
        alt.Chart(frame)
        .mark_line()
        .encode(
            x=alt.X("omega:Q", title="ω, share of the upper bound"),
            y=alt.Y("variance:Q", title="gradient variance (ELBO = 1)"),
        )
        .properties(width=340, height=200)
    )
    run.figure(
        "variance", chart,
        f"Variance of one draw of Mix's gradient, median over puzzles, along random directions of the weights: {variance.loc[0.5]:.2f} of "
        f"the lower bound's at ω = 0.5, {variance.loc[1.0]:.2f} at the upper bound alone, least at ω = {variance.idxmin():.2f}.",
    )  # fmt: skip
