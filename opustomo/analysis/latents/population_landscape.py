"""Landscape of a population: its density over two coordinates, basins, and minimum paths between the basins.

The energy is ``-ln(density / largest density)``, in units of kT if the particles were at thermal equilibrium. Grid
points are joined in order of increasing energy. Two valleys that meet stay separate basins if both are deeper than a
threshold, measured from the saddle where they meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

GRID = 96
"""Grid points along each axis."""
FEW_PARTICLES = 3.0
"""Particles at one point whose density is regarded as empty."""
BANDWIDTH_FACTOR = 0.5
"""Smoothing relative to Scott's rule, which assumes a single Gaussian and blurs separate states."""


@dataclass(frozen=True)
class Landscape:
    """Population density over two coordinates.

    Attributes
    ----------
    axes
        Grid points along the two coordinates, each of shape (G,).
    bandwidth
        Standard deviation of the Gaussian kernel along the two coordinates, shape (2,).
    density
        Fraction of the population at each grid point, shape (G, G), first axis the first coordinate; the sum is 1.
    energy
        ``-ln(density / maximum)``, shape (G, G), limited to `ceiling`.
    ceiling
        Energy of grid points without particles.
    """

    axes: tuple[np.ndarray, np.ndarray]
    bandwidth: np.ndarray
    density: np.ndarray
    energy: np.ndarray
    ceiling: float

    def cells(self, points: np.ndarray) -> np.ndarray:
        """Return the flat index of the grid point nearest to each point (N, 2), shape (N,)."""
        rows = []
        for axis, values in zip(self.axes, points.T, strict=True):
            step = axis[1] - axis[0]
            rows.append(np.clip(np.rint((values - axis[0]) / step), 0, len(axis) - 1).astype(np.int64))
        return np.asarray(rows[0] * len(self.axes[1]) + rows[1])

    def positions(self, cells: np.ndarray) -> np.ndarray:
        """Return the coordinates (n, 2) of grid points given by flat indices (n,)."""
        first, second = np.divmod(cells, len(self.axes[1]))
        return np.stack([self.axes[0][first], self.axes[1][second]], axis=1)


@dataclass(frozen=True)
class Basins:
    """Basins of a landscape, by increasing energy of their minimum.

    Attributes
    ----------
    minima
        Flat grid index of each minimum, shape (K,).
    labels
        Basin of each grid point, shape (G · G,); for empty grid points that of the nearest other one.
    depth
        Energy from the minimum to the lowest saddle to a deeper basin, shape (K,); infinite for a basin that is
        separated from all deeper ones by a gap.
    """

    minima: np.ndarray
    labels: np.ndarray
    depth: np.ndarray

    def __len__(self) -> int:
        return len(self.minima)


@dataclass(frozen=True)
class BasinPath:
    """Minimum path between two basins.

    Attributes
    ----------
    ends
        Numbers of the two basins.
    points
        Coordinates along the path, shape (P, 2), at equal distances.
    barrier
        Highest energy along the path.
    crosses_gap
        Whether the path crosses a region without particles.
    """

    ends: tuple[int, int]
    points: np.ndarray
    barrier: float
    crosses_gap: bool


def population_landscape(points: np.ndarray, grid: int = GRID) -> Landscape:
    """Estimate the density of particles with coordinates `points` (N, 2) by a Gaussian kernel on a grid."""
    from scipy.ndimage import gaussian_filter

    count = len(points)
    spread = points.std(axis=0)
    spread = np.where(spread > 0, spread, max(float(spread.max()), 1.0))
    bandwidth = BANDWIDTH_FACTOR * count ** (-1 / 6) * spread
    low, high = points.min(axis=0) - 4 * bandwidth, points.max(axis=0) + 4 * bandwidth
    axes = (np.linspace(low[0], high[0], grid), np.linspace(low[1], high[1], grid))
    steps = np.array([axis[1] - axis[0] for axis in axes])
    bandwidth = np.maximum(bandwidth, steps)  # a kernel narrower than the grid would be sampled badly
    edges = [np.append(axis - step / 2, axis[-1] + step / 2) for axis, step in zip(axes, steps, strict=True)]
    counts = np.histogram2d(points[:, 0], points[:, 1], bins=edges)[0]
    density = gaussian_filter(counts, bandwidth / steps, mode="constant", truncate=4.0)
    # Outliers are no basins: densities up to that of a few particles at one point are regarded as empty.
    few = FEW_PARTICLES * float(np.prod(steps / (np.sqrt(2 * np.pi) * bandwidth)))
    empty = density < min(few, 0.5 * density.max())
    ceiling = float(np.log(density.max() / density[~empty].min())) + 1.0
    energy = np.full(density.shape, ceiling)
    energy[~empty] = -np.log(density[~empty] / density.max())
    return Landscape(axes, bandwidth, density / density.sum(), energy, ceiling)


