"""The schema of claims.yaml: what it takes, and what it says when it refuses."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from reports.claims import KINDS, Claim, arms_named, load_claims
from tycho.errors import TychoError

COCONUT = """
- id: coconut.beats-cot
  says: On ProsQA, continuous thoughts beat written chains of thought.
  source: {arxiv: 2412.06769, where: Table 1, read: paper}
  paper: {coconut: 97.0, cot: 77.5, note: three seeds}
  fidelity: analogue
  test: {kind: greater, estimand: accuracy, task: graphs, of: coconut, than: cot, margin: 0}
  floor: no_cot
  explains_away:
  - {arm: pause, test: equivalent, margin: 0.03, says: Pauses do as well.}
  - {says: More compute does it., kind: greater, estimand: flops, task: graphs-big, of: coconut, than: cot}
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def claim(test: str, **more: object) -> Claim:
    base = {
        "id": "m.x",
        "says": "s",
        "fidelity": "analogue",
        "source": {"arxiv": "2412.06769", "where": "T", "read": "paper"},
    }
    return Claim.model_validate({**base, "test": yaml.safe_load(test), **more})


def test_the_example_of_the_plan(tmp_path):
    (one,) = load_claims(write(tmp_path / "claims.yaml", COCONUT))
    assert (one.test.of.arm, one.test.than.arm, one.floor.arm) == ("coconut", "cot", "no_cot")
    assert one.paper == {"coconut": 97.0, "cot": 77.5, "note": "three seeds"}
    assert arms_named(one) == {
        ("coconut", "graphs"), ("cot", "graphs"), ("no_cot", "graphs"), ("pause", "graphs"),
        ("coconut", "graphs-big"), ("cot", "graphs-big"),
    }  # fmt: skip


def test_what_a_controls_floor_uses_is_named_too():
    part = {"kind": "greater", "estimand": "e", "task": "u", "of": "c", "than": 0.5}
    full = {
        "kind": "less",
        "estimand": "e",
        "task": "t",
        "of": "d",
        "than": "b",
        "says": "s",
        "floor": part | {"of": "d"},
    }
    one = claim(
        "{kind: greater, estimand: e, task: t, of: a, than: b}", explains_away=[{"arm": "c", "floor": part}, full]
    )
    assert arms_named(one) == {("a", "t"), ("b", "t"), ("c", "t"), ("d", "t"), ("c", "u"), ("d", "u")}
    assert one.explains_away[1].says == "s" and one.explains_away[1].floor.of.arm == "d"


@pytest.mark.parametrize("written", ["2410.01770", "2512.00010", "2509.21519v5", "0704.0001", "1412.0010"])
def test_an_unquoted_arxiv_number_keeps_its_zeros(tmp_path, written):
    (one,) = load_claims(write(tmp_path / "c.yaml", COCONUT.replace("2412.06769", written)))
    assert one.source.arxiv == written


def test_sides_may_differ_in_arm_variant_setting_task_and_estimand():
    one = claim(
        "{kind: less, estimand: generated_tokens, task: t, variant: low, setting: {r: 2.5, M: 23},"
        " of: {arm: a, setting: 'r=3,M=23'}, than: {arm: a, variant: majority, estimand: score, task: u}}"
    )
    of, than = one.test.sides()
    assert (of.variant, of.setting, of.estimand, of.task) == ("low", "M=23,r=3", "generated_tokens", "t")
    assert (than.variant, than.setting, than.estimand, than.task) == ("majority", "M=23,r=2.5", "score", "u")


def test_numbers_that_yaml_takes_for_text():
    assert claim("{kind: exact, estimand: e, task: t, of: a, tolerance: 1e-6}").test.tolerance == 1e-6
    assert claim("{kind: less, estimand: e, task: t, of: a, than: 1e-6}").test.than == 1e-6


def test_every_kind_has_its_bounds():
    rest = "estimand: e, task: t, of: a"
    expected = {
        "{kind: greater, than: b, margin: 2, %s}": (2, None),
        "{kind: less, than: b, margin: 2, %s}": (None, -2),
        "{kind: at_least, than: b, margin: 2, %s}": (-2, None),
        "{kind: equivalent, than: b, margin: 2, %s}": (-2, 2),
        "{kind: equivalent, than: b, margin: 0.25, scale: log, %s}": (-math.log(1.25), math.log(1.25)),
        "{kind: ratio, than: b, above: 0.5, below: 2, %s}": (math.log(0.5), math.log(2)),
        "{kind: slope, x: M, above: 0.8, %s}": (0.8, None),
    }
    for text, bounds in expected.items():
        assert claim(text % rest).test.bounds() == pytest.approx(bounds)
    pairs = claim("{kind: ordered, estimand: e, task: t, of: [a, b, c], margin: 1}").test.pairs()
    assert [(pair.of.arm, pair.than.arm, pair.bounds()) for pair in pairs] == [
        ("a", "b", (1, None)),
        ("b", "c", (1, None)),
    ]
    assert set(KINDS) == {"greater", "less", "at_least", "equivalent", "ordered", "ratio", "slope", "exact", "all"}


