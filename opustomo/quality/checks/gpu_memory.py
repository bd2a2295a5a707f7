"""How much GPU memory a training step will take: an estimate from the sizes of its largest arrays.

The bytes per voxel were fitted to the peaks that PyTorch's allocator reports (on a CPU, T 64…160, render box 48…64,
batch 1…4): residuals below 4 % of the part that grows with the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from opustomo.io.host_memory import require_memory
from opustomo.model.config import ModelConfig
from opustomo.physics.boxes import Boxes

PARAMETERS = 61.4e6
"""Encoder and decoder; the latents' sizes hardly matter."""
BYTES_PER_PARAMETER = 18
"""Weight, gradient, two moments in float32; a bfloat16 copy."""
CPU_BYTES_PER_PARAMETER = 16
"""The same without the copy."""
TEMPLATE, RENDER, CROP = 40, 54, 77
"""Bytes per voxel and particle of the template, of the render box and of the crop, networks in bfloat16."""
CONTEXT = 1.5 * 2**30
"""CUDA context and the workspaces of convolutions and transforms."""
USABLE = 0.9
GIB = 2**30


@dataclass(frozen=True)
class MemorySummary:
    """Estimated need of GPU memory.

    Attributes
    ----------
    estimate_bytes
        At the run's batch size.
    batch_size, largest_batch
        The run's, and the largest that fits the free memory (0 when none does; None without a GPU).
    free_bytes
        Free on the GPU, None without one.
    templateres
        Side of the template.
    """

    estimate_bytes: float
    batch_size: int
    largest_batch: int | None
    free_bytes: int | None
    templateres: int

    @property
    def line(self) -> str:
        """One line for people."""
        free = "no GPU here" if self.free_bytes is None else f"{self.free_bytes / GIB:.1f} GiB free"
        return f"about {self.estimate_bytes / GIB:.1f} GiB of GPU memory at -b {self.batch_size} (an estimate; {free})"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What will not fit, and what will."""
        if self.largest_batch is None or self.free_bytes is None or self.largest_batch >= self.batch_size:
            return ()
        if self.largest_batch:
            advice = f"-b {self.largest_batch} should; --accum-step keeps the particles per update"
        else:
            advice = f"not one particle does; lower --templateres {self.templateres} or --downfrac"
        return (
            f"a batch of {self.batch_size} will probably not fit the {self.free_bytes / GIB:.1f} GiB that are free: "
            f"{advice}",
        )


def bytes_per_particle(boxes: Boxes, model: ModelConfig) -> float:
    """What every particle of a batch adds."""
    return TEMPLATE * model.templateres**3 + RENDER * boxes.render**3 + CROP * boxes.crop**3


def estimate_memory(boxes: Boxes, model: ModelConfig, batch_size: int, free_bytes: int | None) -> MemorySummary:
    """Estimate the need of a run and what would fit ``free_bytes`` (None: there is no GPU)."""
    fixed = BYTES_PER_PARAMETER * PARAMETERS + CONTEXT
    each = bytes_per_particle(boxes, model)
    largest = None if free_bytes is None else max(0, int((USABLE * free_bytes - fixed) / each))
    return MemorySummary(fixed + each * batch_size, batch_size, largest, free_bytes, model.templateres)


def require_training_memory(boxes: Boxes, model: ModelConfig, batch_size: int) -> None:
    """Refuse to train on the CPU what its memory cannot hold.

    Raises
    ------
    UserError
        The least that a step takes is more than can be used.
    """
    each = bytes_per_particle(boxes, model)
    require_memory(
        CPU_BYTES_PER_PARAMETER * PARAMETERS + each * batch_size,
        f"training with --templateres {model.templateres} and a batch of {batch_size}",
        "give a lower --templateres, --downfrac or -b, or train on a machine with more memory",
    )


def free_gpu_bytes() -> int | None:
    """Free memory of the current GPU; None without one."""
    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.mem_get_info()[0])
