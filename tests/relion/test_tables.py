"""RELION reads every STAR file that a command writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis_scripts.main import main as dsdsh
from opustomo.io.ctf_tables import read_relion_table
from opustomo.io.star_conventions import ignored_origins
from opustomo.io.star_tables import EULER_COLUMNS, ORIGIN_ANGST_COLUMNS, ParticleStar, read_particles, read_table
from opustomo.main import main as dsd
from tests.convert.tables import loop, star_of
from tests.relion.conftest import APIX, BOX, COUNT, run
from tests.relion.programs import NEEDS_RELION, as_relion_reads, relion

pytestmark = NEEDS_RELION

# RELION 3.1 moves these into its optics table, or replaces them there
OPTICS = {"rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnMagnification", "rlnDetectorPixelSize"}
OPTICS |= {"rlnBeamTiltX", "rlnBeamTiltY"}
CONVERTED = {"rlnOriginX", "rlnOriginY", "rlnOriginZ"}


def assert_same(ours: ParticleStar, theirs: ParticleStar) -> None:
    """RELION found every row, every column, every value, the poses and the pixel size."""
    assert len(theirs) == len(ours)
    columns = set(ours.particles.columns) - OPTICS - CONVERTED
    if ours.optics_block is None:
        columns -= {"rlnOpticsGroup"}  # RELION makes groups of its own
    assert columns <= set(theirs.particles.columns)
    for column in columns:
        mine, its = ours.strings(column), theirs.strings(column)
        try:
            numbers = np.array(mine, dtype=float)
        except ValueError:
            assert its == mine, column
        else:
            np.testing.assert_allclose(theirs.numbers(column), numbers, rtol=1e-5, atol=1e-5, err_msg=column)
    sizes = ours.pixel_sizes()
    if sizes is not None and ("rlnImageName" in ours or ours.optics_block is not None):
        np.testing.assert_allclose(theirs.pixel_sizes(), sizes, rtol=1e-5)
    if all(column in ours for column in EULER_COLUMNS) and sizes is not None:
        # what RELION 3.1 takes for the shift of a particle: nothing but these columns
        shifts = np.stack([theirs.numbers(c) if c in theirs else np.zeros(len(ours)) for c in ORIGIN_ANGST_COLUMNS], 1)
        if "rlnImageName" in ours and ignored_origins(ours) is None:
            np.testing.assert_allclose(shifts, ours.origins_px() * sizes[:, None], atol=1e-3)


def test_tables_of_subtomograms(subtomogram_tables: dict[str, Path]) -> None:
    for name, path in subtomogram_tables.items():
        ours, theirs = read_particles(path), as_relion_reads(path)
        assert_same(ours, theirs)
        assert ignored_origins(ours) is None, name
        assert theirs.optics_block is not None, name


def test_tables_of_pipelines(pipeline_tables: dict[str, Path]) -> None:
    for path in pipeline_tables.values():
        assert_same(read_particles(path), as_relion_reads(path))


def test_tables_of_particle_series(particle_series: Path) -> None:
    """`prepare_subtomos`: the particle table, and the CTF tables, which RELION reads as it reads micrographs."""
    out = particle_series / "subtomos"
    run(dsd, "prepare_subtomos", particle_series / "series.star", "-o", out, "--workers", 1)
    ours = read_particles(out / "particles.star")
    assert_same(ours, as_relion_reads(out / "particles.star"))
    for name in ours.strings("rlnCtfImage"):
        table = (out / name).with_suffix(".star")
        relion("convert_star", "--i", table.name, "--o", "read.star", cwd=table.parent)
        theirs = read_table(table.with_name("read.star"), ("rlnDefocusU",))
        np.testing.assert_allclose(theirs["rlnDefocusU"].astype(float), read_relion_table(table).defocus_u_A, atol=1e-3)


def test_tables_of_clusters(simulated: Path, fabricated_run: Path) -> None:
    """`dsdsh parse_pose` and `dsdsh artiax`, which choose their own folders."""
    star = simulated / "relion30" / "particles.star"
    run(dsdsh, "parse_pose", star, BOX, APIX, fabricated_run, 0, 2, "--refined")
    folder = fabricated_run / "analyze.0" / "kmeans2"
    rows = 0
    for path in (folder / "pre0.star", folder / "pre1.star"):
        ours = read_particles(path)
        assert_same(ours, as_relion_reads(path))
        rows += len(ours)
    assert rows == COUNT
    run(dsdsh, "artiax", star, fabricated_run, 0, 2)
    for path in sorted((folder / "artiax").glob("*.star")):
        assert_same(read_particles(path), as_relion_reads(path))


REAL = (
    "star/one_loop_16",
    "star/relion30_origins_6",
    "star/relion31_57",
    "star/relion31_6optics",
    "star/relion4_300",
    "star/relion5_3d_5",
    "star/warp_relion30_1399",
    "star_real/SPEF1MT2_003_8.48Apx_particles",
    "star_real/cryocat_relion_3.0",
    "star_real/cryocat_relion_3.1_optics2",
    "star_real/cryocat_relion_4.0",
    "star_real/napari_match_pick",
    "star_real/relion2dynamo_refine",
    "star_real/relion5_tutorial/particles",
    "star_real/sta_testing_bin8",
    "star_real/warptools/warp2_particles_matching",
)


@pytest.mark.parametrize("name", REAL)
def test_real_tables(name: str, shared_data: Path, tmp_path: Path) -> None:
    """Parts of tables of many programs, as they are, combined, with new poses, and in RELION 3.0's form."""
    whole = read_particles(shared_data / f"{name}.star")
    part = tmp_path / "part.star"
    whole.subset(np.arange(0, len(whole), max(1, len(whole) // 25))).write(part)
    sizes = whole.pixel_sizes()
    apix = 5.0 if sizes is None else float(sizes[0])
    words = ("-D", 64, "--Apix", apix, "--perturb-rot", 1, "--perturb-trans", 1)
    run(dsd, "parse_pose_star", part, *words, "--out-star", tmp_path / "moved.star")
    run(dsdsh, "combine_star", part, tmp_path / "moved.star", tmp_path / "both.star")
    run(dsdsh, "convert_star", part, apix, "-o", tmp_path / "old.star")
    for path in (part, tmp_path / "moved.star", tmp_path / "both.star", tmp_path / "old.star"):
        assert_same(read_particles(path), as_relion_reads(path))


def test_names_and_notes_with_spaces(tmp_path: Path) -> None:
    """RELION 3.1 understands quoted values as we write them."""
    columns = "MicrographName CoordinateX AngleRot AngleTilt AnglePsi OriginX Voltage SphericalAberration _myNote"
    rows = ["'my tomo.mrc' 1 2 3 4 5 300 2.7 \"it's fine\"", "b.mrc 1 2 3 4 5 300 2.7 plain"]
    star_of(tmp_path, loop("", columns, *rows)).subset([1, 0]).write(tmp_path / "out.star")
    theirs = as_relion_reads(tmp_path / "out.star")
    assert theirs.strings("rlnMicrographName") == ["b.mrc", "my tomo.mrc"]
    assert theirs.strings("myNote") == ["plain", "it's fine"]


def test_tables_whose_origins_relion_ignores(simulated: Path, tmp_path: Path) -> None:
    """RELION 3.1 ignores the origins of a RELION 3.0 table without voltage, and a note reports it."""
    star = read_particles(simulated / "relion30" / "particles.star")
    names = [name for name in star.particles.columns if name not in ("rlnVoltage", "rlnSphericalAberration")]
    bare = tmp_path / "bare.star"
    ParticleStar(None, {"": star.particles[names]}, "").write(bare)
    said = run(dsd, "parse_pose_star", bare, "-D", BOX, "--out-star", tmp_path / "out.star")
    assert "RELION 3.1 and later ignore origins in pixels" in said and "dsdsh export_relion" in said
    said = run(dsd, "parse_pose_star", star.path, "-D", BOX, "--out-star", tmp_path / "fine.star")
    assert "ignore" not in said
