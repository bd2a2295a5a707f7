"""Agreement of the clusters, poses and volumes of a run with the ground truth, and its text report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opustomo.analysis.volumes.decoding import series_paths
from opustomo.demo.plan import DemoPlan
from opustomo.io.mrc import read_volume
from opustomo.io.pickles import load_pickle
from opustomo.io.poses import Poses, read_poses
from opustomo.physics.resampling import resample

#: Shifts along each axis, in units of half a voxel, over which the correlation of volumes is maximized.
SHIFT_STEPS = (-2, -1, 0, 1, 2)


@dataclass(frozen=True)
class PoseError:
    """Median pose errors in degrees and voxels after removal of a common rotation and shift."""

    angle_deg: float
    shift_px: float


@dataclass(frozen=True)
class ClusterVolume:
    """Volume of one cluster, the corresponding true volume and a subtomogram of the cluster.

    Attributes
    ----------
    cluster, state
        Number of the cluster, and index of the state that it is matched to.
    particles
        Number of particles in the cluster.
    volume, truth
        Cluster volume and masked true volume on the same grid, (n, n, n).
    correlation
        Correlation of both volumes inside the mask, maximized over shifts of up to one voxel.
    example
        Subtomogram of the particle nearest to the cluster center, (D, D, D).
    """

    cluster: int
    state: int
    particles: int
    volume: np.ndarray
    truth: np.ndarray
    correlation: float
    example: np.ndarray


@dataclass(frozen=True)
class DemoResult:
    """Results of the demo.

    Attributes
    ----------
    states
        Names of the true states.
    truth, clusters
        True state and cluster of each particle, (N,).
    table
        Number of particles per state and cluster, (states, clusters).
    matching
        State of each cluster, (clusters,); a one-to-one assignment if there are as many clusters as states.
    ari
        Adjusted Rand index between clusters and states: 1 for perfect agreement, 0 for chance agreement.
    before, after
        Pose errors before and after training.
    embedding
        UMAP embedding, (N, 2).
    centers
        Index of the particle nearest to the center of each cluster, (clusters,).
    volumes
        Volume of each cluster.
    """

    states: tuple[str, ...]
    truth: np.ndarray
    clusters: np.ndarray
    table: np.ndarray
    matching: np.ndarray
    ari: float
    before: PoseError
    after: PoseError
    embedding: np.ndarray
    centers: np.ndarray
    volumes: list[ClusterVolume]


def pose_error(
    rotations: np.ndarray, origins: np.ndarray, true_rotations: np.ndarray, true_origins: np.ndarray
) -> PoseError:
    """Compute the median error of poses relative to the true poses.

    Poses are defined up to a rotation and shift of the reference, which are estimated and removed.

    Parameters
    ----------
    rotations, true_rotations
        Rotation matrices A from reference to subtomogram, (N, 3, 3).
    origins, true_origins
        Origins in voxels, (N, 3).
    """
    from scipy.spatial.transform import Rotation

    estimated, true = Rotation.from_matrix(rotations), Rotation.from_matrix(true_rotations)
    common = (true.inv() * estimated).mean()
    angles = np.degrees(((true * common).inv() * estimated).magnitude())
    differences = origins - true_origins
    # A shift c of the reference shifts a particle with pose A by A·c.
    offset = estimated.inv().apply(differences).mean(axis=0)
    shifts = np.linalg.norm(differences - estimated.apply(offset), axis=1)
    return PoseError(float(np.median(angles)), float(np.median(shifts)))


def best_correlation(volume: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Compute the maximum correlation of two volumes inside a mask over shifts of up to one voxel."""
    inside = mask > 0.5
    transform = np.fft.rfftn(volume)
    size = volume.shape[0]
    full, half = np.fft.fftfreq(size), np.fft.rfftfreq(size)
    best = -1.0
    for z in SHIFT_STEPS:
        for y in SHIFT_STEPS:
            for x in SHIFT_STEPS:
                cycles = 0.5 * (z * full[:, None, None] + y * full[:, None] + x * half)
                shifted = np.fft.irfftn(transform * np.exp(-2j * np.pi * cycles), volume.shape, axes=(0, 1, 2))
                best = max(best, float(np.corrcoef(shifted[inside], truth[inside])[0, 1]))
    return best


def match_clusters(table: np.ndarray) -> np.ndarray:
    """Return the state of each cluster, (clusters,), by the one-to-one assignment with most agreeing particles."""
    from scipy.optimize import linear_sum_assignment

    matching = table.argmax(axis=0)
    states, clusters = linear_sum_assignment(-table)
    matching[clusters] = states
    return matching


