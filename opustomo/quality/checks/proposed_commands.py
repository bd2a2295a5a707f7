"""Commands that ``dsd check`` proposes: creation of missing inputs, and training with settings from stated rules."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from opustomo.errors import UserError
from opustomo.io.image_paths import folders_above
from opustomo.io.star import read_blocks
from opustomo.io.star_conventions import counts_in_image_pixels
from opustomo.io.star_tables import ParticleStar
from opustomo.io.tilt_series.text_folder import TOMOGRAM_SUFFIXES
from opustomo.model.config import ModelConfig
from opustomo.physics.boxes import Boxes
from opustomo.quality.checks.gpu_memory import PARAMETERS, estimate_memory

_MAX_FILES = 200
"""Number of files per folder that are searched for tilt-series metadata."""


def refuse_other_inputs(path: Path) -> None:
    """Raise an error for files from which particle tables are made.

    Raises
    ------
    UserError
        If the file is one of them; the message names the command that makes the table.
    """
    suffix = path.suffix.lower()
    if suffix == ".coords":
        raise UserError(
            f"{path} contains only coordinates. Make a particle table with dsd prepare_ctf {_quoted(path)} -o ctf."
        )
    if suffix == ".xml":
        if path.is_file() and b"<TiltSeries" in path.read_bytes()[:2000]:
            raise UserError(
                f"{path} describes a WARP tilt series. Give the particle table of dsd extract_subtomos particles.star "
                f"--warp {_quoted(path.parent)} --box D --apix Å -o subtomos."
            )
        raise UserError(f"{path} is not a STAR file. Convert particle lists of PyTom with dsdsh convert_pytom_to_star.")
    if suffix in (".aln", ".mdoc", ".tomostar", ".tlt"):
        raise UserError(
            f"{path} describes a tilt series, not particles. Give the particle table of dsd extract_subtomos "
            f"particles.star --tilts {_quoted(path.parent)} --box D --apix Å -o subtomos."
        )
    if suffix == ".tbl":
        raise UserError(f"{path} is a Dynamo table. Convert it with dsdsh convert_dynamo.")
    if suffix == ".star" and path.is_file() and _lists_tomograms(path):
        raise UserError(
            f"{path} lists tomograms, not particles. Give the particle table of dsd extract_subtomos "
            f"particles.star --tomograms {_quoted(path)} --box D --apix Å -o subtomos."
        )


def _lists_tomograms(path: Path) -> bool:
    try:
        blocks = read_blocks(path)
    except UserError:
        return False  # reported when the table is read
    return any("rlnTomoName" in block and "rlnTomoTiltSeriesStarFile" in block for block in blocks.values())


@dataclass(frozen=True)
class Remedies:
    """Commands that create missing inputs of one particle table.

    Attributes
    ----------
    star
        The table.
    box, apix
        Box (voxels) and pixel size (Å) of its subtomograms; None if they are unknown.
    """

    star: ParticleStar
    box: int | None = None
    apix: float | None = None

    @property
    def extract(self) -> str:
        """Command that reconstructs subtomograms and CTF tables from the tilt series."""
        sizes = f"--box {self._box} --apix {self._apix}"
        return f"dsd extract_subtomos {self._path} {self._series} {sizes} -o subtomos"

    @property
    def images(self) -> str:
        """Advice for subtomograms that are not found."""
        return f"give the folder that rlnImageName is relative to with --datadir, or reconstruct them: {self.extract}"

    @property
    def series(self) -> str:
        """Command that reconstructs subtomograms from 2D particle series of M."""
        return f"dsd prepare_subtomos {self._path} -o subtomos"

    @property
    def ctf(self) -> str:
        """Command that writes CTF tables of existing subtomograms."""
        return f"dsd prepare_ctf {self._path} {self._series} -o ctf, then ctf/all.star"

    @property
    def mask(self) -> str:
        """Commands that create a mask in the box of the subtomograms from their average."""
        sizes = f"--box {self._box} --apix {self._apix}"
        return (
            f"dsd reconstruct {self._path} -o average.mrc, then dsdsh create_mask average.mrc -o mask.mrc {sizes} "
            "--dilate 2 --soft-edge 4 (or the same with the template of the search), then -r mask.mrc"
        )

    @property
    def poses(self) -> str:
        """Command that writes a pose pickle."""
        apix = f"{self.apix:.4g}" if self.apix else "APIX"
        return f"dsdsh prepare {self._path} {self.box or 'BOX'} {apix}, then --poses"

    @property
    def _path(self) -> str:
        return "particles.star" if self.star.path is None else _quoted(self.star.path)

    @property
    def _box(self) -> str:
        return str(self.box or "D")

    @property
    def _apix(self) -> str:
        return f"{self.apix:.4g}" if self.apix else "Å"

    def _tomograms(self) -> set[str]:
        """Return the names of the tomograms without folders, complete and up to the first dot or WARP's pixel size."""
        column = next((name for name in ("rlnTomoName", "rlnMicrographName") if name in self.star), None)
        names = {PureWindowsPath(name).name for name in self.star.strings(column)} if column else set()
        return names | {re.split(r"\.|_\d+\.\d+Apx", name)[0] for name in names}

    @property
    def _series(self) -> str:
        """Option that names the tilt series found in or above the folder of the table; otherwise a placeholder."""
        names = self._tomograms()
        for folder in _folders(self.star.path):
            files = sorted(folder.iterdir())[:_MAX_FILES] if folder.is_dir() else []
            for path in files:
                if path.suffix == ".star" and "tomogram" in path.name and _lists_tomograms(path):
                    return f"--tomograms {_quoted(path)}"
            if any(path.suffix == ".xml" and path.stem in names and _is_warp(path) for path in files):
                return f"--warp {_quoted(folder)}"
            if any(path.suffix in (".tlt", ".aln") and path.stem in names for path in files):
                return f"--tilts {_quoted(folder)}{'' if self._knows_sizes(files, names) else ' --tomo-size NX NY NZ'}"
        if "rlnCenteredCoordinateXAngst" in self.star:
            return "--tomograms tomograms.star"
        if counts_in_image_pixels(self.star):
            return "--warp DIR"
        return "--tomograms tomograms.star (or --warp DIR, --tilts DIR)"

    def _knows_sizes(self, files: list[Path], names: set[str]) -> bool:
        """Return whether coordinates count from the center, or the tomograms are beside the tilt angles."""
        found = {path.name for path in files}
        volumes = any(f"{name}{suffix}" in found for name in names for suffix in TOMOGRAM_SUFFIXES)
        return volumes or "rlnCenteredCoordinateXAngst" in self.star


