"""What is possible on a simulated set: every particle goes to the known density that explains it best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

BATCH = 8


@torch.no_grad()
def known_density_scores(
    star: Path, volumes: np.ndarray, eulers_deg: np.ndarray, origins_px: np.ndarray, normalised: bool
) -> np.ndarray:
    """Index of the best density of each particle, (N,).

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
    normalised
        Whether reconstructions were divided by their sampling weights.
    """
    from opustomo.data.config import DataConfig
    from opustomo.data.particles import load_particles
    from opustomo.data.source import VoxelSource
    from opustomo.geometry.euler import euler_to_matrix
    from opustomo.physics.ctf3d import ctf_volume
    from opustomo.physics.fourier import half_spectrum_weights, rfft3, shift_phases
    from opustomo.physics.sampling import sample_posed
    from opustomo.physics.tilts import TiltBatch

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
        ctf = ctf_volume(tilts[table[index].to(device)], box, particles.apix, normalised=normalised)
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


def ceilings(data: Path, normalised: bool) -> dict[str, float]:
    """ARI of that choice at the true and at the given poses, and R² of the chosen index (for ordered densities)."""
    from sklearn.metrics import adjusted_rand_score

    truth = np.load(data / "truth.npz")
    volumes, labels = np.load(data / "volumes.npy"), truth["labels"]
    found = {}
    for name, eulers, origins in (
        ("true", truth["eulers"], truth["origin"]),
        ("given", truth["eulers_used"], truth["origin_used"]),
    ):
        chosen = known_density_scores(data / "particles.star", volumes, eulers, origins, normalised)
        found[f"ari_{name}_poses"] = float(adjusted_rand_score(labels, chosen))
        found[f"r2_{name}_poses"] = float(1 - np.square(chosen - labels).mean() / labels.var())
    return found
