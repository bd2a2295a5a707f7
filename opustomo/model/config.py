"""Settings of a model: sizes of its networks, and physics of the comparison with the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from opustomo.geometry.rigid_bodies import BodyGeometry


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the networks, which are those of OPUS-TOMO (docs/method.md, section 4).

    Attributes
    ----------
    zdim, zaffinedim
        Sizes of the composition and the conformation latent.
    templateres
        Side T of the decoded template, a multiple of 16 and at least 32.
    encoderres
        Side of the inner grid of the encoder.
    encode_mode
        ``grad`` (amortised) or ``fixed`` (one shared latent: homogeneous reconstruction).
    estimate_pose
        Whether the conformation latent also corrects the particle's pose (``--estpose``; always with bodies).
    bodies
        Rigid bodies that the conformation moves (``--masks``); None for a rigid particle.
    """

    zdim: int
    zaffinedim: int = 4
    templateres: int = 160
    encoderres: int = 12
    encode_mode: str = "grad"
    estimate_pose: bool = False
    bodies: BodyGeometry | None = None

    def __post_init__(self) -> None:
        if self.zdim < 1:
            raise ValueError(f"zdim must be at least 1, got {self.zdim}")
        if self.zaffinedim < 0 or (self.estimate_pose and self.zaffinedim < 1):
            raise ValueError(f"zaffinedim must be at least 1 with pose estimation, got {self.zaffinedim}")
        if self.bodies is not None and not self.estimate_pose:
            raise ValueError("estpose belongs to bodies: the last row of the head corrects the whole particle")
        if self.templateres % 16 or self.templateres < 32:
            raise ValueError(f"templateres must be a multiple of 16 and at least 32, got {self.templateres}")
        if self.encoderres < 8:
            raise ValueError(f"encoderres must be at least 8, got {self.encoderres}")
        if self.encode_mode not in ("grad", "fixed"):
            raise ValueError(f"encode_mode must be grad or fixed, got {self.encode_mode}")

    @property
    def head_rows(self) -> int:
        """Number of rows of six numbers of the pose head: one per body and one for the whole particle."""
        if self.bodies is not None:
            return len(self.bodies) + 1
        return int(self.estimate_pose)

    @property
    def latent_dim(self) -> int:
        """Size of composition and conformation together."""
        return self.zdim + self.zaffinedim


@dataclass(frozen=True)
class PhysicsConfig:
    """How model and data are made comparable (docs/method.md, section 2).

    ``bfactor_A2`` is b·Apix², the value at the first epoch; ``jitter`` draws the original's random changes in
    training: b, β and contrast of the comparison, blur, contrast and view of the encoder's input.
    """

    ctf_alpha: float = 0.0
    ctf_beta: float = 1.0
    ctf_normalized: bool = False
    bfactor_A2: float = 4.0
    jitter: bool = False
    original: bool = False
    """Compare as OPUS-TOMO does: eight candidate rotations weighted by their energies, over the crop, noise white."""
    grain: float = 0.135
    """Least standard deviation with which the composition is sampled: what the decoder needs must stand out in mu from
    what it does not, or clusters follow the latter."""
    divide: bool | None = None
    """Whether subtomograms are divided by their sampling weights; None: training decides by the data, models do not."""

    @property
    def normalized(self) -> bool:
        """Whether what is compared has been divided by the sampling weights, by whomever."""
        return self.ctf_normalized or bool(self.divide)


ORIGINAL_PHYSICS: dict[str, Any] = {
    "original": True,
    "jitter": True,
    "grain": 0.0,
    "divide": False,
}
"""Where :class:`PhysicsConfig` differs from the original by default: the original's choice (``--preset original``)."""
