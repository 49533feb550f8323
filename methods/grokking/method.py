"""The adapter of grokking: Figure 3 of Provable Scaling Laws of Feature Emergence, and its closed forms."""

from __future__ import annotations

from typing import Literal

from tycho.adapter import Arm, Method, MethodConfig, Paper, Run, knob


class GrokkingConfig(MethodConfig):
    train_pairs: int = knob(2016, "training examples out of the group's M² pairs", unit="pairs", ge=1)
    width: int = knob(2048, "hidden nodes K", unit="nodes", ge=1)
    epochs: int = knob(400, "full-batch steps", unit="epochs", ge=1)
    learning_rate: float = knob(1e-3, "step size", gt=0)
    weight_decay: float = knob(
        2e-4, "weight decay (coupled L2 under adam; a ridge of n·wd/2 in the paper's formulas)", ge=0
    )
    optimiser: Literal["adam", "adamw", "sgd", "muon"] = knob("adam", "optimiser")
    activation: Literal["square", "relu", "relu_square", "silu"] = knob("square", "σ")
    centre: Literal["classes", "samples"] = knob(
        "classes", "mean removed over: classes (public code) or samples (paper, eq. 1)"
    )
    output_scale: float = knob(1.0, "scale of V at the start; 0 is the paper's zero-init", ge=0)
    evaluate_every: int = knob(
        25, "epochs between evaluations, besides the dense and log-spaced ones", unit="epochs", ge=1
    )
    snapshots: list[int] = knob(
        [0, 10, 25, 50, 75, 100, 125, 150, 200, 250, 300, 350, 400], "epochs whose weights are kept for the meters"
    )
    network: Literal["two_layer", "mlp", "transformer"] = knob(
        "two_layer", "network: the paper's, or an anchor's (two hidden ReLU layers; one attention layer)"
    )
    loss: Literal["squared", "softmax", "stablemax"] = knob("squared", "loss; the paper's network has the squared one")
    gradient: Literal["plain", "grokfast", "orthogonal"] = knob(
        "plain", "what is done to an anchor's gradient before the optimiser sees it"
    )
    sweep: dict[str, list[float | str]] = knob(
        {},
        "knobs that are swept, every combination a network; besides this config's own names `ratio`: train size r·M·ln M",
    )
    width_ratio: float = knob(0.0, "width as a multiple of the group's order M; 0: `width`", ge=0)
    late: int = knob(100, "epoch from which the back-propagated gradient is compared", unit="epochs", stage="analyse")
    repulsion: list[int] = knob(
        [25, 100, 200, 400],
        "epochs at which the repulsion of similar nodes is measured",
        unit="epochs",
        stage="analyse",
    )
    shares: list[float] = knob(
        [0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9],
        "shares of the table on which single nodes climb their energy", stage="analyse",
    )  # fmt: skip
    starts: int = knob(100, "random starts of the energy ascent", stage="analyse")


SWEEP = {"width": 512, "train_pairs": 317, "epochs": 4000, "evaluate_every": 50, "snapshots": []}
RATIOS = [1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.25, 3.5, 4.0]
# The anchors' network and task: 40 % of the table, no weight decay unless an arm says so.
ANCHOR = {
    "network": "mlp", "loss": "softmax", "width": 200, "train_pairs": 1124, "epochs": 3000, "weight_decay": 0.0, "learning_rate": 0.01,
    "evaluate_every": 20, "snapshots": [],
}  # fmt: skip
BOUNDARY = SWEEP | {"learning_rate": 1e-3, "sweep": {"ratio": RATIOS}}


