"""What RELION 3.1 and later make of a table that opustomo writes."""

from opustomo.io.star import ORIGIN_COLUMNS, ParticleStar

MICROSCOPE_COLUMNS = ("rlnVoltage", "rlnSphericalAberration")


def ignored_origins(star: ParticleStar) -> str | None:
    """Return a sentence when RELION 3.1 and later would ignore the origins of a table, else None.

    They convert a table without optics block when it tells its voltage and spherical aberration in every row. Any other
    table is read as it is, and then `rlnOriginX`, `rlnOriginY` and `rlnOriginZ` are columns that nothing asks for.
    """
    if star.optics_block is not None or all(column in star for column in MICROSCOPE_COLUMNS):
        return None
    if not any(star.numbers(column).any() for column in ORIGIN_COLUMNS if column in star):
        return None
    return (
        "RELION 3.1 and later ignore origins in pixels in a table without rlnVoltage and rlnSphericalAberration; "
        "dsdsh export_relion writes a set that they read in full."
    )
