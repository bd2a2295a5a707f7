"""Contents of a particle set: particles, mask, viewing directions and scale of the voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opustomo.data.particles import ParticleSet
from opustomo.data.voxels import DIFFERENT_RATIO, ScaleReport
from opustomo.geometry.rotations import viewing_groups
from opustomo.io.mrc import pixel_sizes_differ
from opustomo.io.star import format_pixel_sizes
from opustomo.physics.boxes import Boxes

GROUPS = 48
SMALL_MASK, LARGE_MASK = 0.005, 0.6
MASK_SLACK = 0.01
SAME_POSE_DEG = 1e-3


@dataclass(frozen=True)
class SetSummary:
    """Particles and boxes.

    Attributes
    ----------
    particles, tables
        Number of subtomograms and of distinct CTF tables.
    box, render, crop
        Box sizes in voxels: of the files, after ``--downfrac``, and of the crop around the mask.
    apix
        Pixel size of the run, Å.
    header_apix, other_headers, table_apix, table_sizes
        Pixel size in the first MRC header, number of headers with another one, and the median and all distinct pixel
        sizes of the particle table; in Å.
    broken, first_broken
        Number of subtomograms of the sample that cannot be used, and the error of the first.
    """

    particles: int
    tables: int
    box: int
    render: int
    crop: int
    apix: float
    header_apix: float | None
    other_headers: int
    table_apix: float | None
    table_sizes: tuple[float, ...]
    broken: int
    first_broken: str | None

    @property
    def line(self) -> str:
        """One line of text."""
        header = "not in the headers" if self.header_apix is None else f"header {self.header_apix:.4g}"
        return (
            f"{self.particles} subtomograms, box {self.box}, {self.apix:.4g} Å/pixel ({header}); "
            f"render box {self.render}, crop {self.crop}; {self.tables} CTF tables"
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about implausible values."""
        found = []
        if pixel_sizes_differ(self.header_apix, self.apix):
            found.append(
                f"the headers say {self.header_apix:.4g} Å/pixel, but {self.apix:.4g} is used: a wrong pixel size "
                "moves every CTF zero"
            )
        if self.other_headers:
            found.append(f"{self.other_headers} subtomograms have another pixel size in their headers than the first")
        if any(pixel_sizes_differ(size, self.apix) for size in self.table_sizes):
            found.append(
                f"the particle table says {format_pixel_sizes(self.table_sizes)} per pixel, but {self.apix:.4g} is "
                "used; origins in Å may be misread"
            )
        if self.broken:
            found.append(f"{self.broken} of the inspected subtomograms cannot be used: {self.first_broken}")
        return tuple(found)


def summarize_set(particles: ParticleSet, boxes: Boxes, broken: list[str]) -> SetSummary:
    """Summarize the files; ``broken`` contains the errors of subtomograms that cannot be used."""
    header = particles.images[0].apix
    sizes = particles.star.pixel_sizes()
    others = 0
    if header is not None:
        others = sum(pixel_sizes_differ(image.apix, header) for image in particles.images)
    return SetSummary(
        particles=len(particles),
        tables=len(particles.tables),
        box=boxes.box,
        render=boxes.render,
        crop=boxes.crop,
        apix=boxes.apix,
        header_apix=header,
        other_headers=others,
        table_apix=None if sizes is None or not len(sizes) else float(np.median(sizes)),
        table_sizes=() if sizes is None else tuple(np.unique(sizes).tolist()),
        broken=len(broken),
        first_broken=broken[0] if broken else None,
    )


