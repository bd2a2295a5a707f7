"""Results of OPUS-TOMO through every command that reads results."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import opustomo
from analysis_scripts.main import main as dsdsh
from opustomo.analysis.figures import latent_figures
from opustomo.checkpoint.epoch_files import read_state
from opustomo.io.mrc import read_volume
from opustomo.io.poses import read_poses
from opustomo.io.star_poses import poses_from_star
from opustomo.io.star_tables import read_particles
from opustomo.main import main as dsd
from opustomo.training.monitors import training_figure
from tests.commands.quick import SMALL, own_copy
from tests.original import Look, OriginalRun, soft_ball

COUNT, BOX, CROP, EPOCH = 6, 24, 20, 16


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OriginalRun]:
    """Epoch 16 of a run with conformation latent, analyzed."""
    run = OriginalRun(tmp_path_factory.mktemp("original") / "old run", COUNT, BOX, CROP, EPOCH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_figures, "DPI", 40)
        assert dsdsh(["analyze", str(run.root), str(EPOCH), "2", "3", "--skip-umap", "--joint"]) == 0
    yield run
    shutil.rmtree(run.root)


def read_all(folder: Path) -> tuple[np.ndarray, float]:
    """The volumes of a folder and their pixel size."""
    found = [read_volume(folder / f"reference{i}.mrc") for i in range(len(list(folder.glob("reference*.mrc"))))]
    assert found[0][1] is not None
    return np.stack([volume for volume, _ in found]), found[0][1]


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape and expected.std() > 0
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)


def test_analyze(original: OriginalRun) -> None:
    folder = original.root / f"analyze.{EPOCH}"
    with (folder / "kmeans3" / "labels.pkl").open("rb") as handle:
        labels = pickle.load(handle)
    assert labels.shape == (COUNT,) and set(labels) == {0, 1, 2}
    indices = np.loadtxt(folder / "kmeans3" / "centers_ind.txt", dtype=int)
    np.testing.assert_allclose(np.loadtxt(folder / "kmeans3" / "centers.txt"), original.mu[indices], rtol=1e-6)
    joint = np.loadtxt(folder / "kmeans3" / "centers_joint.txt")
    assert original.multi_mu is not None
    np.testing.assert_allclose(joint[:, 12:], original.multi_mu[indices], rtol=1e-6)
    assert (original.root / f"defanalyze.{EPOCH}" / "pc2" / "z_pc.txt").exists()
    assert (original.root / "train_losses.png").stat().st_size > 1000


@pytest.mark.parametrize(("mode", "folder"), [("kmeans", "kmeans3"), ("pc", "pc2")])
def test_dsdsh_eval_vol(original: OriginalRun, mode: str, folder: str) -> None:
    number = folder[-1]
    assert dsdsh(["eval_vol", str(original.root), str(EPOCH), mode, number, "9.5"]) == 0
    where = original.root / f"analyze.{EPOCH}" / folder
    latents = np.loadtxt(where / ("centers.txt" if mode == "kmeans" else "z_pc.txt"), dtype=np.float32)
    volumes, apix = read_all(where)
    assert apix == pytest.approx(9.5, rel=1e-4)
    assert_same(volumes, original.volume(latents, 9.5))
    assert dsdsh(["eval_vol", str(original.root), str(EPOCH), mode, number, "9.5", "--no-mask"]) == 0
    bare, _ = read_all(where)
    assert_same(bare, original.volume(latents, 9.5, masked=False))
    assert (volumes == 0).mean() > 0.3 > (bare == 0).mean()


def test_dsd_eval_vol(original_widths: None, tmp_path: Path) -> None:
    """Weights as large as those of the original."""
    original = OriginalRun(tmp_path / "run", COUNT, BOX, CROP, EPOCH)
    words = ["eval_vol", "--load", str(original.root / f"weights.{EPOCH}.pkl"), "-o", str(tmp_path / "v")]
    np.savetxt(tmp_path / "z.txt", original.mu[:2])
    assert dsd([*words, "--zfile", str(tmp_path / "z.txt")]) == 0
    volumes, apix = read_all(tmp_path / "v")
    assert apix == pytest.approx(original.apix, rel=1e-4)
    assert_same(volumes, original.volume(original.mu[:2], original.apix))
    assert dsd([*words, "--zfile", str(tmp_path / "z.txt"), "--no-mask"]) == 0
    assert_same(read_all(tmp_path / "v")[0], original.volume(original.mu[:2], original.apix, masked=False))
    run = opustomo.Run(original.root, device="cpu")
    for masked in (True, False):
        volumes = run.decode(original.mu[:2], masked=masked).voxels
        assert_same(volumes, original.volume(original.mu[:2], original.apix, masked=masked))
    shutil.rmtree(original.root)


def rotations(eulers: np.ndarray) -> Rotation:
    """RELION's A = Rz(psi) Ry(tilt) Rz(rot), whose factors turn the frame."""
    return Rotation.from_euler("ZYZ", -eulers[:, ::-1], degrees=True)


def test_parse_pose_trusts_the_angles(original: OriginalRun, tiny_set: Path, tmp_path: Path) -> None:
    star = own_copy(tiny_set, tmp_path / "a set", COUNT)
    words = [str(star), str(BOX), "12", str(original.root), str(EPOCH), "3", "--refined"]
    assert dsdsh(["parse_pose", *words]) == 0
    folder = original.root / f"analyze.{EPOCH}" / "kmeans3"
    with (folder / "labels.pkl").open("rb") as handle:
        labels = pickle.load(handle)
    for cluster in range(3):
        poses = poses_from_star(read_particles(folder / f"pre{cluster}.star"), BOX, 12.0)
        expected = rotations(original.eulers[labels == cluster]).as_matrix()
        np.testing.assert_allclose(poses.rotations, expected, atol=1e-5)
        np.testing.assert_allclose(poses.origins, original.trans[labels == cluster], atol=1e-6)


