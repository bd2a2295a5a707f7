"""How well classes, poses and volumes of a run agree with the truth of its simulated set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opustomo.io.mrc import read_volume
from opustomo.io.pickles import load_pickle
from opustomo.io.poses import Poses, read_poses
from opustomo.slices.resample import resample

#: half voxels a volume may be moved by, along each axis, before it is compared
SHIFT_STEPS = (-2, -1, 0, 1, 2)


@dataclass(frozen=True)
class PoseError:
    """Median errors of poses, a rotation and shift common to all particles set aside: degrees, voxels."""

    angle_deg: float
    shift_px: float


@dataclass(frozen=True)
class ClassVolume:
    """The volume of one class, the true volume it goes with, and a subtomogram of it.

    Attributes
    ----------
    cluster, state
        Number of the class; index of the state most of its particles belong to.
    particles
        Particles of the class.
    volume, truth
        (n, n, n) on one grid; the truth inside the same mask.
    correlation
        Of both inside the mask, the volume moved by up to a voxel.
    example
        (D, D, D) subtomogram of the particle nearest to the class centre, as the network gets it.
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
    """Everything the demo reports.

    Attributes
    ----------
    states
        Names of the true states.
    truth, clusters
        (N,) true state and class of each particle.
    table
        (states, classes) numbers of particles.
    matching
        (classes,) state of each class: one to one while there are as many of both.
    ari
        Adjusted Rand index of classes and states: 1 for perfect agreement, 0 for chance.
    before, after
        Errors of the poses that went into training and of those that came out.
    embedding
        (N, 2) UMAP.
    centres
        (classes,) particle nearest to the centre of each class.
    volumes
        By class.
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
    centres: np.ndarray
    volumes: list[ClassVolume]


def pose_error(
    rotations: np.ndarray, origins: np.ndarray, true_rotations: np.ndarray, true_origins: np.ndarray
) -> PoseError:
    """Median error of poses against the truth.

    A set of poses may differ from the truth by one rotation and one shift of the reference without being any
    worse; both are estimated and taken out.

    Parameters
    ----------
    rotations, true_rotations
        (N, 3, 3) matrices A, reference to subtomogram.
    origins, true_origins
        (N, 3) voxels.
    """
    from scipy.spatial.transform import Rotation

    found, true = Rotation.from_matrix(rotations), Rotation.from_matrix(true_rotations)
    common = (true.inv() * found).mean()
    angles = np.degrees(((true * common).inv() * found).magnitude())
    differences = origins - true_origins
    # a reference moved by c moves the particle with pose A by A·c
    offset = found.inv().apply(differences).mean(axis=0)
    shifts = np.linalg.norm(differences - found.apply(offset), axis=1)
    return PoseError(float(np.median(angles)), float(np.median(shifts)))


def best_correlation(volume: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Correlation of two volumes inside a mask, the best over shifts of up to a voxel in half-voxel steps."""
    inside = mask > 0.5
    transform = np.fft.rfftn(volume)
    size = volume.shape[0]
    full, half = np.fft.fftfreq(size), np.fft.rfftfreq(size)
    best = -1.0
    for z in SHIFT_STEPS:
        for y in SHIFT_STEPS:
            for x in SHIFT_STEPS:
                turns = 0.5 * (z * full[:, None, None] + y * full[:, None] + x * half)
                moved = np.fft.irfftn(transform * np.exp(-2j * np.pi * turns), volume.shape, axes=(0, 1, 2))
                best = max(best, float(np.corrcoef(moved[inside], truth[inside])[0, 1]))
    return best


def match_classes(table: np.ndarray) -> np.ndarray:
    """(classes,) state of each class: the one-to-one assignment that puts most particles right."""
    from scipy.optimize import linear_sum_assignment

    matching = table.argmax(axis=0)
    states, classes = linear_sum_assignment(-table)
    matching[classes] = states
    return matching


def collect_result(data: Path, analysis: Path, pose_file: Path, states: tuple[str, ...]) -> DemoResult:
    """Read what simulation and analysis have written, and score it.

    Parameters
    ----------
    data
        Folder of the simulated set.
    analysis
        Folder `analyze.N` with as many k-means classes as there are states, and their volumes.
    pose_file
        `pose.N.pkl`.
    states
        Names of the states, in the order of the set's labels.
    """
    from sklearn.metrics import adjusted_rand_score

    with np.load(data / "truth.npz") as archive:
        truth = {name: archive[name] for name in archive.files}
    volumes = np.load(data / "volumes.npy")
    kmeans = analysis / f"kmeans{len(states)}"
    clusters = np.asarray(load_pickle(kmeans / "labels.pkl"))
    table = np.zeros((len(states), len(states)), dtype=int)
    np.add.at(table, (truth["labels"], clusters), 1)
    matching = match_classes(table)
    box = volumes.shape[-1]
    true_poses = Poses(truth["eulers"], truth["origin"] / box)
    told_poses = Poses(truth["eulers_used"], truth["origin_used"] / box)
    centres = np.loadtxt(kmeans / "centers_ind.txt", dtype=int, ndmin=1)
    return DemoResult(
        states=states,
        truth=truth["labels"],
        clusters=clusters,
        table=table,
        matching=matching,
        ari=float(adjusted_rand_score(truth["labels"], clusters)),
        before=_error(told_poses, true_poses, box),
        after=_error(read_poses(pose_file), true_poses, box),
        embedding=np.asarray(load_pickle(analysis / "umap.pkl")),
        centres=centres,
        volumes=[
            _class_volume(data, kmeans, cluster, int(state), int(table[:, cluster].sum()), int(centre), volumes)
            for cluster, (state, centre) in enumerate(zip(matching, centres, strict=True))
        ],
    )


def _error(poses: Poses, true: Poses, box: int) -> PoseError:
    return pose_error(poses.rotations, poses.origins * box, true.rotations, true.origins * box)


def _class_volume(
    data: Path, kmeans: Path, cluster: int, state: int, particles: int, centre: int, volumes: np.ndarray
) -> ClassVolume:
    volume, apix = read_volume(kmeans / f"reference{cluster}.mrc")
    mask, native = read_volume(data / "mask.mrc")
    if apix is None or native is None:
        raise ValueError("volume and mask must tell their pixel sizes")
    size = volume.shape[0]
    mask = resample(mask, native, size, apix)
    truth = resample(volumes[state], native, size, apix) * mask
    example, _ = read_volume(data / "subtomo" / f"p{centre:06d}.mrc")
    correlation = best_correlation(volume, truth, mask)
    return ClassVolume(cluster, state, particles, volume, truth, correlation, example)
