"""Options without effect are reported or refused, and output that no decoder reads is not written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from opustomo.io.latents import read_latents
from opustomo.training.trainer import Trainer
from tests.commands.quick import SMALL, own_copy, tiny_networks, train  # noqa: F401

NO_POSES = [word for word in SMALL if word != "--estpose"]


@pytest.fixture
def star(tiny_set: Path, tmp_path: Path) -> Path:
    return own_copy(tiny_set, tmp_path / "a set")


def without_poses(star: Path, outdir: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    with monkeypatch.context() as patch:
        patch.setattr("tests.commands.quick.SMALL", NO_POSES)
        return train(star, outdir, *words)


def test_options_without_effect_are_said(star: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["-n", "1", "--separate", "--warp-bfactor-scale", "0.5", "--num-gpus", "2"]
    code, said = without_poses(star, tmp_path / "run", monkeypatch, *words)
    assert code == 0, said
    for note in (
        "--separate has no effect without --masks",
        "--warp-bfactor-scale has no effect without --warp",
        "--num-gpus has no effect without --multigpu",
    ):
        assert said.count(note) == 1
    code, said = train(star, tmp_path / "fixed", "-n", "1", "--encode-mode", "fixed", "--beta-control", "0.8")
    assert code == 0 and "--beta-control has no effect without --encode-mode grad" in said


def test_conformations_that_no_decoder_reads_are_not_written(
    star: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is then that of a run without conformations, which the original and every command read."""
    code, said = without_poses(star, tmp_path / "run", monkeypatch, "-n", "1")
    assert (
        code == 0 and said.count("conformations are not written, because no decoder reads them without --estpose") == 1
    )
    content = torch.load(tmp_path / "run" / "z.0.pkl", weights_only=False)
    assert set(content) == {"mu", "nn"} and content["mu"].shape == (16, 2)
    # such latents are taken up again
    (tmp_path / "run" / "state.pkl").unlink()
    seen: list[np.ndarray] = []
    fit = Trainer.fit
    monkeypatch.setattr(
        Trainer, "fit", lambda self, stop: (seen.append(self.engine.latents.values.numpy().copy()), fit(self, stop))[1]
    )
    code, said = without_poses(star, tmp_path / "run", monkeypatch, "--load", str(tmp_path / "run" / "weights.0.pkl"))
    assert code == 0, said
    np.testing.assert_array_equal(seen[0][:, :2], read_latents(tmp_path / "run" / "z.0.pkl")[0])
    code, said = train(star, tmp_path / "with poses", "-n", "1")
    assert code == 0 and "conformations are not written" not in said
    assert read_latents(tmp_path / "with poses" / "z.0.pkl")[1] is not None


def test_latents_that_are_not_there_or_not_read_are_refused(star: Path, tmp_path: Path) -> None:
    assert train(star, tmp_path / "run", "-n", "1")[0] == 0
    weights = ["--load", str(tmp_path / "run" / "weights.0.pkl")]
    for words, reason in (
        ([*weights, "--latents", str(tmp_path / "absent.pkl")], "absent.pkl does not exist"),
        (["--latents", str(tmp_path / "run" / "z.0.pkl")], "is not used without --load"),
        (["--load", "latest", "--latents", str(tmp_path / "run" / "z.0.pkl")], "which restores all latents"),
    ):
        code, said = train(star, tmp_path / "next", *words)
        assert code == 1 and reason in said and not (tmp_path / "next").exists(), said


def test_pose_refinement_goes_on_from_the_poses_of_an_epoch(
    star: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spread of earlier corrections is restored; poses with a spread of zero would not move."""
    run = tmp_path / "run"
    assert train(star, run, "-n", "2", "--lr", "1e-2")[0] == 0
    deviations: list[torch.Tensor] = []
    fit = Trainer.fit

    def noting(self: Trainer, stop: object) -> bool:
        deviations.append(self.engine.poses.deviation(torch.arange(16)).clone())
        return fit(self, stop)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "fit", noting)
    assert train(star, run, "-n", "3", "--load", "latest")[0] == 0
    assert train(star, tmp_path / "next", "-n", "3", "--bfactor", "5", "--load", str(run / "weights.1.pkl"))[0] == 0
    whole, from_weights = deviations
    assert float(whole.std()) > 0
    torch.testing.assert_close(from_weights, whole, rtol=0, atol=1e-4 * float(whole.abs().max()) + 1e-6)
