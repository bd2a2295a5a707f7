"""The watchers that every run has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from opustomo.training.records import Watcher
from opustomo.watch.collapse import CollapseWatcher
from opustomo.watch.metrics import MetricsFile
from opustomo.watch.particle_plot import ParticlePlot
from opustomo.watch.tensorboard import TensorBoardWatcher, tensorboard_available
from opustomo.watch.training_figure import TrainingFigure


def standard_watchers(
    outdir: Path, say: Callable[[str], None], resumed_at: int | None, plot: str | None = None
) -> list[Watcher]:
    """Metrics files, training figure, look-out for collapse and, where installed, TensorBoard.

    Parameters
    ----------
    outdir
        Folder of the run.
    say
        Takes a line for the log.
    resumed_at
        Particles seen when an interrupted run is taken up, None for a run from the start.

    plot
        Name (without .png) of the picture of one particle, None for no picture (``--plot``).

    Returns
    -------
    list of Watcher
        A file that cannot be taken up is said and its watcher left out: no run is lost for it.
    """
    watchers: list[Watcher] = []
    metrics = MetricsFile(outdir / "metrics.csv")
    try:
        if resumed_at is not None:
            metrics.resume_from(resumed_at)
        watchers.append(metrics)
    except OSError as error:
        say(f"# warning: metrics.csv cannot be continued ({error}); this run does not write it")
    watchers += [TrainingFigure(outdir / "training.png"), CollapseWatcher(say)]
    if plot is not None:
        watchers.append(ParticlePlot(outdir / f"{plot}.png"))
    if tensorboard_available():
        try:
            watchers.append(TensorBoardWatcher(outdir / "tensorboard", resumed_at))
        except (ImportError, OSError) as error:
            say(f"# warning: no TensorBoard files ({error})")
    return watchers
