"""Scale of the voxels of a set, summed up."""

from __future__ import annotations

from dataclasses import dataclass

from opustomo.data.scale import DIFFERENT_RATIO, ScaleReport

MOST_NAMED = 10


@dataclass(frozen=True)
class ScaleSummary:
    """Standard deviations of single subtomograms.

    Attributes
    ----------
    looked_at
        Number of subtomograms.
    median, low, high
        Median, and 5th and 95th percentile of those that are used.
    per_particle
        Whether each subtomogram is divided by its own.
    left_out
        Why subtomograms of those looked at are left out.
    """

    looked_at: int
    median: float
    low: float
    high: float
    per_particle: bool
    left_out: tuple[str, ...]

    @property
    def line(self) -> str:
        """One line for people."""
        kept = self.looked_at - len(self.left_out)
        lost = f"; {len(self.left_out)} of {self.looked_at} looked at are left out" if self.left_out else ""
        return (
            f"standard deviation of the voxels {self.median:.4g}, {self.low:.4g}…{self.high:.4g} for nine tenths of "
            f"{kept} subtomograms{lost}"
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What looks wrong."""
        found = [f"left out: {reason}" for reason in self.left_out[:MOST_NAMED]]
        if len(self.left_out) > MOST_NAMED:
            found.append(f"{len(self.left_out) - MOST_NAMED} more subtomograms are left out")
        if self.per_particle:
            found.append(
                f"standard deviations differ more than {DIFFERENT_RATIO:g}-fold between subtomograms: each is divided "
                "by its own, not by one of the set; were they written by different programs?"
            )
        return tuple(found)


def summarise_scale(report: ScaleReport) -> ScaleSummary:
    """Sum up what :func:`opustomo.data.scale.examine_scale` found."""
    reasons = tuple(report.left_out.values())
    return ScaleSummary(report.looked_at, report.median, report.low, report.high, report.per_particle, reasons)
