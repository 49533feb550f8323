"""Every kind and every verdict on synthetic records whose answer is known."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from reports.claims import Claim
from reports.estimands import NotRun, Records, values
from reports.judge import DTYPES, judge

JITTER = np.array([-0.01, 0.0, 0.01, 0.005, -0.005])


class World:
    """Synthetic records of method `m` at scale `quick`, task `t`."""

    def __init__(self):
        self.metric_rows, self.sample_rows, self.status_rows = [], [], []

    def job(self, arm: str, seed: int, state: str = "done", reason: str = "") -> None:
        self.status_rows.append(
            dict(scale="quick", method="m", arm=arm, task="t", seed=seed, state=state, reason=reason)
        )

    def metric(self, arm: str, values, name: str = "score_x", variant="", setting="", censored=False) -> World:
        censored = np.broadcast_to(censored, len(values))
        for seed, value in enumerate(values):
            self.job(arm, seed)
            keys = dict(scale="quick", method="m", arm=arm, task="t", seed=seed, variant=variant, setting=setting)
            self.metric_rows.append(
                dict(**keys, stage="analyse", name=name, step=pd.NA, value=value, censored=bool(censored[seed]))
            )
        return self

    def around(self, arm: str, value: float, seeds: int = 5, spread: float = 1.0, **more) -> World:
        """Metrics around a value; each arm's jitter has another order, so that paired differences vary."""
        order = np.random.default_rng(sum(map(ord, arm))).permutation(seeds)
        return self.metric(arm, value + spread * JITTER[:seeds][order], **more)

    def answers(self, arm: str, accuracy: float, seeds: int = 3, items: int = 300, draw: int = 0) -> World:
        rng = np.random.default_rng([draw, *map(ord, arm)])
        for seed in range(seeds):
            self.job(arm, seed)
            for item, correct in enumerate(rng.random(items) < accuracy):
                self.sample_rows.append(
                    dict(scale="quick", method="m", arm=arm, task="t", seed=seed, variant="", setting="", item=f"i{item}",
                         split="test", correct=bool(correct), score=float(correct), generated_tokens=10 + item % 7)
                )  # fmt: skip
        return self

    @property
    def records(self) -> SimpleNamespace:
        keys = ["scale", "method", "arm", "task", "seed"]
        point = [*keys, "variant", "setting"]
        metrics = pd.DataFrame(self.metric_rows, columns=[*point, "stage", "name", "step", "value", "censored"])
        columns = [*point, "item", "split", "correct", "score", "generated_tokens"]
        frames = {
            "metrics": metrics.astype({"step": "Int64"}),
            "samples": pd.DataFrame(self.sample_rows, columns=columns).astype({"generated_tokens": "Int64"}),
            "statuses": pd.DataFrame(self.status_rows, columns=[*keys, "state", "reason"]),
        }
        text = [*point, "stage", "name", "item", "split", "state", "reason"]
        return SimpleNamespace(
            **{kind: f.astype({c: "string" for c in f if c in text and c != "seed"}) for kind, f in frames.items()}
        )

    def judge(self, test: str, scale: str = "quick", room: dict | None = None, **more) -> pd.Series:
        return judge({"m": [claim(test, **more)]}, self.records, lambda _, name: (room or {}).get(name), scale).iloc[0]


def claim(test: str, id: str = "m.x", **more) -> Claim:
    source = {"arxiv": "2412.06769", "where": "Table 1", "read": "paper"}
    base = {"id": id, "says": "s", "fidelity": "analogue", "source": source}
    return Claim.model_validate({**base, "test": yaml.safe_load(test), **more})


def metric(kind: str, rest: str) -> str:
    return f"{{kind: {kind}, estimand: score_x, task: t, {rest}}}"


