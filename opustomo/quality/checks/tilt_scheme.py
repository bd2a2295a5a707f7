"""Tilt angles of a particle set: ranges, numbers of tilts, and tilt schemes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opustomo.data.particles import ParticleSet

OFF_CENTER_DEG = 2.5
"""Distance in degrees between the middle of a tilt range and 0° above which the range is called asymmetric."""
SAME_SCHEME_DEG = 1.0
"""Maximum difference of the ends of ranges of one scheme, whose tilts may have been refined."""
SHOWN = 4
RANGE_SLACK_DEG = 2.0
STEP_SLACK = 0.25


@dataclass(frozen=True)
class TiltScheme:
    """Range and number of tilts of a group of particles; the ends are medians over the particles."""

    lowest_deg: float
    highest_deg: float
    tilts: int
    particles: int

    @property
    def line(self) -> str:
        """One line of text."""
        return f"{self.lowest_deg:.4g}…{self.highest_deg:.4g}° in {self.tilts} tilts ({self.particles} particles)"


@dataclass(frozen=True)
class TiltSummary:
    """Tilts with weights above zero.

    Attributes
    ----------
    lowest_deg, highest_deg, step_deg
        Range of the whole set, and median step between neighboring tilts of one particle.
    fewest, median, most
        Numbers of tilts per particle.
    off_center, off_center_deg
        Number of particles whose range is not centered at 0°, and the median center of their ranges.
    schemes
        Tilt schemes, most frequent first.
    asked_range_deg, asked_step_deg
        ``--tilt-range`` and ``--tilt-step`` if the user gave them and tables were read.
    """

    lowest_deg: float
    highest_deg: float
    step_deg: float
    fewest: int
    median: float
    most: int
    off_center: int
    off_center_deg: float
    schemes: tuple[TiltScheme, ...]
    asked_range_deg: float | None = None
    asked_step_deg: float | None = None

    @property
    def line(self) -> str:
        """One line of text; more if there are several schemes or asymmetric ranges."""
        number = f"{self.fewest}" if self.fewest == self.most else f"{self.fewest}/{self.median:g}/{self.most}"
        text = (
            f"{self.lowest_deg:.4g}…{self.highest_deg:.4g}° in steps of {self.step_deg:.3g}°, "
            f"{number} tilts per particle" + ("" if self.fewest == self.most else " (fewest/median/most)")
        )
        if len(self.schemes) > 1:
            shown = ", ".join(scheme.line for scheme in self.schemes[:SHOWN])
            more = f", and {len(self.schemes) - SHOWN} more" if len(self.schemes) > SHOWN else ""
            text += f"\n{len(self.schemes)} schemes: {shown}{more}"
        if self.off_center:
            text += (
                f"\nasymmetric or pre-tilted: the range of {self.off_center} particles is centered at "
                f"{self.off_center_deg:+.0f}°; all tilts are used as they are"
            )
        return text

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warning if the tables disagree with the options of the user."""
        expected = []
        if self.asked_range_deg is not None:
            farthest = max(abs(self.lowest_deg), abs(self.highest_deg))
            if abs(farthest - self.asked_range_deg) > max(RANGE_SLACK_DEG, self.step_deg):
                expected.append(f"--tilt-range {self.asked_range_deg:g}")
        if self.asked_step_deg is not None and abs(self.step_deg / self.asked_step_deg - 1.0) > STEP_SLACK:
            expected.append(f"--tilt-step {self.asked_step_deg:g}")
        if not expected:
            return ()
        return (
            f"{' and '.join(expected)} disagrees with the CTF tables ({self.lowest_deg:.4g}…{self.highest_deg:.4g}° "
            f"in steps of {self.step_deg:.3g}°), which are used",
        )


def summarize_tilts(
    particles: ParticleSet, asked_range_deg: float | None = None, asked_step_deg: float | None = None
) -> TiltSummary:
    """Summarize the tilts of all particles.

    Parameters
    ----------
    particles
        Particle set.
    asked_range_deg, asked_step_deg
        Maximum tilt angle and tilt increment in degrees that the user expects; None for no expectation.
    """
    shares = np.bincount(particles.table, minlength=len(particles.tables))
    used = [table.tilt_deg[table.scale > 0] for table in particles.tables]
    numbers = np.array([len(tilts) for tilts in used])
    limits, steps = np.zeros((len(used), 2)), np.zeros(len(used))
    for number in np.unique(numbers):  # tables of equal length at once
        same = np.flatnonzero(numbers == number)
        tilts = np.sort([used[i] for i in same], axis=1)
        limits[same] = tilts[:, [0, -1]]
        if number > 1:
            steps[same] = np.median(np.diff(tilts), axis=1)
    middles = limits.mean(1)
    off = np.abs(middles) > OFF_CENTER_DEG
    per_particle = np.repeat(numbers, shares)
    return TiltSummary(
        lowest_deg=float(limits[:, 0].min()),
        highest_deg=float(limits[:, 1].max()),
        step_deg=float(np.median(np.repeat(steps, shares))),
        fewest=int(per_particle.min()),
        median=float(np.median(per_particle)),
        most=int(per_particle.max()),
        off_center=int(shares[off].sum()),
        off_center_deg=float(np.median(np.repeat(middles[off], shares[off]))) if off.any() else 0.0,
        schemes=_schemes(limits, numbers, shares),
        asked_range_deg=asked_range_deg,
        asked_step_deg=asked_step_deg,
    )


def _schemes(limits: np.ndarray, numbers: np.ndarray, shares: np.ndarray) -> tuple[TiltScheme, ...]:
    """Group tables by number of tilts and range, most frequent first.

    Parameters
    ----------
    limits : ndarray, (U, 2)
        Lowest and highest tilt of each table in degrees.
    numbers, shares : ndarray, (U,)
        Number of tilts, and of particles, of each table.
    """
    found = []
    for number in np.unique(numbers):
        same_number = np.flatnonzero(numbers == number)
        for same_start in _close(same_number, limits[:, 0]):
            for members in _close(same_start, limits[:, 1]):
                particles = int(shares[members].sum())
                if particles:
                    each = np.repeat(limits[members], shares[members], axis=0)
                    low, high = np.round(np.median(each, axis=0), 1)
                    found.append(TiltScheme(float(low), float(high), int(number), particles))
    return tuple(sorted(found, key=lambda scheme: -scheme.particles))


def _close(members: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    """Split members at gaps between their sorted values."""
    ordered = members[np.argsort(values[members], kind="stable")]
    return np.split(ordered, np.flatnonzero(np.diff(values[ordered]) > SAME_SCHEME_DEG) + 1)