def find_basins(landscape: Landscape, min_depth: float) -> Basins:
    """Find the basins that are deeper than `min_depth`.

    Parameters
    ----------
    landscape
        Population landscape.
    min_depth
        Smallest energy from the minimum of a basin to the saddle where it meets a deeper one.
    """
    from scipy.ndimage import distance_transform_edt

    energy = landscape.energy.ravel()
    filled = energy < landscape.ceiling
    firsts, seconds = _grid_edges(landscape.energy.shape)
    within = filled[firsts] & filled[seconds]
    firsts, seconds = firsts[within], seconds[within]
    order = np.argsort(np.maximum(energy[firsts], energy[seconds]), kind="stable")
    parent = np.arange(len(energy))
    lowest = np.arange(len(energy))  # grid point of the minimum of each group
    depth: dict[int, float] = {}

    def root(cell: int) -> int:
        while parent[cell] != cell:
            parent[cell] = parent[parent[cell]]
            cell = int(parent[cell])
        return cell

    for edge in order:
        a, b = root(int(firsts[edge])), root(int(seconds[edge]))
        if a == b:
            continue
        if energy[lowest[a]] > energy[lowest[b]]:
            a, b = b, a
        saddle = max(energy[firsts[edge]], energy[seconds[edge]])
        height = float(saddle - energy[lowest[b]])
        if height < min_depth:
            parent[b] = a
        else:
            minimum = int(lowest[b])
            depth[minimum] = min(depth.get(minimum, np.inf), height)
    roots = np.array([root(cell) for cell in range(len(energy))])
    minima = np.unique(lowest[roots[filled]])
    minima = minima[np.argsort(energy[minima], kind="stable")]
    number = np.zeros(len(energy), dtype=np.int64)
    number[minima] = np.arange(len(minima))
    labels = number[lowest[roots]]
    shape = landscape.energy.shape
    nearest = distance_transform_edt(~filled.reshape(shape), return_distances=False, return_indices=True)
    labels = labels.reshape(shape)[tuple(nearest)].ravel()
    return Basins(minima, labels, np.array([depth.get(int(minimum), np.inf) for minimum in minima]))


def paths_between(landscape: Landscape, basins: Basins, num_points: int) -> list[BasinPath]:
    """Compute minimum paths that connect all basins as a tree with the lowest barriers.

    Each path minimizes the integral of ``exp(energy)`` along its length (the path of maximum flux, Huo and Straub
    1997, doi:10.1063/1.474863).

    Parameters
    ----------
    landscape, basins
        Landscape and its basins.
    num_points
        Number of points along each path.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra, minimum_spanning_tree

    if len(basins) < 2:
        return []
    energy = landscape.energy.ravel()
    firsts, seconds = _grid_edges(landscape.energy.shape)
    at = landscape.positions(np.arange(len(energy))) / landscape.bandwidth
    lengths = np.linalg.norm(at[firsts] - at[seconds], axis=1)
    costs = lengths * np.exp((energy[firsts] + energy[seconds]) / 2)
    graph = coo_array((costs, (firsts, seconds)), shape=(len(energy),) * 2).tocsr()
    _, predecessors = dijkstra(graph, directed=False, indices=basins.minima, return_predecessors=True)
    routes: dict[tuple[int, int], np.ndarray] = {}
    barriers = np.zeros((len(basins), len(basins)))
    for a in range(len(basins)):
        for b in range(a + 1, len(basins)):
            route = [int(basins.minima[b])]
            while route[-1] != basins.minima[a]:
                route.append(int(predecessors[a, route[-1]]))
            routes[a, b] = np.array(route[::-1])
            # The length decides between paths across gaps, which have equal barriers; 0 would mean no edge.
            gap = int((energy[route] >= landscape.ceiling).sum())
            barriers[a, b] = energy[route].max() + 1e-3 * gap + 1e-9
    tree = minimum_spanning_tree(barriers).tocoo()
    pairs = sorted((min(a, b), max(a, b)) for a, b in zip(tree.row.tolist(), tree.col.tolist(), strict=True))
    paths = []
    for pair in pairs:
        cells = routes[pair]
        barrier = float(energy[cells].max())
        points = _evenly(landscape.positions(cells), landscape.bandwidth, num_points)
        paths.append(BasinPath(pair, points, barrier, barrier >= landscape.ceiling))
    return paths


def latents_at(points: np.ndarray, coordinates: np.ndarray, latents: np.ndarray, bandwidth: np.ndarray) -> np.ndarray:
    """Return the mean latent of the particles around each point.

    Parameters
    ----------
    points
        Points in the landscape, shape (P, 2).
    coordinates, latents
        Coordinates in the landscape, shape (N, 2), and latents, shape (N, zdim), of the particles.
    bandwidth
        Standard deviation of the Gaussian weights along the two coordinates, shape (2,).
    """
    means = []
    for point in points:
        squared = (((coordinates - point) / bandwidth) ** 2).sum(axis=1)
        weights = np.exp(-0.5 * (squared - squared.min()))  # the nearest particle has the weight 1, also in a gap
        means.append(weights @ latents / weights.sum())
    return np.array(means)


def _grid_edges(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the flat indices of all pairs of the eight neighbors on a grid, each pair once."""
    cells = np.arange(shape[0] * shape[1]).reshape(shape)
    pairs = (
        (cells[:-1], cells[1:]),
        (cells[:, :-1], cells[:, 1:]),
        (cells[:-1, :-1], cells[1:, 1:]),
        (cells[:-1, 1:], cells[1:, :-1]),
    )
    return np.concatenate([a.ravel() for a, _ in pairs]), np.concatenate([b.ravel() for _, b in pairs])


def _evenly(route: np.ndarray, scale: np.ndarray, num_points: int) -> np.ndarray:
    """Return points at equal distances along a route (n, 2), with distances in units of `scale`."""
    steps = [np.linalg.norm((b - a) / scale) for a, b in pairwise(route)]
    along = np.concatenate([[0.0], np.cumsum(steps)])
    at = np.linspace(0.0, along[-1], num_points)
    return np.stack([np.interp(at, along, route[:, i]) for i in range(2)], axis=1)
