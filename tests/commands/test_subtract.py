"""`dsd subtract` on volumes of a trained model, simulated with an independent forward model."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import opustomo
from opustomo.analysis.volumes.decoding import VolumeDecoder
from opustomo.io.latents import write_latents
from opustomo.io.mrc import read_volume, write_volume
from opustomo.io.poses import Poses, write_poses
from opustomo.io.star_tables import read_particles
from opustomo.main import main as dsd
from opustomo.simulate.acquisition import regular_scheme
from opustomo.simulate.dataset import SimulationConfig, simulate_dataset
from tests.relion.programs import NEEDS_RELION, as_relion_reads, relion_map

COUNT, BOX, APIX = 10, 24, 12.0


def smooth_templates(decoder: VolumeDecoder, latents: np.ndarray) -> torch.Tensor:
    """Five blobs instead of the volume of a short training, which contains mostly noise."""
    side = 32
    at = torch.linspace(-1, 1, side)
    z, y, x = torch.meshgrid(at, at, at, indexing="ij")
    volume = torch.zeros(side, side, side)
    for place in ((0.3, 0.2, -0.4), (-0.3, 0.1, -0.2), (0.0, -0.3, 0.3), (0.2, 0.3, 0.4), (-0.2, 0.0, 0.1)):
        squared = (x - place[0]) ** 2 + (y - place[1]) ** 2 + (z - place[2]) ** 2
        volume += torch.exp(-squared / (2 * 0.16**2))
    return volume.expand(len(latents), -1, -1, -1)


@pytest.fixture(scope="module")
def smooth() -> Iterator[None]:
    """Decoder of smooth volumes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VolumeDecoder, "decode", smooth_templates)
        yield


@pytest.fixture(scope="module")
def known(smooth: None, trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a run, its set, the same set without the removed part, and a mask of the kept part."""
    root = tmp_path_factory.mktemp("subtract")
    shutil.copytree(trained_run, root / "run")
    source = opustomo.Run(root / "run", device="cpu")
    epoch = source.epochs[-1]
    latents = source.latents()[:1]
    whole = source.decode(latents, apix=APIX, full_box=True).voxels
    z = np.arange(BOX) - BOX // 2
    keep = np.clip(0.5 - z[:, None, None] / 2, 0, 1) * np.ones((BOX, BOX, BOX))
    write_volume(root / "keep.mrc", keep.astype(np.float32), APIX)
    scheme = regular_scheme(-60.0, 60.0, 6.0, 3.0)
    config = SimulationConfig(count=COUNT, apix=APIX, scheme=scheme, snr=float("inf"), seed=3)
    simulate_dataset(whole, config, root / "set")
    simulate_dataset(whole * keep.astype(np.float32), config, root / "kept")
    truth = np.load(root / "set" / "truth.npz")
    np.testing.assert_allclose(truth["eulers"], np.load(root / "kept" / "truth.npz")["eulers"])
    write_latents(root / "run" / f"z.{epoch}.pkl", np.repeat(latents, COUNT, axis=0))
    write_poses(root / "run" / f"pose.{epoch}.pkl", Poses(truth["eulers"], truth["origin"] / BOX))
    return root


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_removed_part_disappears_and_kept_part_stays(known: Path) -> None:
    out = known / "out"
    words = ["subtract", str(known / "set" / "particles.star"), str(known / "run"), "latest"]
    assert dsd([*words, "--keep", str(known / "keep.mrc"), "-o", str(out), "--device", "cpu"]) == 0
    star = read_particles(out / "particles.star")
    assert len(star) == COUNT
    remaining, amplitudes, stays = [], [], []
    for name, original in zip(star.strings("rlnImageName"), star.strings("rlnImageOriginalName"), strict=True):
        subtracted = read_volume(out / name)[0]
        before, apix = read_volume(out / original)
        kept = read_volume(known / "kept" / "subtomo" / Path(name).name)[0]
        assert apix == pytest.approx(APIX)
        removed = before - kept  # both sets have the same poses and no noise
        assert removed.std() > 0.3 * before.std()
        residual = (subtracted - kept).ravel()
        amplitudes.append(residual @ removed.ravel() / (removed**2).sum())
        remaining.append((subtracted - kept).var() / removed.var())
        stays.append(correlation(subtracted, kept))
    assert np.mean(remaining) < 0.02
    assert abs(np.mean(amplitudes)) < 0.05, "amplitude of the removed signal that is left"
    assert np.mean(stays) > 0.99


@NEEDS_RELION
def test_relion_reads_the_result(known: Path) -> None:
    out = known / "for relion"
    words = ["subtract", str(known / "set" / "particles.star"), str(known / "run"), "latest", "--device", "cpu"]
    assert dsd([*words, "--keep", str(known / "keep.mrc"), "-o", str(out)]) == 0
    assert len(as_relion_reads(out / "particles.star")) == COUNT
    kept = relion_map(known / "kept" / "particles.star")
    assert correlation(relion_map(out / "particles.star"), kept) > 0.95


def test_recentered_origins_bring_the_mask_to_the_center(known: Path) -> None:
    from opustomo.geometry.rotations import euler_to_matrix

    mask = np.zeros((BOX, BOX, BOX), dtype=np.float32)
    mask[8:11, 14:17, 12:15] = 1.0  # center z 9, y 15, x 13
    write_volume(known / "small.mrc", mask, APIX)
    words = ["subtract", str(known / "set" / "particles.star"), str(known / "run"), "latest", "--device", "cpu"]
    out = known / "recentered"
    assert dsd([*words, "--keep", str(known / "small.mrc"), "-o", str(out), "--recenter"]) == 0
    truth = np.load(known / "set" / "truth.npz")
    star = read_particles(out / "particles.star")
    rotations = euler_to_matrix(torch.from_numpy(truth["eulers"])).numpy()
    moved = truth["origin"] - rotations @ (np.array([13.0, 15.0, 9.0]) - BOX / 2)
    np.testing.assert_allclose(star.origins_px(), moved, atol=1e-3)


def test_errors_leave_nothing_behind(known: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["subtract", str(known / "set" / "particles.star"), str(known / "run")]
    full = known / "all.mrc"
    write_volume(full, np.ones((BOX, BOX, BOX), dtype=np.float32), APIX)
    taken = known / "taken"
    taken.mkdir()
    (taken / "file").touch()
    for more, message in (
        (["latest", "--keep", str(full), "-o", str(known / "never")], "covers the whole box"),
        (["7", "--keep", str(full), "-o", str(known / "never")], "does not exist"),
        (["latest", "--keep", str(known / "keep.mrc"), "-o", str(taken)], "exists already"),
    ):
        assert dsd([*words, *more]) == 1
        assert message in capsys.readouterr().err
    assert not (known / "never").exists()
