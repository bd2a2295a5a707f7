"""Results of a training run in Python: latents, poses, particles, clusters and decoded volumes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from opustomo.analysis.clusters.cluster_stars import load_labels
from opustomo.analysis.clusters.clustering import Clustering, Clusters
from opustomo.analysis.results import ResultDir, Round, parse_round
from opustomo.analysis.selection import AnalyzedParticles
from opustomo.io.log_files import LossCurve, read_training_log
from opustomo.io.pickles import load_pickle
from opustomo.io.star_tables import ParticleStar, read_particles
from opustomo.training.monitors.convergence_state import latest_epoch

if TYPE_CHECKING:
    import pandas as pd

    from opustomo.analysis.latents.dimension_reduction import PrincipalComponents
    from opustomo.analysis.volumes.decoding import VolumeDecoder
    from opustomo.io.poses import Poses
    from opustomo.physics.boxes import Boxes


@dataclass(frozen=True, eq=False)
class Volumes:
    """Decoded volumes.

    Attributes
    ----------
    voxels
        Densities, shape (K, n, n, n), axes z, y, x, float32; voxel n/2 is the center of rotation.
    apix
        Pixel size in Å.
    origin_A
        Coordinates x, y, z of the first voxel in Å relative to the first voxel of the subtomogram box.
    """

    voxels: npt.NDArray[np.float32]
    apix: float
    origin_A: tuple[float, float, float]

    def __len__(self) -> int:
        return len(self.voxels)

    def __getitem__(self, index: int) -> npt.NDArray[np.float32]:
        return self.voxels[index]

    def write(self, outdir: str | Path, prefix: str = "reference") -> list[Path]:
        """Write the volumes to ``{prefix}{i}.mrc`` in a folder and return the paths."""
        from opustomo.analysis.volumes.decoding import write_series

        return write_series(Path(outdir), self.voxels, self.apix, self.origin_A, prefix)


class OpenedRun:
    """Results in the output folder of ``dsd train_tomo``, see :class:`opustomo.Run`."""

    def __init__(self, resdir: str | Path, star: str | Path | None = None, device: str | None = None) -> None:
        self.results = ResultDir.open(resdir)
        self._star = None if star is None else Path(star)
        self._device = device
        self._decoders: dict[int, VolumeDecoder] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.results.root)!r}, epochs {self.epochs[0]} to {self.epochs[-1]})"

    @property
    def epochs(self) -> list[int]:
        """Epochs with saved latents, ascending, counted from 0."""
        return self.results.epochs()

    @property
    def latest(self) -> int:
        """Epoch that is used if none is given: the last saved one, or the best one if the training overfits."""
        return latest_epoch(self.results.root)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Content of ``config.pkl``."""
        return self._config[1]

    @cached_property
    def boxes(self) -> Boxes:
        """Boxes in voxels and pixel sizes in Å of the training."""
        return self._config[0]

    @cached_property
    def particles(self) -> ParticleStar:
        """Particle table, one row per latent."""
        star = read_particles(self.results.particle_table(self._star))
        self.results.require_same_particles(star, len(self.latents()), self.results.root)
        return star

    def table(self, epoch: int | None = None) -> pd.DataFrame:
        """Return the particle table with numeric columns converted and the latents as columns z1 … and conf1 …."""
        import pandas as pd

        table = self.particles.particles.copy()
        for column in table.columns:
            try:
                table[column] = pd.to_numeric(table[column])
            except ValueError:
                continue
        conformations = self.conformations(epoch)
        for name, latents in (("z", self.latents(epoch)), ("conf", conformations)):
            if latents is not None:
                for axis in range(latents.shape[1]):
                    table[f"{name}{axis + 1}"] = latents[:, axis]
        return table

    def latents(self, epoch: int | None = None) -> npt.NDArray[np.float32]:
        """Return the composition latents, shape (N, zdim)."""
        return self.results.load_latents(self._epoch(epoch))[0]

    def conformations(self, epoch: int | None = None) -> npt.NDArray[np.float32] | None:
        """Return the conformation latents, shape (N, zaffinedim), or None if the run has none."""
        return self.results.load_latents(self._epoch(epoch))[1]

    def coordinates(self, epoch: int | None = None) -> npt.NDArray[np.float32] | None:
        """Return the coordinates of the compositions in units of their standard errors, shape (N, K).

        They are NaN for particles that were not read in training. None if the run did not write them.
        """
        return self.results.load_coordinates(self._epoch(epoch), len(self.latents(epoch)))

    def poses(self, epoch: int | None = None) -> Poses:
        """Return the refined poses: Euler angles in degrees and origins as fractions of the box."""
        return self.results.load_poses(self._epoch(epoch), len(self.latents(epoch)))

    def losses(self) -> dict[str, LossCurve]:
        """Read the losses per epoch, ``training`` and ``validation``, from ``run.log``."""
        return read_training_log(self.results.root / "run.log")

    def pca(self, epoch: int | None = None) -> PrincipalComponents:
        """Compute the principal components of the composition latents."""
        from opustomo.analysis.latents.dimension_reduction import fit_pca

        return fit_pca(self.latents(epoch))

    def umap(self, which: int | str | None = None) -> npt.NDArray[np.float32]:
        """Read the UMAP embedding of an analysis, one row per particle of the round, shape (n, 2)."""
        return np.asarray(load_pickle(self.results.analyzed_file(self._round(which), "umap.pkl")))

    def clusters(self, number: int, which: int | str | None = None, method: str = "kmeans") -> Clusters:
        """Read the clusters of an analysis; particles that belong to no cluster have the label `number`."""
        from opustomo.io.latents import read_latent_rows

        folder = Clustering(number, method).folder
        labels = self.results.analyzed_file(self._round(which), folder, "labels.pkl")
        indices = np.loadtxt(labels.with_name("centers_ind.txt"), dtype=np.int64, ndmin=1)
        return Clusters(load_labels(labels), read_latent_rows(labels.with_name("centers.txt")), indices)

    def cluster(
        self,
        number: int | None,
        epoch: int | None = None,
        method: str = "kmeans",
        min_cluster_size: int | None = None,
        max_number: int = 20,
    ) -> Clusters:
        """Compute clusters; they are identical to those of an analysis with the same settings.

        Parameters
        ----------
        number
            Number of clusters; None to choose it from the data, which HDBSCAN always does.
        epoch
            Epoch of the latents.
        method
            ``kmeans``, ``gmm`` or ``hdbscan``.
        min_cluster_size
            Particles of the smallest cluster of HDBSCAN; None for the default.
        max_number
            Largest number of clusters that is tried if `number` is None.
        """
        from opustomo.analysis.clusters.cluster_number import find_clusters

        clustering = Clustering(None if method == "hdbscan" else number, method, max_number, min_cluster_size)
        return find_clusters(self.latents(epoch), clustering, self.coordinates(epoch)).clusters

    def analyzed(self, which: int | str | None = None) -> AnalyzedParticles:
        """Return the particles of a round of analysis for selection by latents, cluster or distance."""
        return AnalyzedParticles(self.results, self._round(which))

    def decode(
        self,
        latents: npt.ArrayLike,
        apix: float | None = None,
        full_box: bool = False,
        epoch: int | None = None,
        masked: bool = True,
    ) -> Volumes:
        """Decode latents to volumes.

        Parameters
        ----------
        latents
            Composition latents, shape (K, zdim) or (zdim,). To move bodies, concatenate :meth:`latents` and
            :meth:`conformations` to shape (K, zdim + zaffinedim).
        apix
            Pixel size of the volumes in Å; None for that of the template.
        full_box
            Return volumes in the box of the subtomograms instead of the crop around the mask.
        epoch
            Epoch of the weights.
        masked
            Multiply the volumes by the solvent mask stored with the weights, if any.
        """
        from opustomo.analysis.volumes.decoding import check_latents, decode_batches, first_voxel

        decoder = self._decoder(self._epoch(epoch))
        apix = self.boxes.render_apix if apix is None else float(apix)
        rows = check_latents(latents, decoder, self.results.config())
        voxels = np.stack(list(decode_batches(decoder, rows, apix, full_box, masked)))
        return Volumes(voxels, apix, first_voxel(decoder.boxes, apix, voxels.shape[-1]))

    @cached_property
    def _config(self) -> tuple[Boxes, dict[str, Any]]:
        from opustomo.checkpoint.config import read_config

        return read_config(self.results.config())[1:]

    def _decoder(self, epoch: int) -> VolumeDecoder:
        from opustomo.analysis.volumes.decoding import VolumeDecoder
        from opustomo.model.device import choose_device

        if epoch not in self._decoders:
            weights = self.results.epoch_file("weights", epoch)
            # Keep only one decoder, because it has tens of millions of parameters.
            self._decoders = {epoch: VolumeDecoder(weights, self.results.config(), choose_device(self._device))}
        return self._decoders[epoch]

    def _epoch(self, epoch: int | None) -> int:
        return self.latest if epoch is None else epoch

    def _round(self, which: int | str | None) -> Round:
        return Round(self.latest) if which is None else parse_round(which, self.latest)
