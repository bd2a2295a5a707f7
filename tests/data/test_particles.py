"""Particle set: pixel size, poses, CTF tables and mask, and their consistency."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from opustomo.data.config import DataConfig
from opustomo.data.particles import common_box, load_particles, pixel_size
from opustomo.errors import UserError
from opustomo.io.masks import load_mask
from opustomo.io.mrc import MrcHeader, write_volume
from opustomo.io.poses import Poses, write_poses
from opustomo.io.star_tables import ParticleStar, read_particles


def header(name: str, shape: tuple[int, int, int] = (8, 8, 8), apix: float | None = 4.0) -> MrcHeader:
    return MrcHeader(Path(name), shape, apix, np.dtype("<f4"), 1024)


@pytest.fixture
def own_set(tiny_set: Path, tmp_path: Path) -> Path:
    """A copy of the tiny set that a test may damage."""
    return Path(shutil.copytree(tiny_set, tmp_path / "own set"))


def star_of(folder: Path, *columns: str, rows: str = "a.mrc") -> ParticleStar:
    head = "\n".join(f"_{name}" for name in ("rlnImageName", *columns))
    (folder / "p.star").write_text(f"data_\n\nloop_\n{head}\n{rows}\n")
    return read_particles(folder / "p.star")


def test_images_are_no_subtomograms(tmp_path: Path) -> None:
    (tmp_path / "p.star").write_text("data_\nloop_\n_rlnImageName\n_rlnAngleRot\n1@a.mrcs 0\n2@a.mrcs 0\n")
    with pytest.raises(UserError, match=r"p.star has one row per image of a stack, .* dsd prepare_subtomos"):
        load_particles(DataConfig(tmp_path / "p.star"))


def test_a_simulated_set_is_read_as_it_was_written(tiny_set: Path) -> None:
    found = load_particles(DataConfig(tiny_set / "particles.star"))
    truth = np.load(tiny_set / "truth.npz")
    assert (len(found), found.box, found.notes) == (16, 24, ())
    assert found.apix == pytest.approx(12.0, rel=1e-6)
    np.testing.assert_allclose(found.poses.eulers_deg, truth["eulers_used"], atol=1e-5)
    np.testing.assert_allclose(found.poses.origins * 24, truth["origin_used"], atol=1e-5)
    assert [image.path.stem for image in found.images] == [f"p{i:06d}" for i in range(16)]
    assert len(found.tables) == 16 and found.table.tolist() == list(range(16))
    assert found.tables[3].tilt_deg.min() == -60 and len(found.tables[3]) == 21


def test_a_table_that_particles_share_is_read_once(own_set: Path) -> None:
    text = (own_set / "particles.star").read_text()
    for i in range(1, 16, 2):  # odd particles take the table of particle 1
        text = text.replace(f"p{i:06d}_ctf", "p000001_ctf")
    (own_set / "particles.star").write_text(text)
    found = load_particles(DataConfig(own_set / "particles.star"))
    assert len(found.tables) == 9
    assert len(set(found.table[1::2])) == 1 and len(set(found.table[::2])) == 8
    plain = load_particles(DataConfig(own_set / "particles.star", use_ctf=False))
    assert len(plain.tables) == 1 and not plain.table.any()


def test_both_kinds_of_ctf_table_say_the_same(tiny_set: Path) -> None:
    relion = load_particles(DataConfig(tiny_set / "particles.star")).tables[2]
    warp = load_particles(DataConfig(tiny_set / "particles.star", warp=True, warp_bfactor_scale=1.0)).tables[2]
    for name in ("tilt_deg", "defocus_u_A", "defocus_v_A", "voltage_kv", "amplitude_contrast", "bfactor_A2", "scale"):
        np.testing.assert_allclose(getattr(warp, name), getattr(relion, name), rtol=1e-4, atol=2e-3, err_msg=name)
    weaker = load_particles(DataConfig(tiny_set / "particles.star", warp=True)).tables[2]
    np.testing.assert_allclose(weaker.bfactor_A2, 0.25 * warp.bfactor_A2)


def test_without_ctf_column_only_the_wedge_is_modeled(own_set: Path) -> None:
    path = own_set / "particles.star"
    path.write_text(path.read_text().replace("rlnCtfImage", "myNote"))
    found = load_particles(DataConfig(path, tilt_range_deg=40.0, tilt_step_deg=5.0))
    (note,) = found.notes
    assert "no CTF is applied (the particle table has no rlnCtfImage)" in note and "±40°" in note
    (table,) = found.tables
    np.testing.assert_array_equal(table.tilt_deg, np.arange(-40, 41, 5))
    assert not found.table.any() and len(found.table) == 16


def test_tilts_beyond_the_limit_get_no_weight(tiny_set: Path) -> None:
    config = DataConfig(tiny_set / "particles.star", tilt_limit_deg=30.0)
    for table in load_particles(config).tables:
        np.testing.assert_array_equal(table.scale > 0, np.abs(table.tilt_deg) <= 30)
    with pytest.raises(UserError, match="--tilt-limit -1"):
        load_particles(replace(config, tilt_limit_deg=-1.0))


def test_poses_come_from_the_file_when_given(tiny_set: Path, tmp_path: Path) -> None:
    poses = Poses(np.random.default_rng(0).uniform(0, 90, (16, 3)), np.full((16, 3), 0.01))
    write_poses(tmp_path / "poses.pkl", poses)
    found = load_particles(DataConfig(tiny_set / "particles.star", poses=tmp_path / "poses.pkl"))
    np.testing.assert_array_equal(found.poses.eulers_deg, poses.eulers_deg)
    write_poses(tmp_path / "few.pkl", poses.subset(np.arange(5)))
    with pytest.raises(UserError, match=r"few\.pkl contains 5 poses, but .*particles\.star has 16 particles"):
        load_particles(DataConfig(tiny_set / "particles.star", poses=tmp_path / "few.pkl"))


def test_boxes_are_even_cubes_of_one_size() -> None:
    assert common_box([header("a"), header("b")]) == 8
    with pytest.raises(UserError, match=r"b has 8×9×10 voxels \(x×y×z\), but subtomograms must be cubes"):
        common_box([header("a"), header("b", (10, 9, 8))])
    with pytest.raises(UserError, match="c has box 10, but a has box 8"):
        common_box([header("a"), header("b"), header("c", (10, 10, 10))])
    with pytest.raises(UserError, match="odd box of 9"):
        common_box([header("a", (9, 9, 9))])


def test_the_pixel_size_asked_for_must_be_the_headers(tmp_path: Path) -> None:
    star = star_of(tmp_path)
    assert pixel_size([header("a")], star, None) == 4.0
    assert pixel_size([header("a")], star, 4.03) == 4.03  # within 1 %: what was asked for counts
    for asked in (4.05, 3.95, 8.0, 0.4):
        with pytest.raises(UserError, match=r"--angpix is .* Å, but the header of .* says 4 Å"):
            pixel_size([header("a")], star, asked)


@pytest.mark.parametrize("asked", [0.0, -3.0, float("nan"), float("inf")])
def test_pixel_sizes_that_are_none(tmp_path: Path, asked: float) -> None:
    for apix in (None, 4.0):
        with pytest.raises(UserError, match="--angpix"):
            pixel_size([header("a", apix=apix)], star_of(tmp_path), asked)


def test_the_table_reports_the_pixel_size_of_files_without(tmp_path: Path) -> None:
    star = star_of(tmp_path, "rlnPixelSize", rows="a.mrc 7.5")
    assert pixel_size([header("a", apix=None)], star, None) == 7.5
    assert pixel_size([header("a", apix=None)], star, 6.0) == 6.0
    with pytest.raises(UserError, match="Give it with --angpix"):
        pixel_size([header("a", apix=None)], star_of(tmp_path), None)


def test_masks_must_fit(tmp_path: Path) -> None:
    path = tmp_path / "mask.mrc"
    assert load_mask(None, 8, 4.0) is None
    write_volume(path, np.ones((8, 8, 8), np.float32), 4.0)
    np.testing.assert_array_equal(load_mask(path, 8, 4.03), np.ones((8, 8, 8)))
    with pytest.raises(UserError, match=r"The mask .* has 8×8×8 voxels, but the subtomograms have 10³"):
        load_mask(path, 10, 4.0)
    with pytest.raises(UserError, match=r"pixel size of 4 Å, but the subtomograms have 4\.5 Å"):
        load_mask(path, 8, 4.5)
    write_volume(path, np.zeros((8, 8, 8), np.float32), 4.0)
    with pytest.raises(UserError, match="no voxel above zero"):
        load_mask(path, 8, 4.0)
    with pytest.raises(UserError, match=r"absent\.mrc"):
        load_mask(tmp_path / "absent.mrc", 8, 4.0)


def test_masks_without_a_pixel_size_are_trusted(tmp_path: Path) -> None:
    path = tmp_path / "mask.mrc"
    write_volume(path, np.ones((8, 8, 8), np.float32), 4.0)
    raw = bytearray(path.read_bytes())
    raw[40:52] = bytes(12)  # the cell's lengths
    path.write_bytes(raw)
    assert load_mask(path, 8, 9.0) is not None


def test_missing_subtomograms_are_counted_and_the_first_is_named(own_set: Path) -> None:
    for i in (3, 7, 8):
        (own_set / "subtomo" / f"p{i:06d}.mrc").unlink()
    with pytest.raises(UserError, match=r"3 of 16 subtomograms are missing, the first is .*p000003\.mrc"):
        load_particles(DataConfig(own_set / "particles.star"))


def test_a_truncated_subtomogram_is_named_before_training(own_set: Path) -> None:
    path = own_set / "subtomo" / "p000011.mrc"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"p000011\.mrc: the file is truncated"):
        load_particles(DataConfig(own_set / "particles.star"))


def test_subtomograms_elsewhere_are_found_by_datadir(own_set: Path, tmp_path: Path) -> None:
    shutil.move(own_set / "subtomo", tmp_path / "flat folder")
    with pytest.raises(UserError, match="16 of 16 subtomograms are missing"):
        load_particles(DataConfig(own_set / "particles.star"))
    found = load_particles(DataConfig(own_set / "particles.star", datadir=tmp_path / "flat folder"))
    assert found.images[0].path.parent == tmp_path / "flat folder"