@pytest.mark.parametrize(
    ("kind", "rest", "supported", "contradicted", "inconclusive"),
    [
        ("greater", "of: a, than: b, margin: 0.1", 0.8, 0.5, 0.6),
        ("less", "of: a, than: b, margin: 0.1", 0.2, 0.5, 0.4),
        ("at_least", "of: a, than: b, margin: 0.1", 0.5, 0.2, 0.4),
        ("equivalent", "of: a, than: b, margin: 0.1", 0.5, 0.8, 0.6),
        ("ratio", "of: a, than: b, above: 1.2", 0.8, 0.5, 0.6),
        ("ratio", "of: a, than: b, above: 0.8, below: 1.2", 0.5, 0.8, 0.6),
        ("greater", "of: a, than: 0.5, margin: 0", 0.6, 0.4, 0.5),
        ("greater", "of: a, than: b, margin: 0.2, scale: log", 0.8, 0.5, 0.6),
    ],
)
def test_two_sided_kinds_reach_each_verdict(kind, rest, supported, contradicted, inconclusive):
    for verdict, value in [("supported", supported), ("contradicted", contradicted), ("inconclusive", inconclusive)]:
        row = World().around("a", value).around("b", 0.5).judge(metric(kind, rest))
        assert row["verdict"] == verdict, row
        assert row["seeds"] == 5 and row["low"] < row["effect"] < row["high"]
        assert (row["p"] < 0.025) == (verdict == "supported")
        assert bool(row["decides"]) == (verdict == "inconclusive")
        assert row["effect"] == pytest.approx(value / 0.5 if "ratio" in row["unit"] else value - 0.5, abs=0.02)


def test_ordered_and_its_parts():
    rest = "of: [a, b, c], margin: 0.05"
    for a, b, verdict in [(0.9, 0.7, "supported"), (0.7, 0.9, "contradicted"), (0.9, 0.55, "inconclusive")]:
        row = World().around("a", a).around("b", b).around("c", 0.5).judge(metric("ordered", rest))
        assert row["verdict"] == verdict
        parts = json.loads(row["parts"])
        assert [(part["of"], part["than"]) for part in parts] == [("a", "b"), ("b", "c")]
        assert row["p"] == pytest.approx(max(part["p"] for part in parts))


def test_all_needs_every_part():
    test = (
        "{kind: all, parts: [{kind: greater, estimand: score_x, task: t, of: a, than: b},"
        " {kind: ratio, estimand: tokens, task: t, of: a, than: b, below: 0.6},"
        " {kind: exact, estimand: error, task: t, of: a, tolerance: 1e-6}]}"
    )

    def row(score: float, tokens: float, error: float = 0.0) -> pd.Series:
        world = World().around("a", score).around("b", 0.5).around("a", tokens, name="tokens", spread=100)
        return world.around("b", 100, name="tokens", spread=100).metric("a", [error] * 5, name="error").judge(test)

    assert row(0.8, 50)["verdict"] == "supported"
    assert row(0.8, 80)["verdict"] == "contradicted"
    assert row(0.8, 80)["unit"] == "ratio of tokens"  # the failing part is the one shown
    assert row(0.8, 60)["verdict"] == "inconclusive"
    assert row(0.8, 50, 1e-3)["verdict"] == "contradicted"
    assert [part["verdict"] for part in json.loads(row(0.8, 60)["parts"])] == ["supported", "inconclusive", "supported"]


def test_a_conjunction_is_contradicted_only_if_a_part_survives_bonferroni():
    """One part just contradicted on its own: among two it is not enough, the whole stays inconclusive."""
    world = World().around("a", 0.8).around("b", 0.5)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=5)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    world.metric("a", noise - 2.9 / math.sqrt(5), name="weak")  # t = -2.9 at 4 degrees of freedom: p = 0.022
    parts = [metric("greater", "of: a, than: b"), "{kind: greater, estimand: weak, task: t, of: a, than: 0}"]
    row = world.judge(f"{{kind: all, parts: [{', '.join(parts)}]}}")
    assert [part["verdict"] for part in json.loads(row["parts"])] == ["supported", "contradicted"]
    assert row["verdict"] == "inconclusive" and "allowed for" in row["reason"]


