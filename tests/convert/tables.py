"""STAR text for tests."""

from pathlib import Path

from opustomo.io.star_tables import ParticleStar, read_particles


def loop(name: str, columns: str, *rows: str) -> str:
    """Return the text of one table; `_rln` is added to columns that do not begin with an underscore."""
    names = [column if column.startswith("_") else f"_rln{column}" for column in columns.split()]
    return "\n".join([f"data_{name}", "", "loop_", *names, *rows, "", ""])


def star_of(folder: Path, text: str, name: str = "p.star") -> ParticleStar:
    """Write the text to a file and read its particles."""
    (folder / name).write_text(text, encoding="utf-8")
    return read_particles(folder / name)


FILES = (
    "one_loop_16",
    "relion30_origins_6",
    "relion31_57",
    "relion31_6optics",
    "relion4_300",
    "relion5_3d_5",
    "warp_relion30_1399",
)
