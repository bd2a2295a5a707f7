"""The kind of reconstruction of subtomograms, determined on simulated sets of every kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from opustomo.data.config import DataConfig
from opustomo.data.particles import ParticleSet, load_particles
from opustomo.data.voxels import VoxelSource, examine_scale
from opustomo.io.masks import load_mask
from opustomo.physics.ctf import TiltBatch, ctf_volume
from opustomo.physics.fourier import frequencies, irfft3, rfft3
from opustomo.quality.checks.reconstruction_kind import (
    ReconstructionKind,
    decide_kind,
    examine_reconstruction,
    training_lines,
)
from opustomo.quality.checks.signal_shape import SignalShape, measure_signal

Filter = Callable[[ParticleSet, int], Tensor]
COUNT, BOX = 64, 32


class Filtered:
    """Voxels of a set after a filter in Fourier space."""

    def __init__(self, particles: ParticleSet, filter_of: Filter) -> None:
        self.box = particles.box
        self._particles, self._source, self._filter = particles, VoxelSource(particles.images), filter_of

    def read(self, index: int) -> np.ndarray:
        spectrum = rfft3(torch.from_numpy(self._source.read(index).astype(np.float32)))
        return irfft3(spectrum * self._filter(self._particles, index)).numpy()


def ramp(particles: ParticleSet, index: int) -> Tensor:
    """The ramp filter of each slice, |x'|, which near the slice is the distance from the tilt axis."""
    kz, _, kx = frequencies(particles.box)
    return torch.sqrt(kz**2 + kx**2).clamp(min=0.25)


def low_ramp(particles: ParticleSet, index: int) -> Tensor:
    """A ramp with the low-pass along x' that tomography programs apply: power rises with the number of slices."""
    radius = ramp(particles, index)
    return radius * torch.exp(-0.5 * ((radius / (particles.box / 2) - 0.3).clamp(min=0.0) / 0.2) ** 2)


def own_ctf(particles: ParticleSet, index: int) -> Tensor:
    """Multiplication of the images by their CTF."""
    tilts = TiltBatch.pad([particles.tables[particles.table[index]]])
    return ctf_volume(tilts, particles.box, particles.apix, normalized=True)[0]


def sign_of_ctf(particles: ParticleSet, index: int) -> Tensor:
    """Phase flipping, as programs do it before the reconstruction: the signal keeps its sign."""
    return own_ctf(particles, index).sign()


def inverted(particles: ParticleSet, index: int) -> Tensor:
    return torch.tensor(-1.0)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ParticleSet]:
    """Plain and divided back-projections of the same particles, and divided ones at 8 Å per voxel."""
    from opustomo.simulate.acquisition import regular_scheme
    from opustomo.simulate.dataset import SimulationConfig, simulate_dataset
    from opustomo.simulate.volumes import gather_volumes

    scheme = regular_scheme(-60.0, 60.0, 3.0, 3.0)
    found = {}
    for name, asked_apix in (("plain", None), ("divided", None), ("fine", 8.0)):
        volumes, apix = gather_volumes([], ["70S_vacant"], asked_apix, BOX)
        folder = tmp_path_factory.mktemp("kinds") / name
        config = SimulationConfig(
            COUNT, apix=apix, scheme=scheme, snr=0.1, rot_err=2.0, shift_err=0.4, normalize=name != "plain"
        )
        simulate_dataset(volumes, config, folder)
        found[name] = load_particles(DataConfig(folder / "particles.star"))
    return found


Examine = Callable[[str, Filter | None], ReconstructionKind]


@pytest.fixture(scope="module")
def examined(sets: dict[str, ParticleSet]) -> Examine:
    """Examine each set once after a filter."""

    @cache
    def examine(made: str, filter_of: Filter | None) -> ReconstructionKind:
        particles = sets[made]
        source = VoxelSource(particles.images) if filter_of is None else Filtered(particles, filter_of)
        return examine_reconstruction(particles, source)  # type: ignore[arg-type]

    return examine


@pytest.mark.parametrize(
    ("made", "filter_of", "weighting", "multiplied"),
    [
        ("plain", None, "plain", False),
        ("divided", None, "divided", False),
        ("plain", ramp, "ramp-filtered", False),
        ("plain", low_ramp, "ramp-filtered", False),
        ("plain", own_ctf, "plain", True),
        ("divided", own_ctf, "weighted", True),
    ],
)
def test_kinds_of_reconstruction(
    examined: Examine, made: str, filter_of: Filter | None, weighting: str, multiplied: bool
) -> None:
    kind = examined(made, filter_of)
    assert (kind.weighting, kind.ctf_multiplied, kind.basis) == (weighting, multiplied, "signal"), kind.line
    assert kind.plain is (weighting == "plain") and kind.weighted is not kind.plain
    assert any("squared CTF" in warning for warning in kind.warnings_for(kind.weighted)) is multiplied


def test_flipped_phases_are_recognized(sets: dict[str, ParticleSet]) -> None:
    particles = sets["fine"]
    kind = examine_reconstruction(particles, Filtered(particles, sign_of_ctf))  # type: ignore[arg-type]
    assert kind.unsigned is True and kind.phase_flipped and kind.ctf_multiplied is False
    assert "phases of their images were flipped" in kind.line
    assert any("without CTF correction" in warning for warning in kind.warnings_for(kind.weighted))
    untouched = examine_reconstruction(particles, VoxelSource(particles.images))
    assert untouched.unsigned is False and "nor were their phases flipped" in untouched.line