@dataclass(frozen=True)
class MaskSummary:
    """Solvent mask: ``inside`` is the fraction of the box above zero, ``lowest`` and ``highest`` its values."""

    given: bool
    inside: float
    lowest: float
    highest: float

    @property
    def line(self) -> str:
        """One line of text."""
        if not self.given:
            return "none; the sphere inside the crop is used"
        return f"{100 * self.inside:.1f} % of the box inside"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about implausible values."""
        if not self.given:
            return ("no solvent mask (-r): noise and neighboring particles affect the comparison",)
        found = []
        if self.inside > LARGE_MASK:
            found.append(
                f"the mask covers {100 * self.inside:.0f} % of the box: a tighter mask is faster and excludes noise"
            )
        if self.inside < SMALL_MASK:
            found.append(f"the mask covers only {100 * self.inside:.2f} % of the box; does it contain the particle?")
        if self.highest > 1 + MASK_SLACK or self.lowest < -MASK_SLACK:
            found.append(
                f"the values of the mask are between {self.lowest:.3g} and {self.highest:.3g}, but 0 to 1 is expected"
            )
        return tuple(found)


def summarize_mask(mask: np.ndarray | None) -> MaskSummary:
    """Summarize the mask (N, N, N)."""
    if mask is None:
        return MaskSummary(False, 0.0, 0.0, 0.0)
    return MaskSummary(True, float((mask > 0).mean()), float(mask.min()), float(mask.max()))


@dataclass(frozen=True)
class ViewSummary:
    """Viewing directions: occupied groups, size of the largest, and whether all poses are the same."""

    particles: int
    occupied: int
    largest: int
    identical: bool

    @property
    def line(self) -> str:
        """One line of text."""
        return (
            f"{self.occupied} of {GROUPS} viewing groups occupied, the largest contains {self.largest} particles "
            f"({100 * self.largest / self.particles:.0f} %)"
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about implausible values."""
        if self.particles < 2:
            return ()
        if self.identical:
            return (
                "all particles have the same angles: are the poses missing from the table, or were the subtomograms "
                "rotated into the reference frame, which also rotates their missing wedges?",
            )
        if self.occupied == 1:
            return ("all particles are in one viewing group, so the resolution is anisotropic",)
        return ()


def summarize_views(eulers_deg: np.ndarray) -> ViewSummary:
    """Summarize the angles rot, tilt, psi (N, 3) in degrees."""
    members = np.bincount(viewing_groups(eulers_deg), minlength=GROUPS)
    same = bool((np.abs(eulers_deg - eulers_deg[0]) < SAME_POSE_DEG).all())
    return ViewSummary(len(eulers_deg), int((members > 0).sum()), int(members.max()), same)


MOST_NAMED = 10


@dataclass(frozen=True)
class ScaleSummary:
    """Standard deviations of single subtomograms.

    Attributes
    ----------
    looked_at
        Number of subtomograms.
    median, low, high
        Median and 5th and 95th percentiles of the standard deviations that are used.
    per_particle
        Whether each subtomogram is divided by its own standard deviation.
    left_out
        Reasons for leaving out subtomograms.
    """

    looked_at: int
    median: float
    low: float
    high: float
    per_particle: bool
    left_out: tuple[str, ...]

    @property
    def line(self) -> str:
        """One line of text."""
        kept = self.looked_at - len(self.left_out)
        lost = f"; {len(self.left_out)} of {self.looked_at} inspected ones are left out" if self.left_out else ""
        return (
            f"standard deviation of the voxels {self.median:.4g}, {self.low:.4g}…{self.high:.4g} for nine tenths of "
            f"{kept} subtomograms{lost}"
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about implausible values."""
        found = [f"left out: {reason}" for reason in self.left_out[:MOST_NAMED]]
        if len(self.left_out) > MOST_NAMED:
            found.append(f"{len(self.left_out) - MOST_NAMED} more subtomograms are left out")
        if self.per_particle:
            found.append(
                f"standard deviations differ by more than a factor of {DIFFERENT_RATIO:g} between subtomograms, so "
                "each is divided by its own; were they written by different programs?"
            )
        return tuple(found)


def summarize_scale(report: ScaleReport) -> ScaleSummary:
    """Summarize the result of :func:`opustomo.data.voxels.examine_scale`."""
    reasons = tuple(report.left_out.values())
    return ScaleSummary(report.looked_at, report.median, report.low, report.high, report.per_particle, reasons)
