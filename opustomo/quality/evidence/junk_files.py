"""Files of `dsdsh junk`: scores, classes, maps of the molecules, STAR files and a figure."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opustomo.analysis.results import ResultDir
from opustomo.checkpoint.config import read_config
from opustomo.data.particles import load_particles
from opustomo.io.atomic import atomic_path, write_csv
from opustomo.io.masks import load_mask
from opustomo.io.mrc import write_volume
from opustomo.io.star_tables import ParticleStar
from opustomo.model.device import choose_device
from opustomo.quality.evidence.cluster_evidence import read_reference
from opustomo.quality.evidence.half_maps import half_sets
from opustomo.quality.evidence.junk_classes import ALIKE
from opustomo.quality.evidence.junk_scores import MOST_UNSTABLE, JunkRequest, JunkResult, find_junk
from opustomo.quality.evidence.trained_model import data_of_run, physics_of_run

DPI = 150


@dataclass(frozen=True)
class JunkInputs:
    """Run and options of `dsdsh junk`.

    Attributes
    ----------
    results, epoch
        Result directory of the run and epoch.
    star, datadir
        Particle table and folder of the images, if they were moved.
    mask
        Solvent mask; None for that of the training.
    reference
        Density of the particle, for example the template of the matching, in the box of the subtomograms.
    particle
        Numbers of the molecules that are the particle; None for one.
    largest_rate
        Largest expected false-discovery rate.
    device
        ``cpu`` or ``cuda``; None selects a GPU if one is available.
    """

    results: ResultDir
    epoch: int
    star: Path | None = None
    datadir: Path | None = None
    mask: Path | None = None
    reference: Path | None = None
    particle: tuple[int, ...] | None = None
    largest_rate: float = 0.01
    device: str | None = None


def score_run(inputs: JunkInputs) -> tuple[JunkResult, ParticleStar]:
    """Score the particles of a run and return the result and the particle table.

    Raises
    ------
    UserError
        If files are missing or do not match, or if no class shows a structure.
    """
    results, epoch, reference = inputs.results, inputs.epoch, inputs.reference
    config = results.config()
    latents = results.load_latents(epoch)[0]
    data = data_of_run(
        config, inputs.star, poses=results.epoch_file("pose", epoch), mask=inputs.mask, datadir=inputs.datadir
    )
    particles = load_particles(data)
    results.require_same_particles(particles.star, len(latents), results.epoch_file("z", epoch))
    request = JunkRequest(
        particles=particles,
        latents=latents,
        halves=half_sets(particles.star)[0],
        mask=load_mask(data.mask, particles.box, particles.apix, data.force),
        reference=None if reference is None else read_reference(reference, particles.box, particles.apix),
        particle=inputs.particle,
        largest_rate=inputs.largest_rate,
        ctf_normalized=physics_of_run(read_config(config)[2]).ctf_normalized,
        device=choose_device(inputs.device),
    )
    return find_junk(request), particles.star


def write_junk(folder: Path, result: JunkResult, star: ParticleStar | None) -> None:
    """Write scores, classes, maps, figure and, with a particle table, STAR files of kept particles and junk.

    The files of an earlier call are replaced as a whole.
    """
    classes, kept = result.classes, result.kept
    with atomic_path(folder) as partial:
        partial.mkdir(parents=True)
        molecule = np.append(classes.families, -1)[classes.labels]
        rows: list[list[object]] = [["particle", "kept", "score", "class", "molecule", "contrast", "latent_distance"]]
        for i, score in enumerate(result.score):
            values = (f"{result.contrast[i]:.3f}", f"{result.distance[i]:.3f}")
            rows.append([i, int(kept[i]), f"{score:.3f}", classes.labels[i], molecule[i], *values])
        write_csv(partial / "scores.csv", rows)
        rows = [["class", "particles", "molecule", "is_particle", "mean_gain"]]
        for i, family in enumerate(classes.families):
            rows.append([i, classes.sizes[i], family, int(family in classes.particle), f"{classes.gains[i]:.3f}"])
        write_csv(partial / "classes.csv", rows)
        for number, volume in enumerate(result.volumes):
            write_volume(partial / f"molecule{number}.mrc", volume.astype(np.float32), result.apix)
        draw_scores(partial / "junk.png", result)
        if star is not None:
            star.subset(np.flatnonzero(kept)).write(partial / "particles.star")
            star.subset(np.flatnonzero(~kept)).write(partial / "junk.star")
        if folder.is_dir():
            shutil.rmtree(folder)


def summary(result: JunkResult) -> list[str]:
    """Return what was found, in sentences."""
    classes, kept = result.classes, result.kept
    said = []
    sizes = classes.sizes
    for family in range(classes.families.max() + 1):
        members = classes.families == family
        name = "the particle" if family in classes.particle else "another molecule"
        number = int(members.sum())
        said.append(
            f"Molecule {family} ({name}): {sizes[members].sum():,} particles in "
            f"{'one class' if number == 1 else f'{number} classes'}, molecule{family}.mrc."
        )
    nothing = len(classes.labels) - sizes[classes.families >= 0].sum()
    said.append(f"Nothing: {nothing:,} particles in classes without structure.")
    unusable = int(np.isnan(result.score).sum())
    if unusable:
        said.append(f"{unusable} subtomograms cannot be used and count as junk.")
    said.append(f"Kept {kept.sum():,} of {len(kept):,} particles with a score of at least {result.cut:.1f}.")
    return [*said, *reliability(result)]


def reliability(result: JunkResult) -> list[str]:
    """Return how many of the kept particles are expected to be junk, or why this is not known, in sentences."""
    if not result.rate_is_known:
        said = ["How many of these are junk is not known:"]
        for group, found in result.mixed_classes.items():
            said.append(
                f"    Class {group} mixes objects that were not separated: {found.lower:,} of {found.particles:,} "
                f"particles show its map with only {found.ratio:.2f} times the contrast of the others. They are other "
                "objects, or their poses are wrong, and count as junk."
            )
        pair = result.least_related
        if pair is not None and pair[2] < ALIKE:
            said.append(
                f"    Classes {pair[0]} and {pair[1]} of the particle have maps that correlate by only {pair[2]:.2f}. "
                "They are states of one particle, or different objects of similar shape, such as mirror images."
            )
        if result.doubts.divided:
            said.append(
                "    The latents do not separate some objects. Their classes were divided by the images themselves, "
                "but others can still be mixed."
            )
        if result.doubts.unstable > MOST_UNSTABLE:
            said.append(
                f"    {100 * result.doubts.unstable:.0f} % of the kept particles are not kept if the latents are "
                "divided into other classes."
            )
        if result.found_no_junk:
            said.append(
                "    No pick was found to show anything else. That is right for a pure set, but it also happens if the "
                "classes mix everything."
            )
        return [*said, "    Look at the maps of the clusters with dsdsh validate, or train longer."]
    rate, upper = 100 * result.false_discovery_rate, max(100 * result.upper_rate, 0.1)
    expected = "less than 0.1" if rate < 0.1 else f"{rate:.2g}"
    return [
        f"Of these, {expected} % are expected to be junk (at most {upper:.2g} % with 95 % confidence), if no "
        "class mixes the particle with other objects."
    ]


def draw_scores(path: Path, result: JunkResult) -> None:
    """Draw histograms of scores, null scores and contrasts by molecule, and scores against latent distances."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes = result.classes
    molecule = np.append(classes.families, -1)[classes.labels]
    score = np.arcsinh(np.nan_to_num(result.score, nan=0.0))
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right, contrasts = figure.subplots(1, 3)
    shown = result.contrast[np.isfinite(result.contrast)]
    low, high = np.percentile(shown, (0.5, 99.5)) if len(shown) else (0.0, 1.0)
    bins = np.linspace(float(low), float(high), 40)
    edges = np.linspace(min(score.min(), 0.0) - 0.1, score.max() + 0.1, 60)
    groups = {
        "the particle": (np.isin(molecule, classes.particle), "#0072b2"),
        "other molecules": ((molecule >= 0) & ~np.isin(molecule, classes.particle), "#d55e00"),
        "nothing": (molecule < 0, "#999999"),
    }
    for name, (members, color) in groups.items():
        left.hist(score[members], edges, color=color, alpha=0.7, label=f"{name}: {members.sum():,}")
        contrasts.hist(result.contrast[members & np.isfinite(result.contrast)], bins, color=color, alpha=0.7)
        right.scatter(result.distance[members], score[members], s=5, color=color, linewidths=0, rasterized=True)
    weights = np.full(len(result.null), len(score) / max(len(result.null), 1))
    null = np.arcsinh(result.null)
    left.hist(null, edges, weights=weights, histtype="step", color="black", label="random phases, scaled")
    ticks = np.array([-1000, -100, -10, -1, 0, 1, 10, 100, 1000])
    for axes, set_ticks in ((left, left.set_xticks), (right, right.set_yticks)):
        set_ticks(np.arcsinh(ticks), [str(tick) for tick in ticks])
        line = axes.axvline if axes is left else axes.axhline
        line(np.arcsinh(result.cut), color="black", lw=1, ls="--")
    left.set(xlabel="score: log odds in favor of the particle (nats)", ylabel="particles", yscale="log")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    right.set(xlabel="distance in the latent space (median of the kept particles = 1)", ylabel="score", xscale="log")
    contrasts.set(xlabel="contrast relative to the map of the class", ylabel="particles")
    figure.suptitle(f"{result.kept.sum():,} particles right of the dashed cut are kept", fontsize=10)
    figure.savefig(path, dpi=DPI)