def test_training_goes_on(
    original: OriginalRun, tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """All values of OPUS-TOMO are unchanged after an epoch with a learning rate of almost zero."""
    monkeypatch.setattr(training_figure, "draw_training", lambda *args: None)
    star = own_copy(tiny_set, tmp_path / "a set", COUNT)
    outdir, last = tmp_path / "new run", EPOCH + 1
    words = [*SMALL, "--zdim", "12", "--zaffinedim", "4", "-n", str(last + 1), "-b", "6", "--valfrac", "0"]
    # the poses of the run are those that it was given; those of the set are unrelated to them
    words += [
        "--poses",
        str(original.root / f"pose.{EPOCH}.pkl"),
        "--lr",
        "1e-12",
        "--load",
        str(original.root / f"weights.{EPOCH}.pkl"),
        "-o",
        str(outdir),
    ]
    assert dsd(["train_tomo", str(star), *words]) == 0
    said = capsys.readouterr().err
    assert f"resuming at epoch {last} after {last * COUNT} visits with the networks of" in said
    content = torch.load(outdir / f"weights.{last}.pkl", weights_only=True)
    weights = original.root / f"weights.{EPOCH}.pkl"
    assert f"no mask is given with -r; the solvent mask in {weights} is used" in said
    torch.testing.assert_close(content["mask"].float(), soft_ball(CROP), rtol=0, atol=1e-3)
    assert original.encoder is not None
    for part, network in (("decoder_state_dict", original.decoder), ("encoder_state_dict", original.encoder)):
        plain = network.state_dict()
        for name, value in content[part].items():
            torch.testing.assert_close(value, plain[name], rtol=1e-5, atol=1e-6)
    # the averages that the run keeps moved by 0.3 toward the encoder's mean, from the original's values
    kept = read_state(outdir)["latents"].numpy()[:, : original.mu.shape[1]]
    assert np.abs(kept - 0.7 * original.mu).max() < 0.3 * 5 and np.abs(kept - original.mu).max() > 0
    # what is written is the encoder's mean itself, up to the augmentation of the visit
    latents = torch.load(outdir / f"z.{last}.pkl", weights_only=True)["mu"].numpy()
    seen = (kept - 0.7 * original.mu) / 0.3
    assert np.abs(latents - seen).max() < 0.5 * np.abs(latents).max()
    poses = read_poses(outdir / f"pose.{last}.pkl")
    between = Rotation.from_matrix(poses.rotations) * rotations(original.eulers).inv()
    assert np.rad2deg(between.magnitude()).max() < 10
    shutil.rmtree(outdir)


EXTRA = {"mask": torch.ones(5), "fixed_latent": None, "apix": np.float64(12), "args": {}}
LOOKS = {
    "several GPUs, double precision, old formats": Look(True, double=True, legacy=True, protocol=2, encoder=False),
    "before conformation, other entries": Look(zaffinedim=None, head_rows=0, protocol=0, encoder=False, extra=EXTRA),
    "two bodies": Look(head_rows=3, encoder=False),
    "homogeneous, conformation of size 0": Look(zaffinedim=0, head_rows=0, fixed=True),
    "without a mask": Look(masked=False, encoder=False),
    "one entry for the whole model, several GPUs": Look(parallel=True, whole=True),
}


@pytest.mark.parametrize("name", LOOKS)
def test_other_looks(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = OriginalRun(tmp_path / "run", COUNT, BOX, CROP, 0, LOOKS[name])
    words: list[Any] = ["eval_vol", "--load", run.root / "weights.0.pkl", "-o", tmp_path / "v", "-z", *run.mu[0]]
    assert dsd([str(word) for word in words]) == 0, capsys.readouterr().err
    volumes, _ = read_all(tmp_path / "v")
    assert_same(volumes, run.volume(run.mu[:1], run.apix))
    note = f"{run.root / 'weights.0.pkl'} contains no solvent mask"
    assert (note in capsys.readouterr().out) == (not LOOKS[name].masked)
    shutil.rmtree(run.root)


MASKS = {
    "of another crop": (torch.ones(1, 1, 18, 18, 18), "1×1×18×18×18 voxels, but the crop of this run is 20³"),
    "not finite": (torch.full((1, 1, CROP, CROP, CROP), float("nan")), "empty or contains values that are not finite"),
    "empty": (torch.zeros(1, 1, CROP, CROP, CROP), "empty or contains values that are not finite"),
}


@pytest.mark.parametrize("name", MASKS)
def test_damaged_masks_are_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask, reason = MASKS[name]
    run = OriginalRun(tmp_path / "run", COUNT, BOX, CROP, 0, Look(encoder=False))
    content = torch.load(run.root / "weights.0.pkl", weights_only=False)
    content["decoder_state_dict"]["ref_mask"] = mask
    torch.save(content, run.root / "weights.0.pkl")
    words = ["eval_vol", "--load", run.root / "weights.0.pkl", "-o", tmp_path / "v", "-z", *run.mu[0]]
    assert dsd([str(word) for word in words]) == 1
    said = capsys.readouterr().err
    assert f"The solvent mask in {run.root / 'weights.0.pkl'}" in said and reason in said
    assert said.count("\n") == 1 and not (tmp_path / "v").exists()
    shutil.rmtree(run.root)
