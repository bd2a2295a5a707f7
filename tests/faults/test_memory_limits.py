"""The error for insufficient memory names the required and the available size, and no file has been written."""

from __future__ import annotations

import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import analysis_scripts.main
from opustomo.errors import UserError
from opustomo.io import host_memory
from opustomo.io.host_memory import available_bytes, limit_to_available_memory, memory_error_message, require_memory
from opustomo.io.mrc import write_volume
from opustomo.io.pickles import load_pickle, load_torch
from opustomo.main import main
from tests.commands.quick import own_copy, train, use_tiny_networks

ROOT = Path(__file__).resolve().parents[2]


def sparse_map(path: Path, side: int) -> None:
    """Write a sparse file with the header and length of a map of ``side``³ voxels."""
    write_volume(path, np.zeros((2, 2, 2), np.float32), 4.0)
    header = bytearray(path.read_bytes()[:1024])
    struct.pack_into("<3i", header, 0, side, side, side)
    struct.pack_into("<3i", header, 28, side, side, side)
    with path.open("wb") as handle:
        handle.write(header)
        handle.truncate(1024 + 4 * side**3)


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """One GiB can be used."""
    monkeypatch.setattr(host_memory, "_machine", lambda: 2**30)


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Traceback" not in said
    return said


def test_what_can_be_used_is_the_least_of_all_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = available_bytes()
    assert free is not None and free > 0
    monkeypatch.setattr(host_memory, "_machine", lambda: 10)
    assert available_bytes() == 10
    with pytest.raises(UserError, match=r"a map needs 3\.0 GiB of memory, but 0\.0 KiB can be used; give up\."):
        require_memory(3 * 2**30, "a map", "give up")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "more was requested than is available"),
        (MemoryError("Unable to allocate 59.6 GiB for an array with shape (2000, 2000, 2000)"), "59.6 GiB more"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 3221225472 bytes"), "3.0 GiB"),
        (ValueError("array is too big; `arr.size * arr.dtype.itemsize` is larger than the maximum"), "was requested"),
        (torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.00 GiB of which 3.50 "
            "GiB is free."), "not enough GPU memory: 20.0 GiB more were requested, 3.50 GiB are free"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "not enough memory"),
    ],
)  # fmt: skip
def test_errors_of_libraries_become_one_sentence(error: Exception, said: str) -> None:
    found = memory_error_message(error)
    assert found is not None and said in found and "\n" not in found


@pytest.mark.parametrize("error", [RuntimeError("size mismatch for weight"), KeyError("memory"), ValueError("x")])
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert memory_error_message(error) is None


