"""Trainings of about a second through the command line, with real data, physics and files but very small networks."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from opustomo.analysis.volumes import decoding
from opustomo.checkpoint.weights import read_weights
from opustomo.io.latents import read_latents
from opustomo.io.poses import read_poses
from opustomo.main import main
from opustomo.model import autoencoder
from opustomo.training.monitors import training_figure
from tests.training.tiny_run import TinyDecoder, TinyEncoder

SMALL = (
    "--zdim 2 --zaffinedim 2 --templateres 32 --encoderres 8 -b 4 -n 2 --lr 1e-3 --normalizectf --estpose "
    "--num-workers 1 --device cpu --seed 5 --log-interval 6"
).split()


def use_tiny_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the networks, and omit the figure of every epoch, which takes longer than the epoch."""
    monkeypatch.setattr(autoencoder, "Encoder", TinyEncoder)
    monkeypatch.setattr(autoencoder, "Decoder", TinyDecoder)
    monkeypatch.setattr(decoding, "Decoder", TinyDecoder)
    monkeypatch.setattr(training_figure, "draw_training", lambda *args: None)


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tests of a module have tiny networks; import it where this is meant."""
    use_tiny_networks(monkeypatch)


def own_copy(whole: Path, folder: Path, count: int | None = None) -> Path:
    """Copy a set, or its first ``count`` particles, and return the path of the table."""
    shutil.copytree(whole, folder)
    star = folder / "particles.star"
    if count is not None:
        rows = [line for line in star.read_text().splitlines() if ".mrc" in line]
        edit_rows(star, rows[:count])
    return star


def edit_rows(star: Path, rows: list[str]) -> None:
    """Replace the rows of the table."""
    head = [line for line in star.read_text().splitlines() if ".mrc" not in line]
    star.write_text("\n".join([*head, *rows]) + "\n")


def train(star: Path, outdir: Path, *words: str) -> tuple[int, str]:
    """Run ``dsd train_tomo`` and return its exit code and stderr. Later words override the small settings."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(["train_tomo", str(star), "-o", str(outdir), *SMALL, *words])
    return code, said.getvalue()


def assert_sound(outdir: Path, count: int, epoch: int = 1) -> None:
    """Check that all files of an epoch exist for ``count`` particles and contain only finite numbers."""
    content = read_weights(outdir / f"weights.{epoch}.pkl")
    for part in ("encoder_state_dict", "decoder_state_dict"):
        for name, value in content.get(part, {}).items():
            assert torch.isfinite(value).all(), name
    mu, multi = read_latents(outdir / f"z.{epoch}.pkl")  # refuses what is not finite
    assert len(mu) == count and (multi is None or len(multi) == count)
    assert len(read_poses(outdir / f"pose.{epoch}.pkl")) == count
    for line in (outdir / "run.log").read_text().splitlines():
        if "=====>" in line:
            assert np.isfinite([float(x) for x in re.findall(r" = (\S+?)[,;]", line)]).all(), line
