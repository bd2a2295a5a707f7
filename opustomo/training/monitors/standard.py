"""Standard training monitors of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from opustomo.training.monitors.collapse import CollapseMonitor
from opustomo.training.monitors.convergence_state import ConvergenceMonitor
from opustomo.training.monitors.metrics import MetricsFile, TensorBoardMonitor, tensorboard_available
from opustomo.training.monitors.records import Monitor
from opustomo.training.monitors.training_figure import ParticlePlot, TrainingFigure


def standard_monitors(
    outdir: Path, say: Callable[[str], None], resumed_at: int | None, plot: str | None = None
) -> list[Monitor]:
    """Create the monitors of convergence, metrics, figures, collapse and, if installed, TensorBoard.

    Parameters
    ----------
    outdir
        Output folder of the run.
    say
        Callback that receives messages for the log.
    resumed_at
        Number of particles processed before the run was resumed; None for a new run.
    plot
        Name, without .png, of the figure of one particle (``--plot``); None for no figure.

    Returns
    -------
    list of Monitor
        Training monitors. If a file cannot be resumed, a warning is logged and its monitor is omitted.
    """
    convergence = ConvergenceMonitor(outdir, say)
    monitors: list[Monitor] = [convergence]
    metrics = MetricsFile(outdir / "metrics.csv", convergence.columns)
    try:
        if resumed_at is not None:
            metrics.resume_from(resumed_at)
        monitors.append(metrics)
    except OSError as error:
        say(f"# warning: metrics.csv cannot be resumed ({error}), so this run does not write it")
    monitors += [TrainingFigure(outdir / "training.png", convergence), CollapseMonitor(say)]
    if plot is not None:
        monitors.append(ParticlePlot(outdir / f"{plot}.png"))
    if tensorboard_available():
        try:
            monitors.append(TensorBoardMonitor(outdir / "tensorboard", resumed_at))
        except (ImportError, OSError) as error:
            say(f"# warning: TensorBoard files are not written ({error})")
    return monitors
