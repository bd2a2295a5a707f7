"""Conversion of particle tables from and to other programs; pure functions, with one module per format."""

from dataclasses import dataclass, field

from opustomo.io.star_tables import ParticleStar


@dataclass(frozen=True, eq=False)
class Converted:
    """Result of a conversion.

    Attributes
    ----------
    star
        The new table.
    count_in
        Number of particles that were read.
    notes
        Notes for the user.
    """

    star: ParticleStar
    count_in: int
    notes: tuple[str, ...] = field(default=())