@pytest.mark.parametrize(("exponent", "verdict"), [(1.0, "supported"), (0.5, "contradicted"), (0.8, "inconclusive")])
def test_slope_over_a_setting(exponent, verdict):
    world = World()
    for m in (23, 41, 71):
        world.around("a", 0.0, setting=f"K=512,M={m}")
    for row in world.metric_rows:
        m = int(row["setting"].split("M=")[1])
        row["value"] = 3 * m ** (exponent + row["value"])
    row = world.judge("{kind: slope, estimand: score_x, task: t, of: a, x: M, scale: log, above: 0.8, below: 1.2}")
    assert row["verdict"] == verdict
    assert row["effect"] == pytest.approx(exponent, abs=0.01) and row["unit"] == "ln score_x per ln M"


def test_slope_needs_one_thing_to_vary():
    world = World()
    for k in (256, 512):
        for m in (23, 41):
            world.metric("a", m + k / 1000 + m * JITTER, setting=f"K={k},M={m}")
    free = world.judge(metric("slope", "of: a, x: M, above: 0.8"))
    assert free["verdict"] == "not run" and "varies more than 'M'" in free["reason"]
    assert world.judge(metric("slope", "of: a, x: M, above: 0.8, setting: K=512"))["verdict"] == "supported"


def test_exact_is_the_largest_error_over_instances():
    def error(records, *, arm, task, variant, setting):
        return pd.DataFrame({"seed": 0, "instance": range(40), "value": np.linspace(-1e-9, 4e-9, 40)})

    world = World()
    world.job("theorem", 0)
    exact = "{kind: exact, estimand: gap, task: t, of: theorem, tolerance: %s}"
    good, bad = (world.judge(exact % tolerance, room={"gap": error}) for tolerance in ("1e-8", "3e-9"))
    assert (good["verdict"], good["effect"], good["items"]) == ("supported", 4e-9, 40)
    assert bad["verdict"] == "contradicted" and "of 40 instances miss 3e-09" in bad["reason"]
    assert np.isnan(good["p"]) and np.isnan(good["q"])


def test_items_make_one_seed_enough_and_say_so():
    world = World().answers("a", 0.9, seeds=1).answers("b", 0.5, seeds=1)
    row = world.judge("{kind: greater, estimand: accuracy, task: t, of: a, than: b}")
    assert (row["verdict"], row["seeds"], row["items"]) == ("supported", 1, 300)
    assert "one seed" in row["reason"]


def test_two_perfect_arms_are_equivalent_only_within_the_floor():
    world = World().answers("a", 1.1).answers("b", 1.1)
    test = "{kind: equivalent, estimand: accuracy, task: t, of: a, than: b, margin: %s}"
    assert world.judge(test % 0.03)["verdict"] == "supported"
    assert world.judge(test % 0.001)["verdict"] == "inconclusive"


def test_equal_seeds_without_a_grain_are_inconclusive():
    world = World().metric("a", [100.0] * 3).metric("b", [60.0] * 3)
    row = world.judge(metric("greater", "of: a, than: b"))
    assert row["verdict"] == "inconclusive" and "no variation" in row["reason"] and "resolution" in row["decides"]
    assert world.judge(metric("greater", "of: a, than: b, resolution: 10"))["verdict"] == "supported"


