"""Pickles and torch files: admitted content is restored, and other content is refused without running code."""

import collections
import datetime
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from opustomo.errors import UserError
from opustomo.io.pickles import dump_pickle, dump_pickles, dump_torch, load_pickle, load_pickles, load_torch

RNG = np.random.default_rng(0)
ARRAY = RNG.standard_normal((5, 3))


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> Any:
        return self.function, self.args


@pytest.mark.parametrize("protocol", range(6))
def test_admitted_content(tmp_path: Path, protocol: int) -> None:
    content = {
        "array": ARRAY,
        "fortran": np.asfortranarray(ARRAY),
        "big": ARRAY.astype(">f4"),
        "objects": np.array([1, "x", None], dtype=object),
        "records": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        "scalar": np.float32(2.5),
        "tensor": torch.arange(6.0).reshape(2, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "when": datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.UTC),
        "containers": [
            (1, "ä"),
            {2, 3},
            frozenset({4}),
            1j,
            b"\xff\x00",
            bytearray(b"x"),
            None,
            True,
            range(3),
        ],
        "ordered": collections.OrderedDict(b=1, a=2),
    }
    path = tmp_path / "a b.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    found = load_pickle(path)
    assert list(found) == list(content)
    for name in ("array", "fortran", "big", "objects", "records"):
        np.testing.assert_array_equal(found[name], content[name])
        assert found[name].dtype.newbyteorder("=") == content[name].dtype.newbyteorder("=")
    for name in ("tensor", "parameter"):
        assert torch.equal(found[name], content[name])
    for name in ("scalar", "when", "containers", "ordered"):
        assert found[name] == content[name]


def test_arrays_of_numpy_1(tmp_path: Path) -> None:
    """Before numpy 2 the constructors were in numpy.core."""
    text = pickle.dumps(ARRAY, 0).replace(b"numpy._core", b"numpy.core")
    (tmp_path / "old.pkl").write_bytes(text)
    np.testing.assert_array_equal(load_pickle(tmp_path / "old.pkl"), ARRAY)


def attacks(witness: Path) -> dict[str, Any]:
    command = f"touch '{witness}'"
    return {
        "system": Call(os.system, command),
        "eval": Call(eval, f"open({str(witness)!r}, 'w')"),
        "open": Call(open, str(witness), "w"),
        "import": Call(__import__, "antigravity"),
        "nested": [{"x": (1, Call(os.system, command))}],
        "in an object array": np.array([Call(os.system, command)], dtype=object),
        "numpy function": Call(np.save, str(witness), ARRAY),
        "numpy test runner": Call(np.testing._private.utils.runstring, command, {}),
        "torch.load": Call(torch.load, str(witness)),
        "bytes of a torch storage": Call(torch.storage._load_from_bytes, pickle.dumps(Call(os.system, command))),
    }


@pytest.mark.parametrize("name", list(attacks(Path())))
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_crafted_pickles_run_nothing(tmp_path: Path, name: str, protocol: int) -> None:
    witness = tmp_path / "witness.npy"
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(attacks(witness)[name], protocol))
    for load in (load_pickle, load_pickles, load_torch):
        with pytest.raises(UserError, match=r"evil\.pkl"):
            load(path)
    assert not witness.exists()


def test_the_attack_would_work(tmp_path: Path) -> None:
    """The witness file does appear when a plain unpickler reads the same bytes."""
    witness = tmp_path / "witness.npy"
    pickle.loads(pickle.dumps(attacks(witness)["system"]))
    assert witness.exists()


def test_pickles_cannot_change_the_constructors(tmp_path: Path) -> None:
    """The opcode BUILD can set attributes of any object."""
    # (GLOBAL _frombuffer) (None, {"__defaults__": (1,)}) BUILD
    text = b"cnumpy._core.numeric\n_frombuffer\n(N(dV__defaults__\n(I1\ntstb."
    path = tmp_path / "build.pkl"
    path.write_bytes(text)
    with pytest.raises(UserError):
        load_pickle(path)


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"hello", b"PK\x03\x04 cut short", b"\x80\x04\x95\xff\xff"])
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.pkl"
    path.write_bytes(content)
    for load in (load_pickle, load_pickles, load_torch):
        with pytest.raises(UserError, match=r"bad\.pkl"):
            load(path)
    with pytest.raises(UserError, match="does not exist"):
        load_torch(tmp_path / "absent.pkl")


def test_pickles_in_a_row(tmp_path: Path) -> None:
    path = tmp_path / "config.pkl"
    now = datetime.datetime(2026, 1, 1)
    dump_pickles(path, {"a": 1}, now)
    assert load_pickles(path) == [{"a": 1}, now]
    assert load_pickle(path) == {"a": 1}


def test_torch_files(tmp_path: Path) -> None:
    content = {
        "mu": torch.ones(3, 2, dtype=torch.float16),
        "nn": None,
        "array": ARRAY,
        "scalar": np.float64(3),
        "integers": np.arange(4),
        "when": datetime.datetime(2026, 1, 1),
    }
    path = tmp_path / "z.0.pkl"
    dump_torch(path, content)
    new = load_torch(path)
    torch.save(content, path, _use_new_zipfile_serialization=False)
    old = load_torch(path)
    path.write_bytes(pickle.dumps({"mu": content["mu"], "array": ARRAY}))
    plain = load_torch(path)
    for found in (new, old, plain):
        assert torch.equal(found["mu"], content["mu"])
        np.testing.assert_array_equal(found["array"], ARRAY)
    for found in (new, old):
        assert found["scalar"] == 3
        assert found["when"] == content["when"]


@pytest.mark.parametrize("zipped", [True, False])
def test_crafted_torch_files_run_nothing(tmp_path: Path, zipped: bool) -> None:
    path, witness = tmp_path / "evil.pkl", tmp_path / "witness.npy"
    torch.save({"mu": attacks(witness)["system"]}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"evil\.pkl"):
        load_torch(path)
    assert not witness.exists()


def test_writing_is_atomic(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    dump_pickle(path, [1])
    for dump in (dump_pickle, dump_torch):
        with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
            dump(path, lambda: None)
    assert load_pickle(path) == [1]
    assert list(tmp_path.iterdir()) == [path]
