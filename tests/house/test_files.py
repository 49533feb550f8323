"""Files are whole or absent, and states come back bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tycho.errors import TychoError
from tycho.files import (
    check_writable,
    content_hash,
    load_state,
    read_json,
    replacing,
    save_state,
    write_json,
    write_text,
)

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64]
DTYPES += [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


@st.composite
def tensors(draw):
    """Random bytes as a tensor of any kind and shape, contiguous or not; NaNs with payload are among them."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    raw = torch.randint(0, 256, [*shape, dtype.itemsize], dtype=torch.uint8, generator=generator)
    tensor = raw[..., 0] > 127 if dtype == torch.bool else raw.view(dtype)[..., 0]
    return tensor.T if len(shape) == 2 and draw(st.booleans()) else tensor


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
states = st.recursive(
    tensors() | values,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def assert_same(a, b):
    """Equal in type, order and every bit."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert bits(a) == bits(b)
    elif isinstance(a, dict):
        assert list(a) == list(b) and [type(key) for key in a] == [type(key) for key in b]
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert repr(a) == repr(b)  # NaN is itself, 0.0 is not -0.0


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist() if tensor.numel() else []


@settings(max_examples=150)
@given(states)
@example({"0": 1, 0: "both keys", -1: {}, "": [(), [], None]})
@example([torch.zeros(()), torch.zeros(0, 3), torch.tensor([float("nan"), -0.0])])
def test_a_state_comes_back_bit_for_bit(state):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state.safetensors")
        save_state(path, state)
        assert_same(load_state(path), state)


def test_tensors_that_share_storage_come_back_apart(tmp_path):
    whole = torch.arange(6.0)
    save_state(
        tmp_path / "s", {"whole": whole, "part": whole[2:4], "again": whole, "parameter": torch.nn.Parameter(whole)}
    )
    found = load_state(tmp_path / "s")
    found["part"] += 100
    assert found["whole"].tolist() == found["again"].tolist() == found["parameter"].tolist() == whole.tolist()


def test_a_loaded_state_is_no_map_of_the_file(tmp_path):
    """Odd addresses and pages of a file that may be replaced are no place for weights in training."""
    save_state(tmp_path / "s", [torch.ones(n) for n in range(1, 8)])
    found = load_state(tmp_path / "s")
    assert all(tensor.data_ptr() % 64 == 0 for tensor in found)


def test_an_optimiser_goes_on_as_if_undisturbed(tmp_path):
    """Saved half-way and loaded into fresh objects, ten more steps give the same weights."""

    def fresh():
        net = torch.nn.Linear(5, 3)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.fill_(0.1)
        return net, torch.optim.AdamW(net.parameters(), lr=0.1)

    def steps(net, optimiser, generator):
        for _ in range(10):
            optimiser.zero_grad()
            net(torch.randn(4, 5, generator=generator)).square().sum().backward()
            optimiser.step()

    net, optimiser = fresh()
    generator = torch.Generator().manual_seed(1)
    steps(net, optimiser, generator)
    save_state(
        tmp_path / "s",
        {"net": dict(net.state_dict()), "optimiser": optimiser.state_dict(), "generator": generator.get_state()},
    )
    steps(net, optimiser, generator)

    other, its_optimiser = fresh()
    saved = load_state(tmp_path / "s")
    other.load_state_dict(saved["net"])
    its_optimiser.load_state_dict(saved["optimiser"])
    generator = torch.Generator()
    generator.set_state(saved["generator"])
    steps(other, its_optimiser, generator)
    assert_same(dict(other.state_dict()), dict(net.state_dict()))


class Odd:
    pass


@pytest.mark.parametrize(
    "value",
    [
        Odd(),
        {1, 2},
        b"bytes",
        lambda: None,
        {(1, 2): 3},
        {None: 1},
        1j,
        [[{"deep": Odd()}]],
        torch.zeros(2, dtype=torch.complex128),
        torch.eye(2).to_sparse(),
        torch.zeros(2, device="meta"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_is_refused_and_the_old_file_stays(tmp_path, value):
    save_state(tmp_path / "s", "old")
    with pytest.raises(TypeError, match=r"checkpoint|state keys"):
        save_state(tmp_path / "s", {"value": value})
    assert load_state(tmp_path / "s") == "old" and os.listdir(tmp_path) == ["s"]


@pytest.fixture(scope="module")
def checkpoint() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save_state(Path(folder, "s"), {"weights": torch.arange(100.0), "step": 3})
        return Path(folder, "s").read_bytes()


def is_one_line(error: pytest.ExceptionInfo[TychoError], *parts: str) -> bool:
    text = str(error.value)
    return "\n" not in text and len(text) < 500 and all(part in text for part in parts)


@settings(max_examples=60)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_checkpoint_is_named(checkpoint, share):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s")
        path.write_bytes(checkpoint[: int(share * len(checkpoint))])
        with pytest.raises(TychoError) as error:
            load_state(path)
        assert is_one_line(error, f"checkpoint {path} cannot be read", "delete it and run again")


@settings(max_examples=60)
@given(garbage=st.binary(max_size=200))
def test_garbage_is_named(garbage):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s")
        path.write_bytes(garbage)
        with pytest.raises(TychoError) as error:
            load_state(path)
        assert is_one_line(error, str(path))


FOREIGN = [None, {"format": "pt"}, {"structure": "{"}, {"structure": "[1]"}, {"structure": '{"tensor": "nope"}'}]
FOREIGN += [{"structure": '{"dict": 3}'}, {"structure": '{"list": [7]}'}, {"structure": '{"a": 1, "b": 2}'}]


@pytest.mark.parametrize("metadata", FOREIGN)
def test_a_foreign_safetensors_file_is_named(tmp_path, metadata):
    from safetensors.torch import save_file

    save_file({"0": torch.zeros(2)}, tmp_path / "s", metadata=metadata)
    with pytest.raises(TychoError) as error:
        load_state(tmp_path / "s")
    assert is_one_line(error, str(tmp_path / "s"), "delete it")


def test_a_missing_checkpoint_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(TychoError) as error:
            load_state(path)
        assert is_one_line(error, str(path))


def test_replacing_keeps_the_old_file_and_leaves_nothing_when_the_block_raises(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as beside:
        beside.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["f"]


def test_replacing_a_file_that_is_not_written_says_so_and_keeps_the_old(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"


def test_a_kill_amid_writing_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "f.json"
    write_json(path, {"old": True})
    code = (
        "import sys, time; from pathlib import Path; from tycho.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as beside:\n"
        "    beside.write_text('{\"half'); print('ready', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert read_json(path) == {"old": True}


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "f.json"
    write_json(path, ["x" * 10_000] * 100)
    code = (
        "import sys; from pathlib import Path; from tycho.files import write_json\n"
        "for i in range(60): write_json(Path(sys.argv[1]), [str(i % 10) * 10_000] * 100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)]) as process:
        reads = 0
        until = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < until:
            assert len(read_json(path)) == 100
            reads += 1
    assert process.returncode == 0 and reads > 5


@pytest.mark.parametrize("name", ["a b", "ü", "100%", "#1", "[x]", "k=v", "it's", "-f"])
def test_odd_names(tmp_path, name):
    path = tmp_path / name / f"{name}.txt"
    write_text(path, "ä\n")
    assert path.read_text(encoding="utf-8") == "ä\n"
    save_state(path, [torch.ones(1)])
    assert load_state(path)[0] == 1


def test_a_link_to_a_folder_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link" / "f", "x")
    assert (tmp_path / "real" / "f").read_text() == "x"


def test_json_is_read_as_written_and_the_same_each_time(tmp_path):
    value = {"b": [1, 2.5, None, "ä<"], "a": {"z": True}}
    write_json(tmp_path / "1", value)
    write_json(tmp_path / "2", dict(reversed(value.items())))
    assert read_json(tmp_path / "1") == value
    assert content_hash(tmp_path / "1") == content_hash(tmp_path / "2")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"{'a': 1}", b"[1] 2"])
def test_broken_json_is_named(tmp_path, text):
    (tmp_path / "f.json").write_bytes(text)
    with pytest.raises(TychoError) as error:
        read_json(tmp_path / "f.json")
    assert is_one_line(error, "f.json is not readable JSON", "delete it and run again")


def test_content_hash_is_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert content_hash(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "deep" / "results")
    assert os.listdir(tmp_path / "deep" / "results") == []


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "results"):
        with pytest.raises(TychoError) as error:
            check_writable(folder)
        assert is_one_line(error, f"results cannot be written to {folder}", "--config results=FOLDER")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_folder_nobody_may_write_to_is_refused():
    with pytest.raises(TychoError, match="results cannot be written to /proc"):
        check_writable(Path("/proc/self"))


@pytest.mark.skipif(sys.platform != "linux", reason="file size limits as Linux has them")
def test_a_full_disk_is_refused_and_left_clean(tmp_path):
    """A limit on the size of files fails as a full disk does: in the middle of the write."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from tycho.files import check_writable\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "check_writable(Path(sys.argv[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert "TychoError: results cannot be written to" in done.stderr and "File too large" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path):
    path = tmp_path / "s"
    save_state(path, {"step": 1})
    code = (
        "import resource, signal, sys, torch; from pathlib import Path; from tycho.files import save_state\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "save_state(Path(sys.argv[1]), {'step': 2, 'weights': torch.zeros(100_000)})\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode != 0
    assert load_state(path) == {"step": 1} and os.listdir(tmp_path) == ["s"]


def test_json_is_plain_and_ends_its_line(tmp_path):
    write_json(tmp_path / "f.json", {"text": "one\ntwo"})
    assert json.loads((tmp_path / "f.json").read_text()) == {"text": "one\ntwo"}
    assert (tmp_path / "f.json").read_text().endswith("}\n")