def _folders(path: Path | None) -> Iterator[Path]:
    """Yield the folder of a file, some folders above, and subfolders of both that usually hold tilt series."""
    home = Path() if path is None else path.parent
    for folder in (home, *folders_above(home)):
        yield folder
        yield from (folder / name for name in ("warp_tiltseries", "tiltseries", "tomograms", "tilts"))


def _is_warp(path: Path) -> bool:
    try:
        with path.open("rb") as handle:
            return b"<TiltSeries" in handle.read(2000)
    except OSError:
        return False


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


EXPECTED_A = ((1_000, 20.0), (10_000, 12.0), (math.inf, 8.0))
"""Resolution in Å that sets of fewer particles than the first number rarely exceed."""
LARGEST_CPU_BOX = 64
LARGEST_TEMPLATE, LEAST_TEMPLATE_GPU = 160, 64
BATCH = 8
VISITS_GPU, VISITS_CPU = 24_000, 6_000
EPOCHS_GPU, EPOCHS_CPU = (20, 100), (8, 40)
TRAINED = 0.8
"""Fraction of the particles that train; the others are held out (``--valfrac``)."""
BASE_LR, BASE_UPDATES, LARGEST_LR = 4.5e-5, 3_000, 4e-4
KEPT = 3
BODY_UPDATES = 2_000
"""Updates until the composition of a run with bodies reaches full strength (`training.schedules.MOTION_FIRST`)."""
BODY_BATCH_CPU = 4
"""Batch size of runs with bodies on a CPU, where the number of updates and not that of visits is short."""
WRITTEN_VISITS_GPU, WRITTEN_VISITS_CPU = 3_000, 750
"""Number of visits between two written epochs. On a GPU they take as long as inference and writing of an epoch (5 s on
an H200), on a CPU five times as long (9 s for 150 particles on two cores, at 16 visits per second)."""
INFERENCE_FRACTION = 0.3
"""Time to infer the latents of a particle at the end of an epoch, relative to a training step (measured on a CPU)."""
WRITING_SECONDS = 5.0
"""Time to write weights, state and figures of an epoch (about 1 GB; measured on a local disk)."""
LATENT_BYTES = 250
"""Bytes per particle and epoch of latents and poses."""


