"""What a user or a room asks for is what is run, or one line says what was wrong with it."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml

from tycho import config, registry
from tycho.config import MethodPlan, Settings, described, job_config, load_settings, merged, method_plan, read_yaml
from tycho.errors import TychoError
from tycho.jobs import plan
from tycho.sources import ROOT

FILES = sorted((ROOT / "config").glob("*.yaml"))
ARMS = '{"steep": Arm("steep", config={"size": 7}), "flat": Arm("flat", role="control", config={"size": 0})}'


def fails(given: dict, *parts: str) -> None:
    """Loading and planning fails with one line that holds all parts."""
    with pytest.raises(TychoError) as error:
        plan(load_settings({"scale": "smoke"} | given))
    text = str(error.value)
    assert "\n" not in text and len(text) < 400
    assert [part for part in parts if part not in text] == [], text


@pytest.fixture
def toy(rooms):
    rooms.write("toy", rooms.adapter("toy", arms=ARMS))
    return rooms


# --- the files that are made from the code ---------------------------------------------------------------------------


def test_default_yaml_is_in_step():
    text = (ROOT / "config" / "default.yaml").read_text()
    assert text == config.default_yaml(), "run `tycho config --write`"
    assert Settings.model_validate(yaml.safe_load(text)) == Settings()
    assert all(info.description in text for info in Settings.model_fields.values())


def test_schema_is_in_step():
    assert json.loads((ROOT / "config" / "schema.json").read_text()) == config.json_schema(), (
        "run `tycho config --write`"
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_fits_schema_and_settings(path):
    found = yaml.safe_load(path.read_text())
    jsonschema.validate(found, config.json_schema())
    Settings.model_validate(found)
    assert path.stem in ("default", found["scale"])
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")


def test_every_scale_has_a_file():
    assert {path.stem for path in FILES} == {*config.Scale.__args__, "default"}


@pytest.mark.parametrize(
    "wrong", [{"scle": "quick"}, {"scale": "fast"}, {"threads": 0}, {"methods": {"toy": {"sedes": 3}}}]
)
def test_the_schema_refuses(wrong):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, config.json_schema())


# --- layers ----------------------------------------------------------------------------------------------------------


def test_what_is_given_lies_over_the_scales_file():
    found = load_settings({"scale": "smoke", "threads": 3})
    assert (found.scale, found.threads, found.checkpoint_seconds) == ("smoke", 3, 5)
    assert load_settings().scale == "quick" and load_settings({"results": "~/x"}).results.startswith("/")


def test_defaults_are_checked_like_values_given():
    assert MethodPlan().seeds == [0] and MethodPlan(seeds=3).seeds == [0, 1, 2] and MethodPlan(seeds=[5]).seeds == [5]


def test_merging_lays_dicts_over_dicts_and_nothing_else():
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    assert merged(base, {"a": {"c": [3]}, "d": {"e": 1}}) == {"a": {"b": 1, "c": [3]}, "d": {"e": 1}}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 1}


@pytest.mark.parametrize("only", ["one,two", " one , two,", ["one", "two"]])
def test_only_as_text_or_list(only):
    assert load_settings({"only": only}).only == ["one", "two"]


def test_only_chooses_methods(rooms):
    for name in ("one", "two", "three"):
        rooms.write(name)
    assert plan(load_settings({"scale": "smoke", "only": "one,two"})).methods == ["one", "two"]
    assert plan(load_settings({"scale": "smoke"})).methods == ["one", "three", "two"]


def test_later_layers_win_but_an_arm_stays_what_it_is(toy):
    """Plan for all, task, arm's own, plan for the arm; the last two in this order."""
    method = registry.method("toy")

    def size(arm: str, **plan) -> int:
        return job_config(method, MethodPlan.model_validate(plan), arm, "t").size

    assert size("flat") == 0 and size("steep") == 7
    assert size("flat", config={"size": 3}, task_config={"t": {"size": 4}}) == 0
    assert size("flat", config={"size": 3}, arm_config={"flat": {"size": 5}}) == 5

    def colour(**plan) -> str:
        return job_config(method, MethodPlan.model_validate(plan), "flat", "t").colour

    assert colour() == "red"
    assert colour(config={"colour": "blue"}) == "blue"
    assert colour(config={"colour": "blue"}, task_config={"t": {"colour": "green"}}) == "green"
    assert colour(task_config={"t": {"colour": "green"}}, arm_config={"flat": {"colour": "grey"}}) == "grey"


