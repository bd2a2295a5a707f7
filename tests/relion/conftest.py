"""Project folder in which every command that writes a STAR file has run, for RELION to read."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest

from analysis_scripts.main import main as dsdsh
from opustomo.io.latents import write_latents
from opustomo.io.pickles import dump_pickle
from opustomo.io.poses import Poses, read_poses, write_poses
from opustomo.main import main as dsd
from tests.commands.test_prepare_subtomos import folder as particle_series  # noqa: F401 - a fixture
from tests.examples import lab_data
from tests.narrow_networks import narrow_networks  # noqa: F401 - a fixture

COUNT, BOX, APIX = 12, 32, 12.0


def run(main: object, *words: object) -> str:
    """Run a command that must succeed, and return what it printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main([str(word) for word in words])  # type: ignore[operator]
    assert code == 0, f"{' '.join(map(str, words))}\n{said.getvalue()}"
    return said.getvalue()


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of sets of the same particles: relion30, relion31 and float16, 32³ voxels of 12 Å, 21 or 17 tilts."""
    folder = tmp_path_factory.mktemp("relion")
    # one set with more tilts to one side, so that a mirrored wedge is noticed
    options = {"relion30": "--raw", "relion31": "--relion31", "float16": "--float16 --tilt-range -36 60"}
    for name, option in options.items():
        words = f"--builtin 50S -n {COUNT} --box {BOX} --apix {APIX} --snr 1 --tilt-step 6 --astigmatism 2000".split()
        run(dsd, "simulate", "-o", folder / name, *words, *option.split())
    return folder


@pytest.fixture(scope="session")
def fabricated_run(tmp_path_factory: pytest.TempPathFactory, simulated: Path) -> Path:
    """Return the result folder of epoch 0 with two clusters, with poses of the set rotated by up to 1°."""
    root = tmp_path_factory.mktemp("results") / "run"
    root.mkdir()
    rng = np.random.default_rng(0)
    run(dsd, "parse_pose_star", simulated / "relion31" / "particles.star", "-D", BOX, "-o", root / "poses.pkl")
    poses = read_poses(root / "poses.pkl")
    write_poses(root / "pose.0.pkl", Poses(poses.eulers_deg + rng.uniform(-1, 1, (COUNT, 3)), poses.origins))
    write_latents(root / "z.0.pkl", rng.normal(size=(COUNT, 2)), rng.normal(size=(COUNT, 1)))
    sizes = {"zdim": 2, "z_affine_dim": 1, "templateres": 32, "down_vol_size": BOX, "Apix": APIX}
    config = {"model_args": sizes, "lattice_args": {"D": BOX + 1}, "dataset_args": {"downfrac": 1.0, "norm": [0, 1.0]}}
    dump_pickle(root / "config.pkl", config)
    dump_pickle(root / "analyze.0" / "kmeans2" / "labels.pkl", np.arange(COUNT) % 2)
    return root


@pytest.fixture(scope="session")
def subtomogram_tables(simulated: Path, fabricated_run: Path) -> dict[str, Path]:
    """Tables of subtomograms that commands wrote from the simulated sets, by the name of the command."""
    s30, s31 = simulated / "relion30", simulated / "relion31"
    labels = fabricated_run / "analyze.0" / "kmeans2" / "labels.pkl"
    tables = {"simulate, RELION 3.0": s30 / "particles.star", "simulate, RELION 3.1": s31 / "particles.star"}
    for name, folder in (("3.0", s30), ("3.1", s31)):
        whole = folder / "particles.star"
        words = ("-D", BOX, "--Apix", APIX, "--out-star", folder / "perturbed.star")
        run(dsd, "parse_pose_star", whole, *words, "--perturb-rot", 2, "--perturb-trans", 1)
        tables[f"parse_pose_star --out-star, {name}"] = folder / "perturbed.star"
        # clusters beside the set, where their paths lead
        run(dsd, "parse_pose_star", whole, "-D", BOX, "--Apix", APIX, "--labels", labels, "--outdir", folder)
        tables[f"parse_pose_star --labels, {name}"] = folder / "pre1.star"
        words = ("--clusters", "2:0", "-o", folder / "chosen.star", "--refined")
        run(dsdsh, "select", whole, fabricated_run, 0, *words)
        tables[f"select --refined, {name}"] = folder / "chosen.star"
    run(dsdsh, "combine_star", s31 / "pre0.star", s31 / "pre1.star", s31 / "combined.star")
    tables["combine_star"] = s31 / "combined.star"
    run(dsdsh, "convert_star", s31 / "particles.star", APIX, "-o", s31 / "as30.star")
    tables["convert_star"] = s31 / "as30.star"
    run(dsdsh, "combine_star", s31 / "as30.star", s31 / "pre1.star", s31 / "mixed.star")
    tables["combine_star, 3.0 and 3.1"] = s31 / "mixed.star"
    run(dsdsh, "export_relion", simulated / "float16" / "particles.star", "-o", simulated / "out", "--normalizectf")
    tables["export_relion"] = simulated / "out" / "particles.star"
    return tables


@pytest.fixture(scope="session")
def pipeline_tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tables of the conversions and preparations, from the files of four programs."""
    root = tmp_path_factory.mktemp("pipelines")
    box, apix, size = lab_data.BOX, lab_data.APIX, [str(n) for n in lab_data.VOLUME]
    tables: dict[str, Path] = {}

    def to(name: str, path: Path) -> Path:
        tables[name] = path
        return path

    warp = lab_data.warp_project(root / "warp")
    picks = to("convert_warp", root / "warp" / "picks.star")
    run(dsdsh, "convert_warp", warp["SPECIES"], apix, "-o", picks)
    words = ("--coord-apix", apix, "--box", box, "--apix", apix, "--workers", 1)
    out = root / "warp" / "out"
    run(dsd, "extract_subtomos", picks, "--warp", warp["WARP_DIR"], "--tomo-size", *size, *words, "-o", out)
    tables["extract_subtomos, WARP"] = out / "particles.star"
    (root / "relion5").mkdir()
    five = lab_data.relion5_project(root / "relion5")
    picks = to("convert_relion5", root / "relion5" / "five.star")
    run(dsdsh, "convert_relion5", five["PICKS"], "--tomograms", five["TOMOGRAMS"], "-o", picks)
    out = root / "relion5" / "out"
    words = ("--box", box, "--apix", apix, "--workers", 1)
    run(dsd, "extract_subtomos", picks, "--tomograms", five["TOMOGRAMS"], *words, "-o", out)
    tables["extract_subtomos, RELION 5"] = out / "particles.star"
    words = ("--tomograms", five["TOMOGRAMS"], "--to", "pixels")
    run(dsdsh, "convert_relion5", picks, *words, "-o", to("convert_relion5 --to pixels", picks.with_name("px.star")))
    pytom = lab_data.pytom_project(root / "pytom")
    picks = to("convert_pytom_to_star", root / "pytom" / "picks.star")
    words = ("--pixel-size", apix, "--bin-size", 1, "--output", picks)
    run(dsdsh, "convert_pytom_to_star", "--input-dir", pytom["LISTS"], *words)
    run(dsdsh, "convert_pytom", picks, "TS_1", "-o", to("convert_pytom", picks.with_name("ts1.star")))
    run(dsdsh, "convert_artiax", picks, "TS_1", "-o", to("convert_artiax", picks.with_name("artiax.star")))
    cubes = to("extract_tomo_cubes", picks.with_name("cubes.star"))
    words = ("--box-size", box, "--apix", apix, "-o", cubes.with_name("cubes"), "--out-star", cubes)
    run(dsdsh, "extract_tomo_cubes", Path(pytom["TOMOGRAMS"]) / "TS_1.mrc", picks, *words)
    words = ("--tilts", pytom["TILTS"], "--tomo-size", *size, "--apix", apix, "--workers", 1)
    with_ctf = to("prepare_ctf", cubes.with_name("with_ctf.star"))
    run(dsd, "prepare_ctf", cubes, *words, "-o", cubes.with_name("ctf"), "--out-star", with_ctf)
    imod = lab_data.imod_project(root / "imod")
    words = ("--tomograms", imod["TOMOGRAM_LIST"], "--angpix", 2 * apix)
    run(dsdsh, "convert_dynamo", imod["TABLE"], *words, "-o", to("convert_dynamo", root / "imod" / "picks.star"))
    return tables
