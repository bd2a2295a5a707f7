"""Power of the removed density that remains after `dsd subtract`, on simulated sets with known truth.

    python benchmarks/subtraction.py --tools TOOLS SET RUN SUBTRACTED --keep MASK

SET is a folder of ``simulate_subtomograms.py`` (in TOOLS) that was simulated from ``SET/volumes.npy``, RUN a run
trained on it, and SUBTRACTED the output of ``dsd subtract SET/particles.star RUN latest --keep MASK``. The set is
simulated again without noise, once whole and once with the kept part only. The difference R is what ought to be
removed, and E = R - (data - subtracted) is the error. Averages of R and E over the particles of each true class, at
the true poses and corrected for the CTF, are compared where the removed density is above 15 % of its maximum. For
every class:

- amplitude left: ⟨E R⟩ / ⟨R R⟩, the least-squares amplitude of the removed density in what remains;
- power left: ⟨E E⟩ / ⟨R R⟩;
- correlation: of E with R. It does not depend on the size of E, and says little if the power is small;
- kept: correlation inside the kept part with the average of subtomograms from which R itself was subtracted.

Classes that have less than 5 % of the power of the removed density are left out. With ``--true-density``, R is
predicted from the true densities and poses instead of taken from the output of the program, which is the floor.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import torch

from opustomo.data.config import DataConfig
from opustomo.data.particles import ParticleSet, load_particles
from opustomo.io.poses import Poses
from opustomo.io.star_tables import read_particles
from opustomo.physics.backprojection import Backprojection
from opustomo.physics.ctf import TiltBatch, ctf_volume

REGION = 0.15
"""The removed region is where the removed density exceeds this fraction of its maximum."""
LEAST_POWER = 0.05
"""Classes with less than this fraction of the largest removed power are not scored."""


def noise_free(folder: Path, volumes: np.ndarray, name: str, tools: Path) -> np.ndarray:
    """Simulate the set in `folder` again from other volumes (K, D, D, D), without noise: (N, D, D, D)."""
    settings = json.loads((folder / "params.json").read_text())
    out = folder / name
    if not (out / "params.json").exists():
        np.save(folder / f"{name}.npy", volumes.astype(np.float32))
        words = ["-o", out, "-n", settings["n"], "--snr", "inf", "--device", "cpu", "--seed", settings["seed"]]
        for option in ("apix", "rot_err", "shift", "shift_err", "misalign", "ctf_err"):
            words += [f"--{option.replace('_', '-')}", settings[option]]
        words += ["--raw"] * settings["raw"]
        words += ["--weights", *settings["weights"]] if settings["weights"] else []
        script = tools / "simulate_subtomograms.py"
        subprocess.run([sys.executable, script, folder / f"{name}.npy", *map(str, words)], check=True)
    scale = np.abs(volumes[volumes != 0]).std()  # by which the simulator divides
    return np.stack([mrcfile.read(path) for path in sorted((out / "subtomo").glob("*.mrc"))]) * scale


def averages(particles: ParticleSet, stack: np.ndarray, labels: np.ndarray, normalized: bool) -> list[np.ndarray]:
    """Return the CTF-corrected average of subtomograms (N, D, D, D) for each label."""
    tilts = TiltBatch.pad(particles.tables)
    sums = Backprojection(particles.box, int(labels.max()) + 1, "cpu", 1)
    origins = torch.from_numpy((particles.poses.origins * particles.box).astype(np.float32))
    rotations, members = torch.from_numpy(particles.poses.rotations).float(), torch.from_numpy(labels)
    for rows in np.array_split(np.arange(len(stack)), -(-len(stack) // 16)):
        chosen = tilts[torch.from_numpy(particles.table[rows])]
        ctf = ctf_volume(chosen, particles.box, particles.apix, normalized=normalized)
        volumes = torch.from_numpy(stack[rows]).float()
        sums.add(volumes, ctf, rotations[rows], origins[rows], members[rows][None])
    return [sums.volume(label).numpy() for label in range(int(labels.max()) + 1)]


def predicted_from_truth(run: Path, particles: ParticleSet, volumes: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Return the removed signal (N, D, D, D) that `dsd subtract` predicts from the true densities and poses."""
    from opustomo.analysis.volumes.decoding import VolumeDecoder
    from opustomo.checkpoint.config import read_config
    from opustomo.physics.boxes import mask_on_crop
    from opustomo.physics.fourier import crop_center, irfft3, pad_spectrum
    from opustomo.physics.fsc import measured_shells
    from opustomo.physics.sampling import to_template
    from opustomo.quality.evidence.trained_model import divides_per_particle, norm_of_run, physics_of_run
    from opustomo.run import Run
    from opustomo.subtract.predicted_signal import SignalModel
    from opustomo.subtract.subtraction import _Work
    from opustomo.training.schedules import bfactor_at

    opened = Run(run)
    config, epoch = opened.results.config(), opened.epochs[-1]
    decoder = VolumeDecoder(opened.results.epoch_file("weights", epoch), config, "cpu")
    physics = physics_of_run(read_config(config)[2])
    labels = np.load(Path(particles.star.path).parent / "truth.npz")["labels"]
    size = decoder.decode(opened.latents(epoch)[:1]).shape[-1]
    crops = [crop_center(torch.from_numpy(v).float(), decoder.boxes.crop) for v in volumes]
    truth = torch.stack([to_template(crop, size) for crop in crops])
    decoder.decode = lambda rows: truth[torch.from_numpy(rows[:, 0]).long()]  # type: ignore[method-assign]
    decoder.mask = None
    kept = mask_on_crop(keep, decoder.boxes).clamp(max=1.0)
    model = SignalModel(decoder, physics, bfactor_at(physics.bfactor_A2, epoch), kept)
    work = _Work(model, particles, labels[:, None], norm_of_run(config), divides_per_particle(config), 16)
    imaging, sums = work.best_imaging()
    shells = measured_shells(decoder.boxes.render)
    found = np.empty((len(particles), *keep.shape), dtype=np.float32)
    for batch in work._batches(np.arange(len(particles))):
        posed = model.posed(batch.latents, batch.rotations, part=True)
        spectra = model.image(posed, batch.optics, imaging) * sums.factors()[shells]
        volume = irfft3(pad_spectrum(spectra, decoder.boxes.box)).numpy()
        found[batch.indices] = volume * np.array(batch.scales)[:, None, None, None]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("subtracted", type=Path)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--tools", type=Path, required=True)
    parser.add_argument("--true-density", action="store_true")
    args = parser.parse_args()
    truth = np.load(args.set / "truth.npz")
    labels, keep = truth["labels"], np.array(mrcfile.read(args.keep), dtype=np.float32)
    volumes = np.load(args.set / "volumes.npy").astype(np.float32)
    scale = np.abs(volumes[volumes != 0]).std()
    whole = noise_free(args.set, volumes, "noise_free", args.tools) / scale
    removed = whole - noise_free(args.set, volumes * keep, "noise_free_kept", args.tools) / scale
    particles = load_particles(DataConfig(star=args.set / "particles.star"))
    particles = replace(particles, poses=Poses(truth["eulers"], truth["origin"] / particles.box))
    data = np.stack([mrcfile.read(image.path) for image in particles.images])
    if args.true_density:
        difference = predicted_from_truth(args.run, particles, volumes, keep)
    else:
        names = read_particles(args.subtracted / "particles.star").strings("rlnImageName")
        difference = data - np.stack([mrcfile.read(args.subtracted / name) for name in names])
    normalized = not json.loads((args.set / "params.json").read_text())["raw"]
    mean = [averages(particles, stack, labels, normalized) for stack in (removed, removed - difference)]
    perfect, result = (averages(particles, data - stack, labels, normalized) for stack in (removed, difference))
    densities = (volumes * (1.0 - keep)).clip(min=0)
    region = (densities > REGION * densities.max()).any(0)
    inside = (keep > 0.5) & (volumes.max(0) > 0.1 * volumes.max())
    powers = [float(np.square(r[region]).sum()) for r in mean[0]]
    print("| class | particles | amplitude left | power left | correlation | kept |\n|---|---|---|---|---|---|")
    for label, power in enumerate(powers):
        r, e = mean[0][label][region], mean[1][label][region]
        kept = np.corrcoef(result[label][inside], perfect[label][inside])[0, 1]
        if power < LEAST_POWER * max(powers):
            continue
        amplitude, left = float(e @ r) / power, float(e @ e) / power
        numbers = f"{amplitude:.3f} | {left:.4f} | {np.corrcoef(e, r)[0, 1]:.2f} | {kept:.4f}"
        print(f"| {label} | {(labels == label).sum()} | {numbers} |")


if __name__ == "__main__":
    main()
