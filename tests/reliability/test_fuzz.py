"""Whatever stands in a file or on the command line: it is taken, or refused in one line. Nothing else is raised."""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.claims import load_claims
from tycho.adapter import _file_name
from tycho.config import MethodPlan, Settings, load_settings, read_yaml
from tycho.errors import TychoError
from tycho.files import load_state, read_json, save_state
from tycho.jobs import plan
from tycho.keys import JobKey
from tycho.sources import ROOT
from tycho.worker import read_status

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.dates()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
# Dates that cannot be, anchors, tags and bytes that are no text, among whatever else.
BYTES = st.binary(max_size=200) | st.sampled_from(
    [
        b"2024-13-45",
        b"!!python/object/apply:os.system [id]",
        b"a: &a [*a]",
        b"\xff\xfe",
        b"- - - -",
        b"a: b: c",
        b"%YAML 9",
    ]
)


def one_line(call, *words) -> object:
    """The call's outcome, or None where it was refused properly."""
    try:
        return call(*words)
    except TychoError as error:
        assert str(error) and "\n" not in str(error)
        return None


@given(st.dictionaries(st.sampled_from([*Settings.model_fields, "scale", "devise", ""]), VALUES, max_size=4))
def test_any_settings(given_):
    one_line(load_settings, given_)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from([*MethodPlan.model_fields, "arm"]), VALUES, max_size=4))
def test_any_plan_of_a_method(toys_module, change):
    one_line(lambda: plan(load_settings({"scale": "smoke", "only": ["toy"], "methods": {"toy": change}})))


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(["steps", "slope", "seconds", "items", "colour", "stepz"]), VALUES, max_size=3))
def test_any_knobs(toys_module, knobs):
    one_line(lambda: plan(load_settings({"scale": "smoke", "only": ["toy"], "methods": {"toy": {"config": knobs}}})))


@given(BYTES)
def test_any_bytes_as_yaml_and_json(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    for reader in (read_yaml, read_json, load_claims):
        one_line(reader, path)


CLAIM = yaml.safe_load(
    """
id: m.x
says: It is so.
source: {arxiv: "2412.06769", where: Table 1, read: paper}
paper: {ours: 97.0, theirs: 77.5}
fidelity: analogue
test: {kind: greater, estimand: accuracy, task: t, of: a, than: b, margin: 0}
floor: c
explains_away: [{arm: d, test: equivalent, margin: 0.03}]
"""
)


def mutated(claim: dict) -> st.SearchStrategy[list]:
    """A sound claim with one part anything at all, in its place or deep inside."""
    places = (
        [(part,) for part in claim]
        + [("test", part) for part in claim["test"]]
        + [("source", p) for p in claim["source"]]
    )

    def put(place: tuple[str, ...], value: object) -> list:
        found = json.loads(json.dumps(claim))
        inner = found
        for part in place[:-1]:
            inner = inner[part]
        inner[place[-1]] = value
        return [found]

    return st.builds(put, st.sampled_from(places), VALUES)


@given(mutated(CLAIM) | st.lists(VALUES, max_size=3))
def test_any_claims(tmp_path_factory, claims):
    path = tmp_path_factory.getbasetemp() / "claims.yaml"
    path.write_text(yaml.safe_dump(claims, allow_unicode=True), encoding="utf-8")
    one_line(load_claims, path)


LOGPROBS = st.recursive(
    st.floats() | st.integers() | st.none() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["content", "logprob", "top_logprobs", "a"]), inner, max_size=3),
)  # fmt: skip
TRACE = st.fixed_dictionaries(
    {}, optional={name: VALUES | LOGPROBS for name in ("question", "text", "answer", "target", "confidences", "top_logprobs", "logprobs", "tokens", "confs")}
)  # fmt: skip


