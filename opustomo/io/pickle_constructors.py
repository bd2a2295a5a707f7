"""What pickles may call, none of it making more than the file can hold.

A pickle of a few bytes may ask for an array, a list or a string of any size. Sizes are therefore checked before
anything is made: against the bytes that fill it, or against an allowance in proportion to the size of the file.
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
"""Bytes of objects in memory that a byte of a pickle may honestly stand for."""
ALLOWANCE = 2**20
"""Bytes that the smallest file may ask for."""


class TooLargeError(pickle.UnpicklingError):
    """A file asks for more than it holds."""


class Constructors:
    """Functions that one pickle may call, handed out as bound methods.

    Pickles can set attributes on whatever they are given; on a bound method they cannot.

    Parameters
    ----------
    size
        Bytes of the file.
    read_torch
        Reads the torch file in the bytes given.
    """

    def __init__(self, size: int, read_torch: Callable[[bytes], Any]) -> None:
        self._read_torch = read_torch
        self._left = ALLOWANCE + HELD_BY_PICKLES * size

    def allowed(self) -> dict[tuple[str, str], Any]:
        """Return what each (module, name) in the pickle stands for."""
        names: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): self.array_type,
            ("numpy", "dtype"): np.dtype,
            ("datetime", "datetime"): datetime.datetime,
            ("datetime", "date"): datetime.date,
            ("datetime", "time"): datetime.time,
            ("datetime", "timedelta"): datetime.timedelta,
            ("datetime", "timezone"): datetime.timezone,
            ("collections", "OrderedDict"): self.ordered_dict,
            # protocols 0 to 2 write bytes as text to be encoded again
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
            raise TooLargeError("it asks for more memory than the file can fill")

    def array_type(self, *args: Any) -> Any:
        """Stand for `numpy.ndarray`, which files name but never call."""
        raise TooLargeError("it makes an array without values")

    def empty_array(self, kind: Any, shape: Any, code: Any) -> Any:
        """Make the array of no values that a pickle fills afterwards."""
        if math.prod(shape) != 0 or len(shape) != 1:
            raise TooLargeError("it makes an array without values")
        return multiarray._reconstruct(np.ndarray, (0,), code)

    def scalar(self, dtype: Any, value: Any) -> Any:
        """Make a numpy scalar from its bytes."""
        return multiarray.scalar(dtype, value)

    def array_from_buffer(self, buffer: Any, dtype: Any, shape: Any, order: Any, *more: Any) -> Any:
        """Make an array from the bytes that fill it."""
        return numeric._frombuffer(buffer, dtype, shape, order, *more)  # type: ignore[attr-defined]

    def storage_from_bytes(self, data: bytes) -> Any:
        """Read a torch storage that is pickled as a torch file of its own."""
        self._spend(len(data))
        return self._read_torch(data)

    def tensor(self, storage: Any, *args: Any) -> Any:
        """Make a tensor that its storage fills."""
        import torch

        made = torch._utils._rebuild_tensor_v2(storage, *args)
        if made.numel() * made.element_size() > made.untyped_storage().nbytes():
            raise TooLargeError("a tensor is larger than its values")
        return made

    def parameter(self, *args: Any) -> Any:
        """Make a torch parameter of a tensor."""
        import torch

        return torch._utils._rebuild_parameter(*args)

    def encode(self, text: str, encoding: str = "latin1") -> bytes:
        """Make the bytes that protocols 0 to 2 write as text."""
        if encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"encoding {encoding}")
        self._spend(len(text))
        return text.encode("latin1")

    def _sized(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments of a container if they hold its values; a number would be a size."""
        for value in values:
            if isinstance(value, int) or not isinstance(value, Iterable):
                raise TooLargeError("it makes a container without values")
            self._spend(8 * len(value))  # type: ignore[arg-type]
        return values

    def new_set(self, *values: Any) -> Any:
        """Make a set."""
        return set(*self._sized(values))

    def new_frozenset(self, *values: Any) -> Any:
        """Make a frozen set."""
        return frozenset(*self._sized(values))

    def new_list(self, *values: Any) -> Any:
        """Make a list."""
        return list(*self._sized(values))

    def new_tuple(self, *values: Any) -> Any:
        """Make a tuple."""
        return tuple(*self._sized(values))

    def new_dict(self, *values: Any) -> Any:
        """Make a dictionary."""
        return dict(*self._sized(values))

    def ordered_dict(self, *values: Any) -> Any:
        """Make an ordered dictionary."""
        return collections.OrderedDict(*self._sized(values))

    def new_bytes(self, *values: Any) -> Any:
        """Make bytes; protocol 2 writes empty ones so."""
        return bytes(*self._sized(values[:1]), *values[1:])

    def new_bytearray(self, *values: Any) -> Any:
        """Make an array of bytes, which protocols below 5 write as text and its encoding."""
        return bytearray(*self._sized(values[:1]), *values[1:])


def tensor_bytes(content: Any) -> int:
    """Return the bytes of all tensors in containers; values that a stride repeats count each time."""
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
