"""The adapter of CoGS: networks trained on modular addition and taken apart in the ring, and the closed forms."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from tycho.adapter import Arm, Method, MethodConfig, Paper, Run, knob


class CogsConfig(MethodConfig):
    networks: int = knob(
        5, "networks trained as one batch: job s trains those of seeds s·networks, s·networks + 1, …", ge=1
    )
    width: int = knob(512, "hidden nodes q", unit="nodes", ge=1)
    weight_decay: float = knob(5e-5, "weight decay (coupled L2 under Adam)", ge=0)
    learning_rate: float = knob(0.01, "step size", gt=0)
    test_share: float = knob(0.1, "share of the d² pairs that is held out, rounded up", gt=0, lt=1)
    horizons: list[int] = knob(
        [10_000, 20_000], "epochs after which networks are taken apart; the last ends the training", unit="epochs"
    )
    weight_decays: list[float] = knob([], "weight decays of a sweep, besides `weight_decay`")
    widths: list[int] = knob([], "widths of a sweep, besides `width`", unit="nodes")
    crossed: bool = knob(
        False, "whether the two sweeps are crossed, as in the published grid, or one knob changes at a time"
    )
    snapshots: list[int] = knob(
        [0, 3, 10, 30, 100, 200, 300, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 12_000, 14_000, 16_000, 18_000],
        "epochs whose weights are kept for the curves, besides the horizons (not in sweeps)", unit="epochs",
    )  # fmt: skip
    evaluate_every: int = knob(
        250, "epochs between evaluations, besides the dense and log-spaced ones", unit="epochs", ge=1
    )
    instances: int = knob(20, "random draws of each closed form", stage="analyse", ge=1)
    unrelated: int = knob(500, "sets of unrelated nodes that are put to the classifier", stage="analyse", ge=1)

    @field_validator("horizons")
    @classmethod
    def _rising(cls, horizons: list[int]) -> list[int]:
        if not horizons or horizons[0] < 1 or horizons != sorted(set(horizons)):
            raise ValueError("horizons are epochs from 1 on, in rising order")
        return horizons


class Cogs(Method):
    name = "cogs"
    title = "CoGS: composing global solutions"
    says = (
        "Weights of networks that solve modular addition form a ring, and the loss sees them through ring homomorphisms "
        "alone; so solutions can be composed by algebra, and those that training finds factor into the same parts."
    )
    paper = Paper(
        "Composing Global Solutions to Reasoning Tasks via Algebraic Objects in Neural Nets", "2410.01779", 2024
    )
    Config = CogsConfig
    arms = {
        "trained": Arm("Adam with weight decay, as in the paper's table; its sweeps are settings of this arm"),
        "no_weight_decay": Arm(
            "the same networks without weight decay",
            role="control",
            config={"weight_decay": 0.0, "weight_decays": [], "widths": []},
        ),
        "closed_forms": Arm("the ring, its solutions and the classifier; nothing is trained"),
    }
    tasks = {"z23": "addition modulo 23", "z71": "addition modulo 71", "z127": "addition modulo 127"}

    def stages(self, arm: str) -> tuple[str, ...]:
        return ("analyse",) if arm == "closed_forms" else ("train", "analyse")

    def train(self, run: Run) -> None:
        from methods.cogs.train import train

        train(run)

    def analyse(self, run: Run) -> None:
        from methods.cogs import analyse, closed_forms

        closed_forms.measure(run) if run.key.arm == "closed_forms" else analyse.trained(run)

    def synthesise(self, run: Run) -> None:
        from methods.cogs.synthesise import synthesise

        synthesise(run)


def network_seeds(run: Run) -> list[int]:
    """Seeds of the networks in the job's batch; a network's split and start do not depend on the batch it is in."""
    return [run.key.seed * run.config.networks + i for i in range(run.config.networks)]


def points(config: CogsConfig) -> list[dict[str, Any]]:
    """What a job trains: its own config first, then the sweeps, each as the knobs it changes."""
    decays = [{"weight_decay": value} for value in config.weight_decays]
    widths = [{"width": value} for value in config.widths]
    both = [decay | width for width in widths for decay in decays] if config.crossed else []
    return [{}, *decays, *widths, *both]
