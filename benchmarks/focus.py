"""Classification by one part of a particle: the mask of the part, and the accuracy of the classes (`panel.py`).

python benchmarks/focus.py DATA RUN [N]      # scores of a run on a set with a part; prints JSON
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np


def write_part(first: np.ndarray, second: np.ndarray, folder: Path, apix: float) -> None:
    """Write a soft mask of the region where two densities differ, ``focus.mrc``, and the classes, ``focus_labels.npy``.

    A particle of the set in `folder` belongs to the class of the density that is nearer inside the mask.
    """
    import mrcfile
    from scipy import ndimage

    difference = np.abs(ndimage.gaussian_filter(first, 0.7) - ndimage.gaussian_filter(second, 0.7))
    parts, _ = ndimage.label(difference > 0.25 * difference.max())
    sizes = np.bincount(parts.ravel())[1:]
    inside = np.isin(parts, 1 + np.flatnonzero(sizes > 0.1 * sizes.max()))
    mask = ndimage.gaussian_filter(ndimage.binary_dilation(inside, iterations=2).astype(np.float32), 1.0)
    mask = np.where(mask > 0.02, mask, 0).astype(np.float32)
    with mrcfile.new(folder / "focus.mrc", overwrite=True) as file:
        file.set_data(mask)
        file.voxel_size = apix
    volumes = np.load(folder / "volumes.npy")
    nearer = [np.square((v - first) * mask).sum() < np.square((v - second) * mask).sum() for v in volumes]
    np.save(folder / "focus_labels.npy", np.array(nearer)[np.load(folder / "truth.npz")["labels"]])


def focus_scores(data: Path, out: Path, epoch: int | None = None) -> dict[str, dict[str, float]]:
    """Return the adjusted Rand index of two classes by k-means and by a Gaussian mixture, and of joined clusters.

    They are computed for the latents of a run, and for its decoded volumes inside the mask (``dsdsh analyze --focus``),
    which are written to ``focus_values.npy`` in the folder of the run. *joined8* is the index of eight clusters of
    k-means that are joined to two classes by the truth: the best that joining clusters can reach.
    """
    from sklearn.metrics import adjusted_rand_score

    import opustomo
    from opustomo.analysis.clusters.clustering import cluster_latents

    truth = np.load(data / "focus_labels.npy")
    run = opustomo.Run(out)
    decoded = run.focus(data / "focus.mrc", epoch, 4)
    np.save(out / "focus_values.npy", decoded)
    found = {}
    for name, values in (("latents", run.latents(epoch)), ("decoded", decoded)):
        labels = {method: cluster_latents(values, 2, method=method).labels for method in ("kmeans", "gmm")}
        eight = cluster_latents(values, 8).labels
        labels["joined8"] = np.array([truth[eight == cluster].mean() > 0.5 for cluster in range(8)])[eight]
        found[name] = {key: round(float(adjusted_rand_score(truth, part)), 3) for key, part in labels.items()}
    return found


if __name__ == "__main__":
    print(json.dumps(focus_scores(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:4]))))
