"""A training result in Python: what notebooks and scripts use, by the same code as the commands."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from opustomo.analysis.clusters import Clustering, Clusters, cluster_latents
from opustomo.analysis.criteria import AnalysedParticles
from opustomo.analysis.results import SELECTED_STAR, ResultDir, Round, parse_round
from opustomo.analysis.selection import load_labels
from opustomo.analysis.training_log import LossCurve, read_training_log
from opustomo.errors import UserError
from opustomo.io.pickles import load_pickle
from opustomo.io.star import ParticleStar, read_particles

if TYPE_CHECKING:
    import pandas as pd

    from opustomo.analysis.decoding import VolumeDecoder
    from opustomo.analysis.pca import PrincipalComponents
    from opustomo.io.poses import Poses
    from opustomo.physics.boxes import Boxes


@dataclass(frozen=True, eq=False)
class Volumes:
    """Decoded volumes.

    Attributes
    ----------
    voxels
        Shape (K, n, n, n), axes z, y, x, float32; voxel n/2 is the centre of rotation.
    apix
        Pixel size in Å.
    origin_A
        Place x, y, z of the first voxel, Å, that of a consensus map in the subtomograms' box being 0.
    """

    voxels: npt.NDArray[np.float32]
    apix: float
    origin_A: tuple[float, float, float]

    def __len__(self) -> int:
        return len(self.voxels)

    def __getitem__(self, index: int) -> npt.NDArray[np.float32]:
        return self.voxels[index]

    def write(self, outdir: str | Path, prefix: str = "reference") -> list[Path]:
        """Write ``{prefix}{i}.mrc`` to a folder; returns the paths."""
        from opustomo.io.mrc import write_volume

        paths = [Path(outdir) / f"{prefix}{i}.mrc" for i in range(len(self))]
        for path, volume in zip(paths, self.voxels, strict=True):
            write_volume(path, volume, self.apix, self.origin_A)
        return paths


class Run:
    """The output folder of ``dsd train_tomo``.

    Where a method takes ``epoch``, None means the last one; where it takes ``which``, an epoch or a round of analysis
    such as ``"filter.29"``.

    Parameters
    ----------
    resdir
        The folder.
    star
        Particle table of the training; None finds it by the settings of the run.
    device
        Where to decode, ``cpu`` or ``cuda``; None takes a GPU if there is one.

    Raises
    ------
    UserError
        The folder does not exist or holds no epoch. All other methods raise it for files that are missing.

    Examples
    --------
    >>> run = opustomo.Run("run")                       # doctest: +SKIP
    >>> z = run.latents()                               # doctest: +SKIP
    >>> volumes = run.decode(z[:3], apix=4.0)           # doctest: +SKIP
    """

    def __init__(self, resdir: str | Path, star: str | Path | None = None, device: str | None = None) -> None:
        self.results = ResultDir.open(resdir)
        self._star = None if star is None else Path(star)
        self._device = device
        self._decoders: dict[int, VolumeDecoder] = {}

    def __repr__(self) -> str:
        return f"Run({str(self.results.root)!r}, epochs {self.epochs[0]} to {self.epochs[-1]})"

    @property
    def epochs(self) -> list[int]:
        """Epochs whose latents are there, ascending, from 0."""
        return self.results.epochs()

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
        candidates = [] if self._star is None else [self._star]
        if self._star is None:
            candidates = [self.results.root / SELECTED_STAR]
            told = self.settings.get("dataset_args", {}).get("star")
            if told:
                candidates += [Path(told), self.results.root / told, self.results.root.parent / Path(told).name]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            tried = f"{candidates[-1]} does not exist" if len(candidates) > 1 else "the settings do not name one"
            raise UserError(f"The particle table of {self.results.root} is not found ({tried}); give Run(..., star=).")
        star = read_particles(found)
        self.results.require_same_particles(star, len(self.latents()), self.results.root)
        return star

    def table(self, epoch: int | None = None) -> pd.DataFrame:
        """Particle table with numbers as numbers, and the latents as columns z1 … and conf1 …."""
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
        """Compositions, shape (N, zdim)."""
        return self.results.load_latents(self._epoch(epoch))[0]

    def conformations(self, epoch: int | None = None) -> npt.NDArray[np.float32] | None:
        """Conformations, shape (N, zaffinedim); None when the run has none."""
        return self.results.load_latents(self._epoch(epoch))[1]

    def poses(self, epoch: int | None = None) -> Poses:
        """Poses as the training left them: Euler angles in degrees, origins as fractions of the box."""
        return self.results.load_poses(self._epoch(epoch), len(self.latents(epoch)))

    def losses(self) -> dict[str, LossCurve]:
        """Losses per epoch, ``training`` and ``validation``, from ``run.log``."""
        return read_training_log(self.results.root / "run.log")

    def pca(self, epoch: int | None = None) -> PrincipalComponents:
        """Principal components of the compositions."""
        from opustomo.analysis.pca import fit_pca

        return fit_pca(self.latents(epoch))

    def umap(self, which: int | str | None = None) -> npt.NDArray[np.float32]:
        """UMAP of an analysis, one row per particle of the round, shape (n, 2)."""
        return np.asarray(load_pickle(self.results.analysed_file(self._round(which), "umap.pkl")))

    def clusters(self, number: int, which: int | str | None = None, method: str = "kmeans") -> Clusters:
        """Clusters that an analysis found; labels of all N particles, ``number`` for those a later round left out."""
        from opustomo.io.tables import read_latent_rows

        folder = Clustering(number, method).folder
        labels = self.results.analysed_file(self._round(which), folder, "labels.pkl")
        indices = np.loadtxt(labels.with_name("centers_ind.txt"), dtype=np.int64, ndmin=1)
        return Clusters(load_labels(labels), read_latent_rows(labels.with_name("centers.txt")), indices)

    def cluster(self, number: int, epoch: int | None = None, method: str = "kmeans") -> Clusters:
        """Clusters made now; the same as those of an analysis with that number."""
        return cluster_latents(self.latents(epoch), number, method=method)

    def analysed(self, which: int | str | None = None) -> AnalysedParticles:
        """Particles as a round of analysis sees them, to choose some of them by place, cluster or distance."""
        return AnalysedParticles(self.results, self._round(which))

    def decode(
        self,
        latents: npt.ArrayLike,
        apix: float | None = None,
        full_box: bool = False,
        epoch: int | None = None,
        masked: bool = True,
    ) -> Volumes:
        """Volumes at compositions, or at compositions and conformations.

        Parameters
        ----------
        latents
            Shape (K, zdim), or (zdim,) for one; with bodies that are to move (K, zdim + zaffinedim), both of
            :meth:`latents` and :meth:`conformations`.
        apix
            Pixel size in Å; None takes that of the training.
        full_box
            In the box of the subtomograms instead of the crop around the mask.
        epoch
            Weights to decode with.
        masked
            Multiply by the solvent mask in the weights, if they hold one.
        """
        from opustomo.analysis.decoding import check_latents, decode_batches, first_voxel

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
        from opustomo.analysis.decoding import VolumeDecoder
        from opustomo.model.device import choose_device

        if epoch not in self._decoders:
            weights = self.results.epoch_file("weights", epoch)
            # one at a time: a decoder has tens of millions of parameters
            self._decoders = {epoch: VolumeDecoder(weights, self.results.config(), choose_device(self._device))}
        return self._decoders[epoch]

    def _epoch(self, epoch: int | None) -> int:
        return self.epochs[-1] if epoch is None else epoch

    def _round(self, which: int | str | None) -> Round:
        return Round(self.epochs[-1]) if which is None else parse_round(which)