@dataclass(frozen=True)
class Extent:
    """Sizes of a set.

    Attributes
    ----------
    particles, box, apix
        Number of particles, box size in voxels, and pixel size in Å.
    window
        Fraction of the box that the mask occupies.
    bodies
        Whether the particle has bodies that move (``--masks``).
    """

    particles: int
    box: int
    apix: float
    window: float
    bodies: bool = False

    def boxes(self, downfrac: float) -> Boxes:
        """Return the boxes of a run."""
        return Boxes.from_window(self.box, self.apix, downfrac, self.window)


@dataclass(frozen=True)
class Settings:
    """Settings of ``dsd train_tomo`` and the reason for each.

    Attributes
    ----------
    downfrac, templateres, encoderres, zdim, batch_size, num_epochs, lr, normalizectf
        Values of the options with these names.
    keep
        Number of newest epochs whose weights are kept (``--keep``).
    checkpoint
        Number of epochs between those that are written (``--checkpoint``).
    reasons
        One sentence per option.
    warning
        What is wrong with a value that the user gave; empty if nothing is.
    """

    downfrac: float
    templateres: int
    encoderres: int
    zdim: int
    batch_size: int
    num_epochs: int
    lr: float
    normalizectf: bool
    keep: int
    checkpoint: int
    reasons: Mapping[str, str]
    warning: str = ""

    def options(self) -> list[str]:
        """Return the words of the command line."""
        words = ["--normalizectf"] if self.normalizectf else []
        words += ["--estpose"]
        if self.downfrac < 1.0:
            words += ["--downfrac", f"{self.downfrac:g}"]
        words += ["--templateres", str(self.templateres), "--encoderres", str(self.encoderres)]
        words += ["--zdim", str(self.zdim), "-b", str(self.batch_size), "--lr", f"{self.lr:.1e}"]
        if self.checkpoint > 1:
            words += ["--checkpoint", str(self.checkpoint)]
        return [*words, "-n", str(self.num_epochs), "--keep", str(self.keep)]

    def run_seconds(self, particles: int, seconds_per_visit: float) -> float:
        """Return the time of the run: all visits, and the inference of latents and writing after each written epoch."""
        visits = seconds_per_visit * particles
        written = math.ceil(self.num_epochs / self.checkpoint)
        return visits * self.num_epochs + written * (INFERENCE_FRACTION * visits + WRITING_SECONDS)

    def disk_bytes(self, particles: int) -> float:
        """Return the size of the output folder at the end of the run.

        ``state.pkl`` holds the weights and both moments of the optimizer; each kept epoch holds the weights once. The
        epoch of lowest held-out loss is usually one of them.
        """
        kept = min(self.keep, self.num_epochs)
        return 4.0 * PARAMETERS * (3 + kept) + LATENT_BYTES * particles * self.num_epochs