@settings(max_examples=60)
@given(st.lists(TRACE | VALUES, max_size=3) | BYTES)
def test_any_traces(tmp_path_factory, traces):
    """What is kept has one row a trace and finite confidences; the rest is told, a line a kind."""
    from methods.deepconf.traces import read_traces

    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    text = (
        traces if isinstance(traces, bytes) else "".join(json.dumps(row, default=str) + "\n" for row in traces).encode()
    )
    path.write_bytes(text)
    found = one_line(read_traces, path)
    if found is not None:
        assert len(found.frame) == len(found.confidences.lengths)
        assert all(0 <= value < float("inf") for value in found.confidences.values)
        assert all("\n" not in str(problem) for problem in found.problems)


@given(VALUES)
def test_any_status(tmp_path_factory, status):
    """A status file of another hand, or of a version to come."""
    folder = tmp_path_factory.getbasetemp()
    (folder / "status.json").write_text(json.dumps(status, default=str))
    one_line(read_status, folder)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> bytes:
    import torch

    path = tmp_path_factory.mktemp("sound") / "c.safetensors"
    save_state(path, {"step": 3, "weights": [torch.arange(6.0).reshape(2, 3)], "names": {"a": None, 1: "b"}})
    return path.read_bytes()


@settings(max_examples=200)
@given(data=st.data())
def test_any_damage_to_a_checkpoint(checkpoint, tmp_path_factory, data):
    """Bytes changed, left out or put in anywhere: header, structure, tensors."""
    start = data.draw(st.integers(0, len(checkpoint)))
    end = data.draw(st.integers(start, min(len(checkpoint), start + 20)))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(checkpoint[:start] + data.draw(st.binary(max_size=20)) + checkpoint[end:])
    one_line(load_state, path)


STRUCTURES = st.recursive(
    st.sampled_from([{"tensor": "0"}, {"tensor": "9"}, {"tensor": 0}, {"value": 1}, {}, [], None, {"value": 1, "dict": []}]),
    lambda inner: st.builds(lambda kind, items: {kind: items}, st.sampled_from(["list", "dict", "tuple", "x"]), st.lists(inner, max_size=2)),
)  # fmt: skip


@given(STRUCTURES | VALUES)
def test_any_structure_in_a_checkpoint(tmp_path_factory, structure):
    import torch
    from safetensors.torch import save_file

    path = tmp_path_factory.getbasetemp() / "structure.safetensors"
    save_file({"0": torch.zeros(1)}, path, metadata={"structure": json.dumps(structure, default=str)})
    one_line(load_state, path)


PATHS = st.text(string.ascii_letters + "./\\~:\0 -_0", max_size=12) | st.sampled_from(
    ["..", "../..", "/etc/passwd", "a/../../b", "~", ".", "", "a\0b", "C:\\x", "..\\x", "con\n"]
)


@given(PATHS, PATHS)
def test_no_name_leads_out_of_the_results(arm, task):
    key = one_line(JobKey, "smoke", "toy", arm, task, 0)
    if key is not None:
        root = Path("/results/smoke/jobs")
        assert root in root.joinpath(key.path).resolve().parents
        assert len(root.joinpath(key.path).resolve().parts) == len(root.parts) + 4
    name = one_line(_file_name, arm)
    if name is not None:
        assert Path("/results", name).resolve().parent == Path("/results")


@pytest.mark.parametrize("name", ["../toy", "/etc", "..", "toy/../toy", "toy\0"])
def test_no_method_is_looked_for_elsewhere(toys, name):
    with pytest.raises(TychoError, match="unknown method"):
        plan(load_settings({"scale": "smoke", "only": [name]}))


def test_nothing_is_unpickled_or_evaluated():
    """No module of ours calls pickle, eval, exec, yaml.load or torch.load."""
    import ast

    banned = {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "torch.load"}
    found = []
    for path in [p for part in ("tycho", "methods", "reports") for p in sorted((ROOT / part).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in banned:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node.func)}")
    assert found == []
