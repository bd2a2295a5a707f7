"""Back-projections divided by their sampling weights equal an independent insertion of slices that divides."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from opustomo.physics.ctf import TiltBatch, division_filters, sampling_weights
from opustomo.physics.fourier import half_spectrum_weights, rfft3, squared_radius
from opustomo.physics.slice_insertion import SliceInserter
from tests.physics.optics import tilt_table

BOX = 32
TILTS = np.arange(-60.0, 61.0, 3.0)
TABLE = TiltBatch.pad([tilt_table(TILTS)])


def spectra(normalized: bool, count: int = 8) -> torch.Tensor:
    """Return spectra (N, D, D, D/2+1) of subtomograms that contain only white noise of their tilt images."""
    images = torch.randn(count, len(TILTS), BOX, BOX, generator=torch.Generator().manual_seed(0))
    inserter = SliceInserter(TILTS, BOX, normalize=normalized)
    return rfft3(inserter.insert(torch.fft.rfft2(images)))


def test_division_is_that_of_a_normalized_reconstruction() -> None:
    """Where at least two slices overlap; below one this insertion divides as well, and CTFs stand for no division."""
    weights = sampling_weights(TABLE, BOX)[0].expand(BOX, BOX, BOX // 2 + 1)
    overlap = (weights >= 2) & (squared_radius(BOX) < 0.23)  # what is put back ends at Nyquist, 0.25
    plain, divided = spectra(False), spectra(True)
    wanted = divided[:, overlap]

    def correlation(found: torch.Tensor) -> float:
        product = (found[:, overlap] * wanted.conj()).real.sum()
        return float(product / (found[:, overlap].abs().square().sum() * wanted.abs().square().sum()).sqrt())

    assert correlation(plain * division_filters(TABLE, BOX)) > 0.985
    assert correlation(plain) < 0.9


def test_the_power_of_all_noise_is_kept() -> None:
    """But for where the kernel of a sum of slices differs from that of a sample."""
    plain, whole = spectra(False), half_spectrum_weights(BOX)
    before, after = ((x.abs().square() * whole).sum() for x in (plain, plain * division_filters(TABLE, BOX)))
    assert float(after) == pytest.approx(float(before), rel=0.35)
    weights, filters = sampling_weights(TABLE, BOX), division_filters(TABLE, BOX)
    assert float((weights * filters.square() * whole).sum()) == pytest.approx(float((weights * whole).sum()), rel=1e-4)


@pytest.mark.parametrize("nyquist", [None, 9.0])
def test_weights_are_sums_over_the_slices(nyquist: float | None) -> None:
    size = 16
    found = sampling_weights(TABLE, size, nyquist)
    assert found.shape == (1, size, 1, size // 2 + 1)
    for kz, kx in ((0, 0), (0, 3), (2, 5), (-5, 4), (7, 1), (-8, 8)):
        total = 0.0
        for tilt in np.deg2rad(TILTS):
            distance = abs(kx * math.sin(tilt) + kz * math.cos(tilt))
            reached = abs(kx * math.cos(tilt) - kz * math.sin(tilt)) <= (nyquist or size / 2)
            total += max(0.0, 1.0 - distance) * reached
        assert float(found[0, kz % size, 0, kx]) == pytest.approx(total, abs=1e-5)


def test_tilts_that_do_not_count_change_nothing() -> None:
    """Padding and tilts of scale 0 have no effect; without tilts, nothing is divided."""
    tables = TiltBatch.pad([tilt_table(TILTS), tilt_table(np.arange(-60.0, 61.0, 1.0))])
    torch.testing.assert_close(division_filters(tables, BOX)[:1], division_filters(TABLE, BOX))
    limited = TiltBatch.pad([tilt_table(TILTS[np.abs(TILTS) <= 30])])
    torch.testing.assert_close(division_filters(TABLE.limit(30.0), BOX), division_filters(limited, BOX))
    assert torch.isfinite(division_filters(TABLE.limit(-1.0), BOX)).all()
