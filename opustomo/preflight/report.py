"""What a pre-flight found, as text and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

from opustomo.preflight.contents import MaskSummary, SetSummary, ViewSummary
from opustomo.preflight.memory import MemorySummary
from opustomo.preflight.optics import OpticsSummary
from opustomo.preflight.scale import ScaleSummary
from opustomo.preflight.tilts import TiltSummary
from opustomo.preflight.wedge import WedgeSummary

Section = (
    SetSummary | ScaleSummary | MaskSummary | TiltSummary | OpticsSummary | WedgeSummary | ViewSummary | MemorySummary
)
NAME_WIDTH = 11


@dataclass(frozen=True)
class Preflight:
    """Findings by subject; ``notes`` are what reading the set had to say."""

    contents: SetSummary
    scale: ScaleSummary
    mask: MaskSummary
    tilts: TiltSummary
    optics: OpticsSummary
    wedge: WedgeSummary
    views: ViewSummary
    memory: MemorySummary
    notes: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Everything that looks wrong, in the order of the text."""
        return tuple(warning for _, section in self._sections() for warning in section.warnings)

    def as_text(self) -> str:
        """One block of lines: a line or more for each subject, then the notes and warnings."""
        lines = ["Pre-flight"]
        for name, section in self._sections():
            first, *more = section.line.split("\n")
            lines.append(f"  {name:<{NAME_WIDTH}}{first}")
            lines += [f"  {'':<{NAME_WIDTH}}{line}" for line in more]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def as_json(self) -> str:
        """All numbers as JSON; what is no number (nothing to correlate) becomes null."""
        content = {**asdict(self), "warnings": self.warnings}
        content["wedge"]["verdict"] = self.wedge.verdict
        return json.dumps(_plain(content), indent=2, ensure_ascii=False) + "\n"

    def _sections(
        self,
    ) -> tuple[tuple[str, Section], ...]:
        return (
            ("particles", self.contents),
            ("scale", self.scale),
            ("mask", self.mask),
            ("tilts", self.tilts),
            ("CTF", self.optics),
            ("wedge", self.wedge),
            ("views", self.views),
            ("memory", self.memory),
        )


def _plain(value: object) -> object:
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
