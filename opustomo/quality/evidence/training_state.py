"""What the training means for a verdict: whether it had converged, and whether its latents have collapsed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from opustomo.analysis.clusters.epoch_convergence import LEAST_SPREAD, has_spread
from opustomo.training.monitors.convergence_state import Statement, convergence_statement, read_history
from opustomo.training.monitors.metrics import EPOCHS_FILE


def collapse_remark(latents: np.ndarray, epoch: int, labels: np.ndarray, differing: Sequence[tuple[int, int]]) -> str:
    """Return what collapsed latents mean for volumes and classes; empty if they separate the classes that differ.

    Parameters
    ----------
    latents
        Composition latents, (N, zdim).
    epoch
        Their epoch.
    labels
        Class of each particle, (N,).
    differing
        Pairs of classes that differ in the subtomograms.
    """
    typical = {number: np.median(latents[labels == number], axis=0) for pair in differing for number in pair}
    alike = [pair for pair in differing if np.linalg.norm(typical[pair[0]] - typical[pair[1]]) < LEAST_SPREAD]
    if not has_spread(latents):
        found = (
            f"The latents of epoch {epoch} have collapsed: their standard deviations are below {LEAST_SPREAD:g}, where "
            "the prior has 1. Volumes that are decoded from them cannot differ."
        )
    elif alike:
        names = ", ".join(f"{first} and {second}" for first, second in alike)
        found = (
            f"The latents of epoch {epoch} hardly separate the classes {names}: their medians are less than "
            f"{LEAST_SPREAD:g} apart, where the prior has a standard deviation of 1, so that their decoded volumes "
            "are alike."
        )
    else:
        return ""
    if differing:
        return (
            f"{found} The classes are judged by the subtomograms and may be real: compare their back-projections "
            "(backprojection0.mrc …) instead of decoded volumes, and train again."
        )
    return f"{found} This is expected of particles of one structure; if you expect several, train again."


def training_state(root: Path, epoch: int) -> str:
    """Return a sentence about the convergence of the training in the folder `root`, as of an epoch."""
    return training_remark(root, epoch) or f"By its losses, the training had converged in epoch {epoch}."


def judged_state(root: Path, epoch: int) -> Statement | None:
    """Return the state of the training in the folder `root` as of an epoch; None if it is not known."""
    whole_run = read_history(root / EPOCHS_FILE)
    history = [row for row in whole_run if row.epoch <= epoch]
    if not history:
        return None
    whole = convergence_statement(whole_run)
    # what later epochs show holds for this epoch as well
    later = whole.best == epoch or (whole.since is not None and epoch >= whole.since)
    return whole if later else convergence_statement(history)


def needs_training(root: Path, epoch: int) -> bool:
    """Return whether the training in the folder `root` still improved in an epoch, or is too short to be judged."""
    statement = judged_state(root, epoch)
    return statement is not None and statement.state in ("improving", "too early")


def training_remark(root: Path, epoch: int) -> str:
    """Return a sentence about a training that had not converged or overfits in an epoch; empty if it had converged."""
    statement = judged_state(root, epoch)
    if statement is None:
        return f"Whether the training had converged is not known, because there is no {EPOCHS_FILE}."
    if statement.best == epoch:
        return f"Epoch {epoch} has the lowest held-out loss of the training, which overfits afterwards."
    match statement.state:
        case "converged":
            return ""
        case "overfitting":
            return f"Note that the training overfits ({statement.sentence}{statement.advice(root)})."
        case "unclear":
            return f"Note that it is not known whether the training had converged ({statement.sentence})."
        case "improving":
            return (
                f"Note that the training had not converged in epoch {epoch} ({statement.sentence}): classes may change."
            )
    return f"Note that the training is short: it is {statement.sentence}."
