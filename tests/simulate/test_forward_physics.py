"""Posed, noise-free subtomograms compared with real-space geometry."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from opustomo.geometry.rotations import euler_to_matrix
from opustomo.simulate.acquisition import Optics, SliceSource, TiltScheme, origin_phases, tilt_image_transfer
from opustomo.simulate.densities import load_density
from opustomo.simulate.forward_model import ParticleSet, PoseSet, SubtomogramSimulator, draw_poses

BOX = 32
MakeParticles = Callable[..., ParticleSet]
MakeBlob = Callable[..., np.ndarray]
FindCenter = Callable[[np.ndarray], np.ndarray]
DENSE = np.arange(-88.0, 89.0, 2.0)


def make_boxes(simulator: SubtomogramSimulator, sigma: float = 0.0, seed: int = 0) -> np.ndarray:
    out = np.zeros((len(simulator.particles), *(simulator.box,) * 3), np.float32)
    for rows, boxes in simulator.subtomograms(sigma, seed):
        out[rows] = boxes
    return out


def make_unscaled(simulator: SubtomogramSimulator, density: np.ndarray) -> np.ndarray:
    """Boxes of a set with one density, the cos t of the scale taken out of the slices."""
    scale = torch.from_numpy(simulator.particles.scheme.scale).float()[:, None, None]
    rows = np.arange(len(simulator.particles))
    slices = simulator.signal_slices(SliceSource(torch.from_numpy(density)), rows)
    return simulator.inserter.insert(slices / scale).numpy()


def test_blob_lands_where_pose_and_origin_say(
    make_particles: MakeParticles, gaussian_blob: MakeBlob, centroid: FindCenter
) -> None:
    """A blob at c in the reference is at A·c - origin in the subtomogram."""
    eulers = torch.tensor([[0.0, 0, 0], [40, 70, -20], [-120, 35, 95], [10, 0, 0], [0, 50, 0], [75, 180, 30]])
    rotations = euler_to_matrix(eulers.double()).numpy()
    origins = np.random.default_rng(1).uniform(-2, 2, (len(eulers), 3))
    blob = gaussian_blob(center := np.array([4.0, -3.0, 2.0]))
    particles = make_particles([0] * len(eulers), PoseSet(rotations, origins), DENSE)
    boxes = make_unscaled(SubtomogramSimulator(blob[None], 10.0, particles), blob)
    for box, rotation, origin in zip(boxes, rotations, origins, strict=True):
        assert np.abs(centroid(box) - (rotation @ center - origin)).max() < 0.15


def test_moving_the_content_by_the_origin_centers_it(make_particles: MakeParticles, gaussian_blob: MakeBlob) -> None:
    """RELION's definition: y_centred(x) = y(x - origin)."""
    origin = np.array([[3.0, -2.0, 1.0]])
    particles = make_particles([0], PoseSet(np.eye(3)[None], origin), DENSE)
    box = make_boxes(SubtomogramSimulator(gaussian_blob(np.zeros(3))[None], 10.0, particles))[0]
    centered = np.roll(box, (1, -2, 3), (0, 1, 2))
    assert np.unravel_index(centered.argmax(), centered.shape) == (BOX // 2,) * 3


def test_posed_density_equals_real_space_rotation(make_particles: MakeParticles, gaussian_blob: MakeBlob) -> None:
    """Dense tilts without CTF give V(Aᵀ(x + origin)), here evaluated blob by blob in real space."""
    rng = np.random.default_rng(3)
    poses = draw_poses(4, 1.5, rng)
    centers = rng.normal(0, 3.5, (6, 3))
    volume = np.sum([gaussian_blob(c) for c in centers], axis=0)
    particles = make_particles([0] * 4, poses, DENSE)
    boxes = make_unscaled(SubtomogramSimulator(volume[None], 10.0, particles), volume)
    for box, rotation, origin in zip(boxes, poses.rotations, poses.origins, strict=True):
        expected = np.sum([gaussian_blob(rotation @ c - origin) for c in centers], axis=0)
        assert np.corrcoef(box.ravel(), expected.ravel())[0, 1] > 0.98
        shifted = np.roll(expected, 1, 0)
        assert np.corrcoef(box.ravel(), shifted.ravel())[0, 1] < 0.95


def test_full_coverage_gives_the_density_back(make_particles: MakeParticles) -> None:
    """In size too: same values."""
    volume, _ = load_density("30S")
    particles = make_particles([0], PoseSet(np.eye(3)[None], np.zeros((1, 3))), DENSE)
    box = make_unscaled(SubtomogramSimulator(volume[None], 12.0, particles), volume)[0]
    assert np.corrcoef(box.ravel(), volume.ravel())[0, 1] > 0.98
    assert (box * volume).sum() / (volume**2).sum() == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("tilt", [0.0, 30.0, -50.0])
def test_projection_runs_along_the_beam(tilt: float, gaussian_blob: MakeBlob) -> None:
    """A slice is the projection along (sin t, 0, cos t), its x axis is (cos t, 0, -sin t)."""
    rotation = Rotation.random(random_state=5).as_matrix()
    center, origin = np.array([4.0, 2.0, -5.0]), np.array([0.7, -1.2, 0.4])
    source = SliceSource(torch.from_numpy(gaussian_blob(center)))
    tilts = torch.tensor([tilt])
    slices = source.slices(torch.from_numpy(rotation)[None], tilts)
    slices = slices * origin_phases(torch.from_numpy(origin)[None], tilts, BOX)
    image = torch.fft.fftshift(torch.fft.irfft2(slices[0, 0], s=(BOX, BOX))).numpy()
    at = rotation @ center - origin
    angle = np.deg2rad(tilt)
    expected_x, expected_y = at[0] * np.cos(angle) - at[2] * np.sin(angle), at[1]
    axis = np.arange(BOX) - BOX // 2
    expected = np.exp(-0.5 * ((axis - expected_x) ** 2 + (axis[:, None] - expected_y) ** 2) / 1.6**2)
    expected *= 1.6 * np.sqrt(2 * np.pi)  # the blob summed along the beam
    assert np.abs(image - expected).max() < 0.04 * expected.max()


@pytest.mark.parametrize("tilt", [25.0, -40.0])
def test_single_tilt_smears_along_its_beam(tilt: float, make_particles: MakeParticles, gaussian_blob: MakeBlob) -> None:
    """Back-projected from one image, a blob becomes a streak along (sin t, 0, cos t)."""
    particles = make_particles([0], PoseSet(np.eye(3)[None], np.zeros((1, 3))), np.array([tilt]))
    blob = gaussian_blob(np.zeros(3), 1.2)
    box = make_boxes(SubtomogramSimulator(blob[None], 10.0, particles, normalize=False))[0]
    axis = np.arange(BOX) - BOX // 2
    weight = np.clip(box, 0, None).astype(np.float64) ** 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    points = np.stack([x, y, z], -1).reshape(-1, 3)
    moments = np.einsum("n,ni,nj->ij", weight.ravel(), points, points)
    streak = np.linalg.eigh(moments)[1][:, -1]
    beam = np.array([np.sin(np.deg2rad(tilt)), 0.0, np.cos(np.deg2rad(tilt))])
    assert abs(streak @ beam) > 0.995


def test_missing_wedge_is_on_the_right_side(make_particles: MakeParticles, gaussian_blob: MakeBlob) -> None:
    """Tilts -60…35° fill the directions (cos t, 0, -sin t): kz/kx from +tan 60° down to -tan 35°."""
    tilts = np.arange(-60.0, 36.0, 1.0)
    particles = make_particles([0], PoseSet(np.eye(3)[None], np.zeros((1, 3))), tilts)
    simulator = SubtomogramSimulator(gaussian_blob(np.zeros(3))[None], 10.0, particles)
    noise = make_boxes(simulator, sigma=100.0)[0]
    power = np.abs(np.fft.fftshift(np.fft.fftn(noise))) ** 2
    power = power.mean(axis=1)  # (kz, kx): white noise, so power shows where slices went
    k = np.arange(BOX) - BOX // 2
    kz, kx = np.meshgrid(k, k, indexing="ij")
    radius = np.hypot(kx, kz)
    direction = np.degrees(np.arctan2(-kz * np.sign(kx), np.abs(kx)))
    shell = (radius > 6) & (radius < 15) & (kx != 0)
    filled = shell & (direction > -55) & (direction < 30)
    missing = shell & ((direction < -72) | (direction > 47))
    assert missing.sum() > 50
    assert power[missing].max() < 1e-6 * power[filled].mean()
    assert power[filled].min() > 1e-2 * power[filled].mean()


def test_ctf_reaches_the_subtomogram_with_its_sign_and_zeros(make_particles: MakeParticles) -> None:
    """The plane kz = 0 of a single 0° tilt is the transform of the density's projection times the 2D CTF."""
    volume, apix = load_density("30S")
    optics = Optics(300.0, 2.7, 0.07)
    poses = PoseSet(np.eye(3)[None], np.zeros((1, 3)))
    particles = make_particles([0], poses, np.array([0.0]), defocus=30000.0, dose=20.0, optics=optics)
    box = make_boxes(SubtomogramSimulator(volume[None], apix, particles, normalize=True))[0]
    plane = np.fft.rfft2(np.fft.ifftshift(box.sum(axis=0)))
    projection = np.fft.rfft2(np.fft.ifftshift(volume.sum(axis=0)))
    d = torch.tensor([30000.0])
    ctf = tilt_image_transfer(
        (d, d), torch.zeros(1), torch.tensor([80.0]), Optics(), box=BOX, apix=apix,
    )[0].numpy()  # fmt: skip
    k = np.fft.fftfreq(BOX) * BOX
    inside = np.hypot(k[:, None], np.arange(BOX // 2 + 1)) < BOX // 2 - 1
    expected = projection * ctf
    assert np.abs(plane - expected)[inside].max() < 0.02 * np.abs(expected).max()
    assert ctf[0, 1] > 0
    assert np.real(plane[0, 0] / projection[0, 0]) > 0


def test_plain_back_projection_divides_by_the_number_of_tilts(make_particles: MakeParticles) -> None:
    """All tilts share the tilt axis: there both weightings give the mean of scale times density."""
    volume, apix = load_density("50S")
    particles = make_particles([0], PoseSet(np.eye(3)[None], np.zeros((1, 3))), np.arange(-60.0, 61.0, 3.0))
    raw = make_boxes(SubtomogramSimulator(volume[None], apix, particles, normalize=False))[0]
    normal = make_boxes(SubtomogramSimulator(volume[None], apix, particles, normalize=True))[0]

    def kept(box: np.ndarray, axis: int) -> np.ndarray:
        """How much of the density's transform a box has along an axis of frequencies."""
        across = tuple({0, 1, 2} - {axis})
        return np.abs(np.fft.rfft(box.sum(axis=across))) / np.abs(np.fft.rfft(volume.sum(axis=across)))

    mean_scale = particles.scheme.scale.mean()
    assert kept(raw, 1)[3] == pytest.approx(mean_scale, rel=0.1)
    assert kept(normal, 1)[3] == pytest.approx(mean_scale, rel=0.1)
    # away from it, the sum thins out as slices part: few of 41 meet a voxel 10 voxels along x
    assert kept(raw, 2)[10] < 0.12
    assert kept(normal, 2)[10] == pytest.approx(1.0, abs=0.1)


def test_snr_is_that_of_the_untilted_image(make_particles: MakeParticles) -> None:
    volume, apix = load_density("70S_vacant")
    poses = draw_poses(24, 1.0, np.random.default_rng(0))
    tilts = np.array([-30.0, 3.0, 0.0, 30.0])
    optics = Optics(300.0, 2.7, 0.07)
    particles = make_particles([0] * 24, poses, tilts, defocus=25000.0, dose=3.0, optics=optics)
    simulator = SubtomogramSimulator(volume[None], apix, particles)
    sigma = simulator.noise_sigma(0.25)
    rows = np.arange(24)
    signal = simulator.signal_slices(SliceSource(torch.from_numpy(volume)), rows)[:, 2]
    noise = simulator.noise_slices(rows, sigma, seed=1)[:, 2]
    images, grains = (torch.fft.irfft2(x, s=(BOX, BOX)) for x in (signal, noise))
    ratio = images.var(dim=(1, 2)).mean() / grains.var(dim=(1, 2)).mean()
    assert float(ratio) == pytest.approx(0.25, rel=0.05)


def test_noise_does_not_depend_on_grouping(make_particles: MakeParticles) -> None:
    volumes = np.stack([load_density(name)[0] for name in ("30S", "50S")])
    poses = draw_poses(6, 1.0, np.random.default_rng(0))
    particles = make_particles([0, 1, 0, -1, 1, 0], poses, np.arange(-60.0, 61.0, 6.0))
    simulator = SubtomogramSimulator(volumes, 12.0, particles)
    together = make_boxes(simulator, sigma=5.0, seed=4)
    simulator.chunk = 1
    one_by_one = make_boxes(simulator, sigma=5.0, seed=4)
    assert np.abs(together - one_by_one).max() < 1e-4 * together.std()
    assert np.abs(make_boxes(simulator, sigma=5.0, seed=5) - together).std() > 0.5 * together.std()


@pytest.mark.cuda
def test_gpu_makes_the_same_set(make_particles: MakeParticles) -> None:
    volumes = np.stack([load_density(name)[0] for name in ("30S", "50S")])
    poses = draw_poses(6, 1.0, np.random.default_rng(0))
    optics = Optics(300.0, 2.7, 0.07)
    particles = make_particles(
        [0, 1, 0, -1, 1, 0], poses, np.arange(-60.0, 61.0, 3.0), defocus=25000.0, dose=3.0, optics=optics
    )
    boxes = []
    for device in ("cpu", "cuda"):
        simulator = SubtomogramSimulator(volumes, 12.0, particles, device=device)
        boxes.append(make_boxes(simulator, sigma=simulator.noise_sigma(0.1), seed=1))
    assert np.abs(boxes[0] - boxes[1]).max() < 1e-3 * boxes[0].std()


def test_empty_boxes_hold_noise_only(make_particles: MakeParticles, gaussian_blob: MakeBlob) -> None:
    poses = draw_poses(2, 0.0, np.random.default_rng(0))
    particles = make_particles([-1, 0], poses, np.arange(-60.0, 61.0, 6.0))
    volume = gaussian_blob(np.zeros(3))
    boxes = make_boxes(SubtomogramSimulator(volume[None], 10.0, particles))
    assert np.abs(boxes[0]).max() == 0
    assert np.abs(boxes[1]).max() > 0.1


def test_scheme_scale_and_bfactor() -> None:
    scheme = TiltScheme(np.array([-60.0, 0.0]), np.array([120.0, 3.0]))
    assert scheme.scale == pytest.approx([0.5, 1.0])
    assert scheme.bfactor_A2 == pytest.approx([480.0, 12.0])