class Grokking(Method):
    name = "grokking"
    title = "Grokking: provable scaling laws"
    says = (
        "A two-layer network on group arithmetic first memorises; weight decay keeps a gradient alive that pulls hidden "
        "nodes to single frequencies, and only then does it generalise."
    )
    paper = Paper("Provable Scaling Laws of Feature Emergence from Learning Dynamics of Grokking", "2509.21519", 2025)
    Config = GrokkingConfig
    arms = {
        "weight_decay": Arm("Adam with weight decay, as in Figure 3"),
        "no_weight_decay": Arm("the same run without weight decay", role="control", config={"weight_decay": 0.0}),
        "weight_decay_narrow": Arm(
            "with weight decay at a quarter of the width", role="control", config={"width": 512}
        ),
        "no_weight_decay_narrow": Arm(
            "without weight decay at a quarter of the width", role="control", config={"width": 512, "weight_decay": 0.0}
        ),
        "boundary": Arm(
            "sweep of the train size at a width of 16 M: where does the network start to generalise?",
            config=BOUNDARY | {"width_ratio": 16.0},
        ),
        "narrow_boundary": Arm("the same at a width of 4 M", role="control", config=BOUNDARY | {"width_ratio": 4.0}),
        "decay_sweep": Arm(
            "sweep of the weight decay",
            config=SWEEP | {"sweep": {"weight_decay": [3e-5, 1e-4, 2e-4, 5e-4, 1e-3]}},
        ),
        "rate_sweep": Arm(
            "sweep of the learning rate just above the boundary",
            config=SWEEP | {"width": 1024, "sweep": {"learning_rate": [5e-4, 2e-3, 5e-3, 2e-2], "ratio": [2.5]}},
        ),
        "zero_init": Arm(
            "output layer started at zero or as usual, few data",
            config=SWEEP
            | {"learning_rate": 5e-3, "weight_decay": 5e-5, "sweep": {"output_scale": [0.0, 1.0], "ratio": [3.0]}},
        ),
        "optimisers": Arm(
            "Adam, AdamW and Muon with one learning rate, at twice as many nodes as elements",
            config=SWEEP
            | {
                "width_ratio": 2.0,
                "learning_rate": 5e-3,
                "weight_decay": 5e-5,
                "sweep": {"optimiser": ["adam", "adamw", "muon"]},
            },
        ),
        "activations": Arm(
            "the square and other activations", config=SWEEP | {"sweep": {"activation": ["square", "relu", "silu"]}}
        ),
        "landscape": Arm(
            "the energy of single nodes on part of the table, without a network: do single frequencies survive?",
            role="control",
        ),
        "mlp": Arm("an anchor's network with softmax and no weight decay", role="baseline", config=ANCHOR),
        "mlp_decay": Arm(
            "the same with Grokfast's weight decay, which its own comparison left out",
            role="control",
            config=ANCHOR | {"weight_decay": 1e-3},
        ),
        "grokfast": Arm(
            "Grokfast (EMA of the gradient, added twice) with weight decay, as published",
            config=ANCHOR | {"weight_decay": 1e-3, "gradient": "grokfast"},
        ),
        "stablemax": Arm("StableMax in place of softmax, no weight decay", config=ANCHOR | {"loss": "stablemax"}),
        "orthogonal": Arm(
            "gradients without the part that scales weights, no weight decay",
            config=ANCHOR | {"gradient": "orthogonal"},
        ),
        "transformer": Arm(
            "a one-layer transformer with AdamW, for the progress measures",
            config=ANCHOR
            | {
                "network": "transformer",
                "width": 128,
                "train_pairs": 843,
                "optimiser": "adamw",
                "weight_decay": 1.0,
                "learning_rate": 1e-3,
                "epochs": 6000,
                "snapshots": [0, 50, 100, 200, 300, 500, 700, 1000, 1500, 2000, 2500, 3000, 3500, 4000, 5000],
            },
        ),
        "closed_forms": Arm("the paper's formulas against independent computation; nothing is trained"),
    }
    tasks = {
        **{f"z{m}": f"addition modulo {m}" for m in (11, 13, 17, 19, 29, 31, 41, 53, 97)},
        "z4xz7": "the product group Z4 x Z7",
        "d11": "the dihedral group of order 22, not Abelian",
        "z23": "addition modulo 23",
        "z71": "addition modulo 71 (Figure 3)",
    }

    def stages(self, arm: str) -> tuple[str, ...]:
        if self.arms[arm].config.get("sweep"):
            return ("train",)
        if arm in ("closed_forms", "landscape"):
            return ("analyse",)
        return ("train", "analyse") if "network" in self.arms[arm].config else ("train", "evaluate", "analyse")

    def train(self, run: Run) -> None:
        if run.config.sweep:
            from methods.grokking.sweep import sweep

            return sweep(run)
        if run.config.network != "two_layer":
            from methods.grokking.anchor_training import run_training

            return run_training(run)
        from safetensors.torch import save_file

        from methods.grokking import network, training
        from tycho.tasks import groups

        config = run.config
        seen, unseen = data(run)
        restored = run.restore()
        if restored:
            state, kept = restored[1]["state"], restored[1]["kept"]
        else:
            order = groups.group(run.key.task).order
            first = network.initialise(order, config.width, [run.generator("init")], config.output_scale)
            state, kept = training.start(first), {}
        at = training.schedule(config.epochs, every=config.evaluate_every)
        at = sorted({*at, *(epoch for epoch in config.snapshots if epoch <= config.epochs)})
        done = int(state["epoch"])
        left = [epoch for epoch in at if epoch > done or not restored]
        loop = training.train(
            state, seen, unseen, config.epochs, left, config.learning_rate, config.weight_decay,
            config.optimiser, config.activation, config.centre,
        )  # fmt: skip
        for point in run.progress(loop, total=len(at), start=len(at) - len(left)):
            run.log(
                point.epoch,
                train_accuracy=float(point.train_accuracy),
                train_loss=float(point.train_loss),
                test_accuracy=float(point.test_accuracy),
                test_loss=float(point.test_loss),
            )
            if point.epoch in config.snapshots:
                kept[str(point.epoch)] = {name: point.state[name][0].clone() for name in ("W", "V")}
            run.checkpoint(point.epoch, lambda: {"state": state, "kept": kept})
        kept[str(config.epochs)] = {name: state[name][0] for name in ("W", "V")}
        tensors = {f"{epoch}/{name}": t.contiguous() for epoch, both in kept.items() for name, t in both.items()}
        run.save_model(lambda folder: save_file(tensors, folder / "snapshots.safetensors"))
        order = state["V"].shape[2]
        run.count(flops=config.epochs * network.step_flops(config.train_pairs, config.width, order))

    def evaluate(self, run: Run) -> None:
        from methods.grokking.evaluate import evaluate

        evaluate(run)

    def analyse(self, run: Run) -> None:
        from methods.grokking import analyse, closed_forms, stages

        if run.key.arm == "closed_forms":
            closed_forms.measure(run)
        elif run.key.arm == "landscape":
            stages.landscape(run)
        elif run.config.network != "two_layer":
            stages.anchor(run)
        else:
            analyse.trained(run)

    def synthesise(self, run: Run) -> None:
        from methods.grokking.synthesise import figures

        figures(run)


def data(run: Run):
    """Training and test examples of the run's task and seed, with a leading network axis of one."""
    from methods.grokking.network import examples
    from tycho.tasks import groups

    group = groups.group(run.key.task)
    seen, unseen = groups.split(group.order**2, run.config.train_pairs, run.generator("split"))
    table = groups.pairs(group)
    return examples(table, [seen]), examples(table, [unseen])
