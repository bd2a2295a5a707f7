#!/usr/bin/env python3
"""Pick particles in a tomogram with a rotational matched filter, for benchmarks without pytom-match-pick.

usage: python benchmarks/template_matching.py TOMOGRAM.mrc --template MAP.mrc --tilts NAME.tlt --defocus NAME.defocus
           --order NAME.order -o PICKS.star [--rotations 7000] [--picks 150] [--angpix Å] [--device cuda]

The score is the locally normalized cross-correlation of pytom-match-pick. The template is rotated, multiplied by the
missing wedge and the CTF of the tilt series in Fourier space and by a spherical mask, and correlated with the whitened
tomogram. The table has the columns of `pytom_extract_candidates.py`.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from opustomo.geometry.rotations import matrix_to_euler, quaternion_to_matrix
from opustomo.io.mrc import read_volume
from opustomo.physics.ctf import TiltBatch, ctf_volume
from opustomo.physics.fourier import crop_center, crop_spectrum, irfft3, pad_center, rfft3


@dataclass(frozen=True)
class Search:
    """Parameters of a search.

    Attributes
    ----------
    apix
        Pixel size of the search in Å; the tomogram is cropped in Fourier space.
    rotations
        Number of rotations, evenly distributed over all orientations.
    radius_A
        Radius of the spherical mask of the template.
    distance_A
        Least distance between two picks.
    picks
        Number of picks per tomogram.
    batch
        Number of rotations that are computed at once.
    """

    apix: float
    rotations: int
    radius_A: float
    distance_A: float
    picks: int
    batch: int = 8


def even_rotations(count: int) -> Tensor:
    """Return `count` rotations (N, 3, 3) on the super-Fibonacci spirals of Alexa (CVPR 2022)."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    fraction = index / count
    inner, outer = fraction.sqrt(), (1 - fraction).sqrt()
    alpha = 2 * math.pi * index / math.sqrt(2)
    beta = 2 * math.pi * index / 1.533751168755204288118041
    parts = (inner * alpha.sin(), inner * alpha.cos(), outer * beta.sin(), outer * beta.cos())
    return quaternion_to_matrix(torch.stack(parts, -1)).float()


def soft_ball(size: int, radius: float, edge: float = 2.0) -> Tensor:
    """Return a ball (N, N, N) around voxel N/2 with a raised-cosine edge; radius and edge are in voxels."""
    axis = torch.arange(size) - size // 2
    distance = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2).float().sqrt()
    return 0.5 + 0.5 * torch.cos(math.pi * ((distance - radius) / edge).clamp(0, 1))


def resample(volume: Tensor, apix: float, wanted: float) -> tuple[Tensor, float]:
    """Resample a cube in Fourier space; return it and its pixel size, the nearest to `wanted` with an even box."""
    box = volume.shape[-1]
    size = min(box, 2 * round(box * apix / wanted / 2))
    return irfft3(crop_spectrum(rfft3(volume), size)), box * apix / size


