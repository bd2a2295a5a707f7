"""Maps of `relion_reconstruct --3d_rot` against those of `dsd reconstruct` of the same particles."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis_scripts.main import main as dsdsh
from opustomo.geometry.rigid_bodies import BodyGeometry, RigidMotions
from opustomo.io.body_files import BodyPoses, write_body_stars
from opustomo.io.image_paths import resolve_images
from opustomo.io.mrc import read_header, read_volume, write_volume
from opustomo.io.star_conventions import format_fixed, with_columns
from opustomo.io.star_poses import poses_from_star
from opustomo.io.star_tables import ORIGIN_ANGST_COLUMNS, read_particles
from opustomo.main import main as dsd
from opustomo.quality.evidence.half_maps import Backprojection
from tests.relion.conftest import APIX, BOX, COUNT, run
from tests.relion.programs import NEEDS_RELION, as_relion_reads, correlation, radius_px, relion_map, shell_correlation

pytestmark = NEEDS_RELION

WEDGE = ("--normalizectf", "--no-ctf", "--tilt-range", "60", "--tilt-step", "6")


def our_map(star: Path, *words: str) -> np.ndarray:
    """The map of `dsd reconstruct`."""
    out = star.with_name(f"{star.stem}_ours.mrc")
    run(dsd, "reconstruct", star, "-o", out, "--device", "cpu", "--num-workers", 1, *words)
    return read_volume(out)[0].astype(np.float64)


def equal_weights_map(star: Path) -> np.ndarray:
    """Return the back-projection with equal weights of all Fourier coefficients, as RELION without --ctf."""
    table = read_particles(star)
    paths = resolve_images(table, None)
    volumes = torch.from_numpy(np.stack([read_volume(path)[0] for path in paths]))
    box = volumes.shape[-1]
    poses = poses_from_star(table, box)
    sums = Backprojection(box, 1, "cpu")
    origins = torch.from_numpy((poses.origins * box).astype(np.float32))
    ones = torch.ones(len(volumes), box, box, box // 2 + 1)
    members = torch.zeros(1, len(volumes), dtype=torch.long)
    sums.add(volumes, ones, torch.from_numpy(poses.rotations).float(), origins, members)
    return sums.volume(0).double().numpy()


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Mean Fourier shell correlation up to three quarters of the Nyquist frequency, in the largest ball."""
    ball = radius_px(len(one)) < len(one) / 2 - 2
    return float(shell_correlation(one * ball, other * ball)[1 : 3 * len(one) // 8 + 1].mean())


def test_every_table_gives_relions_map(subtomogram_tables: dict[str, Path]) -> None:
    """With equal weights the maps agree (measured: 0.999); what `dsd reconstruct` adds is the wedge (measured: 0.98).

    Plain back-projections hold most of their power at the lowest frequencies, which leak into all others.
    """
    for name, path in subtomogram_tables.items():
        theirs = relion_map(path)
        plain = path.parent.name == "relion30"
        assert agreement(theirs, equal_weights_map(path)) > (0.93 if plain else 0.998), name
        if not plain:
            assert agreement(theirs, our_map(path, *WEDGE)) > 0.95, name


def test_subtomograms_of_other_programs(pipeline_tables: dict[str, Path]) -> None:
    """What `extract_subtomos` and `extract_tomo_cubes` cut of round particles (measured: 0.9989, 0.999, 0.985)."""
    for name in ("extract_subtomos, WARP", "extract_subtomos, RELION 5", "extract_tomo_cubes", "prepare_ctf"):
        path = pipeline_tables[name]
        theirs, ours = relion_map(path), equal_weights_map(path)
        ball = radius_px(len(ours)) < len(ours) / 2 - 2
        assert correlation(theirs, ours, ball) > 0.975, name


def test_relion_with_our_ctf_volumes(simulated: Path, subtomogram_tables: dict[str, Path]) -> None:
    """`--3d_rot --ctf` reads the CTF volumes of `export_relion`.

    Measured: mean shell correlation 0.9956; correlation in the ball 0.991 with the volumes, 0.727 without, because only
    both divisions by the CTF restore the amplitudes.
    """
    exported = subtomogram_tables["export_relion"]
    ours = our_map(simulated / "float16" / "particles.star", "--normalizectf")
    theirs = relion_map(exported, "--ctf")
    assert agreement(theirs, ours) > 0.992
    ball = radius_px(BOX) < BOX / 2 - 2
    assert correlation(theirs, ours, ball) > 0.985
    assert correlation(relion_map(exported), ours, ball) < 0.8
    truth = np.load(simulated / "float16" / "volumes.npy")[0].astype(np.float64)
    assert agreement(theirs, truth) > 0.95


def test_layout_of_ctf_volumes(simulated: Path, subtomogram_tables: dict[str, Path]) -> None:
    """RELION takes the axes of our CTF volumes as we do: with the wedge mirrored along z its map is another."""
    exported = subtomogram_tables["export_relion"]
    ours = our_map(simulated / "float16" / "particles.star", "--normalizectf")
    right = agreement(relion_map(exported, "--ctf"), ours)
    star = read_particles(exported)
    mirrored = []
    for name in star.strings("rlnCtfImage"):
        volume = read_volume(exported.parent / name)[0]
        mirrored.append(name.replace(".mrc", "_mirrored.mrc"))
        # voxel D/2 + k becomes D/2 - k
        write_volume(exported.parent / mirrored[-1], np.roll(volume[::-1], 1, axis=0), APIX)
    wrong = exported.with_name("mirrored.star")
    with_columns(star, {"rlnCtfImage": np.array(mirrored, dtype=object)}).write(wrong)
    # measured: 0.0047 and 0.0087; many orientations make up for much of a wrong wedge
    assert 1 - agreement(relion_map(wrong, "--ctf"), ours) > 1.5 * (1 - right)


def test_origins_and_angles_count(subtomogram_tables: dict[str, Path]) -> None:
    """RELION's map changes when the origins or the angles change their sign, so the comparison tells the convention."""
    path = subtomogram_tables["simulate, RELION 3.1"]
    star = read_particles(path)
    ours = equal_weights_map(path)
    right = agreement(relion_map(path), ours)
    for columns in (ORIGIN_ANGST_COLUMNS, ("rlnAngleTilt",)):
        wrong = path.with_name("wrong.star")
        with_columns(star, {column: format_fixed(-star.numbers(column)) for column in columns}).write(wrong)
        assert agreement(relion_map(wrong), ours) < right - 0.1


def test_poses_of_bodies(simulated: Path) -> None:
    """`bodies.N.star` and `body1.N.star`: without motion a body's table gives the consensus map."""
    star = read_particles(simulated / "relion31" / "particles.star")
    centers = np.array([[-4.0, 1.0, 0.0], [4.0, -1.0, 0.0]])
    eye = np.stack([np.eye(3)] * 2)
    geometry = BodyGeometry(centers, centers[::-1], centers - centers[::-1], eye, np.full((2, 3), 3.0), eye, (1, 0))
    still = RigidMotions(np.broadcast_to(np.eye(3), (COUNT, 2, 3, 3)), np.zeros((COUNT, 2, 3)))
    folder = simulated / "relion31"
    found = BodyPoses(poses_from_star(star, BOX), still, geometry)
    written = write_body_stars(folder / "bodies.0.star", star, found, BOX, APIX)
    assert len(as_relion_reads(written[0])) == COUNT
    whole = relion_map(simulated / "relion31" / "particles.star")
    for path in written[1:]:
        assert agreement(relion_map(path), whole) > 0.9999


def test_half_precision_is_exported(simulated: Path, tmp_path: Path) -> None:
    """RELION 3.1 refuses the simulated float16 files; the exported copies hold the same values."""
    source = simulated / "float16" / "particles.star"
    with pytest.raises(AssertionError, match="does not support half-precision"):
        relion_map(source)
    out = tmp_path / "for relion"
    said = run(dsdsh, "export_relion", source, "-o", out, "--normalizectf")
    assert f"wrote {COUNT} subtomograms as float32 and {COUNT} CTF volumes" in said
    before, after = read_particles(source), read_particles(out / "particles.star")
    for old, new in zip(resolve_images(before, None), resolve_images(after, None), strict=True):
        assert read_header(old).dtype == "f2" and read_header(new).dtype == "f4"
        assert np.array_equal(read_volume(old)[0], read_volume(new)[0])
        assert read_volume(new)[1] == pytest.approx(APIX)
    np.testing.assert_allclose(after.origins_px(), before.origins_px(), atol=1e-5)
    relion_map(out / "particles.star", "--ctf")


def test_files_that_relion_reads_stay_where_they_are(simulated: Path, tmp_path: Path) -> None:
    """float32 files are named, not copied; others, and those in folders with spaces, are copied."""
    folder = tmp_path / "set"
    shutil.copytree(simulated / "relion31", folder)
    star = read_particles(folder / "particles.star")
    names = star.strings("rlnImageName")
    first = read_volume(folder / names[0])[0]
    low, high = first.min(), first.max()
    # MRC mode 6, which RELION takes for signed numbers
    write_volume(folder / names[0], np.round((first - low) / (high - low) * 65535).astype(np.uint16), APIX)
    said = run(dsdsh, "export_relion", folder / "particles.star", "-o", tmp_path / "out", "--normalizectf")
    assert f"Exported {COUNT} particles: wrote 1 subtomograms as float32" in said
    after = read_particles(tmp_path / "out" / "particles.star").strings("rlnImageName")
    assert after[0] == names[0] and after[1] == f"../set/{names[1]}"
    relion_map(tmp_path / "out" / "particles.star", "--ctf")
    spaced = tmp_path / "my set"
    folder.rename(spaced)
    said = run(dsdsh, "export_relion", spaced / "particles.star", "-o", tmp_path / "out2", "--normalizectf")
    assert f"wrote {COUNT} subtomograms as float32" in said
    relion_map(tmp_path / "out2" / "particles.star", "--ctf")