class TestFloor:
    test = metric("greater", "of: a, than: b")

    def test_nothing_learnt(self):
        world = World().around("a", 0.9).around("b", 0.5).around("none", 0.5)
        row = world.judge(self.test, floor="none")
        assert row["verdict"] == "not learnt at this scale"
        assert "b against its floor none" in row["reason"]
        assert row["attributable"] is pd.NA

    def test_learnt(self):
        world = World().around("a", 0.9).around("b", 0.5).around("none", 0.1)
        assert world.judge(self.test, floor="none")["verdict"] == "supported"
        assert world.judge(self.test, floor=0.3)["verdict"] == "supported"
        assert world.judge(self.test, floor=0.6)["verdict"] == "not learnt at this scale"

    def test_full_test_and_missing_floor(self):
        world = World().around("a", 0.9).around("b", 0.5)
        full = {"kind": "greater", "estimand": "score_x", "task": "t", "of": "a", "than": 0.95}
        assert world.judge(self.test, floor=full)["verdict"] == "not learnt at this scale"
        row = world.judge(self.test, floor="absent")
        assert row["verdict"] == "not run" and row["reason"].startswith("floor: arm 'absent'")

    def test_a_contradicted_claim_is_not_learnt_either(self):
        world = World().around("a", 0.4).around("b", 0.5).around("none", 0.5)
        assert world.judge(self.test, floor="none")["verdict"] == "not learnt at this scale"


class TestControls:
    test = metric("greater", "of: a, than: b")

    @pytest.mark.parametrize(
        ("control", "outcome", "attributable"),
        [
            (0.9, "explains it away", False),
            (1.5, "explains it away", False),
            (0.5, "ruled out", True),
            (0.85, "open", None),
        ],
    )
    def test_equivalent_to_the_method_or_better(self, control, outcome, attributable):
        world = World().around("a", 0.9).around("b", 0.5).around("c", control)
        row = world.judge(
            self.test, explains_away=[{"arm": "c", "test": "equivalent", "margin": 0.05, "says": "pauses"}]
        )
        (found,) = json.loads(row["controls"])
        assert (row["verdict"], found["outcome"], found["says"]) == ("supported", outcome, "pauses")
        assert (
            row["attributable"] is (pd.NA if attributable is None else attributable)
            or row["attributable"] == attributable
        )

    @pytest.mark.parametrize(("control", "outcome"), [(0.8, "explains it away"), (0.5, "ruled out"), (0.6, "open")])
    def test_greater_than_the_baseline(self, control, outcome):
        world = World().around("a", 0.9).around("b", 0.5).around("c", control)
        row = world.judge(self.test, explains_away=[{"arm": "c", "test": "greater", "margin": 0.1}])
        assert json.loads(row["controls"])[0]["outcome"] == outcome

    def test_one_of_several_is_enough_and_a_missing_one_leaves_it_open(self):
        world = World().around("a", 0.9).around("b", 0.5).around("good", 0.9).around("bad", 0.5)
        good, bad, gone = ({"arm": arm, "margin": 0.05} for arm in ("good", "bad", "gone"))
        assert not world.judge(self.test, explains_away=[bad, good, gone])["attributable"]
        row = world.judge(self.test, explains_away=[bad, gone])
        assert row["attributable"] is pd.NA
        assert "not among the jobs" in json.loads(row["controls"])[1]["reason"]

    def test_a_claim_that_is_not_supported_has_nothing_to_attribute(self):
        world = World().around("a", 0.4).around("b", 0.5).around("c", 0.4)
        row = world.judge(self.test, explains_away=[{"arm": "c", "margin": 0.05}])
        assert row["verdict"] == "contradicted" and row["attributable"] is pd.NA

    def test_full_test(self):
        world = World().around("a", 0.9).around("b", 0.5).around("a", 9, name="flops_x").around("b", 3, name="flops_x")
        full = {"says": "compute", "kind": "greater", "estimand": "flops_x", "task": "t", "of": "a", "than": "b"}
        row = world.judge(self.test, explains_away=[full])
        assert json.loads(row["controls"])[0]["outcome"] == "explains it away" and not row["attributable"]

    @pytest.mark.parametrize("form", ["short", "full"])
    @pytest.mark.parametrize(("control", "outcome"), [(0.9, "explains it away"), (0.5, "ruled out")])
    def test_a_control_below_its_floor_says_nothing_either_way(self, form, control, outcome):
        world = World().around("a", 0.9).around("b", 0.5).around("c", control).around("c", 0.7, name="learnt")
        own = {"arm": "c", "margin": 0.05}
        if form == "full":
            own = {"kind": "at_least", "estimand": "score_x", "task": "t", "of": "c", "than": "a", "margin": 0.05}

        def judged(floor):
            row = world.judge(self.test, explains_away=[own | {"floor": floor}])
            assert row["verdict"] == "supported"
            return row, json.loads(row["controls"])[0]

        floor = {"kind": "greater", "estimand": "learnt", "task": "t", "of": "c"}
        row, found = judged(floor | {"than": 0.6})
        assert found["outcome"] == outcome and row["attributable"] == (outcome == "ruled out")
        for than in (0.8, 0.7):  # below the floor, and not surely above it
            row, found = judged(floor | {"than": than})
            assert found["outcome"] == "open" and row["attributable"] is pd.NA
            assert f"c against its floor {than:g}: " in found["reason"]
        row, found = judged(floor | {"of": "gone", "than": 0.6})
        assert found["outcome"] == "open" and found["reason"].startswith("floor: arm 'gone'")

    def test_a_floor_of_one_number_a_job_is_told_without_an_interval(self):
        world = World().around("a", 0.9).around("b", 0.5).metric("c", [0.1], name="moved")
        floor = {"kind": "exact", "estimand": "moved", "task": "t", "of": "c", "than": 0.6, "tolerance": 0.2}
        row = world.judge(self.test, floor=floor)
        assert (
            row["verdict"] == "not learnt at this scale"
            and row["reason"] == "c: moved is 0.500 away from 0.6, more than is allowed"
        )
        assert world.judge(self.test, floor=floor | {"than": 0.3})["verdict"] == "supported"


