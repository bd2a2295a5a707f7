"""Upper bound of classification on a simulated set: particles are assigned to the true density that fits best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

BATCH = 8


@torch.no_grad()
def known_density_scores(
    star: Path, volumes: np.ndarray, eulers_deg: np.ndarray, origins_px: np.ndarray, normalized: bool
) -> np.ndarray:
    """Return the index of the best density of each particle, (N,).

    Least squares between each subtomogram's spectrum and CTF times the posed density, over the voxels that the CTF
    reaches; one amplitude for all, found in two rounds. White noise is assumed, so this is a likelihood but for the
    weights that overlapping slices would have.

    Parameters
    ----------
    star
        The set.
    volumes
        (K, D, D, D) densities.
    eulers_deg, origins_px
        Poses to use, (N, 3) each.
    normalized
        Whether reconstructions were divided by their sampling weights.
    """
    from opustomo.data.config import DataConfig
    from opustomo.data.particles import load_particles
    from opustomo.data.voxels import VoxelSource
    from opustomo.geometry.rotations import euler_to_matrix
    from opustomo.physics.ctf import TiltBatch, ctf_volume
    from opustomo.physics.fourier import half_spectrum_weights, rfft3, shift_phases
    from opustomo.physics.sampling import sample_posed

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    particles = load_particles(DataConfig(star))
    source = VoxelSource(particles.images, cache_bytes=0)
    tilts = TiltBatch.pad(particles.tables).to(device)
    table = torch.from_numpy(particles.table)
    densities = torch.from_numpy(np.ascontiguousarray(volumes, dtype=np.float32)).to(device)
    rotations = euler_to_matrix(torch.from_numpy(np.asarray(eulers_deg, dtype=np.float64))).float()
    box = particles.box
    weights = half_spectrum_weights(box, device)
    power, cross = [], []
    for first in range(0, len(particles), BATCH):
        index = torch.arange(first, min(first + BATCH, len(particles)))
        data = torch.from_numpy(np.stack([source.read(int(i)) for i in index]).astype(np.float32)).to(device)
        origin = torch.from_numpy(np.asarray(origins_px, dtype=np.float32))[index].to(device)
        spectrum = rfft3(data) * shift_phases(origin, box, box)
        ctf = ctf_volume(tilts[table[index].to(device)], box, particles.apix, normalized=normalized)
        inverse = rotations[index].to(device).mT[:, None]
        found: list[tuple[Tensor, Tensor]] = []
        for density in densities:
            model = rfft3(sample_posed(density.expand(len(index), -1, -1, -1), inverse, box)[:, 0]) * ctf
            found.append(
                (
                    (weights * torch.view_as_real(model).square().sum(-1)).sum((1, 2, 3)),
                    (weights * (model.conj() * spectrum).real * (ctf != 0)).sum((1, 2, 3)),
                )
            )
        power.append(torch.stack([a for a, _ in found], 1))
        cross.append(torch.stack([b for _, b in found], 1))
    squares, products = torch.cat(power).double(), torch.cat(cross).double()
    amplitude = torch.tensor(1.0, dtype=torch.float64, device=device)
    best = squares.argmin(1)
    for _ in range(2):
        best = (products - 0.5 * amplitude * squares).argmax(1)
        rows = torch.arange(len(best), device=device)
        amplitude = products[rows, best].sum() / squares[rows, best].sum().clamp(min=1e-20)
    return (products - 0.5 * amplitude * squares).argmax(1).cpu().numpy()


def ceilings(data: Path, normalized: bool, refined: Path | None = None) -> dict[str, float]:
    """ARI of that choice at true, given and refined (pose.N.pkl) poses; R² of the chosen index of ordered densities."""
    from sklearn.metrics import adjusted_rand_score

    from opustomo.io.poses import read_poses

    truth = np.load(data / "truth.npz")
    volumes, labels = np.load(data / "volumes.npy"), truth["labels"]
    poses = {"true": (truth["eulers"], truth["origin"]), "given": (truth["eulers_used"], truth["origin_used"])}
    if refined is not None:
        read = read_poses(refined)
        poses["refined"] = read.eulers_deg, read.origins * volumes.shape[-1]
    found = {}
    for name, (eulers, origins) in poses.items():
        chosen = known_density_scores(data / "particles.star", volumes, eulers, origins, normalized)
        found[f"ari_{name}_poses"] = float(adjusted_rand_score(labels, chosen))
        found[f"r2_{name}_poses"] = float(1 - np.square(chosen - labels).mean() / labels.var())
    return found


@torch.no_grad()
def pose_bound(data: Path, normalized: bool = True, sample: int = 64) -> dict[str, float]:
    """Bayesian Cramér–Rao bound of poses: median errors that known densities, noise and spread of errors allow.

    The Fisher information of three turns and three shifts of a sample of particles, with the noise of every Fourier
    shell taken from what the true densities leave at the true poses, is joined with the information of the given poses
    (the inverse mean square of their errors). Median errors are those of normal errors of the inverse covariance.
    """
    from scipy.spatial.transform import Rotation

    from opustomo.data.config import DataConfig
    from opustomo.data.particles import load_particles
    from opustomo.data.voxels import VoxelSource
    from opustomo.geometry.rotations import euler_to_matrix
    from opustomo.physics.ctf import TiltBatch, ctf_volume
    from opustomo.physics.fourier import half_spectrum_weights, rfft3, shift_phases
    from opustomo.physics.fsc import shell_numbers
    from opustomo.physics.sampling import sample_posed

    truth = np.load(data / "truth.npz")
    volumes, labels = np.load(data / "volumes.npy"), truth["labels"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    particles = load_particles(DataConfig(data / "particles.star"))
    source = VoxelSource(particles.images, cache_bytes=0)
    tilts = TiltBatch.pad(particles.tables).to(device)
    table = torch.from_numpy(particles.table)
    real = np.flatnonzero([np.any(volumes[label]) for label in labels])
    chosen = real[np.linspace(0, len(real) - 1, min(sample, len(real))).astype(int)]
    box = particles.box
    twice = half_spectrum_weights(box, device)
    shells = shell_numbers(box, device).clamp(max=box // 2)
    reach_rad, reach_px = np.radians(0.5), 0.25
    power, voxels = (torch.zeros(box // 2 + 1, dtype=torch.float64, device=device) for _ in range(2))
    slopes, cross, squares = [], 0.0, 0.0
    spectra = []
    for index in chosen:
        density = torch.from_numpy(volumes[labels[index]]).float().to(device)[None]
        rotation = euler_to_matrix(torch.from_numpy(truth["eulers"][index].astype(np.float64))).float().to(device)
        vectors = np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)]) * reach_rad
        turns = torch.from_numpy(Rotation.from_rotvec(vectors).as_matrix()).float().to(device)
        ctf = ctf_volume(tilts[table[index : index + 1].to(device)], box, particles.apix, normalized=normalized)[0]
        posed = rfft3(sample_posed(density, (rotation @ turns).mT[None], box)[0]) * ctf
        moved = torch.from_numpy(np.concatenate([np.eye(3), -np.eye(3)]) * reach_px).float().to(device)
        shifted = posed[:1] * shift_phases(moved, box, box)
        by_turn = (posed[1:4] - posed[4:7]) / (2 * reach_rad)
        by_shift = (shifted[:3] - shifted[3:]) / (2 * reach_px)
        slopes.append(torch.cat([by_turn, by_shift]))
        origin = torch.from_numpy(truth["origin"][index : index + 1]).float().to(device)
        observed = rfft3(torch.from_numpy(source.read(int(index)).astype(np.float32)).to(device)[None])
        spectrum = (observed * shift_phases(origin, box, box))[0] * (ctf != 0)
        cross += float((twice * (posed[0].conj() * spectrum).real).sum())
        squares += float((twice * torch.view_as_real(posed[0]).square().sum(-1)).sum())
        spectra.append((spectrum, posed[0], ctf != 0))
    amplitude = cross / squares
    for spectrum, model, there in spectra:
        left = torch.view_as_real(spectrum - amplitude * model).square().sum(-1) * twice
        power.index_add_(0, shells.flatten(), left.flatten().double())
        voxels.index_add_(0, shells.flatten(), (there * twice).flatten().double())
    # slices end at Nyquist: the voxels outside of that sphere have neither signal nor noise
    precision = (voxels / power.clamp(min=1e-30)).float()[shells] * twice * (shells < box // 2)
    given = np.concatenate(_given_errors(truth), 1)
    prior = np.diag(1.0 / np.maximum(np.square(given).mean(0), 1e-12))
    rng, turn_errors, shift_errors = np.random.default_rng(0), [], []
    for slope in slopes:
        fisher = amplitude**2 * torch.einsum("iabc,jabc,abc->ij", slope.conj(), slope, precision.to(slope.dtype)).real
        covariance = np.linalg.inv(fisher.double().cpu().numpy() + prior)
        drawn = rng.multivariate_normal(np.zeros(6), covariance, 200)
        turn_errors.append(np.linalg.norm(drawn[:, :3], axis=1))
        shift_errors.append(np.linalg.norm(drawn[:, 3:], axis=1))
    return {
        "turn_bound_deg": float(np.degrees(np.median(turn_errors))),
        "shift_bound_px": float(np.median(shift_errors)),
    }


def _given_errors(truth: np.lib.npyio.NpzFile) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the given poses: rotation vectors (N, 3; rad) and shifts (N, 3; pixels)."""
    from scipy.spatial.transform import Rotation

    from opustomo.geometry.rotations import euler_to_matrix

    right, used = (
        euler_to_matrix(torch.from_numpy(truth[name].astype(np.float64))) for name in ("eulers", "eulers_used")
    )
    vectors = Rotation.from_matrix((right.mT @ used).numpy()).as_rotvec()
    return vectors, truth["origin_used"] - truth["origin"]
