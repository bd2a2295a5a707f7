"""Consensus volume: a Wiener estimate of the common density that is part of the model and its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from opustomo.analysis.volumes.decoding import VolumeDecoder
from opustomo.checkpoint.config import read_config
from opustomo.checkpoint.weights import load_decoder
from opustomo.model.networks import Decoder
from opustomo.physics.boxes import Boxes
from opustomo.physics.fourier import crop_center, pad_center
from opustomo.physics.sampling import to_template
from opustomo.training.consensus import MOST_PARTICLES, denoised, updates_due
from tests.commands.quick import train, use_tiny_networks

BOXES = Boxes(box=32, apix=10.0, render=32, crop=28)


def blob(size: int) -> torch.Tensor:
    """Return a Gaussian density off the center, (size, size, size)."""
    at = torch.arange(size) - size // 2
    z, y, x = torch.meshgrid(at, at, at, indexing="ij")
    return torch.exp(-0.5 * ((x - 3.0) ** 2 + y**2 + (z + 2.0) ** 2) / 2.5**2)


def test_noise_is_removed_and_signal_kept() -> None:
    signal = pad_center(blob(28), 32)
    noise = torch.randn(2, 32, 32, 32, generator=torch.Generator().manual_seed(1)) * 0.2
    first, second = signal + noise
    both = 0.5 * (first + second)
    found = denoised((first, second, both), torch.ones(28, 28, 28), BOXES, bfactor_A2=0.0)
    error = (found - blob(28)).square().mean().sqrt()
    assert error < 0.2 * (both - signal).square().mean().sqrt()
    assert torch.corrcoef(torch.stack([found.flatten(), blob(28).flatten()]))[0, 1] > 0.95


def test_pure_noise_gives_no_volume() -> None:
    noise = torch.randn(2, 32, 32, 32, generator=torch.Generator().manual_seed(2))
    found = denoised((noise[0], noise[1], noise.mean(0)), torch.ones(28, 28, 28), BOXES, bfactor_A2=0.0)
    assert found.std() < 0.1 * noise.mean(0).std()


def test_envelopes_are_divided_out() -> None:
    signal = pad_center(blob(28), 32)
    plain = denoised((signal, signal, signal), torch.ones(28, 28, 28), BOXES, bfactor_A2=0.0)
    sharper = denoised((signal, signal, signal), torch.ones(28, 28, 28), BOXES, bfactor_A2=100.0)
    assert sharper.max() > 1.1 * plain.max()
    assert float(sharper.sum() / plain.sum()) == pytest.approx(1.0, abs=0.02)


def test_the_template_spans_the_crop() -> None:
    grown = to_template(blob(28), 55)  # every second voxel of the template is a voxel of the crop
    torch.testing.assert_close(grown[::2, ::2, ::2], blob(28))


def test_updates_are_due_when_visits_have_doubled() -> None:
    assert [updates_due(visits, 100) for visits in (0, 100, 399, 400, 799, 800, 1599, 1600)] == [0, 0, 0, 1, 1, 2, 2, 3]
    assert updates_due(8 * MOST_PARTICLES, 10 * MOST_PARTICLES) == 2  # more particles do not enter a consensus
    assert updates_due(20, 0) == updates_due(20, 1) == 3


def test_a_run_starts_from_the_consensus_and_improves_it(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_networks(monkeypatch)
    star = tiny_set / "particles.star"

    def volumes(folder: str, epoch: int, *words: str) -> tuple[torch.Tensor, torch.Tensor]:
        code, said = train(star, tmp_path / folder, "-r", str(tiny_set / "mask.mrc"), *words)
        assert code == 0, said
        weights = tmp_path / folder / f"weights.{epoch}.pkl"
        decoder = VolumeDecoder(weights, weights.with_name("config.pkl"), "cpu")
        return decoder.decoder.consensus, decoder.decode(np.zeros((1, decoder.zdim)))[0]

    first, decoded = volumes("run", 2, "-n", "3")
    truth = torch.from_numpy(np.load(tiny_set / "volumes.npy").mean(0))
    _, boxes, _ = read_config(tmp_path / "run" / "config.pkl")
    expected = to_template(crop_center(truth, boxes.crop), 32)
    inside = first != 0
    assert torch.corrcoef(torch.stack([decoded[inside], expected[inside]]))[0, 1] > 0.6
    resumed, _ = volumes("run", 4, "-n", "5", "--load", "latest")
    straight, _ = volumes("straight", 4, "-n", "5")
    torch.testing.assert_close(resumed, straight)
    assert not torch.equal(resumed, first)
    assert not volumes("original", 0, "-n", "1", "--preset", "original")[0].any()


def test_decoding_adds_the_consensus() -> None:
    decoder = Decoder(2, 32)
    latent = torch.zeros(1, 2)
    plain = decoder(latent)
    content = {"decoder_state_dict": decoder.state_dict(), "consensus": torch.full((32, 32, 32), 0.5)}
    load_decoder(decoder, content)
    torch.testing.assert_close(decoder(latent), plain + 0.5)
    del content["consensus"]  # weights of OPUS-TOMO
    load_decoder(decoder, content)
    torch.testing.assert_close(decoder(latent), plain)
