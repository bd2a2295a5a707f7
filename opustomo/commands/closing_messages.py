"""Messages at the end of a command: what a conversion has written, and the commands that follow.

The commands are printed so that they can be copied."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from opustomo.errors import UserError

if TYPE_CHECKING:
    from opustomo.analysis.results import ResultDir
    from opustomo.convert import Converted
    from opustomo.io.star_tables import ParticleStar

_PARENTS = 4
"""Number of folders above a table in which the configuration of a run is searched for."""


def print_next(*commands: tuple[Iterable[object], str]) -> None:
    """Print commands, each given as its words and a remark that may be empty."""
    lines = [shlex.join(map(str, words)) + (f"    # {remark}" if remark else "") for words, remark in commands]
    print(f"Next: {lines[0]}" if len(lines) == 1 else "\n  ".join(["Next:", *lines]))


def print_after_table(path: Path, sources: Iterable[Path] = (), star: ParticleStar | None = None) -> None:
    """Print the command that reconstructs the subtomograms of a table or, if they exist, inspects them.

    Parameters
    ----------
    path
        The table that was written.
    sources
        Tables from which it was made; if one of them is in the folder of a run, the run states where the images are.
    star
        Content of the table; None reads it.
    """
    from dataclasses import replace

    from opustomo.io.star_conventions import is_image_series, is_not_extracted, is_stack_set
    from opustomo.io.star_tables import read_particles
    from opustomo.quality.checks.proposed_commands import Remedies

    star = read_particles(path) if star is None else replace(star, path=path)
    if is_image_series(star):
        print(f"Next: {Remedies(star).series}")
    elif is_stack_set(star) or is_not_extracted(star):
        print(f"Next: {Remedies(star).extract}")
    else:
        print_next((["dsd", "check", path, *datadir_words(star, sources)], ""))


def datadir_words(star: ParticleStar, sources: Iterable[Path]) -> list[str]:
    """Return `--datadir` with the folder of the images, if they are not where the table says and a run knows it."""
    from opustomo.io.image_paths import find_images

    first = star.subset([0])
    if "rlnImageName" not in star or find_images(first, None)[0] is not None:
        return []
    for source in sources:
        for folder in list(source.resolve().parents)[:_PARENTS]:
            if (folder / "config.pkl").is_file():
                images = image_folder(folder / "config.pkl")
                if find_images(first, images)[0] is not None:
                    return ["--datadir", str(images)]
    return []


def image_folder(config: Path) -> Path:
    """Return the folder that the image paths of a run are relative to."""
    from opustomo.quality.evidence.trained_model import data_of_run

    data = data_of_run(config)
    folder = (data.datadir or data.star.parent).resolve()
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def print_maps(results: ResultDir, tables: Sequence[Path]) -> None:
    """Print the commands that reconstruct a map of the first cluster and combine the tables of the first two.

    Nothing is printed for results that do not state their particle table, such as those of OPUS-TOMO.
    """
    from opustomo.errors import UserError

    try:
        words = reconstruct_words(results, tables[0], tables[0].with_suffix(".mrc"))
    except UserError:
        return
    combined = ["dsdsh", "combine_star", *tables[:2], "chosen.star"]
    print_next((words, ""), *([(combined, "combine clusters")] if len(tables) > 1 else []))


def reconstruct_words(
    results: ResultDir, table: Path, output: Path, poses: Path | None = None, mask: Path | None = None
) -> list[str]:
    """Return the command that reconstructs half maps of a table of a run, with the settings of the run.

    Parameters
    ----------
    results
        The run.
    table
        Particle table, which need not be in the folder of the images.
    output
        Output file of the map.
    poses
        Pose pickle; None uses the poses of the table.
    mask
        Mask for the FSC; None uses that of the training.
    """
    from opustomo.checkpoint.config import read_config
    from opustomo.quality.evidence.trained_model import data_of_run, physics_of_run

    config = results.config()
    data = data_of_run(config)
    elsewhere = data.datadir is None and table.resolve().parent != data.star.resolve().parent
    given = (
        ("--poses", poses),
        ("--mask", mask or data.mask),
        ("--datadir", image_folder(config) if elsewhere else data.datadir),
        ("--angpix", data.apix),
        ("--tilt-limit", data.tilt_limit_deg),
        ("--warp-bfactor-scale", data.warp_bfactor_scale if data.warp else None),
        ("--tilt-range", None if data.use_ctf else data.tilt_range_deg),
        ("--tilt-step", None if data.use_ctf else data.tilt_step_deg),
    )
    words = ["dsd", "reconstruct", str(table), "--halves"]
    for option, value in given:
        if value is not None:
            words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
    flags = {
        "--warp": data.warp,
        "--no-ctf": not data.use_ctf,
        "--force": data.force,
        "--normalizectf": physics_of_run(read_config(config)[2]).ctf_normalized,
    }
    return [*words, *(option for option, wanted in flags.items() if wanted), "-o", str(output)]


def continued_training(results: ResultDir) -> list[str]:
    """Return the command that continues a training, for twice as many epochs if it was complete."""
    from opustomo.checkpoint.config import read_config
    from opustomo.training.schedules import longer_run

    options = (read_config(results.config())[2].get("opustomo") or {}).get("options", {})
    done, planned = results.epochs()[-1] + 1, int(options.get("num_epochs") or 0)
    longer = [] if done < planned else longer_run(done, float(options.get("lr") or 0.0))
    return ["dsd", "train_tomo", "--load", "latest", "-o", str(results.root), *longer]


def doubtful_angles(star: ParticleStar) -> str | None:
    """Return a description of implausible Euler angles in a table, or None if there are none.

    Raises
    ------
    UserError
        If an angle is not finite, or too large for an angle in degrees.
    """
    from opustomo.io.poses import angle_note
    from opustomo.io.star_tables import EULER_COLUMNS

    return angle_note(star.eulers_deg()) if all(column in star for column in EULER_COLUMNS) else None


def write_converted(result: Converted, out: Path, *, trained_on: bool = True, sources: Iterable[Path] = ()) -> None:
    """Write a converted table, print its notes and numbers of particles, and the next command.

    Parameters
    ----------
    result
        The converted table.
    out
        Output file.
    trained_on
        Whether opustomo trains on the table, so that the next command is printed.
    sources
        Tables from which the result was made.
    """
    from opustomo.io.star_conventions import ignored_origins

    if out.suffix.lower() != ".star":
        raise UserError(f"The output file is {out}, but its name must end in .star.")
    angles = doubtful_angles(result.star)
    result.star.write(out)
    for note in (*(f"{note}." for note in result.notes), ignored_origins(result.star), angles and f"{angles}."):
        if note is not None:
            print(f"Note: {note}")
    print(f"Wrote {len(result.star)} of {result.count_in} particles to {out}")
    if trained_on and len(result.star):
        print_after_table(out, sources, result.star)
