"""Names of jobs and sweep points, and the random numbers that follow from them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tycho.errors import TychoError
from tycho.keys import SHARED_AXES, JobKey, derive_seed, read_setting, setting

names = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,10}", fullmatch=True)
keys = st.builds(JobKey, names, names, names, names, st.integers(0, 10**6))
plain = st.text(st.characters(blacklist_characters="=,", blacklist_categories=["Cs"]), max_size=8)
KEY = JobKey("quick", "toy", "steep", "line", 3)


@given(st.dictionaries(plain, plain | st.integers() | st.booleans(), max_size=5))
def test_a_setting_is_read_as_it_was_written(values):
    text = setting(**values)
    assume(values)
    assert read_setting(text) == {name: str(value) for name, value in values.items()}
    assert list(read_setting(text)) == sorted(values)


def test_the_empty_setting_has_no_parts():
    assert setting() == "" and read_setting("") == {}


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_two_points_of_a_sweep_never_share_a_name(a, b):
    assume(a != b)
    assert setting(r=a) != setting(r=b)
    assert float(read_setting(setting(r=a))["r"]) == a


@pytest.mark.parametrize(
    ("value", "spelt"),
    [(2.0, "2"), (2, "2"), (2.5, "2.5"), (1e6, "1000000"), (1e-7, "1e-07"), (True, "True"), ("", "")],
)
def test_spelling_of_a_value(value, spelt):
    assert setting(M=value) == f"M={spelt}"


@pytest.mark.parametrize("values", [{"a": "b=c"}, {"a": "b,c"}, {"a=b": 1}, {"a,b": 1}, {"a": [1, 2]}])
def test_separators_in_a_setting_are_refused(values):
    with pytest.raises(TychoError, match="separate settings"):
        setting(**values)


@pytest.mark.parametrize("name", ["../x", "..", ".", "a/b", "/a", "", "Upper", "-a", "a b", "a\n", "ä", "a\\b", ".git"])
@pytest.mark.parametrize("part", ["scale", "method", "arm", "task"])
def test_names_that_are_no_folder_are_refused(part, name):
    with pytest.raises(TychoError, match=f"{part} .* cannot name a folder"):
        replace(KEY, **{part: name})


def test_negative_seeds_are_refused():
    with pytest.raises(TychoError, match="seed -1 of toy/steep/line is negative"):
        replace(KEY, seed=-1)


@given(keys, keys)
def test_two_jobs_never_share_a_folder(a, b):
    assert (a.path == b.path) == (replace(a, scale="x") == replace(b, scale="x"))
    assert ".." not in a.path.parts and len(a.path.parts) == 4


@given(keys, names, names)
@pytest.mark.parametrize("axis", ["data", "split", "init", "order"])
def test_shared_axes_draw_the_same_for_all_arms(axis, key, method, arm):
    assert derive_seed(axis, key) == derive_seed(axis, replace(key, method=method, arm=arm))


@given(keys, names)
def test_other_axes_are_the_jobs_own(key, other):
    assume(other not in (key.method, key.arm))
    drawn = {derive_seed("noise", k) for k in (key, replace(key, method=other), replace(key, arm=other))}
    assert len(drawn) == 3


@given(keys, names, st.sampled_from([*SHARED_AXES, "noise"]))
def test_every_axis_differs_over_tasks_and_seeds(key, other, axis):
    assume(other != key.task)
    drawn = {derive_seed(axis, k) for k in (key, replace(key, task=other), replace(key, seed=key.seed + 1))}
    assert len(drawn) == 3


@given(keys)
def test_axes_are_apart_and_fit_a_generator(key):
    drawn = [derive_seed(axis, key) for axis in (*SHARED_AXES, "noise", "dropout")]
    assert len(set(drawn)) == len(drawn) and all(0 <= seed < 2**63 for seed in drawn)


@given(keys, names, st.sampled_from([*SHARED_AXES, "noise"]))
def test_the_scale_takes_no_part(key, scale, axis):
    assert derive_seed(axis, key) == derive_seed(axis, replace(key, scale=scale))


def test_seeds_stay_what_they_were():
    """A change here changes every result: raise keys.GENERATION with it."""
    assert derive_seed("data", KEY) == 5956237633177100000
    assert derive_seed("noise", KEY) == 7564386193967321414
