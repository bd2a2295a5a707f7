"""Short trainings of narrow networks through the command line, shared by the tests of their results."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from opustomo.main import main
from tests.narrow_networks import NARROW_WIDTHS, narrow_networks, original_widths, use_widths  # noqa: F401 - fixtures

SMALL = (
    "--zdim 2 --zaffinedim 3 --templateres 30 --encoderres 8 -b 6 --lr 1e-3 --valfrac 0.25 --normalizectf "
    "--log-interval 10 --num-workers 1 --device cpu --seed 5"
).split()
"""Settings for a run of seconds; the template is rounded up to 32."""

Train = Callable[..., str]


def _train(folder: Path, outdir: Path, *words: str) -> str:
    """Train on ``folder`` and return the text of stderr. Later words override the small settings."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(["train_tomo", str(folder / "particles.star"), "-o", str(outdir), *SMALL, *words])
    assert code == 0, said.getvalue()
    return said.getvalue()


@pytest.fixture(scope="session")
def trained_run(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the result folder of two epochs with pose estimation and narrow networks; tests must not write into it."""
    outdir = tmp_path_factory.mktemp("trained") / "my run"
    words = ["-r", str(tiny_set / "mask.mrc"), "--estpose", "-n", "2", "--group", "7", "--lazy-single"]
    with pytest.MonkeyPatch.context() as patch:
        use_widths(patch, *NARROW_WIDTHS)
        _train(tiny_set, outdir, *words)
    yield outdir
    shutil.rmtree(outdir)


@pytest.fixture(scope="session")
def homogeneous_run(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the result folder of one epoch with one volume for all, without mask, CTF and held-out particles."""
    folder = tmp_path_factory.mktemp("homogeneous")
    split = folder / "my split.pkl"
    torch.save(torch.arange(16).flip(0), split)
    words = "--encode-mode fixed --no-ctf --tilt-range 60 -n 1 -b 8 --valfrac 0 --tmp-prefix now --amp".split()
    with pytest.MonkeyPatch.context() as patch:
        use_widths(patch, *NARROW_WIDTHS)
        _train(tiny_set, folder / "fixed run", *words, "--split", str(split))
    yield folder / "fixed run"
    shutil.rmtree(folder)


@pytest.fixture
def train(tiny_set: Path, tmp_path: Path) -> Iterator[Train]:
    """Return a function ``train(name, *words)`` that trains on the tiny set and returns stderr."""
    made: list[Path] = []

    def run(name: str, *words: str) -> str:
        made.append(tmp_path / name)
        return _train(tiny_set, tmp_path / name, *words)

    yield run
    for outdir in made:
        shutil.rmtree(outdir, ignore_errors=True)
