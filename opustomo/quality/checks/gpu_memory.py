"""Estimate of the GPU memory of a training step from the sizes of its largest arrays.

The bytes per voxel were fitted to the peaks that PyTorch's allocator reports on a CPU (templates of 64 to 160 voxels,
render boxes of 48 to 64, batches of 1 to 4). The residuals are below 4 % of the part that grows with the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from opustomo.io.host_memory import GIB, require_memory
from opustomo.model.config import ModelConfig
from opustomo.physics.boxes import Boxes

PARAMETERS = 61.4e6
"""Number of parameters of encoder and decoder, which hardly depends on the sizes of the latents."""
BYTES_PER_PARAMETER = 18
"""Weight, gradient and two moments in float32, and a copy in bfloat16."""
CPU_BYTES_PER_PARAMETER = 16
"""The same without the copy in bfloat16."""
TEMPLATE, RENDER, CROP = 40, 54, 77
"""Bytes per voxel and particle of the template, the render box and the crop, with networks in bfloat16."""
CONTEXT = 1.5 * 2**30
"""Memory of the CUDA context and of the workspaces of convolutions and transforms."""
USABLE = 0.9


@dataclass(frozen=True)
class MemorySummary:
    """Estimated GPU memory of a training.

    Attributes
    ----------
    estimate_bytes
        Estimate at the batch size of the run.
    batch_size, largest_batch
        Batch size of the run, and the largest that fits the free memory (0 if none does; None without a GPU).
    free_bytes
        Free memory of the GPU; None without a GPU.
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
        """One line of text."""
        free = "this machine has no GPU" if self.free_bytes is None else f"{self.free_bytes / GIB:.1f} GiB free"
        return f"about {self.estimate_bytes / GIB:.1f} GiB of GPU memory at -b {self.batch_size} (an estimate; {free})"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warning if the batch does not fit, with a batch size that does."""
        if self.largest_batch is None or self.free_bytes is None or self.largest_batch >= self.batch_size:
            return ()
        if self.largest_batch:
            advice = f"-b {self.largest_batch} should fit, and --accum-step keeps the number of particles per update"
        else:
            advice = f"not even one particle fits; lower --templateres {self.templateres} or --downfrac"
        return (
            f"a batch of {self.batch_size} will probably not fit the {self.free_bytes / GIB:.1f} GiB that are free: "
            f"{advice}",
        )


def bytes_per_particle(boxes: Boxes, model: ModelConfig) -> float:
    """Return the memory in bytes that each particle of a batch adds."""
    return TEMPLATE * model.templateres**3 + RENDER * boxes.render**3 + CROP * boxes.crop**3


def estimate_memory(boxes: Boxes, model: ModelConfig, batch_size: int, free_bytes: int | None) -> MemorySummary:
    """Estimate the memory of a run and the largest batch that fits ``free_bytes`` (None without a GPU)."""
    fixed = BYTES_PER_PARAMETER * PARAMETERS + CONTEXT
    each = bytes_per_particle(boxes, model)
    largest = None if free_bytes is None else max(0, int((USABLE * free_bytes - fixed) / each))
    return MemorySummary(fixed + each * batch_size, batch_size, largest, free_bytes, model.templateres)


def require_training_memory(boxes: Boxes, model: ModelConfig, batch_size: int) -> None:
    """Raise an error if the memory of the CPU is too small for the training.

    Raises
    ------
    UserError
        If a step needs more memory than can be used.
    """
    each = bytes_per_particle(boxes, model)
    require_memory(
        CPU_BYTES_PER_PARAMETER * PARAMETERS + each * batch_size,
        f"training with --templateres {model.templateres} and a batch of {batch_size}",
        "give a lower --templateres, --downfrac or -b, or train on a machine with more memory",
    )


def free_gpu_bytes() -> int | None:
    """Return the free memory of the current GPU in bytes; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.mem_get_info()[0])