class TestCensoring:
    """`b` never grokked by epoch 400; `a` did at about 100."""

    def world(self) -> World:
        world = World().around("a", 100.0, spread=500)
        return world.metric("b", [400.0] * 5, censored=True)

    def test_earlier_is_supported_and_the_effect_is_a_bound(self):
        row = self.world().judge(metric("less", "of: a, than: b, margin: 100"))
        assert (row["verdict"], row["bound"], row["low"]) == ("supported", True, -math.inf)
        assert row["effect"] == pytest.approx(-300, abs=5)
        ratio = self.world().judge(metric("ratio", "of: b, than: a, above: 3"))
        assert ratio["verdict"] == "supported" and ratio["high"] == math.inf

    def test_what_lies_beyond_the_horizon_is_open(self):
        row = self.world().judge(metric("less", "of: a, than: b, margin: 350"))
        assert row["verdict"] == "inconclusive" and "longer run" in row["decides"]
        assert self.world().judge(metric("equivalent", "of: a, than: b, margin: 350"))["verdict"] == "inconclusive"

    def test_later_is_contradicted(self):
        assert self.world().judge(metric("greater", "of: a, than: b"))["verdict"] == "contradicted"
        assert self.world().judge(metric("equivalent", "of: a, than: b, margin: 10"))["verdict"] == "contradicted"

    def test_two_censored_sides_say_nothing(self):
        world = self.world().metric("c", [400.0] * 5, censored=True)
        row = world.judge(metric("less", "of: b, than: c"))
        assert row["verdict"] == "inconclusive" and np.isnan(row["effect"])
        ratio = world.judge(metric("ratio", "of: b, than: c, below: 1"))
        assert np.isnan(ratio["effect"]) and (ratio["low"], ratio["high"]) == (0, math.inf)

    def test_one_censored_seed_is_not_dropped(self):
        world = World().around("a", 100.0, spread=500).metric("b", [90, 95, 92, 91, 400.0], censored=[0, 0, 0, 0, 1])
        row = world.judge(metric("greater", "of: a, than: b"))
        assert row["verdict"] == "inconclusive" and row["seeds"] == 5  # without that seed it would read supported


