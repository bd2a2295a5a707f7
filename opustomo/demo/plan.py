"""Settings of the demo and the commands that it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Data: compositions of one complex, each of 32³ voxels of 12 Å.
STATES = ("50S", "30S", "70S_APE_mRNA")
APIX = 12
BOX = 32
PARTICLES = 270
SNR = 0.12
ROTATION_ERROR_DEG = 2
SHIFT_ERROR_PX = 0.5

# Training.
EPOCHS = 7
TRAINING = ("--zdim 6 --estpose --normalizectf -b 8 --templateres 32 --encoderres 8 --lr 2e-4 --checkpoint 7").split()

# Settings of `--quick`, which tests the installation but not the quality of the results.
QUICK_PARTICLES = 48
QUICK_EPOCHS = 2


@dataclass(frozen=True)
class Step:
    """Command line: the program (`dsd` or `dsdsh`) and its arguments."""

    program: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        import shlex

        return shlex.join((self.program, *self.words))


@dataclass(frozen=True)
class DemoPlan:
    """Settings of a demo.

    Attributes
    ----------
    root
        Output folder.
    particles, epochs, seed
        Number of particles, number of epochs and random seed.
    device
        Device of training and simulation; None selects the default of the commands.
    """

    root: Path
    particles: int = PARTICLES
    epochs: int = EPOCHS
    seed: int = 0
    device: str | None = None

    @property
    def data(self) -> Path:
        """Folder of the simulated data set."""
        return self.root / "data"

    @property
    def run(self) -> Path:
        """Folder of the training results."""
        return self.root / "run"

    @property
    def epoch(self) -> int:
        """Last epoch, counted from 0, which is analyzed."""
        return self.epochs - 1

    @property
    def analysis(self) -> Path:
        """Folder of the analysis."""
        return self.run / f"analyze.{self.epoch}"

    @property
    def kmeans(self) -> Path:
        """Folder of the k-means clusters with their volumes and STAR files."""
        return self.analysis / f"kmeans{len(STATES)}"

    def steps(self) -> list[Step]:
        """Return the commands in order."""
        star = str(self.data / "particles.star")
        run, last, clusters = str(self.run), str(self.epoch), str(len(STATES))
        device = () if self.device is None else ("--device", self.device)
        seed = ("--seed", str(self.seed))
        simulate = (
            *("simulate", "--builtin", *STATES, "-o", str(self.data), "-n", str(self.particles)),
            *("--snr", str(SNR), "--rot-err", str(ROTATION_ERROR_DEG), "--shift-err", str(SHIFT_ERROR_PX)),
            *("--tilt-range", "60", "--tilt-step", "3", "--float16", *seed, *device),
        )
        train = (
            *("train_tomo", star, "--poses", str(self.data / "particles_pose_euler.pkl")),
            *("-r", str(self.data / "mask.mrc"), "-o", run, "--angpix", str(APIX), "-n", str(self.epochs)),
            *(*TRAINING, *seed, *device),
        )
        return [
            Step("dsd", simulate),
            Step("dsdsh", ("prepare", star, str(BOX), str(APIX))),
            Step("dsd", train),
            Step("dsdsh", ("analyze", run, last, "2", clusters)),
            Step("dsdsh", ("eval_vol", run, last, "kmeans", clusters, str(APIX))),
            Step("dsdsh", ("eval_vol", run, last, "pc", "1", str(APIX))),
            Step("dsdsh", ("parse_pose", star, str(BOX), str(APIX), run, last, clusters)),
        ]
