"""Records of a run in progress for its monitors, and the current template."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from opustomo.io.mrc import write_volume
from opustomo.model.autoencoder import Autoencoder
from opustomo.model.loss import TERM_NAMES
from opustomo.model.step_records import StepState
from opustomo.training.loop_state import LoopState
from opustomo.training.monitors.records import EpochRecord, IntervalRecord, Monitor, Projections
from opustomo.training.training_step import Engine, Visit


@torch.no_grad()
def template_of(model: Autoencoder, latent: Tensor) -> np.ndarray:
    """Return the template (T, T, T) of the composition in ``latent`` (1, L)."""
    return model.decoder(latent[:, : model.config.zdim])[0].cpu().numpy()


def projections_of(engine: Engine, visit: Visit, bfactor_A2: float) -> Projections:
    """Return projections of the first particle of a batch, of its model and of its target, along z."""
    one = replace(visit, index=visit.index[:1], volumes=visit.volumes[:1])
    state = StepState(bfactor_A2, 0.0, 0.0, 0.0, engine.snr, None)
    pictures = engine.model.pictures(engine.assemble(one), state)
    return Projections(*(volume[0].sum(0).cpu().numpy() for volume in pictures))


def write_template(path: Path, model: Autoencoder, latent: Tensor, say: Callable[[str], None]) -> None:
    """Write the template of a latent (1, L) with its voxel size; errors are reported through ``say``."""
    template, boxes = template_of(model, latent), model.boxes
    if not np.isfinite(template).all():
        say("# warning: the current template is not written, because it is not finite")
        return
    # the grid of the template spans the crop from the center of its first voxel to that of its last
    spacing = (boxes.crop - 1) * boxes.render_apix / (len(template) - 1)
    try:
        write_volume(path, template, spacing)
    except OSError as error:
        say(f"# warning: the current template is not written: {error}")


def interval_record(engine: Engine, state: LoopState, visit: Visit, speed: float, plot: bool) -> IntervalRecord:
    """Return the record of a logging interval.

    Parameters
    ----------
    engine, state
        Engine and position of the run.
    visit
        Last batch, whose first particle is shown with ``plot``.
    speed
        Training visits per second.
    plot
        Whether to compute projections of a particle.
    """
    schedule = visit.schedule
    return IntervalRecord(
        epoch=state.epoch,
        particles_seen=state.particles_seen,
        terms=dict(zip(TERM_NAMES, engine.terms.tolist(), strict=True)),
        lr=float(schedule.learning_rate),
        beta=float(schedule.beta),
        running_snr=float(engine.snr),
        visits_per_second=speed,
        memory_gb=torch.cuda.max_memory_allocated() / 2**30 if engine.device.type == "cuda" else 0.0,
        projections=projections_of(engine, visit, float(schedule.bfactor_A2)) if plot else None,
    )


def epoch_record(
    engine: Engine,
    epoch: int,
    losses: tuple[Mapping[str, float], Mapping[str, float] | None],
    seconds: float,
    seen: np.ndarray,
    written: tuple[int, np.ndarray] | None,
) -> EpochRecord:
    """Return the record of an epoch, without posteriors of the encoder.

    Parameters
    ----------
    engine
        Engine of the run.
    epoch, seconds
        Number and wall time of the epoch.
    losses
        Mean loss terms of the training particles and of the held-out particles, if any.
    seen
        (N,) particles that have been visited.
    written
        Epoch and values of the latents that were written last; None if none were.
    """
    number, latents = written or (None, engine.latents.values.cpu().numpy())
    mean = torch.from_numpy(latents[seen].mean(0, keepdims=True)).to(engine.device)
    return EpochRecord(
        epoch=epoch,
        training=losses[0],
        validation=losses[1],
        seconds=seconds,
        latents=latents,
        zdim=engine.model.config.zdim,
        seen=seen,
        template=template_of(engine.model, mean),
        written=number,
    )


def notify(monitors: list[Monitor], record: IntervalRecord | EpochRecord, say: Callable[[str], None]) -> None:
    """Pass a record to all monitors; a monitor that cannot write is removed and the error is logged."""
    for monitor in list(monitors):
        try:
            if isinstance(record, EpochRecord):
                monitor.epoch(record)
            else:
                monitor.interval(record)
        except OSError as error:
            monitors.remove(monitor)
            say(f"# warning: {type(monitor).__name__} stops: {error}")