class TestNotRun:
    test = metric("greater", "of: a, than: b")

    def test_a_failed_job_gives_its_reason(self):
        world = World().around("a", 0.9)
        world.job("b", 0, "failed", "out of memory")
        row = world.judge(self.test)
        assert row["verdict"] == "not run" and row["reason"] == "b/t/seed0 failed: out of memory"
        assert (row["of"], row["than"]) == ("a", "b")

    def test_a_seed_that_failed_is_named_beside_the_verdict(self):
        world = World().around("a", 0.9).metric("b", [0.5, 0.51, 0.49, 0.5])
        world.job("b", 4, "failed", "disk full")
        row = world.judge(self.test)
        assert row["verdict"] == "supported" and row["seeds"] == 4
        assert "seeds [4]" in row["reason"] and "disk full" in row["reason"]

    def test_an_arm_of_another_scale_or_without_the_metric(self):
        assert "not among the jobs of scale 'quick'" in World().around("a", 0.9).judge(self.test)["reason"]
        row = (
            World().around("a", 0.9).around("b", 0.5).judge("{kind: greater, estimand: nope, task: t, of: a, than: b}")
        )
        assert row["reason"] == "a/t ran, but recorded no 'nope'"

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_values_that_are_not_finite(self, value):
        row = World().metric("a", [0.9, value, 0.8]).around("b", 0.5, seeds=3).judge(self.test)
        assert row["verdict"] == "not run" and "not finite in 1 of 3 rows of a/t (first at seed 1)" in row["reason"]

    def test_variant_and_setting_are_exact(self):
        world = World().around("a", 0.9, variant="low").around("b", 0.5, setting="M=23")
        assert "no variant ''; there is: 'low'" in world.judge(self.test)["reason"]
        row = world.judge(metric("greater", "of: {arm: a, variant: low}, than: {arm: b, setting: {M: 23}}"))
        assert row["verdict"] == "supported" and (row["of"], row["than"]) == ("a[low]", "b @M=23")

    def test_a_room_that_raises_or_returns_nonsense(self):
        def broken(records, **_):
            raise KeyError("no such column")

        world = World().around("a", 0.9).around("b", 0.5)
        assert "KeyError" in world.judge(self.test, room={"score_x": broken})["reason"]
        assert "columns seed and value" in world.judge(self.test, room={"score_x": lambda *_, **__: 3})["reason"]

    def test_no_seed_in_common_and_no_logarithm(self):
        def by_arm(records, *, arm, task, variant, setting):
            return pd.DataFrame({"seed": [0, 1] if arm == "a" else [2, 3], "value": [1.0, 2.0]})

        assert "no seed in common" in World().judge(self.test, room={"score_x": by_arm})["reason"]
        row = World().around("a", 0.0).around("b", 0.5).judge(metric("ratio", "of: a, than: b, above: 2"))
        assert row["verdict"] == "not run" and "above 0" in row["reason"]

    def test_one_claim_does_not_take_the_others_away(self):
        world = World().around("a", 0.9).around("b", 0.5)
        good, bad = claim(self.test, id="m.good"), claim(metric("greater", "of: a, than: gone"), id="m.bad")
        frame = judge(
            {"m": [bad, good], "other": [claim(self.test, id="other.x")]}, world.records, lambda *_: None, "quick"
        )
        assert list(frame["verdict"]) == ["not run", "supported", "not run"]
        assert np.isnan(frame["q"].iloc[0]) and frame["q"].iloc[1] == frame["p"].iloc[1]


def test_smoke_infers_nothing_but_still_names_what_failed():
    world = World().around("a", 0.9).around("b", 0.5)
    for rows in (world.metric_rows, world.status_rows):
        for row in rows:
            row["scale"] = "smoke"
    control = [{"arm": "b", "margin": 0.05}]
    row = world.judge(metric("greater", "of: a, than: b"), scale="smoke", explains_away=control)
    assert row["verdict"] == "suppressed" and np.isnan(row["p"]) and row["attributable"] is pd.NA
    assert json.loads(row["controls"])[0]["outcome"] == "open"
    assert world.judge(metric("greater", "of: a, than: c"), scale="smoke")["verdict"] == "not run"


