"""The solvent mask of the run that ``--load`` goes on with, for a run without ``-r``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opustomo.checkpoint.config import read_config
from opustomo.checkpoint.epoch import STATE_FILE
from opustomo.checkpoint.weights import read_weights, solvent_mask
from opustomo.data.particles import ParticleSet, pixel_sizes_differ
from opustomo.errors import UserError
from opustomo.physics.boxes import DEFAULT_WINDOW, Boxes, mask_on_crop
from opustomo.physics.sampling import resample_cube
from opustomo.training.resume import Start


@dataclass(frozen=True)
class InheritedSolvent:
    """A solvent mask from a checkpoint.

    Attributes
    ----------
    mask
        The mask on the crop of the earlier run, (Dc, Dc, Dc), float32.
    before
        Boxes of the earlier run.
    source
        File that the mask comes from.
    """

    mask: Tensor
    before: Boxes
    source: Path

    @property
    def window(self) -> float:
        """Fraction of the box that the crop keeps."""
        return self.before.crop / self.before.render

    def on_crop(self, boxes: Boxes) -> Tensor:
        """Return the mask on the crop of a run that may have another ``--downfrac``, not negative."""
        if boxes.render == self.before.render:
            return self.mask.clamp(min=0.0)
        return resample_cube(self.mask[None], self.before.render / boxes.render, boxes.crop)[0].clamp(min=0.0)

    def on_box(self) -> np.ndarray:
        """Return the mask in the box of the subtomograms, (N, N, N), zero outside the crop."""
        spacing = self.before.apix / self.before.render_apix
        return resample_cube(self.mask[None], spacing, self.before.box)[0].numpy()


def inherit_solvent(start: Start, particles: ParticleSet) -> InheritedSolvent | None:
    """Return the solvent mask of the run that ``--load`` continues.

    Parameters
    ----------
    start
        Where the run starts.
    particles
        Subtomograms of the new run.

    Returns
    -------
    InheritedSolvent or None
        None if nothing is loaded, the checkpoint holds no mask, or that run had none either.

    Raises
    ------
    UserError
        The mask belongs to subtomograms of another box or pixel size, or is damaged.
    """
    content: dict[str, Any]
    if start.state is not None and start.folder is not None:
        source, config = start.folder / STATE_FILE, start.folder / "config.pkl"
        content = {"mask": start.state.get("mask"), "decoder_state_dict": {}}
    elif start.weights is not None:
        source, config = start.weights, start.weights.with_name("config.pkl")
        content = read_weights(source)
    else:
        return None
    if not config.is_file():
        return None
    before = read_config(config, particles.box)[1]
    mask = solvent_mask(content, source, before.crop)
    if mask is None or _is_default(mask, before):
        return None
    if before.box != particles.box or pixel_sizes_differ(before.apix, particles.apix):
        raise UserError(
            f"the solvent mask in {source} is for subtomograms of {before.box} voxels of {before.apix:.4g} Å, but "
            f"these have {particles.box} voxels of {particles.apix:.4g} Å. Give a mask for them with -r."
        )
    return InheritedSolvent(mask.cpu(), before, source)


def _is_default(mask: Tensor, boxes: Boxes) -> bool:
    """Return whether a mask is the ball that a run without ``-r`` has, in the crop that it has."""
    usual = Boxes.from_window(boxes.box, boxes.apix, boxes.render / boxes.box, DEFAULT_WINDOW)
    return usual.crop == boxes.crop and torch.equal(mask.cpu(), mask_on_crop(None, boxes))