def collect_result(data: Path, analysis: Path, pose_file: Path, states: tuple[str, ...]) -> DemoResult:
    """Read the results of simulation and analysis and compute the scores.

    Parameters
    ----------
    data
        Folder of the simulated data set.
    analysis
        Folder `analyze.N`, with a k-means of as many clusters as there are states, and their volumes.
    pose_file
        Refined poses, `pose.N.pkl`.
    states
        Names of the states in the order of the labels.
    """
    from sklearn.metrics import adjusted_rand_score

    with np.load(data / "truth.npz") as archive:
        truth = {name: archive[name] for name in archive.files}
    volumes = np.load(data / "volumes.npy")
    kmeans = analysis / f"kmeans{len(states)}"
    clusters = np.asarray(load_pickle(kmeans / "labels.pkl"))
    table = np.zeros((len(states), len(states)), dtype=int)
    np.add.at(table, (truth["labels"], clusters), 1)
    matching = match_clusters(table)
    box = volumes.shape[-1]
    true_poses = Poses(truth["eulers"], truth["origin"] / box)
    input_poses = Poses(truth["eulers_used"], truth["origin_used"] / box)
    centers = np.loadtxt(kmeans / "centers_ind.txt", dtype=int, ndmin=1)
    decoded = series_paths(kmeans, len(states))
    return DemoResult(
        states=states,
        truth=truth["labels"],
        clusters=clusters,
        table=table,
        matching=matching,
        ari=float(adjusted_rand_score(truth["labels"], clusters)),
        before=_error(input_poses, true_poses, box),
        after=_error(read_poses(pose_file), true_poses, box),
        embedding=np.asarray(load_pickle(analysis / "umap.pkl")),
        centers=centers,
        volumes=[
            ClusterVolume(
                cluster,
                int(state),
                int(table[:, cluster].sum()),
                *_compared(decoded[cluster], data / "mask.mrc", volumes[state]),
                example=read_volume(data / "subtomo" / f"p{center:06d}.mrc")[0],
            )
            for cluster, (state, center) in enumerate(zip(matching, centers, strict=True))
        ],
    )


def _error(poses: Poses, true: Poses, box: int) -> PoseError:
    return pose_error(poses.rotations, poses.origins * box, true.rotations, true.origins * box)


def _compared(path: Path, mask_path: Path, density: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return a cluster volume, the masked true density in its box, and their best correlation."""
    volume, apix = read_volume(path)
    mask, native = read_volume(mask_path)
    if apix is None or native is None:
        raise ValueError("the MRC headers of volume and mask must have pixel sizes")
    size = volume.shape[0]
    mask = resample(mask, native, size, apix)
    truth = resample(density, native, size, apix) * mask
    return volume, truth, best_correlation(volume, truth, mask)


def contingency_lines(result: DemoResult) -> list[str]:
    """Format the contingency table of true states (rows) and clusters (columns)."""
    width = max(len(name) for name in result.states)
    heads = [f"cluster {i}" for i in range(result.table.shape[1])]
    lines = [" " * width + "  " + "  ".join(heads)]
    for name, row in zip(result.states, result.table, strict=True):
        counts = (f"{count:{len(head)}d}" for count, head in zip(row, heads, strict=True))
        lines.append(f"{name:{width}}  " + "  ".join(counts))
    return lines


def remove_resume_state(plan: DemoPlan) -> list[str]:
    """Remove the state that only serves to resume the training, and return lines about the disk space of the demo."""
    state = plan.run / "state.pkl"
    removed = state.stat().st_size if state.is_file() else 0
    state.unlink(missing_ok=True)
    size = sum(path.stat().st_size for path in plan.root.rglob("*") if path.is_file())
    lines = [f"Removed {state} ({removed / 1e6:.0f} MB), which only serves to resume a training."] if removed else []
    return [*lines, f"The demo takes {size / 1e6:.0f} MB of disk space. Delete {plan.root} when you no longer need it."]


def report_lines(result: DemoResult, plan: DemoPlan) -> list[str]:
    """Format the scores and the list of output files."""
    before, after = result.before, result.after
    volumes = (f"{v.cluster}: {result.states[v.state]} {v.correlation:.2f}" for v in result.volumes)
    files = {
        "summary figure": plan.root / "demo.png",
        "UMAP figures": plan.analysis / "umap.png",
        "": plan.kmeans / "umap.png",
        "cluster volumes": plan.kmeans / "reference*.mrc",
        "volumes along PC1": plan.analysis / "pc1" / "reference*.mrc",
        "STAR file per cluster": plan.kmeans / "pre*.star",
        "training log": plan.run / "run.log",
        "data and ground truth": plan.data,
    }
    width = max(map(len, files))
    return [
        "Number of particles of each true state (rows) in each cluster (columns):",
        *(f"  {line}" for line in contingency_lines(result)),
        f"Adjusted Rand index between clusters and true states: {result.ari:.3f}",
        f"Correlation of cluster volumes with the true volumes: {', '.join(volumes)}",
        f"Median pose error: {before.angle_deg:.2f}° and {before.shift_px:.2f} px before training, "
        f"{after.angle_deg:.2f}° and {after.shift_px:.2f} px after",
        "Output files:",
        *(f"  {name:{width}}  {path}" for name, path in files.items()),
    ]
