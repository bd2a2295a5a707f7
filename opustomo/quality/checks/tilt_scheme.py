"""Tilt angles of a set: range, number, schemes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opustomo.data.particles import ParticleSet

OFF_CENTER_DEG = 2.5
"""A range whose middle lies farther from 0° is called asymmetric."""
SAME_SCHEME_DEG = 1.0
"""Ranges whose ends follow each other within this, as refined tilts of one scheme do, are one scheme."""
SHOWN = 4
RANGE_SLACK_DEG = 2.0
STEP_SLACK = 0.25


@dataclass(frozen=True)
class TiltScheme:
    """Range and number of tilts that ``particles`` particles share; the ends are medians over these particles."""

    lowest_deg: float
    highest_deg: float
    tilts: int
    particles: int

    @property
    def line(self) -> str:
        """One line for people."""
        return f"{self.lowest_deg:.4g}…{self.highest_deg:.4g}° in {self.tilts} tilts ({self.particles} particles)"


@dataclass(frozen=True)
class TiltSummary:
    """Tilts that carry weight.

    Attributes
    ----------
    lowest_deg, highest_deg, step_deg
        Of the whole set; the step is the median distance between neighboring tilts of one particle.
    fewest, median, most
        Tilts per particle.
    off_center, off_center_deg
        Particles whose range is not centered at 0°, and the median middle of their ranges.
    schemes
        Distinct ranges and numbers, most frequent first.
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
        """One line for people, two when there are several schemes or asymmetric ranges."""
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
        """One warning when what the user expected is not what the tables say."""
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
            f"{' and '.join(expected)} is not what the CTF tables say ({self.lowest_deg:.4g}…{self.highest_deg:.4g}° "
            f"in steps of {self.step_deg:.3g}°); the tables are used",
        )


def summarize_tilts(
    particles: ParticleSet, asked_range_deg: float | None = None, asked_step_deg: float | None = None
) -> TiltSummary:
    """Sum up the tilts of all particles; the asked values are what the user expects of tables that were read."""
    shares = np.bincount(particles.table, minlength=len(particles.tables))
    ranges, counts, steps = [], [], []
    for table in particles.tables:
        used = np.sort(table.tilt_deg[table.scale > 0])
        ranges.append((used[0], used[-1]))
        counts.append(len(used))
        steps.append(np.median(np.diff(used)) if len(used) > 1 else 0.0)
    limits, numbers = np.array(ranges), np.array(counts)
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
    """Split members where their sorted values leave gaps."""
    ordered = members[np.argsort(values[members], kind="stable")]
    return np.split(ordered, np.flatnonzero(np.diff(values[ordered]) > SAME_SCHEME_DEG) + 1)
