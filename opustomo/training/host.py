"""What the host's memory allocator is asked for when networks are trained on a CPU."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed, instead of handing it back and faulting it in anew at every step.

    Gradients and activations of one step are as large as those of the last; measured at the demo's size, steps are 15
    to 30 % faster. Does nothing but on Linux with glibc; whether it did anything.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL("libc.so.6")
        return bool(library.mallopt(M_MMAP_MAX, 0)) and bool(library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
    except (OSError, AttributeError):
        return False
