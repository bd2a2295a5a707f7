"""Choice of the device, and settings of the memory allocator of a CPU."""

from __future__ import annotations

import ctypes
import sys

import torch

from opustomo.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def choose_device(name: str | None) -> str:
    """Return the named device, or by default a GPU if there is one, else the CPU.

    Raises
    ------
    UserError
        If the name is not valid, or the GPU does not exist.
    """
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device is {name}, but it must be cpu, cuda or cuda:N.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device is {name}, but no GPU is available. Use --device cpu, or a machine with a GPU.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device is {name}, but this machine has {torch.cuda.device_count()} GPUs, counted from 0.")
    return name


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory instead of returning it to the system and faulting it in again at every step.

    Gradients and activations of one step are as large as those of the next. At the size of the demo, steps are 15 to
    30 % faster.

    Returns
    -------
    bool
        Whether the setting was made; it exists only in glibc on Linux.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL("libc.so.6")
        return bool(library.mallopt(M_MMAP_MAX, 0)) and bool(library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
    except (OSError, AttributeError):
        return False


def prepare_convolutions(mixed_precision: bool) -> None:
    """Let cuDNN choose the algorithms of convolutions by its heuristics, and use TF32 only in mixed precision.

    Trials of algorithms take seconds and gigabytes (docs/performance.md).
    """
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = mixed_precision


def release_unused_memory(device: torch.device) -> None:
    """Return memory that PyTorch keeps for later to a GPU; recorded steps have memory of their own."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
