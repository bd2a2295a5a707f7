"""Small folder of a laboratory: particle tables, subtomograms, a run of OPUS-TOMO, lists of other programs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from analysis_scripts.main import main as dsdsh
from opustomo.io.mrc import read_volume, write_volume
from opustomo.main import main as dsd
from tests.commands.test_prepare_ctf import write_tomogram
from tests.convert.pytom_lists import write_list
from tests.convert.tables import loop
from tests.dynamics.analytic import sphere, write_definition
from tests.original import Look, OriginalRun

BOX, CROP, APIX, EPOCH = 24, 20, 12.0, 16
PARTICLES = 200
"""Particles of the run of the original; their images are those of the small set, over and over."""
TINY = "-n 1 --templateres 32 --encoderres 8 --num-workers 1 --num-gpus 1 --device cpu"
"""Words that make a training small: later words override those of the line."""
BODIES = (np.array([-3.0, 1.0, 0.0]), np.array([4.0, -1.0, 0.0]))


def build(small_set: Path, folder: Path) -> None:
    """Make the folder from 16 simulated subtomograms (24³ voxels of 12 Å); networks of trainings must be replaced.

    What is large and never written lies beside it, and links lead there.
    """
    folder.mkdir(parents=True)
    _tables(small_set, folder)
    _bodies(folder)
    _other_programs(folder)
    for name, bodies in (("sp", False), ("mb", True)):
        _original_run(folder / name, bodies)
    torch.save(torch.arange(16), folder / "own-split.pkl")
    files = {"-o": "own", "--poses": "ribo_pose_euler.pkl", "-r": "mask.mrc", "--split": "own-split.pkl"}
    named = [word for option, name in files.items() for word in (option, str(folder / name))]
    options = f"-b 8 --zdim 12 --estpose {TINY}".split()
    assert dsd(["train_tomo", str(folder / "ribo.star"), *named, *options]) == 0


def _tables(small_set: Path, folder: Path) -> None:
    subtomograms = folder.parent / "subtomograms"
    subtomograms.mkdir()
    os.symlink(subtomograms, folder / "subtomo")
    for path in (small_set / "subtomo").iterdir():
        if path.suffix == ".mrc":
            volume, _ = read_volume(path)
            write_volume(folder / "subtomo" / path.name, volume.astype(np.float32), APIX)  # RELION 3.1 reads no others
        else:
            shutil.copy(path, folder / "subtomo")
    shutil.copy(small_set / "mask.mrc", folder)
    shutil.copy(small_set / "particles.star", folder / "ribo.star")
    assert dsdsh(["prepare", str(folder / "ribo.star"), str(BOX), str(APIX)]) == 0
    rng = np.random.default_rng(1)
    rows, optics = [], []
    for i in range(PARTICLES):
        angles = " ".join(f"{value:.3f}" for value in rng.uniform((-180, 0, -180), 180))
        images = f"subtomo/p{i % 16:06d}.mrc subtomo/p{i % 16:06d}_ctf.mrc"
        rows.append(f"TS_026.mrc {1 + i % 50} 20 30 {images} {angles} {1 + i % 2} 0.5 -0.25 0 10000 {APIX}")
        if i < 16:
            series = f"TS_02{6 + i % 2}.mrc {10 + i} {12 + i} {11 + i}"
            optics.append(f"{series} {images} {angles} {1 + i % 2} 6.0 -3.0 0 1")
    place = (
        "MicrographName CoordinateX CoordinateY CoordinateZ ImageName CtfImage AngleRot AngleTilt AnglePsi RandomSubset"
    )
    columns = f"{place} OriginX OriginY OriginZ Magnification DetectorPixelSize"
    (folder / "consensus_data.star").write_text(loop("", columns, *rows))
    columns = "OpticsGroupName OpticsGroup ImagePixelSize ImageSize ImageDimensionality Voltage SphericalAberration"
    groups = loop("optics", f"{columns} AmplitudeContrast", f"all 1 {APIX} {BOX} 3 300 2.7 0.07")
    columns = f"{place} OriginXAngst OriginYAngst OriginZAngst OpticsGroup"
    (folder / "X.star").write_text(groups + loop("particles", columns, *optics))


def _bodies(folder: Path) -> None:
    masks = [sphere(BOX, center, 3.5) for center in BODIES]
    star = write_definition(folder / "masks", masks, APIX, [2, 1])
    text = star.read_text().replace("mask0", "masks/mask0").replace("mask1", "masks/mask1")
    (folder / "bodies.star").write_text(text)
    words = ["prepare_multi", str(folder / "ribo.star"), str(BOX), str(APIX), str(folder / "bodies.star"), "2"]
    assert dsdsh([*words, "--outmasks", str(folder / "mask2new")]) == 0
    series = folder / "series" / "pc1"
    series.mkdir(parents=True)
    for i in range(10):
        arm = Rotation.from_euler("z", 3.0 * i, degrees=True).apply(BODIES[1] - BODIES[0])
        volume = sphere(BOX, BODIES[0], 3.0) + sphere(BOX, BODIES[0] + arm, 3.0)
        write_volume(series / f"reference{i}.mrc", volume, APIX)
    write_volume(folder / "map.mrc", sphere(BOX, np.zeros(3), 7.0) + 0.1, APIX)


def _other_programs(folder: Path) -> None:
    rng = np.random.default_rng(2)
    write_volume(folder / "TS_026.mrc", rng.normal(size=(40, 44, 48)).astype(np.float32), APIX)
    write_tomogram(folder / "tilts")
    (folder / "lists").mkdir()
    for name, tomogram in (("X.xml", "TS_026"), ("Y.xml", "TS_027")):
        turns, places = rng.uniform(0, 180, (3, 3)), rng.uniform(10, 90, (3, 3))
        write_list(folder / "lists" / name, turns.tolist(), places.tolist(), origin=f"/lab/tomograms/{tomogram}.mrc")
    columns = " ".join(f"_wrp{name}1" for name in ("CoordinateX", "CoordinateY", "CoordinateZ"))
    columns += " _wrpAngleRot1 _wrpAngleTilt1 _wrpAnglePsi1 _wrpRandomSubset _wrpSourceName"
    rows = (f"{100 * i} {120 * i} {90 * i} {10 * i} 20 30 {1 + i % 2} TS_026.tomostar" for i in range(1, 5))
    (folder / "M.star").write_text(loop("particles", columns, *rows))


def _original_run(folder: Path, bodies: bool) -> None:
    """Write epoch 16 of OPUS-TOMO with its analysis; epoch 39 consists of the same files under other names."""
    look = Look(encoder=False, head_rows=3 if bodies else 1, bodies=BODIES if bodies else None)
    OriginalRun(folder, PARTICLES, BOX, CROP, EPOCH, look)
    for number in ("16", "20"):
        assert dsdsh(["analyze", str(folder), "16", "12", number, "--skip-umap", "--joint"]) == 0
    if not bodies:
        assert dsdsh(["analyze", str(folder), "16", "12", "30", "--skip-umap", "--kpc", "20:2-5,8"]) == 0
    weights = folder.parent.parent / f"{folder.name}.weights"
    (folder / f"weights.{EPOCH}.pkl").rename(weights)
    for epoch in (EPOCH, 39):
        os.symlink(weights, folder / f"weights.{epoch}.pkl")
    for kind in ("z", "pose"):
        shutil.copy(folder / f"{kind}.{EPOCH}.pkl", folder / f"{kind}.39.pkl")
    for kind in ("analyze", "defanalyze"):
        shutil.copytree(folder / f"{kind}.{EPOCH}", folder / f"{kind}.39")