def crop_tomogram(tomogram: Tensor, factor: float) -> Tensor:
    """Reduce a tomogram (Z, Y, X) by Fourier cropping; `factor` is the ratio of the pixel sizes, old to new."""
    shape = [2 * round(n * factor / 2) for n in tomogram.shape]
    if shape == list(tomogram.shape):
        return tomogram
    spectrum = torch.fft.fftshift(torch.fft.fftn(tomogram))
    at = [(old - new) // 2 for old, new in zip(tomogram.shape, shape, strict=True)]
    part = spectrum[at[0] : at[0] + shape[0], at[1] : at[1] + shape[1], at[2] : at[2] + shape[2]]
    return torch.fft.ifftn(torch.fft.ifftshift(part)).real * (math.prod(shape) / tomogram.numel())


def whiten(tomogram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Divide a tomogram by its radial amplitude; return it, the filter (shells), and the frequency of each shell."""
    spectrum = torch.fft.rfftn(tomogram)
    axes = [torch.fft.fftfreq(n, device=tomogram.device) for n in tomogram.shape[:2]]
    axes.append(torch.fft.rfftfreq(tomogram.shape[2], device=tomogram.device))
    radius = (axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2).sqrt()
    shells = 64
    shell = (radius * 2 * shells).round().long().clamp(max=shells).flatten()
    power = torch.zeros(shells + 1, device=tomogram.device).index_add_(0, shell, spectrum.abs().square().flatten())
    counts = torch.bincount(shell, minlength=shells + 1)
    filter_ = torch.where(counts > 0, (power / counts.clamp(min=1)).clamp(min=1e-30).rsqrt(), 0.0)
    filter_[radius.new_tensor(range(shells + 1)) >= shells] = 0.0  # beyond Nyquist
    white = torch.fft.irfftn(spectrum * filter_[shell].view(spectrum.shape), s=tomogram.shape)
    return white / white.std(), filter_ / filter_.max(), torch.arange(shells + 1, device=tomogram.device) / 2 / shells


def imaging_filter(tilts: TiltBatch, size: int, apix: float, white: tuple[Tensor, Tensor]) -> Tensor:
    """Return missing wedge times CTF times whitening filter on the half spectrum of the template."""
    ctf = ctf_volume(tilts, size, apix, normalized=True)[0]
    axes = torch.fft.fftfreq(size, device=ctf.device), torch.fft.rfftfreq(size, device=ctf.device)
    radius = (axes[0][:, None, None] ** 2 + axes[0][None, :, None] ** 2 + axes[1][None, None, :] ** 2).sqrt()
    values, step = white[0], float(white[1][1])
    place = (radius / step).clamp(max=len(values) - 1)
    low = place.floor().long().clamp(max=len(values) - 2)
    weight = place - low
    return ctf * (values[low] * (1 - weight) + values[low + 1] * weight)


def rotated(template: Tensor, matrices: Tensor) -> Tensor:
    """Return templates (B, D, D, D) rotated about voxel D/2, V(A x) = T(x)."""
    size = template.shape[-1]
    axis = (torch.arange(size, device=template.device) - size // 2).float()
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    points = torch.stack([x, y, z], -1).view(1, -1, 3) @ matrices  # rows are x^T A, that is A^T x
    grid = ((points + size // 2) / (size - 1) * 2 - 1).view(len(matrices), size, size, size, 3)
    source = template.expand(len(matrices), 1, size, size, size)
    return torch.nn.functional.grid_sample(source, grid, align_corners=True, padding_mode="zeros")[:, 0]


def correlate(tomogram: Tensor, template: Tensor, filter_: Tensor, search: Search) -> tuple[Tensor, Tensor]:
    """Return the highest score of each voxel (Z, Y, X), and the index of the rotation that has it.

    The template and `filter_` have the pixel size of the tomogram.
    """
    size, shape = template.shape[-1], tuple(tomogram.shape)
    mask = soft_ball(size, search.radius_A / search.apix).to(tomogram.device)
    total = mask.sum()
    spectrum = torch.fft.rfftn(tomogram)

    def correlation(kernels: Tensor, field: Tensor) -> Tensor:
        """Correlate fields with kernels whose corner is voxel 0."""
        return torch.fft.irfftn(torch.fft.rfftn(kernels, s=shape, dim=(-3, -2, -1)).conj() * field, s=shape)

    mean = correlation(mask, spectrum) / total
    square = correlation(mask, torch.fft.rfftn(tomogram**2)) / total
    norm = ((square - mean**2).clamp(min=1e-6) * total).rsqrt()
    best = torch.full(shape, -torch.inf, device=tomogram.device)
    which = torch.zeros(shape, dtype=torch.int32, device=tomogram.device)
    turns = even_rotations(search.rotations).to(tomogram.device)
    for start in range(0, len(turns), search.batch):
        kernels = rotated(template, turns[start : start + search.batch])
        kernels = irfft3(rfft3(kernels) * filter_)
        kernels = (kernels - ((kernels * mask).sum((1, 2, 3)) / total)[:, None, None, None]) * mask
        kernels = kernels / kernels.square().sum((1, 2, 3)).sqrt()[:, None, None, None]
        scores, number = correlation(kernels, spectrum).max(0)
        scores = scores * norm
        better = scores > best
        best = torch.where(better, scores, best)
        which = torch.where(better, (number + start).int(), which)
    center = (size // 2,) * 3
    return best.roll(center, (0, 1, 2)), which.roll(center, (0, 1, 2))


def peaks(scores: Tensor, search: Search, margin: int = 2) -> list[tuple[int, int, int]]:
    """Return voxels (z, y, x) of the highest scores, at least `distance_A` apart and `margin` voxels from the faces."""
    left = scores.clone()
    inner = torch.zeros_like(left, dtype=torch.bool)
    inner[margin:-margin, margin:-margin, margin:-margin] = True
    left[~inner] = -torch.inf
    reach = search.distance_A / search.apix
    found = []
    for _ in range(search.picks):
        flat = int(left.argmax())
        place = np.unravel_index(flat, left.shape)
        if not torch.isfinite(left[place]):
            break
        found.append(tuple(int(i) for i in place))
        low = [max(0, i - math.ceil(reach)) for i in found[-1]]
        part = left[tuple(slice(a, i + math.ceil(reach) + 1) for a, i in zip(low, found[-1], strict=True))]
        axes = [
            (torch.arange(a, a + n, device=left.device) - i).float()
            for a, n, i in zip(low, part.shape, found[-1], strict=True)
        ]
        near = axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2 < reach**2
        part[near] = -torch.inf
    return found


def read_tilts(tlt: Path, defocus: Path, order: Path, tilt_sign: int = -1) -> TiltBatch:
    """Read the optics of a tilt series from files of IMOD (300 kV, 2.7 mm, amplitude contrast 0.07)."""
    from opustomo.io.tilt_series.defocus_files import read_defoci
    from opustomo.io.tilt_series.imod import Microscope, imod_optics, read_dose, read_tlt

    angles = read_tlt(tlt)
    optics = imod_optics(angles, read_defoci(defocus, angles), read_dose(order, angles, 3.0), Microscope())
    count = torch.ones(1, len(angles))

    def row(values: np.ndarray | float) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32) * count

    names = ("defocus_u_A", "defocus_v_A", "astigmatism_deg", "voltage_kv", "cs_mm", "amplitude_contrast")
    others = ("phase_shift_deg", "bfactor_A2", "scale")
    return TiltBatch(row(tilt_sign * angles), **{name: row(getattr(optics, name)) for name in (*names, *others)})


def pick(
    tomogram: Tensor, apix: float, template: Tensor, template_apix: float, tilts: TiltBatch, search: Search
) -> dict[str, np.ndarray]:
    """Search a tomogram of bright particles; return coordinates in pixels of the tomogram, Euler angles and scores."""
    small = crop_tomogram(tomogram, apix / search.apix)
    reference, own_apix = resample(template, template_apix, search.apix)
    if abs(own_apix / search.apix - 1) > 0.02:
        raise ValueError(f"a template of {template.shape[-1]} voxels cannot be resampled to {search.apix:g} Å")
    box = 2 * math.ceil(search.radius_A / search.apix + 3)
    reference = crop_center(reference, box) if box <= len(reference) else pad_center(reference, box)
    white, *shells = whiten(small - small.mean())
    filter_ = imaging_filter(tilts.to(small.device), len(reference), search.apix, (shells[0], shells[1]))
    best, which = correlate(white, reference.to(small.device), filter_, search)
    found = peaks(best, search)
    index = torch.tensor(found)
    turns = even_rotations(search.rotations)[which[tuple(index.T.to(which.device))].cpu().long()]
    return {
        "coordinates": index.flip(-1).numpy() * np.array(tomogram.shape[::-1]) / np.array(small.shape[::-1]),
        "eulers": matrix_to_euler(turns.double()).numpy(),
        "scores": best[tuple(index.T.to(best.device))].cpu().numpy(),
        "spread": np.full(len(found), float(best.std())),
    }


def write_picks(path: Path, name: str, apix: float, found: dict[str, np.ndarray]) -> None:
    """Write picks with the columns of `pytom_extract_candidates.py`."""
    import pandas as pd
    import starfile

    columns: dict[str, object] = {f"rlnCoordinate{a}": found["coordinates"][:, i] for i, a in enumerate("XYZ")}
    columns |= {f"rlnAngle{a}": found["eulers"][:, i] for i, a in enumerate(("Rot", "Tilt", "Psi"))}
    columns |= {"rlnLCCmax": found["scores"], "rlnCutOff": found["scores"].min(), "rlnSearchStd": found["spread"]}
    columns |= {"rlnDetectorPixelSize": apix, "rlnMicrographName": name}
    starfile.write(pd.DataFrame(columns), path, overwrite=True)


def main() -> None:
    """Pick in one tomogram and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("tomogram", type=Path)
    add("--template", type=Path, required=True)
    add("--tilts", type=Path, required=True)
    add("--defocus", type=Path, required=True)
    add("--order", type=Path, required=True)
    add("-o", "--output", type=Path, required=True)
    add("--angpix", type=float, help="pixel size of the search (default: that of the tomogram)")
    add("--rotations", type=int, default=7000)
    add("--radius", type=float, default=160.0, help="radius of the mask of the template in Å")
    add("--distance", type=float, default=130.0, help="least distance of two picks in Å")
    add("--picks", type=int, default=150)
    add("--batch", type=int, default=8)
    add("--invert", action="store_true", help="particles are dark in the tomogram")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    volume, apix = read_volume(args.tomogram)
    template, template_apix = read_volume(args.template)
    if apix is None or template_apix is None:
        raise SystemExit("error: the headers of tomogram and template must state the pixel size.")
    tomogram = torch.from_numpy(-volume if args.invert else volume).to(args.device)
    search = Search(args.angpix or apix, args.rotations, args.radius, args.distance, args.picks, args.batch)
    tilts = read_tilts(args.tilts, args.defocus, args.order)
    found = pick(tomogram, apix, torch.from_numpy(template), template_apix, tilts, search)
    write_picks(args.output, args.tomogram.stem.removesuffix("_rec"), apix, found)
    print(
        f"Wrote {len(found['scores'])} picks with scores of {found['scores'].min():.3f} to {found['scores'].max():.3f}"
    )


if __name__ == "__main__":
    with torch.inference_mode():
        main()
