"""Cubes of `dsdsh extract_tomo_cubes` against those of `relion_preprocess --extract`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from analysis_scripts.main import main as dsdsh
from opustomo.io.image_paths import resolve_images
from opustomo.io.mrc import read_volume, write_volume
from opustomo.io.star_tables import ParticleStar, read_particles
from tests.convert.tables import loop
from tests.relion.conftest import run
from tests.relion.programs import NEEDS_RELION, relion

pytestmark = NEEDS_RELION

BOX, APIX = 16, 8.0
WHOLE = ["12 20 11", "8 8 8", "32 40 16"]
FRACTIONS = ["12.6 20.4 11.5", "9.9 8.1 8.7", "31.3 39.5 15.5"]


def both(folder: Path, places: list[str], *words: str) -> tuple[list[np.ndarray], ParticleStar]:
    """Cut the same places of a tomogram twice: RELION's cubes, and the table of ours."""
    tomogram = np.random.default_rng(0).normal(size=(24, 48, 40)).astype(np.float32)
    write_volume(folder / "TS_1.mrc", tomogram, APIX)
    # RELION finds the coordinates of a tomogram by its name
    rows = [f"TS_1.mrc {place}" for place in places]
    (folder / "TS_1.star").write_text(loop("", "MicrographName CoordinateX CoordinateY CoordinateZ", *rows))
    optics = "OpticsGroup OpticsGroupName Voltage SphericalAberration AmplitudeContrast MicrographPixelSize"
    text = loop("optics", optics, f"1 opticsGroup1 300 2.7 0.07 {APIX}")
    (folder / "tomograms.star").write_text(text + loop("micrographs", "MicrographName OpticsGroup", "TS_1.mrc 1"))
    cut = ("--extract", "--extract_size", BOX, "--coord_dir", "./", "--coord_suffix", ".star")
    relion(
        "preprocess", "--i", "tomograms.star", *cut, "--part_dir", "relion/", "--part_star", "relion.star", cwd=folder
    )
    theirs = [read_volume(path)[0] for path in resolve_images(read_particles(folder / "relion.star"), None)]
    out = folder / "cubes.star"
    cut = ("--box-size", BOX, "-o", folder / "cubes", "--out-star", out, "--keep-values", *words)
    run(dsdsh, "extract_tomo_cubes", folder / "TS_1.mrc", folder / "TS_1.star", *cut)
    return theirs, read_particles(out)


def test_whole_coordinates_give_the_same_cubes(tmp_path: Path) -> None:
    """Voxel for voxel: both count from 0 and put the voxel named at index box/2."""
    theirs, star = both(tmp_path, WHOLE)
    ours = [read_volume(path)[0] for path in resolve_images(star, None)]
    assert len(ours) == len(theirs) == 3
    for one, other in zip(theirs, ours, strict=True):
        assert np.array_equal(one, other)
    assert not star.origins_px().any()


def test_fractions(tmp_path: Path) -> None:
    """RELION cuts fractions off and forgets them; ours rounds and keeps the remainder as an origin."""
    theirs, star = both(tmp_path, FRACTIONS, "--round-mode", "trunc")
    for one, path in zip(theirs, resolve_images(star, None), strict=True):
        assert np.array_equal(one, read_volume(path)[0])
    np.testing.assert_allclose(star.origins_px()[0], [-0.6, -0.4, -0.5], atol=1e-5)
    (tmp_path / "rounded").mkdir()
    theirs, star = both(tmp_path / "rounded", FRACTIONS)
    same = [np.array_equal(a, read_volume(b)[0]) for a, b in zip(theirs, resolve_images(star, None), strict=True)]
    assert not any(same)
    np.testing.assert_allclose(star.origins_px()[0], [0.4, -0.4, 0.5], atol=1e-5)


def test_tables_lead_to_the_cubes(tmp_path: Path) -> None:
    """RELION's table and ours give coordinates minus origins that are the same places."""
    _, star = both(tmp_path, FRACTIONS)
    theirs = read_particles(tmp_path / "relion.star")
    columns = [f"rlnCoordinate{axis}" for axis in "XYZ"]
    places = np.stack([star.numbers(column) for column in columns], 1) - star.origins_px()
    np.testing.assert_allclose(places, np.stack([theirs.numbers(column) for column in columns], 1), atol=1e-5)
