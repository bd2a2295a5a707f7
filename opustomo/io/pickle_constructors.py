"""Constructors that pickles may call, which allocate no more memory than the file can fill.

A pickle of a few bytes can request an array, a list or a string of any size. Sizes are therefore checked before
an object is created: against the bytes that fill it, or against a limit proportional to the size of the file.
"""

from __future__ import annotations

import collections
import datetime
import math
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy._core import multiarray, numeric

HELD_BY_PICKLES = 16
"""Largest plausible ratio of the memory of objects to the size of their pickle."""
ALLOWANCE = 2**20
"""Memory in bytes that every file may request in addition."""


class TooLargeError(pickle.UnpicklingError):
    """A file requests more memory than its content can fill."""


class Constructors:
    """Functions that a pickle may call, provided as bound methods.

    Pickles can set attributes of the objects that they receive, but not of bound methods.

    Parameters
    ----------
    size
        Size of the file in bytes.
    read_torch
        Function that reads a torch file from bytes.
    """

    def __init__(self, size: int, read_torch: Callable[[bytes], Any]) -> None:
        self._read_torch = read_torch
        self._left = ALLOWANCE + HELD_BY_PICKLES * size

    def allowed(self) -> dict[tuple[str, str], Any]:
        """Return the object for each (module, name) that a pickle may refer to."""
        names: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): self.array_type,
            ("numpy", "dtype"): np.dtype,
            ("datetime", "datetime"): datetime.datetime,
            ("datetime", "date"): datetime.date,
            ("datetime", "time"): datetime.time,
            ("datetime", "timedelta"): datetime.timedelta,
            ("datetime", "timezone"): datetime.timezone,
            ("collections", "OrderedDict"): self.ordered_dict,
            # Protocols 0 to 2 write bytes as text that is encoded again.
            ("_codecs", "encode"): self.encode,
            ("torch._utils", "_rebuild_tensor_v2"): self.tensor,
            ("torch._utils", "_rebuild_parameter"): self.parameter,
            ("torch.storage", "_load_from_bytes"): self.storage_from_bytes,
            ("__builtin__", "xrange"): range,
        }
        for module in ("numpy.core", "numpy._core"):
            names[f"{module}.multiarray", "_reconstruct"] = self.empty_array
            names[f"{module}.multiarray", "scalar"] = self.scalar
            names[f"{module}.numeric", "_frombuffer"] = self.array_from_buffer
        kinds: dict[str, Any] = {"complex": complex, "slice": slice, "range": range}
        kinds |= {"set": self.new_set, "frozenset": self.new_frozenset, "list": self.new_list, "tuple": self.new_tuple}
        kinds |= {"dict": self.new_dict, "bytes": self.new_bytes, "bytearray": self.new_bytearray}
        for module in ("builtins", "__builtin__"):
            names |= {(module, name): kind for name, kind in kinds.items()}
        return names

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise TooLargeError("it requests more memory than the file can fill")

    def array_type(self, *args: Any) -> Any:
        """Replace `numpy.ndarray`, which files refer to but never call."""
        raise TooLargeError("it creates an array without values")

    def empty_array(self, kind: Any, shape: Any, code: Any) -> Any:
        """Create the empty array that a pickle fills afterwards."""
        if math.prod(shape) != 0 or len(shape) != 1:
            raise TooLargeError("it creates an array without values")
        return multiarray._reconstruct(np.ndarray, (0,), code)

    def scalar(self, dtype: Any, value: Any) -> Any:
        """Create a NumPy scalar from its bytes."""
        return multiarray.scalar(dtype, value)

    def array_from_buffer(self, buffer: Any, dtype: Any, shape: Any, order: Any, *more: Any) -> Any:
        """Create an array from its bytes."""
        return numeric._frombuffer(buffer, dtype, shape, order, *more)  # type: ignore[attr-defined]

    def storage_from_bytes(self, data: bytes) -> Any:
        """Read a torch storage that is pickled as a separate torch file."""
        self._spend(len(data))
        return self._read_torch(data)

    def tensor(self, storage: Any, *args: Any) -> Any:
        """Create a tensor that is not larger than its storage."""
        import torch

        made = torch._utils._rebuild_tensor_v2(storage, *args)
        if made.numel() * made.element_size() > made.untyped_storage().nbytes():
            raise TooLargeError("a tensor is larger than its values")
        return made

    def parameter(self, *args: Any) -> Any:
        """Create a torch parameter from a tensor."""
        import torch

        return torch._utils._rebuild_parameter(*args)

    def encode(self, text: str, encoding: str = "latin1") -> bytes:
        """Create the bytes that protocols 0 to 2 write as text."""
        if encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"encoding {encoding}")
        self._spend(len(text))
        return text.encode("latin1")

    def _sized(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments of a container if they are its values; an integer would be a size."""
        for value in values:
            if isinstance(value, int) or not isinstance(value, Iterable):
                raise TooLargeError("it creates a container without values")
            self._spend(8 * len(value))  # type: ignore[arg-type]
        return values

    def new_set(self, *values: Any) -> Any:
        """Create a set."""
        return set(*self._sized(values))

    def new_frozenset(self, *values: Any) -> Any:
        """Create a frozen set."""
        return frozenset(*self._sized(values))

    def new_list(self, *values: Any) -> Any:
        """Create a list."""
        return list(*self._sized(values))

    def new_tuple(self, *values: Any) -> Any:
        """Create a tuple."""
        return tuple(*self._sized(values))

    def new_dict(self, *values: Any) -> Any:
        """Create a dictionary."""
        return dict(*self._sized(values))

    def ordered_dict(self, *values: Any) -> Any:
        """Create an ordered dictionary."""
        return collections.OrderedDict(*self._sized(values))

    def new_bytes(self, *values: Any) -> Any:
        """Create bytes; protocol 2 writes empty bytes in this way."""
        return bytes(*self._sized(values[:1]), *values[1:])

    def new_bytearray(self, *values: Any) -> Any:
        """Create a bytearray, which protocols below 5 write as text with its encoding."""
        return bytearray(*self._sized(values[:1]), *values[1:])


def tensor_bytes(content: Any) -> int:
    """Return the size in bytes of all tensors in containers; values that a stride repeats count each time."""
    import torch

    total, todo, seen = 0, [content], set()
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            todo += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset)):
            todo += item
        elif isinstance(item, torch.Tensor):
            total += item.numel() * item.element_size()
    return total
