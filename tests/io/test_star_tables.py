"""Particle tables of all programs."""

from pathlib import Path

import numpy as np
import pytest

from opustomo.errors import UserError
from opustomo.io.star_conventions import named_size_note
from opustomo.io.star_tables import ParticleStar, read_particles, read_table

FILES = {
    # name: particles, block, pixel size of the first row, its origin in pixels
    "one_loop_16": (16, "", 5.0, (0, 0, 0)),
    "relion30_origins_6": (6, "", 1.7005, None),
    "relion31_57": (57, "particles", 5.0, (3.947427 / 5, None, None)),
    "relion31_6optics": (139, "particles", 1.25, None),
    "relion4_300": (300, "particles", 10.632, (1.498846 / 10.632,) * 3),
    "relion5_3d_5": (5, "particles", 12.42, (-2.41904 / 12.42, 2.498456 / 12.42, -6.78404 / 12.42)),
    "warp_relion30_1399": (1399, "", 5.0, (0, 0, 0)),
}


def star_of(tmp_path: Path, text: str) -> ParticleStar:
    path = tmp_path / "p.star"
    path.write_text(text)
    return read_particles(path)


def loop(name: str, columns: str, *rows: str) -> str:
    return "\n".join([f"data_{name}", "", "loop_", *(f"_rln{c}" for c in columns.split()), *rows, "", ""])


@pytest.mark.parametrize("name", list(FILES))
def test_shared_tables(shared_data: Path, tmp_path: Path, name: str) -> None:
    count, block, apix, origin = FILES[name]
    star = read_particles(shared_data / "star" / f"{name}.star")
    assert (len(star), star.particle_block) == (count, block)
    sizes = star.pixel_sizes()
    assert sizes is not None
    assert sizes[0] == pytest.approx(apix)
    assert star.eulers_deg().shape == (count, 3)
    for axis, value in enumerate(origin or ()):
        if value is not None:
            assert star.origins_px()[0, axis] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("name", list(FILES))
def test_subset_keeps_blocks_and_columns(shared_data: Path, tmp_path: Path, name: str) -> None:
    star = read_particles(shared_data / "star" / f"{name}.star")
    chosen = np.array([len(star) - 1, 0, 2])
    star.subset(chosen).write(tmp_path / "subset.star")
    found = read_particles(tmp_path / "subset.star")
    assert list(found.blocks) == list(star.blocks)
    assert list(found.particles) == list(star.particles)
    assert found.particles.to_numpy().tolist() == star.particles.to_numpy()[chosen].tolist()
    for block in star.blocks:
        if block != star.particle_block:
            assert found.blocks[block].equals(star.blocks[block])  # type: ignore[union-attr]
    mask = np.zeros(len(star), dtype=bool)
    mask[[0, 2]] = True
    assert star.subset(mask).particles.equals(star.subset([0, 2]).particles)


@pytest.mark.parametrize("name", list(FILES))
def test_new_poses_come_back_and_nothing_else_changes(shared_data: Path, tmp_path: Path, name: str) -> None:
    star = read_particles(shared_data / "star" / f"{name}.star")
    rng = np.random.default_rng(0)
    eulers, origins = rng.uniform(-180, 180, (len(star), 3)), rng.uniform(-5, 5, (len(star), 3))
    star.with_poses(eulers, origins).write(tmp_path / "posed.star")
    found = read_particles(tmp_path / "posed.star")
    np.testing.assert_allclose(found.eulers_deg(), eulers, atol=1e-6)
    np.testing.assert_allclose(found.origins_px(), origins, atol=1e-6)
    assert list(found.particles)[: len(star.particles.columns)] == list(star.particles)
    kept = [c for c in star.particles if not c.startswith(("rlnAngle", "rlnOrigin"))]
    assert found.particles[kept].equals(star.particles[kept])


def test_blocks_of_any_name_and_order(tmp_path: Path) -> None:
    optics = loop("optics", "OpticsGroup ImagePixelSize", "1 2.0", "2 4.0")
    other = loop("tilts", "AngleRot AngleTilt AnglePsi CtfScalefactor", *["0 1 0 1"] * 5)
    table = loop(
        "whatever",
        "ImageName AngleRot AngleTilt AnglePsi OpticsGroup OriginXAngst",
        "a 1 2 3 2 8",
        "b 1 2 3 1 8",
    )
    for text in (optics + other + table, table + other + optics):
        star = star_of(tmp_path, text)
        assert star.particle_block == "whatever"
        np.testing.assert_allclose(star.origins_px(), [[2, 0, 0], [4, 0, 0]])
        np.testing.assert_allclose(star.origins_px(apix=1.0), [[8, 0, 0], [8, 0, 0]])


