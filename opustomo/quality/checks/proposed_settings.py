"""Settings of training proposed by stated rules from the data and the machine, and the command that uses them."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from opustomo.model.config import ModelConfig
from opustomo.physics.boxes import Boxes
from opustomo.quality.checks.gpu_memory import PARAMETERS, estimate_memory

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
WRITTEN_VISITS = 3_000
"""Number of visits on a GPU in about the time (5 s) that writing weights, latents and the figure of an epoch takes."""
LATENT_BYTES = 250
"""Bytes per particle and epoch of latents and poses."""


@dataclass(frozen=True)
class Extent:
    """Number of particles, box size in voxels, pixel size in Å, and fraction of the box that the mask occupies."""

    particles: int
    box: int
    apix: float
    window: float

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

    def disk_bytes(self, particles: int) -> float:
        """Return the size of the output folder at the end of the run.

        ``state.pkl`` holds the weights and both moments of the optimizer; each kept epoch holds the weights once.
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
    batch = BATCH
    if gpu:
        batch = max(1, min(BATCH, _largest_batch(extent.boxes(downfrac), templateres, gpu_bytes)))
    trained = max(1, math.floor(TRAINED * particles))
    batch = min(batch, trained)
    fits = "Larger batches mean fewer updates." if batch == BATCH else "It is the largest batch that fits."
    batch_size = int(choose("batch_size", batch, fits))
    visits, (fewest, most) = (VISITS_GPU, EPOCHS_GPU) if gpu else (VISITS_CPU, EPOCHS_CPU)
    number = min(most, max(fewest, math.ceil(visits / trained)))
    reason = f"The aim is {visits:,} visits of particles, within {fewest} to {most} epochs."
    epochs = int(choose("num_epochs", number, reason))
    updates = epochs * math.ceil(trained / batch_size)
    lr = min(LARGEST_LR, max(BASE_LR, BASE_LR * BASE_UPDATES / updates))
    lr = float(f"{lr:.1e}")
    reasons["lr"] = f"{BASE_LR:g} for {BASE_UPDATES:,} updates or more, larger for the {updates:,} updates of this run."
    reasons["keep"] = f"Weights of the newest {KEPT} epochs suffice to decode volumes and save disk space."
    checkpoint = max(1, min(WRITTEN_VISITS // trained, epochs // 5)) if gpu else 1
    if checkpoint > 1:
        reasons["checkpoint"] = f"Writing the files of an epoch takes longer than training on {trained:,} particles."
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
    )


def _multiple_of_16(size: int) -> int:
    return -(-size // 16) * 16


def _largest_batch(boxes: Boxes, template: int, gpu_bytes: int | None) -> int:
    return estimate_memory(boxes, ModelConfig(zdim=12, templateres=template), BATCH, gpu_bytes).largest_batch or 0


def command_line(star: str, data_options: list[str], settings: Settings, outdir: str) -> str:
    """Return the complete training command, quoted for a shell."""
    return shlex.join(["dsd", "train_tomo", star, *data_options, *settings.options(), "-o", outdir])
