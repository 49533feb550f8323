"""Synthetic: a theorem, exact and as a slope, over a sweep of settings."""

from tycho.adapter import Arm, Paper
from tycho.keys import setting

from ..drawn import Drawn


class Updates(Drawn):
    name = "updates"
    title = "Where updates go"
    says = "An identity between two norms, checked on instances, and how an error falls with width."
    paper = Paper("A synthetic theorem", "2501.00004", 2025)
    arms = {"theorem": Arm("the identity")}
    tasks = {"instances": "random matrices"}

    def stages(self, arm):
        return ("analyse",)

    def analyse(self, run):
        rng = run.rng("instances")
        run.metric("identity_error", 3e-13 * rng.random())
        for width in (8, 16, 32, 64, 128):
            error = 1.7 / width * (1 + 0.02 * rng.standard_normal())
            run.metric("error", error, setting=setting(width=width))
            run.metric("steps_to_zero", 40.0 * width, setting=setting(width=width), censored=width > 64)