def test_optics_of_any_form(tmp_path: Path) -> None:
    """A single group without loop, and numbers of groups written in other ways."""
    table = loop("particles", "AngleRot OpticsGroup OriginXAngst", "0 1.0 6")
    for optics in (
        "data_optics\n_rlnOpticsGroup 1\n_rlnImagePixelSize 2\n",
        loop("x", "OpticsGroup PixelSize", "01 2"),
    ):
        star = star_of(tmp_path, table + optics)
        assert star.origins_px()[0, 0] == 3
        assert star.optics_block in ("optics", "x")


def test_one_particle_without_loop(tmp_path: Path) -> None:
    star = star_of(
        tmp_path, "data_particles\n_rlnAngleRot 10\n_rlnAngleTilt 20\n_rlnAnglePsi 30\n_rlnImageName 'a b'\n"
    )
    assert len(star) == 1
    np.testing.assert_array_equal(star.eulers_deg(), [[10, 20, 30]])
    assert star.strings("rlnImageName") == ["a b"]


ORIGIN_CASES = {
    "pixels": ("AngleRot OriginX OriginY OriginZ", "0 1 2 3", None, (1, 2, 3)),
    "pixels need no size": ("AngleRot OriginX", "0 1", 7.0, (1, 0, 0)),
    "absent": ("AngleRot", "0", None, (0, 0, 0)),
    "zero Å need no size": ("AngleRot OriginXAngst", "0 0.0", None, (0, 0, 0)),
    "rlnPixelSize": ("AngleRot OriginXAngst PixelSize", "0 6 3", None, (2, 0, 0)),
    "magnification": (
        "AngleRot OriginZAngst DetectorPixelSize Magnification",
        "0 6 2 5000",
        None,
        (0, 0, 1.5),
    ),
    "row size wins": ("AngleRot OriginXAngst ImagePixelSize PixelSize", "0 6 2 3", None, (3, 0, 0)),
    "given size wins": ("AngleRot OriginXAngst PixelSize", "0 6 3", 1.5, (4, 0, 0)),
    "both kinds, no optics": ("AngleRot OriginX OriginXAngst PixelSize", "0 1 6 3", None, (1, 0, 0)),
}


@pytest.mark.parametrize("case", list(ORIGIN_CASES))
def test_origins(tmp_path: Path, case: str) -> None:
    columns, row, apix, expected = ORIGIN_CASES[case]
    star = star_of(tmp_path, loop("", columns, row))
    np.testing.assert_allclose(star.origins_px(apix)[0], expected)


def test_origins_of_both_kinds_with_optics(tmp_path: Path) -> None:
    optics = loop("optics", "OpticsGroup ImagePixelSize", "1 2.0")
    table = loop("particles", "AngleRot OpticsGroup OriginX OriginXAngst", "0 1 1 6")
    star = star_of(tmp_path, optics + table)
    np.testing.assert_allclose(star.origins_px(), [[3, 0, 0]])
    posed = star.with_poses(np.zeros((1, 3)), np.array([[5.0, 0, 0]]))
    assert (posed.numbers("rlnOriginX")[0], posed.numbers("rlnOriginXAngst")[0]) == (5, 10)


def test_columns_are_added_in_the_files_own_unit(tmp_path: Path) -> None:
    old = star_of(tmp_path, loop("", "ImageName AngleRot AngleTilt AnglePsi", "a 1 2 3"))
    assert "rlnOriginX" in old.with_poses(np.zeros((1, 3)), np.ones((1, 3)))
    optics = loop("optics", "OpticsGroup ImagePixelSize", "1 2.5")
    new = star_of(tmp_path, optics + loop("particles", "ImageName OpticsGroup", "a 1"))
    posed = new.with_poses(np.zeros((1, 3)), np.ones((1, 3)))
    assert posed.numbers("rlnOriginZAngst")[0] == 2.5
    assert "rlnOriginX" not in posed