def test_floor_and_controls_turn_with_the_direction_of_the_claim():
    less = claim(
        "{kind: less, estimand: loss, task: t, of: a, than: b, margin: 0.5}",
        floor="untrained",
        explains_away=[
            {"arm": "c", "test": "equivalent", "margin": 0.1},
            {"arm": "c", "test": "greater", "margin": 0.2},
        ],
    )
    floor = less.floor_test()
    assert (floor.kind, floor.of.arm, floor.than.arm, floor.margin) == ("less", "b", "untrained", 0)
    as_good, as_strong = (less.control_test(control) for control in less.explains_away)
    assert (as_good.of.arm, as_good.than.arm, as_good.bounds()) == ("c", "a", (None, 0.1))
    assert (as_strong.of.arm, as_strong.than.arm, as_strong.bounds()) == ("c", "b", (None, -0.2))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("kind: greater, estimand: accuracy", "kind: graeter, estimand: accuracy", "test: unknown kind 'graeter': did you mean 'greater'"),
        ("margin: 0}", "margn: 0}", "test.margn: unknown field 'margn': did you mean 'margin'?"),
        ("of: coconut, than: cot, margin", "than: cot, margin", "test.of: Field required"),
        ("kind: greater, estimand: accuracy", "estimand: accuracy", "test: a test needs a 'kind'"),
        ("fidelity", "fidellity", "coconut.beats-cot: fidellity: unknown field 'fidellity': did you mean 'fidelity'?"),
        ("analogue", "exact-ish", "fidelity: Input should be 'same-model'"),
        ("where: Table 1", "wher: Table 1", "source.wher: unknown field 'wher': did you mean 'where'?"),
        ("cot: 77.5", "cot: about 77", "paper.cot is 'about 77', not a number"),
        ("2412.06769", "coconut-paper", "source.arxiv: String should match"),
        ("arm: pause, test: equivalent", "arm: pause, test: equal", "explains_away.0.test"),
        ("kind: greater, estimand: flops", "kind: ratio, estimand: flops", "needs 'above', 'below' or both"),
        ("margin: 0}", "margin: .nan}", "test.margin: Input should be a finite number"),
    ],
)  # fmt: skip
def test_refusals_are_one_line_with_file_claim_and_field(tmp_path, old, new, says):
    assert old in COCONUT
    path = write(tmp_path / "claims.yaml", COCONUT.replace(old, new, 1))
    with pytest.raises(TychoError) as error:
        load_claims(path)
    text = str(error.value)
    assert says in text and str(path) in text and "coconut.beats-cot" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "cannot be read as YAML"),
        ("id: x", "must hold a list of claims"),
        ("- just text", "claim 1"),
        (COCONUT + COCONUT, "stands twice"),
    ],
)
def test_broken_files(tmp_path, text, says):
    with pytest.raises(TychoError, match=says) as error:
        load_claims(write(tmp_path / "claims.yaml", text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("test", "more", "says"),
    [
        ("{kind: equivalent, estimand: e, task: t, of: a, than: b}", {}, "margin above 0"),
        ("{kind: at_least, estimand: e, task: t, of: a, than: b, margin: -1}", {}, "0 or more"),
        ("{kind: ratio, estimand: e, task: t, of: a, than: b, above: 2, below: 1}", {}, "smaller than"),
        ("{kind: ordered, estimand: e, task: t, of: [a]}", {}, "at least 2"),
        ("{kind: exact, estimand: e, task: t, of: a, tolerance: 0}", {"floor": "b"}, "must be a full test"),
        (
            "{kind: slope, estimand: e, task: t, of: a, above: 0}",
            {"explains_away": [{"arm": "c"}]},
            "must hold full tests",
        ),
        (
            "{kind: greater, estimand: e, task: t, of: a, than: b}",
            {"explains_away": [{"margin": 1}]},
            "a control has an arm",
        ),
    ],
)
def test_tests_that_make_no_sense_are_refused(test, more, says):
    with pytest.raises(ValueError, match=says):
        claim(test, **more)
