"""What a trained model says of the motion of every particle's bodies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from opustomo.analysis.decoding import VolumeDecoder
from opustomo.errors import UserError
from opustomo.geometry.bodies import BodyGeometry
from opustomo.geometry.screw import RigidMotions
from opustomo.physics.bodies import realised_motion, stated_motion

BATCH = 4096


class MotionModel:
    """The head of a finished run with bodies; lengths come out in voxels of the subtomograms from voxel D/2.

    Parameters
    ----------
    weights, config
        Files of the run.
    device
        Where to decode.

    Raises
    ------
    UserError
        The run has no bodies.
    """

    def __init__(self, weights: Path, config: Path, device: torch.device | str) -> None:
        self.decoder = VolumeDecoder(weights, config, device)
        if self.decoder.bodies is None:
            raise UserError(f"{weights} has no bodies that could move; train with --masks of dsdsh prepare_multi.")
        self.geometry: BodyGeometry = self.decoder.bodies
        self.boxes = self.decoder.boxes

    @torch.no_grad()
    def bodies(self, conformations: np.ndarray, realised: bool = False) -> RigidMotions:
        """Motion of every body in the reference frame, (N, B).

        As the model states it (R_b, s_b), which is its estimate of the particle; or, ``realised``, what decoded volumes
        show of it, which is less where bodies touch, because their grids are blended.
        """
        turns, shifts = [], []
        bodies = self.decoder.posing.bodies
        for first in range(0, len(conformations), BATCH):
            motion = self.decoder.correction(conformations[first : first + BATCH]).motion
            assert motion is not None and bodies is not None
            turn, shift = (realised_motion if realised else stated_motion)(motion, bodies)
            turns.append(turn.double().cpu().numpy())
            shifts.append(shift.double().cpu().numpy() / self.boxes.grid_per_pixel)
        return RigidMotions(np.concatenate(turns), np.concatenate(shifts))

    def relative(self, motions: RigidMotions) -> RigidMotions:
        """Motions (N, B) relative to each body's parent, seen in the parent's place."""
        return motions[:, list(self.geometry.parents)].inverse().after(motions)
