"""The adapter of Reasoning by Superposition: the construction, and probes of trained continuous thoughts."""

from __future__ import annotations

from pathlib import Path

from tycho.adapter import Arm, Method, MethodConfig, Paper, Run, knob


class SuperpositionConfig(MethodConfig):
    graphs: int = knob(500, "graphs that the construction is asked about", stage="analyse", ge=1)
    disturbed: int = knob(100, "of these, those of the sweeps of noise and dimensions", stage="analyse", ge=1)
    noise: list[float] = knob(
        [0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3],
        "standard deviations of the noise on a thought's coordinates (a thought has length 1)", stage="analyse",
    )  # fmt: skip
    dimensions: list[float] = knob(
        [0.25, 0.5, 0.75, 0.9, 1.0, 2.0],
        "dimensions of node embeddings, as shares of the number of nodes",
        stage="analyse",
    )
    draws: int = knob(5, "draws of embeddings with fewer dimensions than nodes", stage="analyse", ge=1)
    data: Path | None = knob(None, "a published file of ProsQA items, for task prosqa", stage="analyse")


class Superposition(Method):
    name = "superposition"
    title = "Reasoning by Superposition"
    says = (
        "A continuous thought can hold all nodes that a search has reached at once, so a two-layer transformer decides "
        "reachability in as many thoughts as the target is hops away."
    )
    paper = Paper(
        "Reasoning by Superposition: A Theoretical Perspective on Chain of Continuous Thought", "2505.12514", 2025
    )
    Config = SuperpositionConfig
    arms = {"construction": Arm("the paper's two-layer transformer, its weights written down; nothing is trained")}
    tasks = {
        "graphs": "the common task's graphs: 14 nodes, 16 edges, three hops",
        "published": "graphs of ProsQA's generator: about 23 nodes and 36 edges, three to six hops",
        "prosqa": "graphs of a published ProsQA file (knob `data`)",
    }

    def stages(self, arm: str) -> tuple[str, ...]:
        return ("analyse",)

    def analyse(self, run: Run) -> None:
        from methods.superposition.measure import measure

        measure(run)

    def synthesise(self, run: Run) -> None:
        from methods.superposition.synthesise import synthesise

        synthesise(run)
