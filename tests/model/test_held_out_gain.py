"""Gain of the decoder network per shell."""

from __future__ import annotations

import pytest
import torch

from opustomo.model.residual_spectra import apply_gain, gain_from, gain_sums, no_gain, shell_count
from opustomo.physics.boxes import Boxes
from opustomo.physics.fourier import rfft3
from opustomo.physics.fsc import shell_numbers

SIZE = 16


def draws(count: int, seed: int) -> torch.Tensor:
    """Return spectra of white noise, (count, 16, 16, 9)."""
    return rfft3(torch.randn(count, SIZE, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)))


def test_the_gain_is_the_part_that_held_out_data_confirm() -> None:
    """In low shells all of X is signal, in high shells a fifth of its power; the data have noise of their own."""
    signal, fitted, noise = draws(400, 0), draws(400, 1), draws(400, 2)
    low = shell_numbers(SIZE) < 4
    added = signal + torch.where(low, 0.0, 2.0 * fitted)
    gain = gain_from(gain_sums(signal + noise, added, None))
    assert gain.shape == (shell_count(SIZE),)
    assert gain[1:4].tolist() == pytest.approx([1.0] * 3, abs=0.1)
    assert gain[4:].tolist() == pytest.approx([0.2] * 5, abs=0.02)


def test_gains_stay_between_zero_and_one_and_are_one_where_nothing_is_added() -> None:
    sums = torch.tensor([[-1.0, 3.0, 0.0, 1.0], [2.0, 2.0, 0.0, 4.0]])
    assert gain_from(sums).tolist() == [0.0, 1.0, 1.0, 0.25]


def test_particles_without_weight_do_not_count() -> None:
    x, r = draws(3, 3), draws(3, 4)
    weight = torch.tensor([1.0, 0.0, 1.0])
    torch.testing.assert_close(gain_sums(r, x, weight), gain_sums(r[[0, 2]], x[[0, 2]], None))


@pytest.mark.parametrize("template", [32, 64])
def test_a_gain_acts_at_its_frequency_on_any_grid(template: int) -> None:
    """A plane wave of a frequency between two shells is attenuated by their interpolated gain."""
    boxes = Boxes(box=32, apix=4.0, render=32, crop=28)
    spacing = (boxes.crop - 1) / (template - 1)  # voxels of the render box
    cycles = 5  # over the template
    shell = boxes.render * cycles / (template * spacing)
    gain = torch.linspace(1.0, 0.0, shell_count(boxes.render))
    x = torch.arange(template)
    wave = torch.cos(2 * torch.pi * cycles * x / template).expand(1, template, template, template)
    expected = 1.0 - shell / (len(gain) - 1)
    torch.testing.assert_close(apply_gain(wave, gain, boxes), expected * wave, atol=1e-4, rtol=1e-4)


def test_a_gain_of_one_changes_nothing() -> None:
    boxes = Boxes(box=32, apix=4.0, render=32, crop=28)
    volumes = torch.randn(2, 32, 32, 32)
    torch.testing.assert_close(apply_gain(volumes, no_gain(32), boxes), volumes, atol=1e-5, rtol=1e-5)
