"""MRC volumes of all kinds that programs write."""

import io
import struct
from contextlib import redirect_stdout
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from opustomo.errors import UserError
from opustomo.io.mrc import read_header, read_volume, write_volume

TYPES = ["int8", "int16", "uint16", "float16", "float32"]


def volume(dtype: str = "float32") -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 100, (4, 6, 8))
    return values.astype(dtype)


def valid(path: Path) -> bool:
    with redirect_stdout(io.StringIO()):
        return bool(mrcfile.validate(path))


@pytest.mark.parametrize("dtype", TYPES)
def test_round_trip_is_valid_and_exact(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "a b.mrc"
    write_volume(path, volume(dtype), 3.42)
    assert valid(path)
    found, apix = read_volume(path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, volume(dtype).astype(np.float32))
    assert apix == pytest.approx(3.42, rel=1e-6)
    header = read_header(path)
    assert header.shape == (4, 6, 8)
    assert header.dtype == np.dtype(dtype)
    raw = np.fromfile(path, header.dtype, 4 * 6 * 8, offset=header.offset).reshape(header.shape)
    np.testing.assert_array_equal(raw, volume(dtype))
    with mrcfile.open(path) as handle:
        assert handle.is_volume()


def test_other_types_become_float32(tmp_path: Path) -> None:
    for values in (volume("float64"), volume("int64"), volume("bool"), volume(">f4")):
        write_volume(tmp_path / "v.mrc", values, 1.0)
        assert read_header(tmp_path / "v.mrc").dtype == np.float32
        np.testing.assert_array_equal(read_volume(tmp_path / "v.mrc")[0], values.astype(np.float32))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("stamp", [b"\x11\x11\x00\x00", b"\x00\x00\x00\x00", b"\x44\x44\x00\x00"])
def test_big_endian_with_any_machine_stamp(tmp_path: Path, dtype: str, stamp: bytes) -> None:
    path = tmp_path / "big.mrc"
    big = np.dtype("int16" if dtype == "int8" else dtype).newbyteorder(">")
    with mrcfile.new(path) as handle:
        handle.set_data(volume(dtype).astype(big))
        handle.voxel_size = 2.5
    raw = bytearray(path.read_bytes())
    if dtype == "int8":  # one byte has no order: mrcfile writes the header of such volumes as little-endian
        raw[12:16] = bytes(4)
        raw[1024:] = volume("int8").tobytes()
    assert struct.unpack(">i", raw[:4])[0] == 8
    raw[212:216] = stamp
    path.write_bytes(raw)
    found, apix = read_volume(path)
    np.testing.assert_array_equal(found, volume(dtype).astype(np.float32))
    assert apix == pytest.approx(2.5)


def test_zero_stamp_missing_map_and_extended_header(tmp_path: Path) -> None:
    path = tmp_path / "old.mrc"
    with mrcfile.new(path) as handle:
        handle.set_data(volume())
        handle.set_extended_header(np.zeros(77, dtype="V1"))
        handle.voxel_size = 5
    raw = bytearray(path.read_bytes())
    raw[208:216] = bytes(8)
    path.write_bytes(raw)
    np.testing.assert_array_equal(read_volume(path)[0], volume())
    assert read_header(path).offset == 1024 + 77


@pytest.mark.parametrize("scale", [1e-4, 1.0, 100.0])
def test_float16_is_valid_at_any_scale(tmp_path: Path, scale: float) -> None:
    values = (np.random.default_rng(0).standard_normal((32, 32, 32)) * scale).astype(np.float16)
    write_volume(tmp_path / "v.mrc", values, 8.0)
    assert valid(tmp_path / "v.mrc")
    np.testing.assert_array_equal(read_volume(tmp_path / "v.mrc")[0], values)


def test_header_without_pixel_size(tmp_path: Path) -> None:
    path = tmp_path / "v.mrc"
    with mrcfile.new(path) as handle:
        handle.set_data(volume())
    assert read_volume(path)[1] is None


@pytest.mark.parametrize("cut", [1, 100, 700, 1024])
def test_truncated_files_name_the_file(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "v.mrc"
    write_volume(path, volume(), 1.0)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(UserError, match=r"v\.mrc"):
        read_volume(path)


def test_what_is_no_volume_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_header(tmp_path / "absent.mrc")
    (tmp_path / "t.mrc").write_text("not a map " * 300)
    with pytest.raises(UserError, match=r"t\.mrc"):
        read_header(tmp_path / "t.mrc")
    (tmp_path / "e.mrc").write_bytes(b"")
    with pytest.raises(UserError, match=r"e\.mrc"):
        read_header(tmp_path / "e.mrc")
    with mrcfile.new(tmp_path / "c.mrc") as handle:
        handle.set_data(volume().astype(np.complex64))
    with pytest.raises(UserError, match="mode 4"):
        read_header(tmp_path / "c.mrc")
    with mrcfile.new(tmp_path / "p.mrc") as handle:
        handle.set_data(volume())
        handle.header.mapc, handle.header.maps = 3, 1
    with pytest.raises(UserError, match="order"):
        read_header(tmp_path / "p.mrc")
    with mrcfile.new(tmp_path / "g.mrc", compression="gzip") as handle:
        handle.set_data(volume())
    with pytest.raises(UserError, match="compressed"):
        read_header(tmp_path / "g.mrc")


def test_misuse_is_a_value_error_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="three axes"):
        write_volume(tmp_path / "v.mrc", np.zeros((3, 3)), 1.0)
    with pytest.raises(ValueError, match="voxel size"):
        write_volume(tmp_path / "v.mrc", volume(), 0.0)
    assert not list(tmp_path.iterdir())


def test_shared_sets(shared_data: Path) -> None:
    assert read_volume(shared_data / "sim_3state" / "subtomo" / "p000000.mrc")[1] == pytest.approx(8)
    header = read_header(shared_data / "ribosomes_10499" / "reference_4v5d.mrc")
    assert (header.shape, header.apix) == ((48, 48, 48), pytest.approx(10))
