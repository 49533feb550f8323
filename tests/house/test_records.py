"""Records are what the schema says or are refused; files of records are read whole or named."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as arrow
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tycho import records
from tycho.errors import TychoError
from tycho.records import SCHEMAS, empty, read, tidy, write

KEYS = {"scale": "smoke", "method": "toy", "arm": "steep", "task": "line", "seed": 0}
SAMPLE = {"item": ["i0", "i1"], "prompt": "1 + 1", "target": "2", "correct": [True, False]}


def samples(**columns) -> pd.DataFrame:
    return tidy("samples", pd.DataFrame(SAMPLE | columns), **KEYS)


def is_one_line(error: pytest.ExceptionInfo[TychoError], *parts: str) -> bool:
    text = str(error.value)
    return "\n" not in text and len(text) < 800 and all(part in text for part in parts)


def test_what_is_left_out_is_filled():
    frame = samples()
    assert list(frame) == list(SCHEMAS["samples"].columns)
    assert frame.method.tolist() == ["toy", "toy"] and frame.split.tolist() == ["test", "test"]
    assert frame.score.tolist() == [1.0, 0.0] and frame.variant.tolist() == ["", ""]
    assert frame.flops.isna().all() and frame.index.tolist() == [0, 1]


def test_what_is_given_stands():
    frame = samples(score=[0.25, 0.5], seed=[4, 5], variant="majority", generated_tokens=[3, None])
    assert frame.score.tolist() == [0.25, 0.5] and frame.seed.tolist() == [4, 5]
    assert frame.variant.tolist() == ["majority"] * 2 and frame.generated_tokens.tolist() == [3, pd.NA]


def test_the_frame_handed_over_is_left_alone():
    given = pd.DataFrame(SAMPLE, index=[7, 8])
    before = given.copy()
    tidy("samples", given, **KEYS)
    pd.testing.assert_frame_equal(given, before)


@pytest.mark.parametrize("kind", SCHEMAS)
def test_no_rows_have_the_types_of_many(kind, tmp_path):
    """Concatenated with the others, an empty frame changes no column's type."""
    nothing = empty(kind)
    pd.testing.assert_frame_equal(tidy(kind, nothing), nothing)
    if kind == "samples":
        pd.testing.assert_frame_equal(pd.concat([nothing, samples()], ignore_index=True), samples())
    write(tmp_path / "f.parquet", nothing)
    pd.testing.assert_frame_equal(read(tmp_path / "f.parquet"), nothing)


@pytest.mark.parametrize("column", ["item", "prompt", "target", "correct"])
def test_a_missing_column_is_named(column):
    with pytest.raises(TychoError) as error:
        tidy("samples", pd.DataFrame(SAMPLE).drop(columns=column), **KEYS)
    assert f"missing ['{column}'" in str(error.value).replace(", 'score'", "")


def test_an_unknown_column_is_named():
    with pytest.raises(TychoError, match=r"unknown \['promt'\]"):
        samples(promt="x")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("correct", "False"),  # numpy would make it True
        ("correct", 0.5),
        ("correct", 2),
        ("correct", None),
        ("correct", float("nan")),
        ("score", "high"),
        ("score", float("nan")),
        ("seed", 1.5),  # numpy would make it 1
        ("seed", -1),
        ("seed", None),
        ("seed", 2**70),
        ("generated_tokens", 2.5),
        ("generated_tokens", -3),
        ("generated_tokens", "many"),
        ("flops", -1.0),
        ("flops", "many"),
        ("prompt", None),
        ("item", None),
    ],
)
def test_a_wrong_value_is_refused_and_its_column_named(column, value):
    with pytest.raises(TychoError) as error:
        samples(**{column: [value, SAMPLE.get(column, [value] * 2)[-1]]})
    assert is_one_line(error, f"samples.{column}")


def test_a_stage_that_is_none_is_named():
    with pytest.raises(TychoError, match=r"metrics\.stage .*trian"):
        tidy("metrics", pd.DataFrame({"name": ["x"], "value": [1.0], "stage": "trian"}), **KEYS)


@pytest.mark.parametrize(
    "names", [["item", "item", "prompt", "target", "correct"], ["item", 3, "prompt", "target", "x"]]
)
def test_columns_without_a_name_of_their_own_are_refused(names):
    with pytest.raises(TychoError, match="columns without a name of their own"):
        tidy("samples", pd.DataFrame([["i", "j", "p", "t", True]], columns=names), **KEYS)


def test_missing_values_stay_missing_in_metrics():
    frame = tidy("metrics", pd.DataFrame({"name": ["a", "b"], "value": [np.nan, 1], "stage": "train"}), **KEYS)
    assert frame.value.isna().tolist() == [True, False] and frame.step.isna().all() and not frame.censored.any()


cells = (
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from([pd.NA, pd.NaT, np.float32(0.5), np.int8(3), np.bool_(True), [1], [0.5, 1.0], {"a": 1}, b"x"])
)


@st.composite
def frames(draw):
    """Frames that may be right: the columns of a kind, most of them, now and then another, filled with anything."""
    kind = draw(st.sampled_from(sorted(SCHEMAS)))
    known = list(SCHEMAS[kind].columns)
    names = draw(st.lists(st.sampled_from(known), unique=True, min_size=len(known) - 4))
    names += draw(st.sampled_from([[], [], ["other"]]))
    rows = draw(st.integers(0, 3))
    right = {"bool": True, "int64": 1, "float64": 0.5, "Int64": 2, "Float64": 2.5, "object": [1, 2]}
    columns = {}
    for name in names:
        dtype = str(SCHEMAS[kind].columns[name].dtype) if name in known else ""
        value = "train" if name == "stage" else right.get(dtype, "text")
        wrong = draw(st.integers(0, 12)) == 0
        columns[name] = [draw(cells) for _ in range(rows)] if wrong else [value] * rows
    return kind, pd.DataFrame(columns)


