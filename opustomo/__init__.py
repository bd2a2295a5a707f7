"""Structural heterogeneity of cryo-ET subtomograms with a variational autoencoder."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opustomo.run import Run

__version__ = "0.1.0"
__all__ = ["Run", "__version__"]


def __getattr__(name: str) -> Any:
    """Import `Run` on first use, so that commands start without its dependencies."""
    if name == "Run":
        from opustomo.run import Run

        return Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
