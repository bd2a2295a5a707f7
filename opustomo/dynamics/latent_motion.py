"""Body motion of each particle as predicted by a trained model."""

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
    """Motion head of a trained model with bodies.

    Lengths are in voxels of the subtomograms, positions relative to voxel D/2.

    Parameters
    ----------
    weights, config
        Weights and configuration of the run.
    device
        Device on which the model is evaluated.

    Raises
    ------
    UserError
        If the run has no bodies.
    """

    def __init__(self, weights: Path, config: Path, device: torch.device | str) -> None:
        self.decoder = VolumeDecoder(weights, config, device)
        if self.decoder.bodies is None:
            raise UserError(f"{weights} has no bodies. Train with --masks and the output of dsdsh prepare_multi.")
        self.geometry: BodyGeometry = self.decoder.bodies
        self.boxes = self.decoder.boxes

    @torch.no_grad()
    def bodies(self, conformations: np.ndarray, realised: bool = False) -> RigidMotions:
        """Return the motion of each body in the reference frame, (N, B).

        Parameters
        ----------
        conformations
            Conformation latents, (N, zaffinedim).
        realised
            False returns the rigid motion (R_b, s_b) predicted by the model. True returns the motion that decoded
            volumes show, which is smaller where bodies touch because the deformation grids are blended.
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
        """Return the motions (N, B) relative to the parent of each body, expressed in the frame of the parent."""
        return motions[:, list(self.geometry.parents)].inverse().after(motions)
