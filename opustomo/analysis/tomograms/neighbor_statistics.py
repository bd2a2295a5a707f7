"""Neighbors of particles in a tomogram: distances, relative orientations, and chains such as polysomes.

In a chain, the pose of the next particle relative to the previous one is always the same, wherever the chain lies in
the tomogram. The number of close pairs with the most frequent relative pose is therefore compared with the number that
is found for random orientations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RANDOMIZATIONS = 50
POSITION_TOLERANCE = 0.15
"""Tolerance of relative positions as a fraction of the largest distance of a pair."""
ANGLE_TOLERANCE_DEG = 30.0


@dataclass(frozen=True)
class Neighbors:
    """Nearest neighbor of each particle.

    Attributes
    ----------
    nearest
        Index of the nearest neighbor, shape (n,), int64; -1 for a single particle.
    distance_A
        Distance to it in Å, shape (n,).
    angle_deg
        Angle of the rotation between both particles in degrees, 0 to 180, shape (n,).
    """

    nearest: np.ndarray
    distance_A: np.ndarray
    angle_deg: np.ndarray


@dataclass(frozen=True)
class Chains:
    """Chains of particles with a recurring relative pose.

    Attributes
    ----------
    chain
        Number of the chain of each particle, from 0 for the longest, shape (n,), int64; -1 outside of chains.
    position
        Position in the chain, from 0, shape (n,), int64; -1 outside of chains.
    offset_A
        Position of the next particle in the frame of a particle in Å, shape (3,).
    links
        Number of pairs with this relative pose.
    expected
        Largest number of pairs with a common relative pose for random orientations, mean over randomizations.
    p_value
        Fraction of randomizations with at least as many pairs, counting the data as one of them.
    """

    chain: np.ndarray
    position: np.ndarray
    offset_A: np.ndarray
    links: int
    expected: float
    p_value: float

    @property
    def lengths(self) -> np.ndarray:
        """Number of particles in each chain, descending."""
        return np.bincount(self.chain[self.chain >= 0])


def nearest_neighbors(centers_A: np.ndarray, rotations: np.ndarray) -> Neighbors:
    """Find the nearest neighbor of each particle.

    Parameters
    ----------
    centers_A
        Positions in Å, shape (n, 3).
    rotations
        Matrices that take reference to tomogram coordinates, shape (n, 3, 3).
    """
    from scipy.spatial import KDTree

    count = len(centers_A)
    if count < 2:
        missing = np.full(count, np.nan)
        return Neighbors(np.full(count, -1, dtype=np.int64), missing, missing.copy())
    distances, indices = KDTree(centers_A).query(centers_A, k=2)
    own = indices[:, 0] == np.arange(count)  # particles at the same place are found in any order
    nearest = np.where(own, indices[:, 1], indices[:, 0])
    angles = rotation_angles(np.swapaxes(rotations, 1, 2) @ rotations[nearest])
    return Neighbors(nearest.astype(np.int64), np.where(own, distances[:, 1], distances[:, 0]), angles)


def rotation_angles(matrices: np.ndarray) -> np.ndarray:
    """Return the rotation angles of matrices (..., 3, 3) in degrees."""
    trace = np.trace(matrices, axis1=-2, axis2=-1)
    return np.degrees(np.arccos(np.clip((trace - 1) / 2, -1.0, 1.0)))


def find_chains(centers_A: np.ndarray, rotations: np.ndarray, distance_A: float, seed: int = 0) -> Chains:
    """Find chains of particles with a recurring relative pose.

    Parameters
    ----------
    centers_A, rotations
        See `nearest_neighbors`.
    distance_A
        Largest distance between consecutive particles in Å.
    seed
        Random seed of the random orientations.
    """
    from scipy.spatial import KDTree
    from scipy.spatial.transform import Rotation

    count = len(centers_A)
    nothing = np.full(count, -1, dtype=np.int64)
    pairs = KDTree(centers_A).query_pairs(distance_A, output_type="ndarray") if count > 1 else np.empty((0, 2), int)
    if not len(pairs):
        return Chains(nothing, nothing.copy(), np.full(3, np.nan), 0, 0.0, 1.0)
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    tolerance_A = POSITION_TOLERANCE * distance_A
    members, offset = _recurring_pose(centers_A, rotations, pairs, tolerance_A)
    largest = []
    for number in range(RANDOMIZATIONS):
        random = Rotation.random(count, random_state=seed + number).as_matrix()
        largest.append(len(_recurring_pose(centers_A, random, pairs, tolerance_A)[0]))
    p_value = (1 + sum(size >= len(members) for size in largest)) / (1 + RANDOMIZATIONS)
    chain, position = _linked(pairs[members], count)
    return Chains(chain, position, offset, len(members), float(np.mean(largest)), p_value)


def _recurring_pose(
    centers_A: np.ndarray, rotations: np.ndarray, pairs: np.ndarray, tolerance_A: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs with the most frequent relative pose, the best first, and its position, shape (3,)."""
    from scipy.spatial import KDTree

    first, second = pairs.T
    inverse = np.swapaxes(rotations[first], 1, 2)
    offsets = np.einsum("nij,nj->ni", inverse, centers_A[second] - centers_A[first])
    turns = inverse @ rotations[second]
    near = KDTree(offsets).query_ball_point(offsets, tolerance_A)
    best, chosen = np.empty(0, dtype=np.int64), 0
    for number, candidates in enumerate(near):
        if len(candidates) <= len(best):
            continue
        similar = np.array(candidates)
        angles = rotation_angles(turns[number].T @ turns[similar])
        similar = similar[angles < ANGLE_TOLERANCE_DEG]
        if len(similar) > len(best):
            best, chosen = similar, number
    order = np.argsort(np.linalg.norm(offsets[best] - offsets[chosen], axis=1), kind="stable")
    return best[order], offsets[best].mean(axis=0)


def _linked(links: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Join links (m, 2), the best first, to chains in which no particle has two successors or predecessors."""
    following, preceding = np.full(count, -1), np.full(count, -1)
    for first, second in links:
        if following[first] < 0 and preceding[second] < 0:
            following[first], preceding[second] = second, first
    chains = []
    seen = np.zeros(count, dtype=bool)
    starts = [i for i in range(count) if following[i] >= 0 and preceding[i] < 0]
    rings = [i for i in range(count) if following[i] >= 0 and preceding[i] >= 0]
    for start in [*starts, *rings]:
        members, current = [], start
        while current >= 0 and not seen[current]:
            seen[current] = True
            members.append(current)
            current = int(following[current])
        if len(members) > 1:
            chains.append(members)
    chain, position = np.full(count, -1, dtype=np.int64), np.full(count, -1, dtype=np.int64)
    for number, members in enumerate(sorted(chains, key=len, reverse=True)):
        chain[members] = number
        position[members] = np.arange(len(members))
    return chain, position
