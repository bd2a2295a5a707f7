"""`dsdsh analyze --focus` on a short training."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import opustomo
from analysis_scripts.main import main as dsdsh
from opustomo.analysis.results import parse_round
from opustomo.analysis.volumes.decoding import VolumeDecoder
from opustomo.io.latents import read_latent_rows
from opustomo.io.mrc import write_volume
from opustomo.io.pickles import load_pickle


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of the short training and a mask of the upper half of the box."""
    root = Path(shutil.copytree(trained_run, tmp_path / "run"))
    boxes = opustomo.Run(root).boxes
    mask = np.zeros((boxes.box,) * 3, dtype=np.float32)
    mask[boxes.box // 2 :] = 1.0
    write_volume(root / "upper.mrc", mask, boxes.apix)
    return root


def test_clusters_depend_only_on_the_volumes_inside_the_mask(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    state = np.arange(16) % 2
    inside, outside = state * 1.0, np.random.default_rng(0).normal(scale=5.0, size=16)
    original = opustomo.Run(run).latents()

    def templates(decoder: VolumeDecoder, latents: np.ndarray) -> torch.Tensor:
        rows = [int(np.abs(original - latent).sum(axis=1).argmin()) for latent in latents]
        volumes = torch.zeros(len(rows), 32, 32, 32)
        volumes[:, 18:24] = torch.from_numpy(inside[rows]).float()[:, None, None, None]
        volumes[:, 6:12] = torch.from_numpy(outside[rows]).float()[:, None, None, None]
        return volumes

    monkeypatch.setattr(VolumeDecoder, "decode", templates)
    epoch = opustomo.Run(run).epochs[-1]
    (run / f"coordinates.{epoch}.npy").unlink(missing_ok=True)  # of the real volumes
    words = ["analyze", str(run), str(epoch), "1", "2", "--skip-umap"]
    assert dsdsh([*words, "--focus", str(run / "upper.mrc")]) == 0
    folder = run / f"analyze.focus.{epoch}"
    labels = np.asarray(load_pickle(folder / "kmeans2" / "labels.pkl"))
    assert len({*zip(state.tolist(), labels.tolist(), strict=True)}) == 2
    # centers and traversals are latents, from which volumes can be decoded
    centers = np.loadtxt(folder / "kmeans2" / "centers_ind.txt", dtype=int)
    np.testing.assert_allclose(read_latent_rows(folder / "kmeans2" / "centers.txt"), original[centers], rtol=1e-6)
    assert read_latent_rows(folder / "pc1" / "z_pc.txt").shape == (10, original.shape[1])
    assert (folder / "focus" / "component1.mrc").is_file()
    assert dsdsh(["eval_vol", str(run), f"focus.{epoch}", "kmeans", "2", "12"]) == 0
    scores = opustomo.Run(run, device="cpu").focus(run / "upper.mrc")
    np.testing.assert_allclose(np.abs(np.corrcoef(scores[:, 0], state)[0, 1]), 1.0, atol=1e-3)


def test_contradictions(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    epoch = str(opustomo.Run(run).epochs[-1])
    focus = ["--focus", str(run / "upper.mrc")]
    for words, message in (
        ([f"focus.{epoch}", "1", "2"], "Give the mask with --focus"),
        ([epoch, "1", "2", *focus, "--kpc", "2:0"], "cannot be combined"),
        ([epoch, "1", "2", *focus, "--joint"], "cannot be combined"),
    ):
        assert dsdsh(["analyze", str(run), *words]) == 1
        assert message in capsys.readouterr().err
    assert dsdsh(["eval_vol", str(run), f"focus.{epoch}", "kmeans", "2", "12"]) == 1
    assert "with --focus first" in capsys.readouterr().err


def test_name_of_the_round() -> None:
    which = parse_round("focus.16")
    assert (which.epoch, which.filtered, which.focused, which.label) == (16, 0, True, "focus.16")