def propose_settings(extent: Extent, gpu_bytes: int | None, normalizectf: bool, given: Mapping[str, float]) -> Settings:
    """Apply the rules.

    Parameters
    ----------
    extent
        Numbers that describe the set.
    gpu_bytes
        Free memory of the GPU; None without one.
    normalizectf
        Whether the subtomograms are weighted.
    given
        Values of ``downfrac``, ``templateres``, ``zdim``, ``batch_size`` and ``num_epochs`` that the user gave, which
        are kept.
    """
    particles, box, apix = extent.particles, extent.box, extent.apix
    gpu = gpu_bytes is not None
    reasons: dict[str, str] = {}

    def choose(name: str, value: float, reason: str) -> float:
        kept = given.get(name)
        reasons[name] = reason if kept is None else "It is given on the command line."
        return value if kept is None else kept

    expected = next(limit for number, limit in EXPECTED_A if particles < number)
    nyquist = max(2.0 * apix, 0.8 * expected)
    fraction = min(1.0, 2.0 * apix / nyquist)
    reason = f"{particles:,} particles rarely exceed {expected:g} Å; the boxes resolve {2 * apix / fraction:.3g} Å."
    if not gpu and box * fraction > LARGEST_CPU_BOX:
        fraction = LARGEST_CPU_BOX / box
        reason = f"Without a GPU, the render box has at most {LARGEST_CPU_BOX} voxels."
    fraction = max(fraction, min(1.0, 32 / box))
    downfrac = choose("downfrac", 1.0 if fraction > 0.95 else math.ceil(100 * fraction) / 100, reason)
    crop = extent.boxes(downfrac).crop
    if gpu:
        template = min(LARGEST_TEMPLATE, max(LEAST_TEMPLATE_GPU, _multiple_of_16(2 * crop)))
        reason = f"It is twice the crop of {crop} voxels, as a multiple of 16 from 64 to {LARGEST_TEMPLATE}."
    else:
        template = max(32, _multiple_of_16(crop))
        reason = f"Without a GPU, it is the crop of {crop} voxels, rounded up to a multiple of 16."
    if gpu:
        while template > LEAST_TEMPLATE_GPU and _largest_batch(extent.boxes(downfrac), template, gpu_bytes) < BATCH:
            template -= 16
            reason = f"It is the largest template at which {BATCH} particles fit the GPU memory."
    templateres = _multiple_of_16(int(choose("templateres", template, reason)))
    encoderres = 12 if gpu else 8
    reasons["encoderres"] = "It is the default." if gpu else "The smaller grid of the encoder saves time on a CPU."
    number = 6 if particles < 300 else 8 if particles < 1000 else 12
    zdim = int(choose("zdim", number, f"{particles:,} particles determine few coordinates." if number < 12 else
                      "It is the value of published runs."))  # fmt: skip
    batch = BODY_BATCH_CPU if extent.bodies and not gpu else BATCH
    if gpu:
        batch = max(1, min(BATCH, _largest_batch(extent.boxes(downfrac), templateres, gpu_bytes)))
    trained = max(1, math.floor(TRAINED * particles))
    batch = min(batch, trained)
    fits = "It is the largest batch that fits." if gpu and batch < BATCH else "Larger batches mean fewer updates."
    batch_size = int(choose("batch_size", batch, fits))
    visits, (fewest, most) = (VISITS_GPU, EPOCHS_GPU) if gpu else (VISITS_CPU, EPOCHS_CPU)
    number = min(most, max(fewest, math.ceil(visits / trained)))
    reason = f"The aim is {visits:,} visits of particles, within {fewest} to {most} epochs."
    per_epoch = math.ceil(trained / batch_size)
    if extent.bodies and number * per_epoch < BODY_UPDATES:
        number = math.ceil(BODY_UPDATES / per_epoch)
        reason = f"With bodies, the composition reaches full strength only after {BODY_UPDATES:,} updates."
    epochs = int(choose("num_epochs", number, reason))
    updates = epochs * per_epoch
    warning = ""
    if epochs < number:
        warning = (
            f"-n {epochs} is too short for this set. It makes {updates:,} updates of the weights; the rule asks for "
            f"-n {number}, which makes {number * per_epoch:,}. A short run shows that the input is right, but states "
            "may not be separated, and no evidence for classes is no evidence against them."
        )
    lr = min(LARGEST_LR, max(BASE_LR, BASE_LR * BASE_UPDATES / updates))
    lr = float(f"{lr:.1e}")
    reasons["lr"] = f"{BASE_LR:g} for {BASE_UPDATES:,} updates or more, larger for the {updates:,} updates of this run."
    reasons["keep"] = f"Weights of the newest {KEPT} epochs suffice to decode volumes and save disk space."
    checkpoint = max(1, min((WRITTEN_VISITS_GPU if gpu else WRITTEN_VISITS_CPU) // trained, epochs // 5))
    if checkpoint > 1:
        reasons["checkpoint"] = f"Epochs of {trained:,} particles are short compared with the writing of their files."
    return Settings(
        downfrac=downfrac,
        templateres=templateres,
        encoderres=encoderres,
        zdim=zdim,
        batch_size=batch_size,
        num_epochs=epochs,
        lr=lr,
        normalizectf=normalizectf,
        keep=min(KEPT, epochs),
        checkpoint=checkpoint,
        reasons=reasons,
        warning=warning,
    )


def _multiple_of_16(size: int) -> int:
    return -(-size // 16) * 16


def _largest_batch(boxes: Boxes, template: int, gpu_bytes: int | None) -> int:
    return estimate_memory(boxes, ModelConfig(zdim=12, templateres=template), BATCH, gpu_bytes).largest_batch or 0


def command_line(star: str, data_options: list[str], settings: Settings, outdir: str) -> str:
    """Return the complete training command, quoted for a shell."""
    return shlex.join(["dsd", "train_tomo", star, *data_options, *settings.options(), "-o", outdir])
