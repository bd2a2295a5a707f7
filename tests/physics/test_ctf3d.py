"""The 3D CTF compared with a plain summation, torch-ctf and geometry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from opustomo.io.ctf_tables import TiltTable, wedge_only_table
from opustomo.physics.ctf import FIELDS, KERNEL_FLOOR, TiltBatch, ctf_volume, cubic_kernel, linear_kernel
from tests.physics.optics import tilt_table, torch_ctf_image

APIX = 4.0
WEIGHTING = pytest.mark.parametrize("normalized", [True, False], ids=["normalized", "plain"])
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])


def volume(*tables: TiltTable, size: int, normalized: bool, nyquist: float | None = None) -> np.ndarray:
    """3D CTFs in float64."""
    batch = TiltBatch.pad(tables, torch.float64)
    return ctf_volume(batch, size, APIX, normalized=normalized, nyquist=nyquist).numpy()


def kernel(d: float, normalized: bool) -> float:
    """Linear, or cubic with a = -3/4 (Keys)."""
    d = abs(d)
    if normalized:
        return max(1.0 - d, 0.0)
    if d < 1:
        return 1.25 * d**3 - 2.25 * d**2 + 1
    return -0.75 * d**3 + 3.75 * d**2 - 6 * d + 3 if d < 2 else 0.0


def plain_ctf(table: TiltTable, tilt: int, x: float, y: np.ndarray) -> np.ndarray:
    """The CTF of one tilt (docs/method.md, section 2), at in-plane frequencies in 1/Å."""
    volt = table.voltage_kv[tilt] * 1e3
    wavelength = 12.2643247 / np.sqrt(volt + 0.978466e-6 * volt**2)
    s = np.hypot(x, y)
    u, v = table.defocus_u_A[tilt], table.defocus_v_A[tilt]
    defocus = 0.5 * (u + v + (u - v) * np.cos(2 * (np.arctan2(y, x) - np.radians(table.astigmatism_deg[tilt]))))
    gamma = 2 * np.pi * (-0.5 * defocus * wavelength * s**2 + 0.25 * table.cs_mm[tilt] * 1e7 * wavelength**3 * s**4)
    gamma -= np.radians(table.phase_shift_deg[tilt])
    w = table.amplitude_contrast[tilt]
    return -np.sin(gamma - np.arctan2(w, np.sqrt(1 - w**2))) * np.exp(-0.25 * table.bfactor_A2[tilt] * s**2)


def plain_sum(table: TiltTable, size: int, normalized: bool, nyquist: float) -> np.ndarray:
    """Voxel by voxel, tilt by tilt: docs/method.md, section 2 (and, normalized, the docstring of ctf_volume)."""
    k = np.fft.fftfreq(size, d=1 / size)
    out = np.zeros((size, size, size // 2 + 1))
    for iz, kz in enumerate(k):
        for kx in range(size // 2 + 1):
            total, sampling = np.zeros(size), 0.0
            for tilt, degrees in enumerate(table.tilt_deg):
                t = np.radians(degrees)
                x, d = kx * np.cos(t) - kz * np.sin(t), kx * np.sin(t) + kz * np.cos(t)
                if abs(x) > nyquist or table.scale[tilt] == 0:
                    continue
                w = kernel(d, normalized)
                if abs(w) <= KERNEL_FLOOR:
                    continue
                total += w * table.scale[tilt] * plain_ctf(table, tilt, x / (size * APIX), k / (size * APIX))
                sampling += w
            out[iz, :, kx] = total / (max(sampling, 1.0) if normalized else table.scale.sum())
    return out


@WEIGHTING
@pytest.mark.parametrize(
    ("size", "nyquist", "tilts"),
    [
        (16, 8.0, np.linspace(-60, 60, 13) + 0.1),
        (12, 6.0, np.array([-41.3, 0.2, 17.9, 55.1])),
        (12, 10.0, np.array([-20.3, 30.2, 70.9])),
    ],
)
def test_direct_summation(size: int, nyquist: float, tilts: np.ndarray, normalized: bool) -> None:
    table = tilt_table(tilts)
    ours = volume(table, size=size, normalized=normalized, nyquist=nyquist)[0]
    expected = plain_sum(table, size, normalized, nyquist)
    assert np.abs(expected).max() > 0.1
    assert np.abs(ours - expected).max() < 1e-12 * size**2


@pytest.mark.parametrize(("kernel_of", "normalized"), [(cubic_kernel, False), (linear_kernel, True)])
def test_kernels(kernel_of, normalized: bool) -> None:
    d = torch.linspace(-2.5, 2.5, 101, dtype=torch.float64)
    expected = [kernel(float(x), normalized) for x in d]
    assert np.allclose(kernel_of(d).numpy(), expected, atol=1e-12)


@WEIGHTING
def test_single_precision_is_enough(normalized: bool) -> None:
    tables = [tilt_table(np.arange(-60.0, 61, 3), seed) for seed in range(3)]
    double = volume(*tables, size=32, normalized=normalized)
    single = ctf_volume(TiltBatch.pad(tables), 32, APIX, normalized=normalized).numpy()
    # of the tilts that just touch a voxel or a slice's end, rounding may decide
    assert np.sqrt(np.mean((single - double) ** 2)) < 1e-3 * np.sqrt(np.mean(double**2))


@WEIGHTING
def test_rounding_does_not_decide_what_lies_in_the_wedge(normalized: bool) -> None:
    """At 0° and ±60° kernels end right on voxels; with ctfalpha 0 the sign of a trace would count in full."""
    table = tilt_table(np.arange(-60.0, 61, 15))
    double = volume(table, size=32, normalized=normalized)[0]
    single = ctf_volume(TiltBatch.pad([table]), 32, APIX, normalized=normalized)[0].numpy()
    assert np.array_equal(single == 0, double == 0)
    assert np.array_equal(np.sign(single)[np.abs(double) > 1e-6], np.sign(double)[np.abs(double) > 1e-6])


@WEIGHTING
def test_hermitian_on_the_plane_kx_0(normalized: bool) -> None:
    """A real filter of real volumes: c(k) = c(-k), which the half spectrum states twice where kx = 0."""
    plane = volume(tilt_table(np.arange(-40.0, 61, 4)), size=16, normalized=normalized)[0, 1:, 1:, 0]
    plane = np.delete(np.delete(plane, 7, 0), 7, 1)  # the Nyquist rows have no mate
    assert np.abs(plane).max() > 0.1
    assert np.allclose(plane, plane[::-1, ::-1], atol=1e-12)
    zero_row = volume(tilt_table(np.arange(-40.0, 61, 4)), size=16, normalized=normalized)[0, 0, 1:, 0]
    assert np.allclose(np.delete(zero_row, 7), np.delete(zero_row, 7)[::-1], atol=1e-12)


@WEIGHTING
@pytest.mark.parametrize(("lowest", "highest"), [(-60.0, 60.0), (-60.0, 40.0), (-30.0, 60.0), (10.0, 50.0)])
def test_missing_wedge(lowest: float, highest: float, normalized: bool) -> None:
    """A tilt t fills the direction (cos t, 0, -sin t): nothing beyond the tilts' range but the kernel's reach."""
    size = 32
    tilts = np.arange(lowest, highest + 0.1, 1.0)
    wedge = wedge_only_table(60.0, 60.0)
    table = TiltTable(**{f: np.full(len(tilts), getattr(wedge, f)[1]) for f in FIELDS} | {"tilt_deg": tilts})
    ctf = volume(table, size=size, normalized=normalized)[0].transpose(0, 2, 1)  # kz, kx, ky
    kz, kx = np.meshgrid(np.fft.fftfreq(size, d=1 / size), np.arange(size // 2 + 1), indexing="ij")
    radius, direction = np.hypot(kx, kz), np.degrees(np.arctan2(-kz, kx))
    reach = 1.0 if normalized else 2.0
    with np.errstate(divide="ignore", invalid="ignore"):
        margin = np.degrees(np.arcsin(np.clip(reach / radius, 0, 1)))
    inside = (direction >= lowest) & (direction <= highest) & (radius < size // 2) & (radius > 0)
    # a slice reaches past the origin: on kx = 0 and near it, also the opposite direction counts
    opposite = np.where(direction > 0, direction - 180.0, direction + 180.0)
    apart = np.ones_like(inside)
    for at in (direction, opposite):
        apart &= (at > highest + margin) | (at < lowest - margin)
    outside = apart & (radius > 2 * reach)
    assert inside.sum() > 60
    assert outside.sum() > 60
    assert (ctf[inside] > 0).all()
    assert (ctf[outside] == 0).all()


def test_wedge_has_the_sign_of_the_tilts() -> None:
    """Tilts of 30° to 50° only: the voxels on (cos 40°, 0, -sin 40°) are seen, those on (cos 40°, 0, sin 40°) not."""
    ctf = volume(tilt_table(np.arange(30.0, 51, 1)), size=32, normalized=False)[0]
    x, z = round(12 * np.cos(np.radians(40))), round(12 * np.sin(np.radians(40)))
    assert np.abs(ctf[-z, :, x]).max() > 0.01
    assert np.abs(ctf[z, :, x]).max() == 0


@WEIGHTING
@DEVICES
def test_padding_changes_nothing(normalized: bool, device: str) -> None:
    tables = [tilt_table(np.arange(-60.0, 61, 3)), tilt_table(np.array([0.0])), tilt_table(np.arange(-30.0, 20, 2))]
    batch = TiltBatch.pad(tables, torch.float64).to(device)
    together = ctf_volume(batch, 16, APIX, normalized=normalized).cpu().numpy()
    for table, ctf in zip(tables, together, strict=True):
        assert np.allclose(volume(table, size=16, normalized=normalized)[0], ctf, atol=1e-13)


@WEIGHTING
def test_tilts_of_no_weight_and_beyond_the_limit_do_not_count(normalized: bool) -> None:
    table = tilt_table(np.arange(-60.0, 61, 5))
    keep = np.abs(table.tilt_deg) <= 42
    some = TiltTable(**{name: getattr(table, name)[keep] for name in FIELDS})
    expected = volume(some, size=16, normalized=normalized)
    unweighted = replace(table, scale=np.where(keep, table.scale, 0.0))
    assert np.allclose(volume(unweighted, size=16, normalized=normalized), expected, atol=1e-13)
    limited = TiltBatch.pad([table], torch.float64).limit(42.0)
    assert np.allclose(ctf_volume(limited, 16, APIX, normalized=normalized).numpy(), expected, atol=1e-13)
    assert not np.allclose(volume(table, size=16, normalized=normalized), expected, atol=1e-3)


@WEIGHTING
def test_no_tilt_at_all_gives_zero(normalized: bool) -> None:
    table = tilt_table(np.array([0.0, 10.0]))
    nothing = volume(replace(table, scale=np.zeros(2)), size=8, normalized=normalized)
    assert np.array_equal(nothing, np.zeros_like(nothing))


@WEIGHTING
def test_order_of_tilts_is_irrelevant(normalized: bool) -> None:
    table = tilt_table(np.arange(-60.0, 61, 5))
    order = np.random.default_rng(0).permutation(len(table))
    shuffled = TiltTable(**{name: getattr(table, name)[order] for name in FIELDS})
    first, second = (volume(t, size=16, normalized=normalized) for t in (table, shuffled))
    assert np.allclose(first, second, atol=1e-13)


@WEIGHTING
def test_untilted_image_is_the_2d_ctf(normalized: bool) -> None:
    """On kz = 0, against torch-ctf; off it, the kernel's value at whole voxels: nothing."""
    table = replace(tilt_table(np.array([0.0]), seed=3), bfactor_A2=np.zeros(1), scale=np.ones(1))
    ctf = volume(table, size=32, normalized=normalized)[0]
    expected = torch_ctf_image(TiltBatch.pad([table], torch.float64)[0, 0], 32, APIX)
    rows = np.arange(32) != 16  # there the sign of ky, and so the side of the astigmatism axis, is open
    assert np.abs(ctf[0] - expected)[rows].max() < 4e-3
    assert np.abs(ctf[1:]).max() < 1e-12


def test_each_tilt_brings_its_2d_ctf_to_its_slice() -> None:
    """A tilt of 90° lies on the voxels kx = 0 with x' = -kz."""
    table = replace(tilt_table(np.array([90.0]), seed=5), bfactor_A2=np.zeros(1), scale=np.ones(1))
    plane = volume(table, size=32, normalized=False)[0][:, :, 0]  # kz, ky
    expected = torch_ctf_image(TiltBatch.pad([table], torch.float64)[0, 0], 32, APIX)  # y', x'
    mirror = -np.arange(32)  # index of -k
    for kz in range(1, 16):
        # x' = kz belongs to voxel -kz; x' = -kz, by symmetry, is (x' = kz, -y')
        assert np.abs(plane[-kz, 1:16] - expected[1:16, kz]).max() < 4e-3
        assert np.abs(plane[kz, 1:16] - expected[mirror[1:16], kz]).max() < 4e-3
