"""Python interface to a training run: its results, and all steps after training, for notebooks and scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opustomo.analysis.clusters.clustering import Clustering, Clusters
from opustomo.opened_run import OpenedRun, Volumes

if TYPE_CHECKING:
    from opustomo.analysis.tomograms.tomogram_placement import Placement, PlacementRequest
    from opustomo.analysis.volumes.volume_landscape import LandscapeSettings, VolumeLandscape
    from opustomo.io.star_tables import ParticleStar
    from opustomo.quality.evidence.junk_files import JunkInputs
    from opustomo.quality.evidence.junk_scores import JunkResult
    from opustomo.subtract.subtraction import SubtractionResult


class Run(OpenedRun):
    """Output folder of ``dsd train_tomo``.

    The parameter `epoch` of the methods is an epoch counted from 0; None selects `latest`, which is the last one, or
    the one of lowest held-out loss if the training overfits. The parameter `which` is an epoch or a round of analysis
    such as ``"filter.29"`` or ``"focus.29"``; None selects `latest` as well. Methods that compute a step of ``dsdsh``
    write the files of that step into the folder of the run.

    Parameters
    ----------
    resdir
        Output folder of the run.
    star
        Particle table used for training; None takes the table in the settings of the run.
    device
        Device on which volumes are decoded, ``cpu`` or ``cuda``; None selects a GPU if one is available.

    Raises
    ------
    UserError
        If the folder does not exist or contains no epoch. All methods raise it for missing files.

    Examples
    --------
    >>> run = opustomo.Run("run")                       # doctest: +SKIP
    >>> clusters = run.analyze(None, num_pcs=2)         # doctest: +SKIP
    >>> run.validate(len(clusters))["verdict"]          # doctest: +SKIP
    >>> run.report()                                    # doctest: +SKIP
    """

    def analyze(
        self,
        number: int | None,
        epoch: int | None = None,
        method: str = "kmeans",
        num_pcs: int = 2,
        umap: bool = True,
        focus: str | Path | None = None,
    ) -> Clusters:
        """Analyze an epoch as ``dsdsh analyze`` does: principal components, UMAP, clusters and traversals.

        Parameters
        ----------
        number
            Number of clusters; None to choose it from the data, which HDBSCAN always does.
        epoch
            Epoch of the latents.
        method
            ``kmeans``, ``gmm`` or ``hdbscan``.
        num_pcs
            Number of principal component traversals.
        umap
            Compute UMAP; otherwise an earlier embedding is used if there is one.
        focus
            MRC mask in the box of the subtomograms inside which the decoded volumes of all particles are analyzed. The
            results are those of the round ``focus.N``.

        Returns
        -------
        Clusters
            The clusters that were written.
        """
        from opustomo.analysis.analyze_epoch import AnalysisRequest, analyze_epoch
        from opustomo.analysis.results import Round

        request = AnalysisRequest(
            results=self.results,
            source=Round(self._epoch(epoch)),
            num_pcs=num_pcs,
            clustering=Clustering(number, method),
            skip_umap=not umap,
            focus=None if focus is None else Path(focus),
        )
        folder = analyze_epoch(request)[0]
        return self.clusters(int(folder.name.removeprefix(method)), request.round.label, method)

    def validate(
        self, number: int, which: int | str | None = None, method: str = "kmeans", likelihood: bool = True
    ) -> dict[str, Any]:
        """Compute the evidence for each cluster of an analysis as ``dsdsh validate`` does.

        Parameters
        ----------
        number, which, method
            Number of clusters, round of analysis and clustering method.
        likelihood
            Compute the generative loss of the held-out particles.

        Returns
        -------
        dict
            Content of ``validation_verdict.json``: ``verdict`` and ``summary`` of the classification, its ``reasons``,
            and the same of each cluster in ``classes``.
        """
        from opustomo.quality.evidence.validation import ValidationRequest, validate_run
        from opustomo.quality.evidence.validation_files import VERDICT_FILE

        chosen, folder = self._round(which), Clustering(number, method).folder
        request = ValidationRequest(
            results=self.results,
            which=chosen,
            num_clusters=number,
            folder=folder,
            star=self._star,
            likelihood=likelihood,
            device=self._device,
        )
        validate_run(request)
        path = self.results.analyzed_file(chosen, folder, VERDICT_FILE)
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def report(
        self,
        number: int | None = None,
        which: int | str | None = None,
        method: str = "kmeans",
        output: str | Path | None = None,
        num_sampled: int = 60,
    ) -> Path:
        """Write the HTML report of an analysis as ``dsdsh report`` does, and return its path.

        Parameters
        ----------
        number, which, method
            Number of clusters, round of analysis and clustering method; without `number`, the latest clustering.
        output
            Output file; None for ``report.html`` in the folder of the analysis.
        num_sampled
            Number of particles whose own volumes are decoded, to be shown when a particle is clicked.
        """
        from opustomo.report.html_report import ReportRequest, write_report

        request = ReportRequest(
            results=self.results,
            which=self._round(which),
            clustering=None if number is None else Clustering(number, method).folder,
            star=self._star,
            output=None if output is None else Path(output),
            num_sampled=num_sampled,
        )
        return write_report(request)

    def traversal(
        self,
        component: int,
        which: int | str | None = None,
        motion: bool = False,
        number: int | None = None,
        center: int = 0,
        apix: float | None = None,
    ) -> Volumes:
        """Decode the volumes along a principal component of an analysis, from its 1st to its 99th percentile.

        Parameters
        ----------
        component
            Number of the component, counted from 1.
        which
            Round of analysis.
        motion
            Follow a component of the conformation, which moves the bodies, instead of one of the composition.
        number, center
            For `motion`: number of clusters of the k-means and the cluster whose composition is shown.
        apix
            Pixel size of the volumes in Å; None for that of the template.
        """
        from opustomo.analysis.volumes.volume_sets import volume_set

        chosen = self._round(which)
        chosen_set = volume_set(self.results, chosen, "dpc" if motion else "pc", component, number, center)
        return self.decode(chosen_set.latents, apix, epoch=chosen.epoch)

    def subtract(
        self,
        keep: str | Path,
        outdir: str | Path,
        epoch: int | None = None,
        recenter: bool = False,
    ) -> SubtractionResult:
        """Subtract each particle's own volume outside of a mask from its subtomogram, as ``dsd subtract`` does.

        Parameters
        ----------
        keep
            MRC mask in the box of the subtomograms; what lies outside of it is subtracted.
        outdir
            New folder of the subtomograms and their particle table.
        epoch
            Epoch of the latents, poses and weights.
        recenter
            Move the origins so that the center of mass of the mask becomes the center of the particles.
        """
        from opustomo.subtract.subtraction import SubtractionRequest, subtract

        path = self.particles.path
        assert path is not None
        request = SubtractionRequest(
            star=path,
            results=self.results,
            epoch=self._epoch(epoch),
            keep=Path(keep),
            outdir=Path(outdir),
            recenter=recenter,
            device=self._device,
        )
        return subtract(request)

    def landscape(
        self,
        settings: LandscapeSettings | None = None,
        mask: str | Path | None = None,
        apix: float | None = None,
        epoch: int | None = None,
        folder: str | Path | None = None,
        star: ParticleStar | None = None,
    ) -> VolumeLandscape:
        """Compute the landscape of decoded volumes: components, classes, population basins and paths.

        Parameters
        ----------
        settings
            Settings of the landscape; None for the defaults.
        mask
            MRC file in the box of the subtomograms; volumes are compared inside it. None for the solvent mask.
        apix
            Pixel size of the volumes in Å; None for that of the template.
        epoch
            Epoch of the latents and weights.
        folder
            Write all files of ``dsdsh landscape`` to this folder; None writes nothing.
        star
            Particle table for STAR files of the basins and classes; None writes none.
        """
        from opustomo.analysis.volumes.focused_volumes import masked_volumes
        from opustomo.analysis.volumes.landscape_files import write_landscape
        from opustomo.analysis.volumes.volume_landscape import LandscapeSettings, compute_landscape

        settings = LandscapeSettings() if settings is None else settings
        number = self._epoch(epoch)
        volumes = masked_volumes(self._decoder(number), None if mask is None else Path(mask), apix)
        latents = self.latents(number)
        result = compute_landscape(volumes, latents, self.results.representatives(number, len(latents)), settings)
        if folder is not None:
            write_landscape(Path(folder), result, volumes, latents, star, settings)
        return result

    def focus(self, mask: str | Path, epoch: int | None = None, num_components: int | None = None) -> np.ndarray:
        """Compute coordinates of all particles from their volumes inside a mask, as ``dsdsh analyze --focus`` does.

        Parameters
        ----------
        mask
            MRC file in the box of the subtomograms.
        epoch
            Epoch of the latents and weights.
        num_components
            Number of principal components, C; None for that of the latent dimensions.

        Returns
        -------
        numpy.ndarray
            Scores along the principal components of the volumes, shape (N, C), float32.
        """
        from opustomo.analysis.volumes.focused_volumes import focus_scores, masked_volumes

        number = self._epoch(epoch)
        latents = self.latents(number)
        volumes = masked_volumes(self._decoder(number), Path(mask), None)
        return focus_scores(volumes, latents, num_components or latents.shape[1])[0]

    def junk(self, request: JunkInputs, folder: str | Path | None = None) -> JunkResult:
        """Find the picks that show none of the states of the particle, as ``dsdsh junk`` does.

        Parameters
        ----------
        request
            Epoch, reference and false-discovery rate, see :class:`opustomo.quality.evidence.junk_files.JunkInputs`;
            `results` can be that of this run, :attr:`results`.
        folder
            Write all files of ``dsdsh junk`` to this folder; None writes nothing.
        """
        from opustomo.quality.evidence.junk_files import score_run, write_junk

        result, star = score_run(request)
        if folder is not None:
            write_junk(Path(folder), result, star)
        return result

    def place(self, request: PlacementRequest) -> Placement:
        """Place the volumes of particles in a tomogram, write all files of ``dsdsh place``, and return the neighbors.

        Parameters
        ----------
        request
            Particles, clusters and tomogram, see
            :class:`opustomo.analysis.tomograms.tomogram_placement.PlacementRequest`; `results` and
            `star` can be those of this run, :attr:`results` and :attr:`particles`.
        """
        from opustomo.analysis.tomograms.tomogram_placement import place_run

        return place_run(request, self._decoder(request.which.epoch))