def test_the_binned_tomogram_pixel_size_is_the_last_resort(tmp_path: Path) -> None:
    optics = loop("optics", "OpticsGroup TomoTiltSeriesPixelSize TomoSubtomogramBinning", "1 1.5 4")
    star = star_of(tmp_path, optics + loop("particles", "AngleRot OpticsGroup", "0 1"))
    assert star.pixel_sizes() == pytest.approx([6.0])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (loop("", "Foo", "1"), "no block has particle columns"),
        (loop("", "DefocusU CtfScalefactor AngleRot AngleTilt AnglePsi", "1 2 3 4 5"), "contains a CTF table"),
        (loop("", "anglerot coordinateX", "1 2"), r"differ in case .* \(rlnanglerot for rlnAngleRot\)"),
        (loop("particles", "AngleRot ImageName"), "has no rows"),
        (loop("", "AngleRot ImageName", "1 a") + loop("b", "AngleRot ImageName", "2 b"), "two particle tables"),
        (loop("", "AngleRot AngleTilt", "1 2"), "no column rlnAnglePsi"),
        (loop("", "AngleRot AngleTilt AnglePsi", "1 2 3", "1 x 3"), "rlnAngleTilt of row 2 is 'x'"),
        (loop("", "AngleRot AngleTilt AnglePsi", "1 inf 3"), "rlnAngleTilt of row 1 is 'inf'"),
        (loop("", "AngleRot AngleTilt AnglePsi OriginXAngst", "1 2 3 4"), "no column states the pixel size"),
        (loop("", "AngleRot AngleTilt AnglePsi OriginXAngst PixelSize", "1 2 3 4 0"), "pixel size of row 1 is 0"),
        (
            loop("optics", "OpticsGroup ImagePixelSize", "1 2")
            + loop("particles", "AngleRot AngleTilt AnglePsi OriginXAngst OpticsGroup", "1 2 3 4 7"),
            "optics group 7",
        ),
    ],
)
def test_errors(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as mistake:
        star = star_of(tmp_path, text)
        star.eulers_deg()
        star.origins_px()
    assert "p.star" in str(mistake.value)
    assert "\n" not in str(mistake.value)


def test_misuse(tmp_path: Path) -> None:
    star = star_of(tmp_path, loop("", "AngleRot", "1", "2"))
    for indices in ([2], [-1], [True, False, True]):
        with pytest.raises(ValueError, match="particle"):
            star.subset(indices)
    with pytest.raises(ValueError, match="have the shapes"):
        star.with_poses(np.zeros((3, 3)), np.zeros((3, 3)))
    assert len(star.subset([])) == 0


def test_read_table_picks_the_block_with_the_columns(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "star" / "warp_TS_1_points.star"
    assert read_table(path).columns[0] == "centeredCoordinateXAngst"
    tilts = read_table(path, ["tiltID", "voltage"])
    assert len(tilts) == 41
    assert tilts["voltage"].dtype == np.float64
    with pytest.raises(UserError, match="no block has the column rlnDefocusU"):
        read_table(path, ["rlnDefocusU"])


HOT_PIXELS = loop("general", "ImageSizeX MicrographOriginalPixelSize", "5760 1.05") + loop(
    "hot_pixels", "CoordinateX CoordinateY", "100 200", "101 7"
)


def test_positions_in_images_are_no_particles(tmp_path: Path) -> None:
    """RELION's motion correction lists hot pixels as coordinates; picks in micrographs have no third one."""
    with pytest.raises(
        UserError, match=r"p.star: .*positions in a two-dimensional image, .*hot pixels.*, but no block"
    ):
        star_of(tmp_path, HOT_PIXELS)
    shifts = loop("global_shift", "MicrographFrameNumber MicrographShiftX MicrographShiftY", "1 0 0")
    with pytest.raises(UserError, match=r"p.star: the file contains motion correction of a movie"):
        star_of(tmp_path, shifts + HOT_PIXELS)
    assert len(star_of(tmp_path, loop("", "CoordinateX CoordinateY CoordinateZ", "100 200 3"))) == 1
    assert star_of(tmp_path, HOT_PIXELS + loop("", "ImageName CoordinateX CoordinateY", "a 1 2")).particle_block == ""


def test_pixel_sizes_in_the_names_of_images(tmp_path: Path) -> None:
    """WARP and M write them; names have two decimals."""
    names = ("../a/TS_1_0000001_5.36A.mrc", "b_2.45A.mrcs", "000001@c_bin8_1.82A.mrcs", "d.mrc")
    sizes = ("5.364", "2.446", "1.96", "7")
    star = star_of(tmp_path, loop("", "ImageName PixelSize", *map(" ".join, zip(names, sizes, strict=True))))
    said = named_size_note(star)
    assert said is not None and "the names of 1 images state 1.82 Å per pixel" in said
    assert "c_bin8_1.82A.mrcs in row 3), but 1.96 Å is used" in said
    assert named_size_note(star.subset([0, 1, 3])) is None
    said = named_size_note(star.subset([0]), 10.0)
    assert said is not None and "state 5.36 Å" in said and "but 10 Å is used" in said
    assert named_size_note(star_of(tmp_path, loop("", "AngleRot", "1"))) is None


def test_angles_that_are_none_are_refused(tmp_path: Path) -> None:
    star = star_of(tmp_path, loop("", "AngleRot AngleTilt AnglePsi", "1 2 3", "1 1e308 3", "1e30 0 0"))
    with pytest.raises(UserError, match=r"p.star: rlnAngleTilt of row 2 is 1e\+308, which is not .*; 2 rows have such"):
        star.eulers_deg()
