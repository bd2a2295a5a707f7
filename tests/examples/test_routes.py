"""Every script in `examples/`, run as a user would, from picks to a trained network."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from analysis_scripts.main import main as dsdsh
from opustomo.io.images import resolve_ctf_tables, resolve_images
from opustomo.io.mrc import read_volume
from opustomo.io.star import read_particles
from opustomo.main import main as dsd
from tests.examples import lab_data
from tests.examples.lab_data import APIX, BOX

MAINS = {"dsd": dsd, "dsdsh": dsdsh}
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


# what the scripts find as dsd and dsdsh: hands its words to the test, which has torch at hand already
CLIENT = """#!/bin/sh
'''exec' "{python}" -SE "$0" "$@"  # to Python a string: its path may hold spaces, which a first line may not
' '''
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as link:
    link.connect({address!r})
    link.sendall(json.dumps([{program!r}, *sys.argv[1:]]).encode())
    link.shutdown(socket.SHUT_WR)
    code, said = json.loads(b"".join(iter(lambda: link.recv(65536), b"")))
print(said)
sys.exit(code)
"""


def run_script(script: Path, folder: Path, settings: dict[str, str], tmp_path: Path) -> tuple[int, str]:
    """Run a script in `folder`; its dsd and dsdsh run in this process, one after the other."""
    programs = tmp_path / "bin"
    programs.mkdir()
    with socket.socket(socket.AF_UNIX) as server, tempfile.TemporaryDirectory(prefix="ot") as short:
        address = f"{short}/s"  # names of sockets may have 100 characters
        server.bind(address)
        server.listen()
        server.settimeout(0.05)
        for program in MAINS:
            text = CLIENT.format(python=sys.executable, address=address, program=program)
            (programs / program).write_text(text)
            (programs / program).chmod(0o755)
        environment = {**os.environ, **settings, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        log = tmp_path / "log.txt"
        with log.open("w") as file, contextlib.chdir(folder):
            process = subprocess.Popen(["bash", str(script)], env=environment, stdout=file, stderr=file)
            while process.poll() is None:
                with contextlib.suppress(TimeoutError):
                    _serve(server.accept()[0])
    return process.returncode, log.read_text()


def _serve(link: socket.socket) -> None:
    with link:
        link.settimeout(None)
        program, *words = json.loads(b"".join(iter(lambda: link.recv(65536), b"")))
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = MAINS[program](words)
        link.sendall(json.dumps([code, said.getvalue()]).encode())


@pytest.mark.slow
@pytest.mark.parametrize("route", list(ROUTES))
def test_from_picks_to_training(route: str, tmp_path: Path) -> None:
    make, table = ROUTES[route]
    root = tmp_path / "my project"
    root.mkdir()
    out = root / "out"
    settings = {**make(root), "OUT": "out", "BOX": str(BOX), "APIX": str(APIX)}
    settings["TRAIN"] = TRAIN if route == "warp" else QUICK
    code, said = run_script(ROOT / "examples" / f"{route}.sh", root, settings, tmp_path)
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
