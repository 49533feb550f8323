"""Synthetic: a claim that holds for another reason, and one that too few seeds leave open."""

from tycho.adapter import Arm, Paper

from ..drawn import Drawn, comparison


class Stopping(Drawn):
    name = "stopping"
    title = "Stopping by confidence"
    says = "A trace that is unsure of itself is ended early, and its vote is lost."
    paper = Paper("A synthetic paper on stopping", "2501.00002", 2025)
    arms = {
        "confident": Arm("unsure traces are ended", config={"accuracy": 0.84, "tokens": 310.0}),
        "majority": Arm("every trace runs to its end and has a vote", "baseline", {"accuracy": 0.72, "tokens": 640.0}),
        "random_stop": Arm("as many traces ended, drawn at random", "control", {"accuracy": 0.845, "tokens": 312.0}),
        "cut": Arm("every trace is cut at one length", "baseline", {"accuracy": 0.6, "tokens": 300.0}),
        "weighted": Arm("votes weighted by confidence", "method", {"accuracy": 0.74, "tokens": 640.0, "spread": 0.04}),
    }
    tasks = {"chains": "chains of modular products"}

    def synthesise(self, run):
        comparison(run)
