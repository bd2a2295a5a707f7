"""Keep composition and conformation from telling the same story where bodies move. Not in the original.

The decoder can draw a moved body instead of moving it, so motion leaks into the composition although the conformation
explains it already. What the two latents have in common linearly is therefore made small; which of them keeps it is for
the data side to say: only the composition can make a body vanish, and bodies move before the composition comes in
(:func:`opustomo.training.schedules.composition_at`).
"""

from __future__ import annotations

from torch import Tensor

SEPARATION_WEIGHT = 5.0


def shared_variance(latents: Tensor, zdim: int, weight: Tensor | None = None) -> Tensor:
    """Sum of the squared correlations between composition and conformation in a batch, estimated without bias.

    Parameters
    ----------
    latents
        (B, L) standardised; the first ``zdim`` columns are the composition.
    zdim
        Size of the composition.
    weight
        (B,) 1, or 0 for rows to leave out.

    Returns
    -------
    Tensor
        Scalar: the mean over pairs i ≠ j of (x_i · x_j)(y_i · y_j), 0 for fewer than two rows.
    """
    if weight is not None:
        latents = latents * weight[:, None]
    composition, conformation = latents[:, :zdim], latents[:, zdim:]
    alone = (composition.square().sum(1) * conformation.square().sum(1)).sum()
    pairs = (composition.mT @ conformation).square().sum() - alone
    if weight is None:
        return pairs / max(len(latents) * (len(latents) - 1), 1)
    count = weight.sum()
    return pairs / (count * (count - 1.0)).clamp(min=1.0)