@settings(max_examples=150)
@given(frames())
def test_any_frame_is_tidy_or_refused(made):
    kind, frame = made
    try:
        found = tidy(kind, frame, **KEYS)
    except TychoError as error:
        assert "\n" not in str(error)
        return
    assert found.dtypes.equals(empty(kind).dtypes) and len(found) == len(frame)
    pd.testing.assert_frame_equal(tidy(kind, found), found)


@settings(max_examples=60)
@given(frames())
def test_what_is_tidy_is_read_as_it_was_written(made):
    kind, frame = made
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "f.parquet")
        try:
            found = tidy(kind, frame, **KEYS)
            write(path, found)
        except TychoError as error:
            assert "\n" not in str(error)
            return
        back = read(path)
        assert back.dtypes.equals(found.dtypes)
        for name in set(found) - {"tokens", "confidences"}:
            assert found[name].equals(back[name])


def test_equal_frames_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, samples())
    write(tmp_path / "c", read(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_token_lists_come_back(tmp_path):
    frame = tidy("traces", pd.DataFrame({"item": ["i"], "tokens": [[3, 4]], "confidences": [[0.5, 0.25]]}), **KEYS)
    write(tmp_path / "f", frame)
    back = read(tmp_path / "f")
    assert list(back.tokens[0]) == [3, 4] and list(back.confidences[0]) == [0.5, 0.25] and back.parent.isna().all()


def test_a_frame_that_parquet_cannot_hold_is_refused(tmp_path):
    with pytest.raises(TychoError) as error:
        write(tmp_path / "odd.parquet", pd.DataFrame({"x": [1, "a", [2]]}))
    assert is_one_line(error, "odd.parquet cannot hold this frame", "column x")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def good() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, "f"), samples(prompt=["a" * 100, "b" * 100]))
        return Path(folder, "f").read_bytes()


@settings(max_examples=60)
@given(share=st.floats(0, 1, exclude_max=True))
def test_truncated_parquet_is_named(good, share):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "metrics.parquet")
        path.write_bytes(good[: int(share * len(good))])
        with pytest.raises(TychoError) as error:
            read(path)
        assert is_one_line(error, f"{path} cannot be read", "delete it and run again")


@settings(max_examples=80)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_never_changes_a_value(good, place, bit):
    """The pages carry checksums. A broken header may rename a column, never change what stands in it."""
    damaged = bytearray(good)
    damaged[int(place * len(good))] ^= 1 << bit
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "f")
        path.write_bytes(good)
        undamaged = read(path)
        path.write_bytes(damaged)
        try:
            found = read(path)
        except TychoError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            return
        for name in set(found) & set(undamaged):
            assert found[name].astype(object).equals(undamaged[name].astype(object))


def test_a_flipped_bit_in_a_number_is_found(tmp_path):
    """Numbers that do not compress stand as they are: without checksums another number would be read."""
    values = np.nan_to_num(np.frombuffer(np.random.default_rng(0).bytes(4000)))
    frame = pd.DataFrame({"name": "level", "value": values, "stage": "train", "step": range(500)})
    write(tmp_path / "f", tidy("metrics", frame, **KEYS))
    stored = bytearray((tmp_path / "f").read_bytes())
    stored[stored.index(values[250].tobytes()) + 3] ^= 1
    (tmp_path / "f").write_bytes(stored)
    with pytest.raises(TychoError, match="cannot be read"):
        read(tmp_path / "f")


@pytest.mark.parametrize("text", [b"", b"item,correct\n1,True\n", b"PAR1", b"\x00" * 500])
def test_a_file_that_is_no_parquet_is_named(tmp_path, text):
    path = tmp_path / "samples.parquet"
    path.write_bytes(text)
    with pytest.raises(TychoError) as error:
        read(path, "delete the folder and run again")
    assert is_one_line(error, f"{path} cannot be read", "delete the folder and run again")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "f.txt").write_text("x")
    for path in (tmp_path / "nothing", tmp_path / "folder"):
        with pytest.raises(TychoError) as error:
            read(path)
        assert is_one_line(error, str(path))


def test_parquet_of_another_hand_is_refused(tmp_path):
    path = tmp_path / "f.parquet"
    pd.DataFrame({"x": [1]}).to_parquet(path)
    with pytest.raises(TychoError) as error:
        read(path)
    assert is_one_line(
        error, f"{path} has record schema none, this Tycho reads {records.SCHEMA}", "move the folder away"
    )


def test_records_of_an_older_schema_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "f.parquet"
    monkeypatch.setattr(records, "SCHEMA", 0)
    write(path, samples())
    monkeypatch.undo()
    with pytest.raises(TychoError) as error:
        read(path)
    assert is_one_line(error, f"{path} has record schema 0", "move the folder away", "the version that wrote it")


def test_the_header_says_the_schema(tmp_path):
    write(tmp_path / "f", samples())
    assert pq.read_schema(tmp_path / "f").metadata[b"tycho"] == str(records.SCHEMA).encode()
    assert isinstance(pq.read_table(tmp_path / "f"), arrow.Table)


@pytest.mark.parametrize("name", ["a b", "ü", "x%20y", "p#q", "q?r", "[z]", "k=v", "it's"])
def test_odd_folders(tmp_path, name):
    """Among them `k=v`, of which a reader of partitioned data would make a column."""
    write(tmp_path / name / "f.parquet", samples())
    pd.testing.assert_frame_equal(read(tmp_path / name / "f.parquet"), samples())
