"""Volumes from latents: decode, resample to a pixel size, mask, write (spec 5, ``eval_vol``).

Voxel n/2 of a volume is the centre of rotation, as voxel D/2 of the subtomograms and of a consensus map in their box
is. The place of the first voxel in the MRC header is such that both centres coincide in a viewer, also where n voxels
do not fill the box exactly or the volume holds the crop only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from opustomo.analysis.chimerax import contour_level, write_series_script, write_set_script
from opustomo.analysis.volume_figure import draw_views, view_of
from opustomo.checkpoint.bodies import bodies_from_buffers
from opustomo.checkpoint.config import read_config
from opustomo.checkpoint.separation import separation_in
from opustomo.checkpoint.weights import load_network, read_weights, solvent_mask
from opustomo.errors import UserError
from opustomo.io.memory import require_memory
from opustomo.io.mrc import write_volume
from opustomo.model.decoder import Decoder
from opustomo.model.device import choose_device
from opustomo.model.posing import Correction, Posing
from opustomo.physics.bodies import coarse_grid
from opustomo.physics.boxes import Boxes

BATCH = 8
BYTES_PER_VOXEL = 24
"""At least, of a volume that is sampled: its grid of three coordinates, and the density in the making and made."""


@dataclass(frozen=True)
class EvalRequest:
    """What to decode and how to write it.

    Attributes
    ----------
    weights, config
        ``weights.N.pkl`` and ``config.pkl`` of a run.
    outdir, prefix
        Volumes are written as ``{outdir}/{prefix}{i}.mrc``.
    latents
        (K, zdim), or (K, zdim + zaffinedim); None takes the shared latent of a homogeneous run.
    deform
        The latents are to move bodies: refuse a decoder that has none. With bodies, conformations always move them.
    apix
        Pixel size of the volumes in Å; None takes that of the training.
    flip
        Reverse z (the other hand).
    full_box
        Pad to the field of view of the subtomograms, so that volumes overlay the consensus map.
    device
        ``cpu`` or ``cuda``; None takes a GPU if there is one.
    masked
        Multiply volumes by the solvent mask in the weights, if they hold one. Volumes whose bodies are moved never are.
    names
        What the volumes are called in ChimeraX when they are classes; None when they are steps of a path.
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
    """Decoder of a finished run, with the geometry that turns its template into a volume.

    Parameters
    ----------
    weights, config
        Files of the run, ours or the original's.
    device
        Where to decode.
    """

    def __init__(self, weights: Path, config: Path, device: torch.device | str) -> None:
        sizes, self.boxes, settings = read_config(config)
        content = read_weights(weights)
        everything = content["decoder_state_dict"]
        state = {k: v for k, v in everything.items() if k.startswith("template.")}
        head = [state.get(f"template.affine_out.{layer}.weight") for layer in (0, 2)]
        rows, zaffinedim = 0, sizes.zaffinedim
        try:
            if isinstance(head[0], Tensor) and isinstance(head[1], Tensor):
                rows, zaffinedim = head[1].shape[0] // 6, head[0].shape[1]
            self.decoder = Decoder(sizes.zdim, sizes.templateres, zaffinedim, rows)
            load_network(self.decoder, state)
        except (RuntimeError, IndexError) as error:
            raise UserError(
                f"{weights} does not fit {config}: the networks differ; give both files of one run"
            ) from error
        self.decoder.to(device).eval()
        parents = () if sizes.bodies is None else sizes.bodies.parents
        try:
            self.bodies = bodies_from_buffers(everything, self.boxes, settings.get("opustomo") is not None, parents)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{weights}: the geometry of its bodies is damaged ({error}); take another epoch"
            ) from error
        if self.bodies is not None and rows != len(self.bodies) + 1:
            raise UserError(
                f"{weights}: {len(self.bodies)} bodies do not fit the head that moves them; take another epoch"
            )
        self.separation = None if self.bodies is None else separation_in(content, weights, sizes.zdim, zaffinedim)
        """What z.N.pkl leaves out of the compositions that the decoder knows."""
        self.posing = Posing(self.boxes, self.bodies).to(device)
        self.zdim, self.latent_dim, self.device = sizes.zdim, sizes.zdim + zaffinedim, torch.device(device)
        shared = content.get("fixed_latent")
        self.shared: np.ndarray | None = shared.float().numpy() if isinstance(shared, Tensor) else None
        """The one latent of a homogeneous run."""
        mask = solvent_mask(content, weights, self.boxes.crop)
        self.mask = None if mask is None else mask.to(device)
        """Solvent mask on the crop (Dc, Dc, Dc); None if the weights hold none."""

    @torch.no_grad()
    def decode(self, latents: np.ndarray) -> Tensor:
        """Templates (K, T, T, T) at latents of z.N.pkl: compositions (K, zdim), or (K, zdim + zaffinedim).

        With bodies, the composition at a conformation is the one that was trained: what was taken from it comes back.
        """
        compositions = latents[:, : self.zdim]
        if self.separation is not None and latents.shape[1] == self.latent_dim:
            compositions = self.separation.together(compositions, latents[:, self.zdim :])
        return self.decoder(self._tensor(compositions))

    @torch.no_grad()
    def correction(self, latents: np.ndarray) -> Correction:
        """What the head makes of conformation latents (K, zaffinedim): the pose's correction and the bodies' motion."""
        return self.posing.correction(self.decoder.template.pose_rows(self._tensor(latents)))

    @torch.no_grad()
    def volumes(self, latents: np.ndarray, apix: float, full_box: bool = False, masked: bool = True) -> Tensor:
        """Volumes (K, n, n, n) of pixel size ``apix`` (Å) whose voxel n/2 is the centre of rotation.

        The conformation part of latents (K, zdim + zaffinedim) moves the bodies, if the decoder has any, and no mask is
        applied; otherwise volumes are multiplied by the solvent mask unless ``masked`` is False.
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
    """Even number of voxels of size ``apix`` (Å) within the crop, or within the whole box of the subtomograms."""
    side = boxes.box * boxes.apix if full_box else boxes.crop * boxes.render_apix
    size = 2 * round(side / apix / 2 - 1e-6)
    if size < 2:
        raise UserError(f"a pixel size of {apix:g} Å leaves no voxel of a box of {side:g} Å; give a smaller one")
    what = f"a volume of {size}³ voxels, at a pixel size of {apix:g} Å,"
    require_memory(BYTES_PER_VOXEL * size**3, what, "give a larger pixel size")
    return size


def on_pixels(templates: Tensor, boxes: Boxes, apix: float, size: int, pull: Tensor | None = None) -> Tensor:
    """Sample cubes that span the crop (K, T, T, T) at voxels of ``apix`` Å about its centre: (K, size, size, size).

    ``pull`` (K, 3, h, h, h), a grid that spans the crop, says where the density at each place comes from.
    """
    spacing = apix / boxes.render_apix * 2.0 / (boxes.crop - 1)  # in units of the grid from -1 to 1
    at = (torch.arange(size, device=templates.device) - size // 2) * spacing + boxes.centre
    inside = (at >= -1.0 - 1e-5) & (at <= 1.0 + 1e-5)
    at = at.clamp(-1.0, 1.0)
    grid = torch.stack(torch.meshgrid(at, at, at, indexing="ij")[::-1], -1).expand(len(templates), -1, -1, -1, -1)
    if pull is not None:
        moved = torch.nn.functional.grid_sample(pull, grid, align_corners=True, padding_mode="border")
        grid = moved.movedim(1, -1) + boxes.centre
    sampled = torch.nn.functional.grid_sample(templates[:, None], grid, align_corners=True)[:, 0]
    return sampled * (inside[:, None, None] & inside[None, :, None] & inside[None, None, :])


def first_voxel(boxes: Boxes, apix: float, size: int, flip: bool = False) -> tuple[float, float, float]:
    """Place x, y, z (Å) of the first of ``size`` voxels of ``apix`` Å, that of the subtomograms being 0.

    Reversing z takes the centre from voxel n/2 to n/2 - 1.
    """
    corner = boxes.box / 2 * boxes.apix - size // 2 * apix
    return corner, corner, corner + (apix if flip else 0.0)


def check_latents(latents: npt.ArrayLike, decoder: VolumeDecoder, config: Path) -> np.ndarray:
    """Latents as float32 (K, dimension); ``UserError`` unless they are finite and fit the decoder of ``config``."""
    rows = np.atleast_2d(np.asarray(latents, dtype=np.float32))
    if rows.ndim != 2 or rows.shape[1] not in (decoder.zdim, decoder.latent_dim):
        raise UserError(
            f"the latents have {rows.shape[-1]} numbers each but {config} was trained with zdim "
            f"{decoder.zdim}; give latents of that run"
        )
    if not np.isfinite(rows).all():
        raise UserError("the latents to decode hold values that are not finite; check the file they come from")
    return rows


def check_bodies(latents: np.ndarray, decoder: VolumeDecoder, weights: Path) -> None:
    """Refuse (``UserError``) to move bodies that ``weights`` has not, or by latents without conformation."""
    if decoder.bodies is None:
        raise UserError(
            f"{weights} has no bodies for the conformation to move; train with --masks, or decode compositions"
        )
    if latents.shape[1] != decoder.latent_dim:
        raise UserError(
            f"the latents have {latents.shape[1]} numbers each but moving bodies takes {decoder.latent_dim}, "
            "composition and conformation"
        )


def decode_batches(
    decoder: VolumeDecoder, latents: np.ndarray, apix: float, full_box: bool, masked: bool = True
) -> Iterator[np.ndarray]:
    """Volumes (n, n, n) of pixel size ``apix`` (Å) one by one, decoded in batches."""
    for first in range(0, len(latents), BATCH):
        yield from decoder.volumes(latents[first : first + BATCH], apix, full_box, masked).cpu().numpy()


def evaluate_volumes(request: EvalRequest) -> list[Path]:
    """Decode ``request.latents`` and write one MRC file each; returns their paths.

    Beside two or more volumes stand ``{prefix}.cxc``, which shows them in ChimeraX, and a picture ``{prefix}.png``.
    """
    device = choose_device(request.device)
    decoder = VolumeDecoder(request.weights, request.config, device)
    asked = decoder.shared if request.latents is None else request.latents
    if asked is None:
        raise UserError(
            f"{request.weights} is no homogeneous reconstruction; say which latents to decode with --zfile, -z or "
            "--z-start and --z-end"
        )
    latents = check_latents(asked, decoder, request.config)
    if request.deform:
        check_bodies(latents, decoder, request.weights)
    apix = decoder.boxes.render_apix if request.apix is None else request.apix
    volume_size(decoder.boxes, apix, request.full_box)  # refuses an impossible pixel size before a folder is made
    if decoder.bodies is None and latents.shape[1] > decoder.zdim:
        print(f"Note: {request.weights} has no bodies, so that the conformations move nothing.")
    if request.masked and decoder.mask is None:
        print(f"Note: {request.weights} holds no solvent mask; the volumes are not masked.")
    request.outdir.mkdir(parents=True, exist_ok=True)
    titles = request.names or tuple(str(number) for number in range(len(latents)))
    written, levels, views = [], [], []
    quiet = len(latents) <= BATCH or not sys.stderr.isatty()
    volumes = decode_batches(decoder, latents, apix, request.full_box, request.masked)
    for number, volume in enumerate(tqdm(volumes, total=len(latents), unit="volume", disable=quiet)):
        path = request.outdir / f"{request.prefix}{number}.mrc"
        origin = first_voxel(decoder.boxes, apix, len(volume), request.flip)
        write_volume(path, volume[::-1] if request.flip else volume, apix, origin)
        written.append(path)
        levels.append(contour_level(volume))
        views.append(view_of(volume, titles[number]))
    if len(written) > 1:
        script, level = request.outdir / f"{request.prefix}.cxc", float(np.median(levels))
        if request.names is None:
            write_series_script(script, written, level)
        else:
            write_set_script(script, written, level, request.names)
        draw_views(request.outdir / f"{request.prefix}.png", views)
    return written
