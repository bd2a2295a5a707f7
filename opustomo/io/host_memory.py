"""Host memory: how much this process can still allocate, and error messages if it does not suffice."""

from __future__ import annotations

import contextlib
import math
import os
import re
import resource
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from opustomo.errors import UserError

GIB = 2**30
MINIMUM = 2**25
"""Memory in bytes that every command needs."""
WORKSPACE, WORKSPACE_PER_CORE = 3 * 2**28, 2**26
"""Minimum address space that PyTorch, OpenBLAS and their threads need in addition to the libraries themselves."""
ADVICE = "choose a smaller box, a larger pixel size or a smaller batch, or a machine with more memory"
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50, "EiB": 2**60}
_REQUEST = re.compile(r"(?:to allocate|Unable to allocate|buffer size:)\s+([\d.]+)\s*(bytes|[KMGTPE]iB)?")
# Parts of the messages of PyTorch, its libraries and NumPy when memory or address space is exhausted.
_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "memory allocation",
    "alloc_failed",
    "bad_alloc",
    "bad alloc",
    "storage size calculation overflowed",
    "array is too big",
    "maximum allowed dimension exceeded",
    "maximum supported dimension",
    "array dimensions too large",
    "size of tensor overflows",
    "numel: integer multiplication overflow",
    "can't start new thread",
    "failed to map segment",
)


def available_bytes() -> int | None:
    """Return the memory in bytes that this process can still allocate.

    The result is the minimum of the free memory of the machine, the limits of its control groups (containers, SLURM)
    and those of ``ulimit``; None if the system reports none of them.
    """
    found = [_machine(), *_control_groups(), *_process_limits()]
    known = [value for value in found if value is not None]
    return max(0, min(known)) if known else None


def require_memory(needed_bytes: float, what: str, advice: str = ADVICE) -> None:
    """Raise an error if the available memory does not suffice for a task.

    Parameters
    ----------
    needed_bytes
        Minimum memory of the task.
    what
        Subject of the error message, such as a file and its size.
    advice
        What the user can do.

    Raises
    ------
    UserError
        Less than `needed_bytes` is available.
    """
    free = available_bytes()
    if free is not None and needed_bytes > free:
        raise UserError(
            f"{what} needs {format_bytes(needed_bytes)} of memory, but {format_bytes(free)} can be used; {advice}."
        )


def memory_error_message(error: BaseException) -> str | None:
    """Return an error message if an exception means that memory is exhausted, otherwise None."""
    text = " ".join(str(error).split())
    if not isinstance(error, MemoryError):
        kinds = (RuntimeError, ValueError, ImportError, OSError, OverflowError)
        if not isinstance(error, kinds) or not any(sign in text.lower() for sign in _SIGNS):
            return None
    on_gpu = "CUDA" in text or type(error).__name__ == "OutOfMemoryError"
    asked = _REQUEST.search(text)
    if asked is not None:
        request = f"{format_bytes(float(asked[1]) * _UNITS[asked[2] or 'bytes'])} more were requested"
    else:
        request = "more was requested than is available"
    if on_gpu:
        free = re.search(r"of which ([\d.]+ [KMGT]iB) is free", text)
        return f"not enough GPU memory: {request}{f', {free[1]} are free' if free else ''}; {ADVICE}."
    left = available_bytes()
    return f"not enough memory: {request}{'' if left is None else f', {format_bytes(left)} can be used'}; {ADVICE}."


def format_bytes(count: float) -> str:
    """Return a number of bytes as text, such as ``1.5 GiB``."""
    if count < 2**20:
        return f"{count / 2**10:.1f} KiB"
    return f"{count / 2**20:.1f} MiB" if count < GIB else f"{count / GIB:,.1f} GiB"


class _LibraryGuard(MetaPathFinder):
    """Prevent the import of PyTorch and SciPy into an address space that is too small.

    If memory is exhausted during their initialization, the libraries of PyTorch abort the process, which no handler can
    catch, and those of SciPy (OpenBLAS) may wait forever.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name in ("torch", "scipy") and (spec := PathFinder.find_spec(name)) is not None and spec.origin is not None:
            package = Path(spec.origin).parent
            folder = package / "lib" if name == "torch" else package.with_name("scipy.libs")
            needed = sum(file.stat().st_size for file in folder.glob("*.so*"))
            needed += WORKSPACE_PER_CORE * (os.cpu_count() or 1) + (WORKSPACE if name == "torch" else 0)
            require_memory(needed, f"loading {name} and its libraries", "raise the limit (ulimit -v)")
        return None


@contextlib.contextmanager
def limit_to_available_memory() -> Iterator[None]:
    """Let allocations beyond the available memory fail at once within the block.

    Linux grants more memory than exists and kills processes that use it. With this limit the allocation itself
    fails and can be reported. On machines with NVIDIA GPUs no limit is set, because CUDA maps more than it uses.

    Raises
    ------
    UserError
        Less than `MINIMUM` is available.
    """
    # With less memory the stack may be unable to grow, which ends the process without a message.
    require_memory(MINIMUM, "a command", "raise the limit (ulimit -v), or end other programs")
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        sys.meta_path.insert(0, guard := _LibraryGuard())
        try:
            yield
        finally:
            sys.meta_path.remove(guard)
        return
    free, before = available_bytes(), resource.getrlimit(resource.RLIMIT_DATA)
    used = _own("VmData")
    if free is None or used is None or Path("/dev/nvidiactl").exists():
        yield
        return
    limit = used + free
    if before[0] != resource.RLIM_INFINITY:
        limit = min(limit, before[0])
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, before)


def _machine() -> int | None:
    return _field(Path("/proc/meminfo"), "MemAvailable")


def _own(name: str) -> int | None:
    return _field(Path("/proc/self/status"), name)


def _field(path: Path, name: str) -> int | None:
    """Return the value in bytes of a line such as ``MemAvailable: 1024 kB``."""
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return 1024 * int(line.split()[1])
    return None


def _process_limits() -> list[int | None]:
    found: list[int | None] = []
    for kind, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        limit, used = resource.getrlimit(kind)[0], _own(name)
        if limit != resource.RLIM_INFINITY and used is not None:
            found.append(limit - used)
    return found


def _control_groups() -> list[int | None]:
    """Return the memory below the limits of the control groups (version 1 or 2) that contain this process."""
    found: list[int | None] = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, controllers, inner = line.split(":", 2)
        if controllers == "":
            root, names = Path("/sys/fs/cgroup"), ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, names = Path("/sys/fs/cgroup/memory"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        folder = root / inner.lstrip("/")
        for place in (folder, *folder.parents):
            if place == root.parent or not os.path.isdir(place):
                break
            with contextlib.suppress(OSError, ValueError):
                limit, used = (float((place / name).read_text()) for name in names)  # "max" means no limit
                if math.isfinite(limit):
                    found.append(int(limit - used) + _reclaimable(place / "memory.stat"))
    return found


def _reclaimable(path: Path) -> int:
    """Return the size of cached files in bytes, which count as used but can be released."""
    cached = 0
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, value = line.split()
            if name in ("active_file", "inactive_file"):
                cached += int(value)
    return cached