def test_the_frame_has_its_columns_even_when_empty_and_survives_parquet(tmp_path):
    empty = judge({}, World().records, lambda *_: None, "quick")
    assert list(empty) == list(DTYPES) and len(empty) == 0
    world = World().around("a", 0.9).around("b", 0.5)
    paper = {"a": 97.0, "note": "says so"}
    frame = judge(
        {"m": [claim(metric("greater", "of: a, than: b"), paper=paper)]}, world.records, lambda *_: None, "quick"
    )
    frame.to_parquet(tmp_path / "claims.parquet")
    back = pd.read_parquet(tmp_path / "claims.parquet").iloc[0]
    assert json.loads(back["paper"]) == paper and json.loads(back["source"])["where"] == "Table 1"


def test_the_order_of_rows_changes_nothing():
    world = World().answers("a", 0.7).answers("b", 0.6)
    test = "{kind: greater, estimand: accuracy, task: t, of: a, than: b}"
    first = world.judge(test)
    world.sample_rows.reverse()
    second = world.judge(test)
    assert first[["effect", "low", "high", "p"]].to_list() == pytest.approx(
        second[["effect", "low", "high", "p"]].to_list()
    )


class TestEstimands:
    def find(self, world: World, name: str, room=None, **more) -> pd.DataFrame:
        test = claim(f"{{kind: greater, estimand: {name}, task: t, of: a, than: 0}}").test
        side = test.fill(test.of).model_copy(update=more)
        return values(Records.of(world.records, "quick", "m"), side, lambda *_: room)

    def test_room_then_samples_then_metrics(self):
        world = World().answers("a", 0.7, seeds=2, items=50).around("a", 5.0, seeds=2, name="accuracy")
        frame = self.find(world, "accuracy")
        assert len(frame) == 100 and set(frame["value"]) == {0.0, 1.0}
        assert self.find(world, "generated_tokens")["value"].between(10, 16).all()
        own = self.find(world, "accuracy", room=lambda records, **_: pd.DataFrame({"seed": [0], "value": [2]}))
        assert own["value"].to_list() == [2.0] and not own["censored"].any()
        assert len(self.find(World().around("a", 5.0, name="zap"), "zap")) == 5

    def test_only_final_values_of_the_scale_count(self):
        world = World().metric("a", [1.0, 2.0], name="zap")
        world.metric_rows.append({**world.metric_rows[0], "step": 10, "value": 99.0})
        world.metric_rows.append({**world.metric_rows[0], "scale": "paper", "value": 99.0})
        assert self.find(world, "zap")["value"].to_list() == [1.0, 2.0]
        world.metric_rows.append({**world.metric_rows[0], "value": 3.0})
        with pytest.raises(NotRun, match="several values at seed 0"):
            self.find(world, "zap")

    def test_repeats_of_an_item_are_averaged_and_missing_values_refused(self):
        world = World().answers("a", 1.1, seeds=1, items=2)
        world.sample_rows.append({**world.sample_rows[0], "correct": False})
        assert sorted(self.find(world, "accuracy")["value"]) == [0.5, 1.0]
        world.sample_rows[0]["generated_tokens"] = None
        with pytest.raises(NotRun, match="missing or not finite in 1 of 3"):
            self.find(world, "generated_tokens")

    def test_other_splits_are_left_alone(self):
        world = World().answers("a", 1.1, seeds=1, items=4)
        world.sample_rows[0]["split"] = "train"
        assert len(self.find(world, "accuracy")) == 3
        for row in world.sample_rows:
            row["split"] = "valid"
        with pytest.raises(NotRun, match="only \\['valid'\\]"):
            self.find(world, "accuracy")
