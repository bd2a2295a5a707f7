"""`dsd` with very small networks, so that tests of the training loop take little time and disk space.

Only the networks are replaced, and the figure of every epoch, which takes longer than the epoch, is left out;
commands, trainer, physics, checkpoints and signals are the real ones.
"""

import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from opustomo.training.processes import StopRequest


class TinyEncoder(nn.Module):
    """Encoder that maps the coarse volume linearly to the latents."""

    def __init__(self, latent_dim: int, inner_size: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool3d(4)
        self.mu = nn.Linear(64, latent_dim)
        self.logstd = nn.Linear(64, latent_dim)

    def forward(self, volumes: Tensor) -> tuple[Tensor, Tensor]:
        features = self.pool(volumes[:, None]).flatten(1)
        return self.mu(features), self.logstd(features)

    def start_deviation(self, value: float) -> None:
        """Set the standard deviation of untrained posteriors to ``value``."""
        nn.init.constant_(self.logstd.bias, math.log(value))


class TinyTemplate(nn.Module):
    """Decoder that maps latents linearly to a coarse grid, which is interpolated to the template."""

    def __init__(self, zdim: int, templateres: int, zaffinedim: int = 0, poses: int = 0) -> None:
        super().__init__()
        self.size = templateres
        self.grid = nn.Linear(zdim, 512)
        self.affine_out = nn.Linear(zaffinedim, 6 * poses) if poses else None

    @property
    def composition_weight(self) -> Tensor:
        return self.grid.weight

    def forward(self, composition: Tensor) -> Tensor:
        coarse = self.grid(composition).view(-1, 1, 8, 8, 8)
        return nn.functional.interpolate(coarse, size=(self.size,) * 3, mode="trilinear", align_corners=True)[:, 0]

    def pose_rows(self, conformation: Tensor) -> Tensor:
        assert self.affine_out is not None
        return self.affine_out(conformation).unflatten(-1, (-1, 6))


class TinyDecoder(nn.Module):
    """Decoder with the interface of ConvTemplate."""

    def __init__(self, zdim: int, templateres: int, zaffinedim: int = 0, poses: int = 0) -> None:
        super().__init__()
        self.template = TinyTemplate(zdim, templateres, zaffinedim, poses)
        self.register_buffer("composition_scale", torch.ones(()), persistent=False)
        self.register_buffer("consensus", torch.zeros((templateres,) * 3), persistent=False)

    def forward(self, composition: Tensor) -> Tensor:
        return self.difference(composition) + self.consensus

    def difference(self, composition: Tensor) -> Tensor:
        """Return the difference from the consensus volume."""
        return self.template(composition)

    def freeze_head(self) -> None:
        """Keep the initial weights of the pose head."""
        if self.template.affine_out is not None:
            self.template.affine_out.requires_grad_(False)


class CountedStop(StopRequest):
    """Request to stop that becomes true after a number of queries."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    def __bool__(self) -> bool:
        self.left -= 1
        if self.left < 0:
            self.signal = signal.SIGTERM
        return self.signal is not None


@contextmanager
def stop_after(times: int) -> Iterator[StopRequest]:
    """Replace the handler of signals by one that stops after the given number of steps."""
    yield CountedStop(times)


def main(argv: list[str]) -> int:
    """Run `dsd` with the small networks."""
    from opustomo.main import main as dsd
    from opustomo.model import autoencoder
    from opustomo.training import run_training, trainer
    from opustomo.training.monitors import training_figure

    if "STOP_AFTER" in os.environ:
        trainer.AGREE_STEPS = 3
        run_training.stop_on_signal = lambda: stop_after(int(os.environ["STOP_AFTER"]))  # type: ignore[assignment]
    torch.set_num_threads(1)
    autoencoder.Encoder = TinyEncoder  # type: ignore[misc, assignment]
    autoencoder.Decoder = TinyDecoder  # type: ignore[misc, assignment]
    training_figure.draw_training = lambda *args: None  # type: ignore[assignment]
    return dsd(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