def test_phases_cannot_be_reported_without_a_zero_of_the_ctf() -> None:
    kind = decide_kind(1.0, shape(0.1, -5.0, e=0.03))
    assert kind.unsigned is None and "a flip of their phases cannot be excluded" in kind.line
    assert decide_kind(1.0, shape(0.1, -5.0, phase_z=5.0)).phase_flipped
    assert not decide_kind(
        1.0, shape(0.1, -5.0, e=0.97, phase_z=5.0)
    ).phase_flipped  # multiplied data keep their sign, too


def test_power_alone_would_mistake_filtered_data_for_plain(examined: Examine) -> None:
    """The power of ramp-filtered data rises with w if a low-pass follows, as for the real ribosomes."""
    kind = examined("plain", low_ramp)
    assert kind.power > 0.5 and kind.weighted


def test_contrast(sets: dict[str, ParticleSet], examined: Examine) -> None:
    particles = sets["divided"]
    bright = examined("divided", None).signal
    dark = measure_signal(particles, Filtered(particles, inverted))  # type: ignore[arg-type]
    assert bright is not None and dark is not None
    assert bright.contrast > 0.2 and dark.contrast < -0.2


def test_one_view_leaves_the_decision_to_the_power(sets: dict[str, ParticleSet]) -> None:
    """The average of particles in one pose has their missing wedge and weights, so it is not used."""
    particles = sets["plain"]
    poses = replace(particles.poses, eulers_deg=np.zeros((COUNT, 3)))
    kind = examine_reconstruction(replace(particles, poses=poses), VoxelSource(particles.images))
    assert kind.signal is None and kind.basis in ("power", "nothing")
    assert "could not be measured" in kind.line


def shape(
    exponent: float,
    z: float,
    ramp_z: float = 0.0,
    e: float = math.nan,
    explained: float = 0.01,
    phase_z: float = 0.0,
) -> SignalShape:
    nothing = np.zeros(0)
    return SignalShape(exponent, 0.05, z, ramp_z, explained, e, 0.02, phase_z, 0.5, 100, nothing, nothing, nothing)


@pytest.mark.parametrize(
    ("power", "signal", "weighting", "basis"),
    [
        (1.64, shape(0.4, -6.7, 20.8), "ramp-filtered", "signal"),
        (1.64, shape(0.4, -6.7, 1.0), "weighted", "signal"),
        (1.64, shape(0.4, -2.0), "unknown", "nothing"),
        (1.64, None, "unknown", "nothing"),
        (1.0, None, "plain", "power"),
        (1.0, shape(0.1, -5.0, -4.0), "divided", "signal"),
        (-0.6, shape(1.0, 1.0), "weighted", "power"),
        (-0.6, shape(0.2, 4.0), "weighted", "power"),  # contradictory signal
        (0.2, None, "unknown", "nothing"),
        (math.nan, None, "unknown", "nothing"),
    ],
)
def test_rules(power: float, signal: SignalShape | None, weighting: str, basis: str) -> None:
    kind = decide_kind(power, signal)
    assert (kind.weighting, kind.basis) == (weighting, basis)
    assert ("cannot be determined" in kind.warnings_for(False)[-1]) is (weighting == "unknown") if not kind.plain else 1


def test_ctf_multiplication_needs_noise_and_different_defocus() -> None:
    assert decide_kind(1.0, shape(1.0, 9.0, e=0.97)).ctf_multiplied is True
    assert decide_kind(1.0, shape(1.0, 9.0, e=0.03)).ctf_multiplied is False
    assert (
        decide_kind(1.0, shape(1.0, 9.0, e=0.97, explained=0.5)).ctf_multiplied is None
    )  # the power is that of the signal
    assert decide_kind(1.0, shape(1.0, 9.0)).ctf_multiplied is None
    assert decide_kind(1.0, shape(1.0, 9.0, e=0.45)).ctf_multiplied is None


def test_lines_of_the_log() -> None:
    (plain,) = training_lines(decide_kind(1.0, shape(1.0, 9.0)), True)
    assert "they are divided by w" in plain
    # the advice is a line of its own, because the finding is long
    _, weighted = training_lines(decide_kind(1.64, shape(0.4, -6.7)), False)
    assert weighted.startswith("warning: ") and weighted.endswith("Train with --normalizectf instead")
    _, unknown = training_lines(decide_kind(math.nan, None), False)
    assert unknown.startswith("warning: ") and "else --divide" in unknown


def test_real_ribosomes_are_weighted(shared_data: Path) -> None:
    folder = shared_data / "ribosomes_10499"
    particles = load_particles(DataConfig(folder / "particles.star"))
    source = VoxelSource(particles.images)
    examine_scale(source, len(particles))
    kind = examine_reconstruction(particles, source, load_mask(folder / "mask.mrc", particles.box, particles.apix))
    assert kind.power > 1.5 and kind.weighting == "ramp-filtered" and kind.basis == "signal"
    assert kind.ctf_multiplied is None  # all particles share one CTF


def test_a_signal_between_the_models_is_a_reservation() -> None:
    weighted, plain = decide_kind(1.64, shape(0.4, -6.7, 20.8)), decide_kind(1.0, shape(0.6, 6.7))
    assert "w^0.40" in weighted.reservation and "--normalizectf is proposed" in weighted.reservation
    assert plain.weighting == "plain" and "--divide is proposed" in plain.reservation
    clear = [
        decide_kind(1.0, shape(0.1, -5.0)),
        decide_kind(1.0, shape(1.0, 9.0)),
        decide_kind(1.64, shape(0.4, -2.0)),
        decide_kind(1.0, None),
    ]
    assert [kind.reservation for kind in clear] == ["", "", "", ""]