def test_a_users_change_lies_over_the_rooms_plan(rooms):
    rooms.write("toy", scales="smoke: {seeds: 3, config: {size: 4, items: 2}}")
    found = method_plan("toy", load_settings({"scale": "smoke", "methods": {"toy": {"config": {"size": 9}}}}))
    assert found.seeds == [0, 1, 2] and found.config == {"size": 9, "items": 2}


def test_a_scale_left_out_does_not_run_unless_asked_for(rooms):
    rooms.write("toy", scales="smoke:\n")
    assert method_plan("toy", load_settings({"scale": "quick"})) is None
    assert method_plan("toy", load_settings({"scale": "smoke"})) == MethodPlan()
    assert method_plan("toy", load_settings({"scale": "quick", "methods": {"toy": {"seeds": 2}}})).seeds == [0, 1]


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"scale": "quik"}, ["unknown scale 'quik'", "did you mean 'quick'?"]),
        ({"scale": "../smoke"}, ["unknown scale '../smoke'"]),
        ({"scale": "default"}, ["unknown scale 'default'"]),
        ({"scale": None}, ["unknown scale 'None'", "smoke"]),
        ({"device": "cdua"}, ["unknown device 'cdua'", "did you mean 'cuda'?"]),
        ({"device": "gpu"}, ["unknown device 'gpu'", "cuda"]),
        ({"treads": 2}, ["unknown key in config", "'treads'", "did you mean 'threads'?"]),
        ({"threads": 0}, ["config: threads", "greater than or equal to 1", "given: 0"]),
        ({"threads": "two"}, ["config: threads", "integer", "given: 'two'"]),
        ({"checkpoint_seconds": -1}, ["config: checkpoint_seconds"]),
        ({"results": ""}, ["config: results"]),
        ({"methods": ["toy"]}, ["config: methods", "dictionary"]),
        ({"methods": {"toy": None}}, ["config: methods.toy", "dictionary"]),
        ({"methods": {"tyo": {}}}, ["unknown method 'tyo'", "did you mean 'toy'?"]),
        ({"only": "tyo"}, ["unknown method 'tyo'", "did you mean 'toy'?"]),
        ({"methods": {"toy": {"sedes": 2}}}, ["toy at scale smoke", "'sedes'", "did you mean 'seeds'?"]),
        ({"methods": {"toy": {"seeds": 0}}}, ["toy at scale smoke", "seeds are a positive number"]),
        ({"methods": {"toy": {"seeds": -2}}}, ["seeds are a positive number"]),
        ({"methods": {"toy": {"seeds": []}}}, ["seeds are a positive number"]),
        ({"methods": {"toy": {"seeds": [1, 1]}}}, ["different numbers"]),
        ({"methods": {"toy": {"seeds": [-1]}}}, ["numbers from 0 on"]),
        ({"methods": {"toy": {"seeds": "few"}}}, ["toy at scale smoke: seeds"]),
        ({"methods": {"toy": {"arms": ["step"]}}}, ["unknown arm of toy 'step'", "did you mean 'steep'?"]),
        ({"methods": {"toy": {"arms": "steep"}}}, ["toy at scale smoke: arms", "list"]),
        ({"methods": {"toy": {"tasks": ["x"]}}}, ["unknown task of toy 'x'", "there is: t"]),
        ({"methods": {"toy": {"arm_config": {"flta": {}}}}}, ["unknown arm of toy 'flta'", "did you mean 'flat'?"]),
        ({"methods": {"toy": {"task_config": {"u": {}}}}}, ["unknown task of toy 'u'"]),
        ({"methods": {"toy": {"task_arms": {"t": ["flta"]}}}}, ["unknown arm of toy 'flta'"]),
        ({"methods": {"toy": {"task_arms": {"u": ["flat"]}}}}, ["unknown task of toy 'u'"]),
        ({"methods": {"toy": {"config": {"sise": 1}}}}, ["toy, arm flat, task t", "'sise'", "did you mean 'size'?"]),
        ({"methods": {"toy": {"config": {"items": -1}}}}, ["toy, arm flat, task t: items", "given: -1"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(toy, given, parts):
    fails(given, *parts)


@pytest.mark.parametrize(
    ("scales", "parts"),
    [
        ("smoke: {arms: [step]}", ["unknown arm of toy 'step'", "did you mean 'steep'?"]),
        ("smoke: {task_config: {u: {}}}", ["unknown task of toy 'u'"]),
        ("smoek: {}", ["scales.yaml 'smoek'", "did you mean 'smoke'?"]),
        ("1: {}", ["scales.yaml 1", "smoke"]),
        ("smoke: 3", ["scales.yaml: smoke must hold keys and values, not 3"]),
        ("- smoke", ["scales.yaml must hold keys and values, not a list"]),
        ("smoke: {seeds: [1", ["scales.yaml is not readable YAML"]),
        ("smoke: {seeds: 2024-13-45}", ["scales.yaml is not readable YAML"]),
        ("smoke: {seeds: !!python/object:os.system {}}", ["scales.yaml is not readable YAML"]),
        ("smoke:\n\tseeds: 1", ["scales.yaml is not readable YAML"]),
    ],
)
def test_what_is_wrong_with_a_room_is_said_in_one_line(rooms, scales, parts):
    """The room is left out and named; the others run. Who asked for it by a change of theirs gets the error."""
    rooms.write("toy", rooms.adapter("toy", arms=ARMS), scales)
    rooms.write("other")
    found = plan(load_settings({"scale": "smoke"}))
    assert found.methods == ["other"] and list(found.broken) == ["toy"]
    text = found.broken["toy"]
    assert "\n" not in text and "method 'toy'" in text and all(part in text for part in parts), text
    fails({"methods": {"toy": {"config": {}}}}, *parts)


def test_a_file_that_is_no_yaml_is_named(tmp_path):
    path = tmp_path / "f.yaml"
    for text in (b"a: [1", b"\xff\xfe\x00", b"a: 1\n b: 2", b"@"):
        path.write_bytes(text)
        with pytest.raises(TychoError, match="is not readable YAML") as error:
            read_yaml(path)
        assert "\n" not in str(error.value)
    path.write_text("")
    assert read_yaml(path) == {}


# --- what counts towards a digest ------------------------------------------------------------------------------------


def test_knobs_count_from_their_stage_on(toy):
    found = job_config(registry.method("toy"), MethodPlan(), "flat", "t")
    assert described(found, ("train",)) == {"size": 0}
    assert described(found, ("train", "evaluate")) == {"size": 0, "items": 1}
    assert described(found, ("train", "evaluate", "analyse")) == {"size": 0, "items": 1, "colour": "red"}


def test_a_knob_that_names_a_file_counts_with_its_contents(rooms, tmp_path):
    top = "from pathlib import Path"
    text = rooms.adapter("toy", top=top).replace(
        "    size: int", '    data: Path | None = knob(None, "your own data")\n    size: int'
    )
    rooms.write("toy", text)
    data = tmp_path / "data.txt"

    def state(**plan):
        found = job_config(registry.method("toy"), MethodPlan.model_validate({"config": plan}), "one", "t")
        return described(found, ("train",))

    assert state()["data"] is None and state(data=str(data))["data"] == str(data)
    data.write_text("one")
    first = state(data=str(data))
    assert state(data=str(data)) == first and str(data) in first["data"]
    data.write_text("two")
    assert state(data=str(data)) != first
    json.dumps(first)
