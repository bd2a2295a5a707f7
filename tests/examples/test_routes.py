"""Every script in `examples/` runs from picks to a trained network."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from opustomo.io.image_paths import resolve_ctf_tables, resolve_images
from opustomo.io.mrc import read_volume
from opustomo.io.star_tables import read_particles
from tests.examples import lab_data
from tests.examples.lab_data import APIX, BOX
from tests.job_script import run_script

ROOT = Path(__file__).resolve().parents[2]
TRAIN = (
    "--zdim 2 --templateres 32 --encoderres 8 -b 4 -n 1 --lr 1e-3 --valfrac 0.25 --num-workers 1 --log-interval 10 "
    "--device cpu"
)
# one volume for all needs no encoder, which saves half of the weights to make and to write
QUICK = f"{TRAIN} --encode-mode fixed"
ROUTES: dict[str, tuple[Callable[[Path], dict[str, str]], str]] = {
    "warp": (lab_data.warp_project, "subtomos/particles.star"),
    "relion5": (lab_data.relion5_project, "subtomos/particles.star"),
    "pytom": (lab_data.pytom_project, "particles.star"),
    "aretomo_imod": (lab_data.imod_project, "subtomos/particles.star"),
}


def test_every_script_is_tried() -> None:
    scripts = {path.stem for path in (ROOT / "examples").glob("*.sh")}
    # those of the queue train only, and need one
    assert {name for name in scripts if not name.startswith("slurm_")} == set(ROUTES)


@pytest.mark.slow
@pytest.mark.parametrize("route", list(ROUTES))
def test_from_picks_to_training(route: str, tmp_path: Path) -> None:
    make, table = ROUTES[route]
    root = tmp_path / "my project"
    root.mkdir()
    out = root / "out"
    settings = {**make(root), "OUT": "out", "BOX": str(BOX), "APIX": str(APIX)}
    settings["TRAIN"] = TRAIN if route == "warp" else QUICK
    code, said = run_script(["bash", str(ROOT / "examples" / f"{route}.sh")], root, settings, tmp_path / "bin")
    assert code == 0, said
    star = read_particles(out / table)
    assert len(star) == 8
    sizes = star.pixel_sizes()
    assert sizes is not None
    np.testing.assert_allclose(sizes, APIX)
    tables = resolve_ctf_tables(star, None, warp=False)
    assert tables is not None and all(path.is_file() for path in tables)
    # every subtomogram holds its particle in its middle, so places came through all steps
    for path, origin in zip(resolve_images(star, None), star.origins_px(), strict=True):
        volume, apix = read_volume(path)
        assert volume.shape == (BOX,) * 3 and apix == pytest.approx(APIX)
        brightest = np.array(np.unravel_index(volume.argmax(), volume.shape))[::-1]
        assert np.abs(brightest - (BOX // 2 - origin)).max() < 1.6
    assert (out / "run" / "weights.0.pkl").is_file()
    assert (out / "run" / "pose.0.pkl").is_file()
    shutil.rmtree(out)
