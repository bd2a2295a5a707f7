"""Validation of the clusters of an analyzed run (``dsdsh validate``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from opustomo.analysis.clusters.cluster_stars import load_labels
from opustomo.analysis.clusters.clustering import Clustering
from opustomo.analysis.clusters.nested_clusters import are_separated, components_to_cluster
from opustomo.analysis.results import ResultDir, Round
from opustomo.analysis.selection import round_particles
from opustomo.analysis.volumes.focused_volumes import coordinates_inside
from opustomo.checkpoint.config import read_config
from opustomo.data.particles import ParticleSet, load_particles
from opustomo.errors import UserError
from opustomo.io.masks import load_mask
from opustomo.io.pickles import load_pickle
from opustomo.model.device import choose_device
from opustomo.quality.evidence.class_pair_test import DIFFERENT, NOISE, SAME, UNCLEAR
from opustomo.quality.evidence.classification_tests import (
    Classification,
    cannot_tell,
    class_differences,
    judge_classes,
    judge_conformation,
    print_verdicts,
    read_material,
)
from opustomo.quality.evidence.cluster_evidence import (
    HeldOutLosses,
    ReferenceMatch,
    match_reference,
    read_reference,
    validate_clusters,
)
from opustomo.quality.evidence.cluster_stability import ClusteredValues
from opustomo.quality.evidence.decoded_maps import decoded_reasons
from opustomo.quality.evidence.difference_maps import DifferenceMap
from opustomo.quality.evidence.half_maps import ReadOptions
from opustomo.quality.evidence.motion_verdict import MotionVerdict, not_judged
from opustomo.quality.evidence.particle_spectra import sampled_particles
from opustomo.quality.evidence.trained_model import (
    ComparisonSettings,
    data_of_run,
    divides_per_particle,
    held_out_particles,
    load_model,
    norm_of_run,
    particle_losses,
    physics_of_run,
)
from opustomo.quality.evidence.training_state import collapse_remark, training_remark
from opustomo.quality.evidence.validation_files import write_differences, write_validation, write_verdict
from opustomo.quality.evidence.verdicts import SUPPORTED, RunVerdict
from opustomo.training.schedules import bfactor_at

REFERENCE_FILE = "validation_reference.csv"
FEW_HELD_OUT = 5
"""Number of held-out particles below which the held-out loss of a class is called uncertain."""


@dataclass(frozen=True)
class ValidationRequest:
    """Clusters to validate and their input data.

    Attributes
    ----------
    results, which
        Result directory of the run and the round of analysis.
    num_clusters, folder
        Number of clusters, K, and folder name of the clustering, for example ``kmeans{K}``.
    star, mask, datadir, ind, apix, warp, ctf_normalized
        Inputs that changed since the training; None for those of the training.
    reference
        Map that clusters are compared with, for example the template of the particle picking; None for none.
    likelihood
        Compute the generative loss of the held-out particles.
    batch_size, workers, device
        Batch size of the held-out particles, number of prefetching threads, and device.
    """

    results: ResultDir
    which: Round
    num_clusters: int
    folder: str
    star: Path | None = None
    mask: Path | None = None
    datadir: Path | None = None
    ind: Path | None = None
    apix: float | None = None
    warp: bool = False
    ctf_normalized: bool = False
    reference: Path | None = None
    likelihood: bool = True
    batch_size: int = 8
    workers: int = 2
    device: str | None = None


def validate_run(request: ValidationRequest, say: Callable[[str], None] = print) -> ReferenceMatch | None:
    """Write the evidence and the verdict for each cluster to the folder of the clustering.

    Returns
    -------
    ReferenceMatch or None
        The clusters that resemble the reference; None without a reference.

    Raises
    ------
    UserError
        If the analysis or an input is missing, or if they do not match.
    """
    results, epoch = request.results, request.which.epoch
    path = results.analyzed_file(request.which, request.folder, "labels.pkl")
    labels = load_labels(path)
    config = results.config()
    data = data_of_run(
        config,
        request.star,
        poses=results.epoch_file("pose", epoch),
        mask=request.mask,
        datadir=request.datadir,
        ind=request.ind,
        apix=request.apix,
        warp=request.warp or None,
    )
    device = choose_device(request.device)
    particles = load_particles(data)
    if len(particles) != len(labels):
        raise UserError(
            f"{data.star} has {len(particles)} particles, but {path} has {len(labels)} labels. "
            "Give the STAR file used for training."
        )
    mask = load_mask(data.mask, particles.box, particles.apix, data.force)
    named = request.reference
    reference = None if named is None else read_reference(named, particles.box, particles.apix)
    held_out, losses = np.empty(0, dtype=np.int64), np.empty(0)
    if request.likelihood:
        held_out, losses = _held_out(request, config, particles, labels, device, say)
    physics = physics_of_run(read_config(config)[2])
    if len(held_out):
        scored = held_out[np.isfinite(losses)]
        report_few_held_out(np.bincount(labels[scored], minlength=request.num_clusters)[: request.num_clusters], say)
    reading = ReadOptions(request.ctf_normalized or physics.ctf_normalized, device, request.workers)
    validation = validate_clusters(
        particles,
        labels,
        request.num_clusters,
        mask,
        HeldOutLosses(held_out, losses),
        reading,
    )
    if validation.left_out:
        say(f"{len(validation.left_out)} subtomograms are left out, the first because {validation.left_out[0]}.")
    say(f"Half sets: {validation.half_origin}. FSC {'without a mask' if mask is None else f'inside {data.mask}'}.")
    written = write_validation(path.parent, validation, particles.apix)
    judged, motion, differences = _judge(request, particles, labels, mask, reading)
    differing = [(pair.first, pair.second) for pair in judged.pairs if pair.outcome == DIFFERENT]
    collapse = collapse_remark(results.load_latents(epoch)[0], epoch, labels, differing)
    supported = [one.number for one in judged.classes if one.verdict == SUPPORTED]
    coordinates = results.load_coordinates(epoch, len(labels))
    remarks = [
        "" if coordinates is None else continuum_remark(coordinates, labels, supported),
        training_remark(results.root, epoch),
        collapse,
    ]
    judged = replace(
        judged,
        summary=" ".join([judged.summary, *filter(None, remarks)]),
        reasons=(*judged.reasons, *decoded_reasons(path.parent, judged.pairs, mask)),
    )
    written += write_differences(path.parent, differences, request.num_clusters)
    for file in [*written, *write_verdict(path.parent, judged, motion, bool(collapse))]:
        say(f"Wrote {file}")
    for difference in differences:
        say(difference.sentence())
    print_verdicts(judged, motion, say)
    table = path.with_name(REFERENCE_FILE)
    if named is None or reference is None:
        table.unlink(missing_ok=True)  # that of an earlier call may be of other clusters
        return None
    outcomes = {(pair.first, pair.second): pair.outcome for pair in judged.pairs}
    match = match_reference(
        [cluster.volume for cluster in validation.clusters],
        reference,
        mask,
        same=[pair for pair, outcome in outcomes.items() if outcome in (SAME, NOISE)],
        unclear=[pair for pair, outcome in outcomes.items() if outcome == UNCLEAR],
    )
    for line in match.lines(str(named)):
        say(line)
    match.write(table)
    say(f"Wrote {table}")
    return match


def continuum_remark(coordinates: np.ndarray, labels: np.ndarray, supported: list[int]) -> str:
    """Return a sentence that names supported classes without a gap between them; empty if gaps separate all.

    Parameters
    ----------
    coordinates
        Coordinates of the compositions in units of their standard errors, (N, K), with NaN where they are unknown.
    labels
        Class of each particle, (N,).
    supported
        Numbers of the classes that are supported.
    """
    known = sampled_particles(np.flatnonzero(np.isfinite(coordinates).all(1) & np.isin(labels, supported)))
    values = components_to_cluster(coordinates[known].astype(np.float64))
    joined = []
    for pair in combinations(supported, 2):
        rows = np.isin(labels[known], pair)
        if len(set(labels[known][rows])) == 2 and not are_separated(values[rows], labels[known][rows]):
            joined.append(f"{pair[0]} and {pair[1]}")
    if not joined:
        return ""
    return (
        f"No gap in the coordinates separates the classes {', '.join(joined)}, so they may be parts of a continuous "
        "change."
    )


def _conformation_is_read(config: Path) -> bool:
    """Return whether a decoder of the run reads its conformation latents.

    Runs without bodies write these latents for scripts of OPUS-TOMO only. In such runs they repeat the composition.
    Where the composition latents do not predict it linearly, it would be mistaken for motion.
    """
    settings = read_config(config)[2]
    if settings.get("opustomo") is None:
        return True
    bodies = settings["opustomo"].get("model", {}).get("bodies")
    return bodies is not None or physics_of_run(settings).original


def report_few_held_out(counts: np.ndarray, say: Callable[[str], None]) -> None:
    """Name the classes whose held-out loss is missing or rests on few particles; `counts` are those of the classes."""
    for number, count in enumerate(counts.tolist()):
        if count == 0:
            say(f"Class {number} has no held-out particle and therefore no held-out loss.")
        elif count < FEW_HELD_OUT:
            particles = "one particle" if count == 1 else f"{count} particles"
            say(f"The held-out loss of class {number} is that of only {particles}.")


def _judge(
    request: ValidationRequest,
    particles: ParticleSet,
    labels: np.ndarray,
    mask: np.ndarray | None,
    reading: ReadOptions,
) -> tuple[RunVerdict, MotionVerdict | None, list[DifferenceMap]]:
    """Return the verdicts on the classes and, if the run has conformations, on the motion; and difference maps."""
    latents, conformation = request.results.load_latents(request.which.epoch)
    config = request.results.config()
    material = read_material(
        particles,
        np.flatnonzero(labels < request.num_clusters),
        mask,
        held_out_particles(config, len(particles)),
        reading,
    )
    motion = None
    if conformation is not None and not _conformation_is_read(config):
        motion = not_judged("No decoder of this run reads these latents, because it was trained without --masks.")
    if material is None:
        counts = np.bincount(labels, minlength=request.num_clusters)[: request.num_clusters]
        if conformation is not None and motion is None:
            motion = not_judged("There are too few particles.")
        return cannot_tell(counts.tolist()), motion, []
    clustered = clustered_values(request.results, request.which, request.folder, labels)
    classes = Classification(labels, request.num_clusters, latents, clustered)
    if conformation is not None and motion is None:
        motion = judge_conformation(material, classes, conformation)
    return judge_classes(material, classes), motion, class_differences(material, classes)


def clustered_values(results: ResultDir, which: Round, folder: str, labels: np.ndarray) -> ClusteredValues:
    """Return the values from which the clusters of a round of analysis were made, so that they can be made again.

    These are the coordinates of the compositions, or the latents of runs without coordinates. With ``--focus``, they
    are the part of the coordinates that changes the volumes inside the mask, or the scores of these volumes.

    Parameters
    ----------
    results, which
        Result directory and round of analysis.
    folder
        Folder name of the clustering, for example ``hdbscan6``.
    labels
        Clusters of all particles, (N,).
    """
    method = Clustering.of_folder(folder).method
    latents = results.load_latents(which.epoch)[0].astype(np.float64)
    coordinates = results.load_coordinates(which.epoch, len(labels))
    if which.focused:
        latents = np.asarray(load_pickle(results.analyzed_file(which, "pc.pkl")), dtype=np.float64)
        coordinates = None if coordinates is None else coordinates_inside(coordinates, latents)
    outside = np.ones(len(labels), dtype=bool)
    outside[round_particles(results, which, len(labels))] = False
    values = latents if coordinates is None else coordinates.astype(np.float64)
    return ClusteredValues(np.where(outside[:, None], np.nan, values), method, standardized=coordinates is not None)


def _held_out(
    request: ValidationRequest,
    config: Path,
    particles: ParticleSet,
    labels: np.ndarray,
    device: str,
    say: Callable[[str], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the held-out particles that belong to a cluster, and their generative losses."""
    epoch = request.which.epoch
    held_out = held_out_particles(config, len(particles))
    held_out = held_out[labels[held_out] < request.num_clusters]
    weights = request.results.root / f"weights.{epoch}.pkl"
    if not len(held_out):
        say("The likelihood is not computed because the run held out no particles of these clusters.")
    elif not weights.is_file():
        say(f"The likelihood is not computed because {weights} does not exist.")
        held_out = held_out[:0]
    if not len(held_out):
        return held_out, np.empty(0)
    model = load_model(weights, config, device)
    if read_config(config)[2].get("opustomo") is None:
        say(f"Note: {config} of OPUS-TOMO does not contain the physics settings, so defaults are used.")
    bfactor = bfactor_at(model.physics.bfactor_A2, epoch)
    losses = particle_losses(
        model,
        particles,
        held_out,
        ComparisonSettings(norm_of_run(config), bfactor, divides_per_particle(config)),
        request.batch_size,
        request.workers,
    )
    say(f"Mean generative loss of {len(held_out)} held-out particles: {np.nanmean(losses):.6f}.")
    return held_out, losses
