"""Synthetic: a baseline that crashes, and an arm that learns nothing."""

from tycho.adapter import Arm, Paper

from ..drawn import Drawn


class Threads(Drawn):
    name = "threads"
    title = "Parallel threads"
    says = "Independent parts of a derivation are written at the same time and joined."
    paper = Paper("A synthetic paper on threads", "2501.00003", 2025)
    arms = {
        "threads": Arm("parts written side by side", config={"accuracy": 0.74, "tokens": 88.0}),
        "serial": Arm("parts written one after another", "baseline", {"accuracy": 0.765, "tokens": 84.0}),
        "outline": Arm("an outline only", "baseline", {"crash": True}),
        "guess": Arm("guesses: the floor", "control", {"accuracy": 0.762}),
    }
    tasks = {"groups": "grouped modular products"}
