"""Subtomograms that do not belong to a set neither affect its scale nor take part; clean sets are unchanged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from opustomo.checkpoint.config import read_config
from opustomo.checkpoint.epoch_files import read_state
from opustomo.data.voxels import OUTLIER_FACTOR, BrokenSubtomogramError, VoxelSource, examine_scale, pooled_std
from opustomo.io.mrc import MrcHeader, read_header, read_volume, write_volume
from opustomo.main import main
from tests.commands.quick import assert_sound, own_copy, train, use_tiny_networks

BOX = 12


def write(folder: Path, stack: np.ndarray) -> list[MrcHeader]:
    folder.mkdir()
    for index, volume in enumerate(stack):
        write_volume(folder / f"{index}.mrc", volume, 4.0)
    return [read_header(folder / f"{index}.mrc") for index in range(len(stack))]


def clean(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.6, 1.7, (count, 1, 1, 1))  # thick and thin ice
    return (rng.normal(0.0, 0.04, (count, BOX, BOX, BOX)) * spread).astype(np.float32)


def spoil_scale(volume: np.ndarray) -> np.ndarray:
    return volume * 1000


def spoil_unit(volume: np.ndarray) -> np.ndarray:
    return volume * 1e-4


def spoil_offset(volume: np.ndarray) -> np.ndarray:
    return volume + 32768


def spoil_constant(volume: np.ndarray) -> np.ndarray:
    return np.full_like(volume, 3.0)


def spoil_nan(volume: np.ndarray) -> np.ndarray:
    return np.full_like(volume, np.nan)


def spoil_mostly_nan(volume: np.ndarray) -> np.ndarray:
    return np.where(np.arange(volume.size).reshape(volume.shape) % 5 == 0, volume, np.inf)


def spoil_huge_voxel(volume: np.ndarray) -> np.ndarray:
    changed = volume.copy()
    changed[-1, 3, 2] = 1e37
    return changed


def spoil_hot_voxel(volume: np.ndarray) -> np.ndarray:
    changed = volume.copy()
    changed[-1, 3, 2] = volume.mean() + 9 * OUTLIER_FACTOR * volume.std()  # less than ten times the deviation of all
    return changed


SPOILED: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "scale": (spoil_scale, r"times larger than the median of the set"),
    "unit": (spoil_unit, r"times smaller than the median of the set"),
    "offset": (spoil_offset, r"the mean of .* is 3\.277e\+04"),
    "constant": (spoil_constant, r"one constant value"),
    "nan": (spoil_nan, r"values that are not finite in 1728 of 1728 voxels"),
    "mostly nan": (spoil_mostly_nan, r"values that are not finite in 1382 of 1728 voxels"),
    "huge voxel": (spoil_huge_voxel, r"one voxel of .* contributes more than half of its variance"),
    "hot voxel": (spoil_hot_voxel, r"one voxel of .* contributes more than half of its variance"),
}
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # mrcfile takes means of what it is handed


@pytest.mark.parametrize("kind", SPOILED)
def test_one_bad_subtomogram_decides_nothing(kind: str, tmp_path: Path) -> None:
    stack = clean(60)
    good = np.delete(stack, 17, axis=0)[:, : BOX // 4].astype(np.float64).std()
    spoil, reason = SPOILED[kind]
    stack[17] = spoil(stack[17])
    source = VoxelSource(write(tmp_path / "set", stack))
    report = examine_scale(source, 60)
    assert list(report.left_out) == [17] and report.looked_at == 60 and not report.per_particle
    assert re.search(reason, report.left_out[17]) and "17.mrc" in report.left_out[17]
    assert pooled_std(source, 60) == pytest.approx(good, rel=1e-12)
    with pytest.raises(BrokenSubtomogramError, match=reason):
        source.read(17)


def test_a_clean_set_is_scaled_as_before(tmp_path: Path) -> None:
    stack = clean(130)
    images = write(tmp_path / "set", stack)
    source = VoxelSource(images)
    report = examine_scale(source, 130)
    assert not report.left_out and not report.per_particle
    assert pooled_std(source, 130) == pooled_std(VoxelSource(images), 130)  # to the last bit
    for index in (0, 64, 129):
        np.testing.assert_array_equal(source.read(index), stack[index])
    assert report.low < report.median < report.high


def test_the_example_sets_are_clean(shared_data: Path) -> None:
    for name in ("sim_3state", "ribosomes_10499"):
        images = [read_header(path) for path in sorted((shared_data / name).rglob("*.mrc")) if path.parent.name != name]
        source = VoxelSource(images)
        assert not examine_scale(source, len(images)).left_out
        assert not source.per_particle
        assert pooled_std(source, len(images)) == pooled_std(VoxelSource(images), len(images))


def test_bad_subtomograms_that_were_not_looked_at_are_refused_when_read(tmp_path: Path) -> None:
    stack = clean(30)
    stack[7] *= 1000
    source = VoxelSource(write(tmp_path / "set", stack), cache_bytes=0)
    assert not examine_scale(source, 30, sample=3).left_out
    source.read(6)
    with pytest.raises(BrokenSubtomogramError, match=r"times larger than the median of the set"):
        source.read(7)
    write_volume(tmp_path / "set" / "7.mrc", stack[8] + 0.001, 4.0)  # repaired while the run goes on
    source.read(7)


def test_files_in_different_units_are_divided_each_by_its_own(tmp_path: Path) -> None:
    stack = clean(40)
    units = np.where(np.arange(40) % 2 == 0, 1.0, 255.0)[:, None, None, None]
    source = VoxelSource(write(tmp_path / "set", (stack * units).astype(np.float32)))
    report = examine_scale(source, 40)
    assert report.per_particle and source.per_particle and not report.left_out
    for index in range(40):
        assert source.read(index).std() == pytest.approx(1.0, rel=1e-5)
        assert source.read(index).dtype == np.float32
    assert pooled_std(source, 40) == pytest.approx(1.0, rel=0.1)
    source = VoxelSource(source._images)
    assert not examine_scale(source, 40, allow_per_particle=False).per_particle


@pytest.mark.parametrize("count", [1, 2, 3])
def test_small_sets(count: int, tmp_path: Path) -> None:
    stack = clean(count)
    source = VoxelSource(write(tmp_path / "set", stack))
    report = examine_scale(source, count)
    assert report.looked_at == count and not report.left_out


# Through the commands


@pytest.fixture
def spoiled_set(tiny_set: Path, tmp_path: Path) -> Path:
    """Sixteen subtomograms of which one is a thousand times larger."""
    star = own_copy(tiny_set, tmp_path / "set")
    path = tmp_path / "set" / "subtomo" / "p000005.mrc"
    volume, _ = read_volume(path)
    write_volume(path, volume * 1000, 12.0)
    return star


def test_check_names_and_counts_them(spoiled_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(spoiled_set), "--normalizectf", "--json", str(tmp_path / "found.json")]) == 0
    said = capsys.readouterr().out
    assert "1 of 16 inspected ones are left out" in said
    assert re.search(r"warning: left out: the standard deviation of .*p000005\.mrc is .* times larger", said)
    scale = json.loads((tmp_path / "found.json").read_text())["preflight"]["scale"]
    assert scale["looked_at"] == 16 and len(scale["left_out"]) == 1 and "p000005.mrc" in scale["left_out"][0]


def test_maps_leave_them_out(
    spoiled_set: Path, tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--normalizectf", "--device", "cpu"]
    assert main(["reconstruct", str(spoiled_set), "-o", str(tmp_path / "map.mrc"), *words]) == 0
    said = capsys.readouterr().out
    assert "Note: 1 subtomograms are left out, the first because the standard deviation of" in said
    assert "15 particles" in said
    assert main(["reconstruct", str(tiny_set / "particles.star"), "-o", str(tmp_path / "all.mrc"), *words]) == 0
    assert "16 particles" in capsys.readouterr().out
    one, other = (read_volume(tmp_path / name)[0] for name in ("map.mrc", "all.mrc"))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9


def test_training_leaves_them_out_and_says_so(
    spoiled_set: Path, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_networks(monkeypatch)
    code, said = train(spoiled_set, tmp_path / "run", "-n", "2")
    assert code == 0, said
    assert "1 of 16 inspected ones are left out" in said
    assert len(re.findall(r"particle \d+ is left out: the standard deviation of .*p000005\.mrc", said)) == 1
    log = (tmp_path / "run" / "run.log").read_text()
    assert "p000005.mrc" in log and "(1 left out so far)" in log
    assert_sound(tmp_path / "run", 16)
    assert train(tiny_set / "particles.star", tmp_path / "clean", "-n", "1")[0] == 0
    scales = [
        float(re.search(r"voxels are divided by ([\d.e-]+)", (tmp_path / run / "run.log").read_text())[1])  # type: ignore[index]
        for run in ("run", "clean")
    ]
    assert scales[0] == pytest.approx(scales[1], rel=0.05)


@pytest.mark.parametrize(("factor", "said"), [(1000.0, "values from 0 to 1e+03"), (-5.0, "values from -5 to -0")])
def test_a_mask_far_from_0_to_1_is_refused(
    factor: float, said: str, tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask, _ = read_volume(tiny_set / "mask.mrc")
    write_volume(tmp_path / "mask.mrc", factor * mask, 12.0)
    code = main(["check", str(tiny_set / "particles.star"), "-r", str(tmp_path / "mask.mrc"), "--normalizectf"])
    assert code == 1
    assert f"mask.mrc has {said}, but 0 to 1 is expected" in capsys.readouterr().out


def test_a_run_on_files_in_different_units_goes_on_as_it_began(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_networks(monkeypatch)
    star = own_copy(tiny_set, tmp_path / "set")
    for number in range(0, 16, 2):
        path = tmp_path / "set" / "subtomo" / f"p{number:06d}.mrc"
        volume, _ = read_volume(path)
        write_volume(path, volume * 500, 12.0)
    code, said = train(star, tmp_path / "run", "-n", "1")
    assert code == 0 and "each is divided by its own" in said and "left out:" not in said
    assert read_config(tmp_path / "run" / "config.pkl")[2]["dataset_args"]["scale_per_particle"] is True
    state = read_state(tmp_path / "run")
    assert state is not None and state["scale_per_particle"] is True
    assert train(star, tmp_path / "run", "-n", "2", "--load", "latest")[0] == 0
    assert_sound(tmp_path / "run", 16)
    code, said = train(star, tmp_path / "given", "-n", "1", "--norm", "0", "1")
    assert code == 0 and "each is divided by its own" not in said