def test_requests_beyond_the_machine_fail_instead_of_the_process() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if Path("/dev/nvidiactl").exists():
        pytest.skip("CUDA maps more than it uses")
    with limit_to_available_memory():
        with pytest.raises(MemoryError):
            np.ones(2 * available_bytes() // 8 + 2**27)  # type: ignore[operator]
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_hardly_any_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(host_memory, "_machine", lambda: 2**20)
    assert main(["view_config", "run"]) == 1
    assert "a command needs 32.0 MiB of memory, but 1.0 MiB can be used" in sentence(capsys)


def test_a_template_that_does_not_fit(tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "train_tomo",
        str(tiny_set / "particles.star"),
        "-o",
        str(tmp_path / "run"),
        "--zdim",
        "2",
        "--device",
        "cpu",
    ]
    assert main([*words, "--templateres", "5000", "-b", "6"]) == 1
    said = sentence(capsys)
    assert "training with --templateres 5008 and a batch of 6 needs " in said and "GiB can be used" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("command", ["create_mask {map} -o {out}", "create_mask {small} -o {out} --apix 0.001"])
def test_maps_that_do_not_fit(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sparse_map(tmp_path / "map.mrc", 2000)
    write_volume(tmp_path / "small.mrc", np.random.default_rng(0).normal(size=(8, 8, 8)), 4.0)
    places = {"map": tmp_path / "map.mrc", "small": tmp_path / "small.mrc", "out": tmp_path / "out.mrc"}
    assert analysis_scripts.main.main([word.format(**places) for word in command.split()]) == 1
    said = sentence(capsys)
    assert "GiB of memory, but" in said and "can be used" in said
    assert "2000×2000×2000" in said or "32000³" in said
    assert not (tmp_path / "out.mrc").exists()


def test_volumes_of_a_tiny_pixel_size(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_tiny_networks(monkeypatch)
    star = own_copy(tiny_set, tmp_path / "set", 6)
    assert train(star, tmp_path / "run", "-n", "1", "-b", "6", "--valfrac", "0")[0] == 0
    capsys.readouterr()
    words = ["--load", str(tmp_path / "run" / "weights.0.pkl"), "-o", str(tmp_path / "v"), "-z", "0", "0"]
    assert main(["eval_vol", *words, "--Apix", "1e-3"]) == 1
    said = sentence(capsys)
    assert "at a pixel size of 0.001 Å, needs" in said and "give a larger pixel size" in said
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize("kilobytes", [150_000, 500_000, 1_000_000])
def test_an_address_space_too_small_for_the_libraries(kilobytes: int, tiny_set: Path) -> None:
    line = f"ulimit -v {kilobytes}; {sys.executable} -m opustomo check '{tiny_set}/particles.star'"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "memory" in done.stderr and "can be used" in done.stderr, done.stderr
    assert "OpenBLAS" not in done.stderr


# Files of a few bytes that ask for gigabytes


def call(module: str, name: str, *arguments: Any) -> bytes:
    """A pickle that calls a function with arguments."""
    body = pickle.dumps(arguments, protocol=2)[2:-1]
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + body + b"R."


BOMBS: dict[str, bytes] = {
    "bytes of a number": call("builtins", "bytes", 8 * 2**30),
    "bytearray of a number": call("builtins", "bytearray", 8 * 2**30),
    "array without values": call("numpy", "ndarray", (2**30,), "f8"),
    "declared string": b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"x.",
    "declared frame": b"\x80\x04\x95" + (2**40).to_bytes(8, "little") + b"N.",
    "list of a range": (
        b"\x80\x02cbuiltins\nlist\ncbuiltins\nrange\n" + pickle.dumps((2**33,), protocol=2)[2:-1] + b"R\x85R."
    ),
    "tuple of a range": (
        b"\x80\x02cbuiltins\ntuple\ncbuiltins\nrange\n" + pickle.dumps((2**33,), protocol=2)[2:-1] + b"R\x85R."
    ),
}


def reconstruct() -> bytes:
    text = pickle.dumps(np.zeros(3), protocol=2)
    at = text.index(b"K\x00\x85")  # the shape (0,)
    return text[:at] + b"J" + (2**31 - 1).to_bytes(4, "little") + b"\x85" + text[at + 3 :]


BOMBS["empty array of a size"] = reconstruct()


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("load", [load_pickle, load_torch])
def test_a_pickle_that_asks_for_gigabytes_is_refused(name: str, load: Callable[[Path], Any], tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(BOMBS[name])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"x\.pkl: refused as a pickle of arrays and plain containers"):
        load(tmp_path / "x.pkl")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100_000  # kB


def torch_bomb(kind: str) -> bytes:
    content = io.BytesIO()
    torch.save({"mu": torch.zeros(1).expand(2**40) if kind == "expanded" else torch.zeros(2**24)}, content)
    if kind == "expanded":
        return content.getvalue()
    packed = io.BytesIO()
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    return packed.getvalue()


@pytest.mark.parametrize("kind", ["expanded", "compressed"])
def test_a_torch_file_that_asks_for_gigabytes_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(torch_bomb(kind))
    with pytest.raises(UserError, match=r"x\.pkl: refused as a torch file, because its \w+ are larger than the file"):
        load_torch(tmp_path / "x.pkl")


def test_honest_files_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    content = {"a": rng.normal(size=(300, 7)), "b": list(range(10_000)), "c": {1, 2}, "d": np.float32(3)}
    content |= {"e": b"xyz", "f": np.array(["x", "yy"]), "g": bytearray(b"12"), "h": (True, None, 2**70)}
    content["i"] = np.int64(4)
    for protocol in range(6):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
        read = load_pickle(tmp_path / "x.pkl")
        assert read.keys() == content.keys()
        assert np.array_equal(read["a"], content["a"]) and np.array_equal(read["f"], content["f"])
        assert all(read[name] == content[name] for name in "bcdeghi")
    tensors = {"mu": torch.randn(100, 3), "norm": np.arange(4), "half": torch.ones(5, dtype=torch.float16)}
    torch.save(tensors, tmp_path / "y.pkl")
    read = load_torch(tmp_path / "y.pkl")
    assert torch.equal(read["mu"], tensors["mu"]) and np.array_equal(read["norm"], np.arange(4))
    torch.save(tensors["mu"], tmp_path / "z.pkl", _use_new_zipfile_serialization=False)
    assert torch.equal(load_torch(tmp_path / "z.pkl"), tensors["mu"])
