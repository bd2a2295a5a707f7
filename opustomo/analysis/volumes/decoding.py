"""Decoding of latents to volumes, with resampling, masking and output (``eval_vol``; see docs/files.md, Volumes).

Voxel n/2 of a volume is the center of rotation, like voxel D/2 of the subtomograms and of a consensus map in their
box. The origin in the MRC header makes both centers coincide in a viewer, even if n voxels do not fill the box exactly
or the volume is cropped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from opustomo.analysis.figures.volume_display import (
    contour_level,
    draw_views,
    view_of,
    write_series_script,
    write_set_script,
)
from opustomo.checkpoint.config import read_config
from opustomo.checkpoint.weights import (
    describe_mismatch,
    load_decoder,
    read_body_geometry,
    read_gain,
    read_separation,
    read_weights,
    solvent_mask,
)
from opustomo.errors import UserError
from opustomo.io.host_memory import require_memory
from opustomo.io.mrc import write_volume
from opustomo.model.device import choose_device
from opustomo.model.networks import Decoder
from opustomo.model.posing import Correction, Posing
from opustomo.model.residual_spectra import apply_gain
from opustomo.physics.body_motion import coarse_grid
from opustomo.physics.boxes import Boxes

BATCH = 8
BYTES_PER_VOXEL = 24
"""Lower bound of the memory per sampled voxel: a grid of three coordinates and intermediate and final densities."""


@dataclass(frozen=True)
class EvalRequest:
    """Latents to decode, and the sampling and file names of the volumes.

    Attributes
    ----------
    weights, config
        ``weights.N.pkl`` and ``config.pkl`` of a run.
    outdir, prefix
        Volumes are written as ``{outdir}/{prefix}{i}.mrc``.
    latents
        Shape (K, zdim) or (K, zdim + zaffinedim); None for the shared latent of a homogeneous run.
    deform
        Require a decoder with bodies. If the decoder has bodies, conformation latents always move them.
    apix
        Pixel size of the volumes in Å; None for the pixel size of the template.
    flip
        Reverse the z axis, which inverts the handedness.
    full_box
        Pad the volumes to the box of the subtomograms so that they overlay the consensus map.
    device
        ``cpu`` or ``cuda``; None selects a GPU if one is available.
    masked
        Multiply the volumes by the solvent mask stored with the weights, if any. Volumes with moved bodies are never
        masked.
    names
        Model names of cluster volumes in ChimeraX; None for the steps of a traversal.
    """

    weights: Path
    config: Path
    outdir: Path
    latents: np.ndarray | None
    apix: float | None = None
    prefix: str = "reference"
    flip: bool = False
    full_box: bool = False
    device: str | None = None
    names: tuple[str, ...] | None = None
    deform: bool = False
    masked: bool = True


class VolumeDecoder:
    """Decoder of a trained model, with the geometry that maps its template to a volume.

    Parameters
    ----------
    weights, config
        Weights and configuration of a run of opustomo or OPUS-TOMO.
    device
        Device on which volumes are decoded.
    """

    def __init__(self, weights: Path, config: Path, device: torch.device | str) -> None:
        sizes, self.boxes, settings = read_config(config)
        content = read_weights(weights)
        decoder_state = content["decoder_state_dict"]
        state = {k: v for k, v in decoder_state.items() if k.startswith("template.")}
        head = [state.get(f"template.affine_out.{layer}.weight") for layer in (0, 2)]
        rows, zaffinedim = 0, sizes.zaffinedim
        try:
            if isinstance(head[0], Tensor) and isinstance(head[1], Tensor):
                rows, zaffinedim = head[1].shape[0] // 6, head[0].shape[1]
            self.decoder = Decoder(sizes.zdim, sizes.templateres, zaffinedim, rows)
            load_decoder(self.decoder, content)
        except (RuntimeError, IndexError) as error:
            raise UserError(
                f"The decoder in {weights} does not match {config}: {describe_mismatch(decoder_state, self.decoder)}. "
                "Give both files of the same run."
            ) from error
        self.decoder.to(device).eval()
        parents = () if sizes.bodies is None else sizes.bodies.parents
        try:
            self.bodies = read_body_geometry(decoder_state, self.boxes, settings.get("opustomo") is not None, parents)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"The geometry of the bodies in {weights} is damaged ({error}). Use another epoch."
            ) from error
        if self.bodies is not None and rows != len(self.bodies) + 1:
            raise UserError(
                f"{weights} has {len(self.bodies)} bodies, but its motion head has {rows} rows instead of "
                f"{len(self.bodies) + 1}. Use another epoch."
            )
        self.separation = None if self.bodies is None else read_separation(content, weights, sizes.zdim, zaffinedim)
        """Part of the composition that z.N.pkl omits because it is predicted from the conformation."""
        self.posing = Posing(self.boxes, self.bodies).to(device)
        self.zdim, self.latent_dim, self.device = sizes.zdim, sizes.zdim + zaffinedim, torch.device(device)
        shared = content.get("fixed_latent")
        self.shared: np.ndarray | None = shared.float().numpy() if isinstance(shared, Tensor) else None
        """Latent shared by all particles of a homogeneous run."""
        gain = read_gain(content)
        self.gain = None if gain is None else gain.to(device)
        """Gain of the decoder network per shell; None if no shell is attenuated."""
        mask = solvent_mask(content, weights, self.boxes.crop)
        self.mask = None if mask is None else mask.to(device)
        """Solvent mask on the crop, shape (Dc, Dc, Dc); None if the weights contain none."""

    @torch.no_grad()
    def decode(self, latents: np.ndarray) -> Tensor:
        """Decode latents of z.N.pkl, (K, zdim) or (K, zdim + zaffinedim), to templates (K, T, T, T).

        If compositions and conformations were separated, the part of the composition that is predicted from the
        conformation is added again before decoding.
        """
        compositions = latents[:, : self.zdim]
        if self.separation is not None and latents.shape[1] == self.latent_dim:
            compositions = self.separation.together(compositions, latents[:, self.zdim :])
        if self.gain is None:
            return self.decoder(self._tensor(compositions))
        difference = self.decoder.difference(self._tensor(compositions))
        return apply_gain(difference, self.gain, self.boxes) + self.decoder.consensus

    @torch.no_grad()
    def correction(self, latents: np.ndarray) -> Correction:
        """Return the pose correction and body motion predicted from conformation latents (K, zaffinedim)."""
        return self.posing.correction(self.decoder.template.pose_rows(self._tensor(latents)))

    @torch.no_grad()
    def volumes(self, latents: np.ndarray, apix: float, full_box: bool = False, masked: bool = True) -> Tensor:
        """Decode latents to volumes (K, n, n, n) of pixel size `apix` (Å); voxel n/2 is the center of rotation.

        If the decoder has bodies, the conformation part of latents (K, zdim + zaffinedim) moves them and no mask is
        applied. Otherwise volumes are multiplied by the solvent mask unless `masked` is False.
        """
        templates = self.decode(latents)
        size = volume_size(self.boxes, apix, full_box)
        bodies = self.posing.bodies
        motion = None
        if bodies is not None and latents.shape[1] == self.latent_dim:
            motion = self.correction(latents[:, self.zdim :]).motion
        if bodies is not None and motion is not None:
            eye = torch.eye(3, device=self.device).expand(len(templates), 3, 3)
            pull = coarse_grid(eye, motion, bodies, self.boxes.crop)
            return on_pixels(templates, self.boxes, apix, size, pull)
        volumes = on_pixels(templates, self.boxes, apix, size)
        if self.mask is not None and masked:
            mask = on_pixels(self.mask[None], self.boxes, apix, size)
            volumes = volumes * mask
        return volumes

    def _tensor(self, latents: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(latents, dtype=np.float32)).to(self.device)


def volume_size(boxes: Boxes, apix: float, full_box: bool) -> int:
    """Return the even number of voxels of `apix` Å that span the crop, or the full box of the subtomograms."""
    side = boxes.box * boxes.apix if full_box else boxes.crop * boxes.render_apix
    size = 2 * round(side / apix / 2 - 1e-6)
    if size < 2:
        raise UserError(
            f"The pixel size of {apix:g} Å is too large for a box of {side:g} Å. Give a smaller pixel size."
        )
    what = f"a volume of {size}³ voxels, at a pixel size of {apix:g} Å,"
    require_memory(BYTES_PER_VOXEL * size**3, what, "give a larger pixel size")
    return size


def on_pixels(templates: Tensor, boxes: Boxes, apix: float, size: int, pull: Tensor | None = None) -> Tensor:
    """Resample templates to a grid of `apix` Å per voxel about the center of rotation.

    Parameters
    ----------
    templates
        Densities that span the crop, shape (K, T, T, T).
    boxes
        Boxes and pixel sizes of the training.
    apix
        Pixel size of the output in Å.
    size
        Voxels per side of the output.
    pull
        Inverse deformation: source coordinates of each point on a coarse grid that spans the crop, shape
        (K, 3, h, h, h); None for no deformation.

    Returns
    -------
    Tensor
        Shape (K, size, size, size); 0 outside the crop.
    """
    spacing = apix / boxes.render_apix * 2.0 / (boxes.crop - 1)  # in units of the grid from -1 to 1
    at = (torch.arange(size, device=templates.device) - size // 2) * spacing + boxes.center
    inside = (at >= -1.0 - 1e-5) & (at <= 1.0 + 1e-5)
    at = at.clamp(-1.0, 1.0)
    grid = torch.stack(torch.meshgrid(at, at, at, indexing="ij")[::-1], -1).expand(len(templates), -1, -1, -1, -1)
    if pull is not None:
        moved = torch.nn.functional.grid_sample(pull, grid, align_corners=True, padding_mode="border")
        grid = moved.movedim(1, -1) + boxes.center
    sampled = torch.nn.functional.grid_sample(templates[:, None], grid, align_corners=True)[:, 0]
    return sampled * (inside[:, None, None] & inside[None, :, None] & inside[None, None, :])


def first_voxel(boxes: Boxes, apix: float, size: int, flip: bool = False) -> tuple[float, float, float]:
    """Return the coordinates x, y, z (Å) of the first of `size` voxels relative to that of the subtomograms.

    Reversing z moves the center from voxel n/2 to n/2 - 1.
    """
    corner = boxes.box / 2 * boxes.apix - size // 2 * apix
    return corner, corner, corner + (apix if flip else 0.0)


def check_latents(latents: npt.ArrayLike, decoder: VolumeDecoder, config: Path) -> np.ndarray:
    """Return latents as float32, shape (K, dimension).

    Raises
    ------
    UserError
        If the latents are not finite or do not match the dimensions of the decoder of `config`.
    """
    rows = np.atleast_2d(np.asarray(latents, dtype=np.float32))
    if rows.ndim != 2 or rows.shape[1] not in (decoder.zdim, decoder.latent_dim):
        raise UserError(
            f"The latents have {rows.shape[-1]} dimensions, but {config} was trained with zdim {decoder.zdim}. "
            "Give latents of that run."
        )
    if not np.isfinite(rows).all():
        raise UserError("The latents to decode contain non-finite values. Check the file that they were read from.")
    return rows


def check_bodies(latents: np.ndarray, decoder: VolumeDecoder, weights: Path) -> None:
    """Raise ``UserError`` if the decoder of `weights` has no bodies or the latents have no conformation part."""
    if decoder.bodies is None:
        raise UserError(
            f"{weights} has no bodies that the conformation could move. Train with --masks, or decode compositions."
        )
    if latents.shape[1] != decoder.latent_dim:
        raise UserError(
            f"The latents have {latents.shape[1]} dimensions, but moving the bodies requires {decoder.latent_dim} "
            "(composition and conformation)."
        )


def decode_batches(
    decoder: VolumeDecoder, latents: np.ndarray, apix: float, full_box: bool, masked: bool = True
) -> Iterator[np.ndarray]:
    """Yield one volume (n, n, n) of pixel size `apix` (Å) for each latent, decoded in batches."""
    for first in range(0, len(latents), BATCH):
        yield from decoder.volumes(latents[first : first + BATCH], apix, full_box, masked).cpu().numpy()


def evaluate_volumes(request: EvalRequest) -> list[Path]:
    """Decode ``request.latents``, write one MRC file per latent, and return the paths.

    For two or more volumes, also write ``{prefix}.cxc``, which opens them in ChimeraX, and the figure
    ``{prefix}.png``.
    """
    device = choose_device(request.device)
    decoder = VolumeDecoder(request.weights, request.config, device)
    requested = decoder.shared if request.latents is None else request.latents
    if requested is None:
        raise UserError(
            f"{request.weights} is not a homogeneous reconstruction. Give the latents to decode with --zfile, -z or "
            "--z-start and --z-end."
        )
    latents = check_latents(requested, decoder, request.config)
    if request.deform:
        check_bodies(latents, decoder, request.weights)
    apix = decoder.boxes.render_apix if request.apix is None else request.apix
    volume_size(decoder.boxes, apix, request.full_box)  # reject an invalid pixel size before creating the folder
    if decoder.bodies is None and latents.shape[1] > decoder.zdim:
        print(f"Note: {request.weights} has no bodies, so the conformations have no effect.")
    if request.masked and decoder.mask is None:
        print(f"Note: {request.weights} contains no solvent mask, so the volumes are not masked.")
    request.outdir.mkdir(parents=True, exist_ok=True)
    titles = request.names or tuple(str(number) for number in range(len(latents)))
    levels, views = [], []
    quiet = len(latents) <= BATCH or not sys.stderr.isatty()
    volumes = decode_batches(decoder, latents, apix, request.full_box, request.masked)
    written = series_paths(request.outdir, len(latents), request.prefix)
    progress = tqdm(volumes, total=len(latents), unit="volume", disable=quiet)
    for path, title, volume in zip(written, titles, progress, strict=True):
        origin = first_voxel(decoder.boxes, apix, len(volume), request.flip)
        write_volume(path, volume[::-1] if request.flip else volume, apix, origin)
        levels.append(contour_level(volume))
        views.append(view_of(volume, title, apix))
    if len(written) > 1:
        script, level = request.outdir / f"{request.prefix}.cxc", float(np.median(levels))
        if request.names is None:
            write_series_script(script, written, level)
        else:
            write_set_script(script, written, level, request.names)
        draw_views(request.outdir / f"{request.prefix}.png", views)
    return written


def series_paths(folder: Path, count: int, prefix: str = "reference") -> list[Path]:
    """Return the paths of the volumes of a series in a folder, ``{prefix}{i}.mrc`` with i counted from 0."""
    return [folder / f"{prefix}{number}.mrc" for number in range(count)]


def write_series(
    folder: Path,
    volumes: Sequence[np.ndarray] | np.ndarray,
    apix: float,
    origin_A: tuple[float, float, float],
    prefix: str = "reference",
) -> list[Path]:
    """Write the volumes of a series to :func:`series_paths` and return the paths; see :func:`write_volume`."""
    paths = series_paths(folder, len(volumes), prefix)
    for path, volume in zip(paths, volumes, strict=True):
        write_volume(path, volume, apix, origin_A)
    return paths
