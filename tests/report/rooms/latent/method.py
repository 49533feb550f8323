"""Synthetic: a method that holds."""

from tycho.adapter import Arm, Need, Paper
from tycho.keys import JobKey

from ..drawn import Drawn, comparison


class Latent(Drawn):
    name = "latent"
    title = "Latent steps"
    says = "Reasoning steps are taken in the model's hidden state instead of being written out."
    paper = Paper("A synthetic paper on latent steps", "2501.00001", 2025)
    arms = {
        "latent": Arm("steps in hidden state", config={"accuracy": 0.91, "tokens": 9.0}),
        "written": Arm("steps written out", "baseline", {"accuracy": 0.79, "tokens": 41.0}),
        "direct": Arm("no steps: the floor", "control", {"accuracy": 0.35, "tokens": 2.0}),
        "pause": Arm("as many empty tokens as latent steps", "control", {"accuracy": 0.52, "tokens": 9.0}),
        "shuffled": Arm("latent steps of another example", "control", {"accuracy": 0.5}),
        "base": Arm("the model all arms start from", "ingredient", {"accuracy": 0.3, "steps": 30}),
    }
    tasks = {"chains": "chains of modular products"}

    def needs(self, key, config):
        return {} if key.arm == "base" else {"base": Need(JobKey(key.scale, "latent", "base", key.task, key.seed))}

    def stages(self, arm):
        return ("train", "evaluate") if arm == "base" else super().stages(arm)

    def synthesise(self, run):
        comparison(run)
