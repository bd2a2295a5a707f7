"""Tilt lists of a batch, padded to one length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

FIELDS = (
    "tilt_deg",
    "defocus_u_A",
    "defocus_v_A",
    "astigmatism_deg",
    "voltage_kv",
    "cs_mm",
    "amplitude_contrast",
    "phase_shift_deg",
    "bfactor_A2",
    "scale",
)


@dataclass(frozen=True)
class TiltBatch:
    """Optics of the tilts of several subtomograms, each field (..., T); padding has scale 0.

    Units as in the names; ``bfactor_A2`` damps when positive, ``scale`` weights the tilt in the 3D CTF.
    """

    tilt_deg: Tensor
    defocus_u_A: Tensor
    defocus_v_A: Tensor
    astigmatism_deg: Tensor
    voltage_kv: Tensor
    cs_mm: Tensor
    amplitude_contrast: Tensor
    phase_shift_deg: Tensor
    bfactor_A2: Tensor
    scale: Tensor

    @classmethod
    def pad(cls, tables: Sequence[object], dtype: torch.dtype = torch.float32) -> TiltBatch:
        """Stack tables (objects with these fields as 1D arrays) of any lengths to (N, T_max)."""
        longest = max(len(np.asarray(table.scale)) for table in tables)  # type: ignore[attr-defined]
        columns = {}
        for name in FIELDS:
            column = np.zeros((len(tables), longest), dtype=np.float64)
            if name == "voltage_kv":
                column += 300.0  # padding must stay finite: its scale of zero removes it from every sum
            for row, table in zip(column, tables, strict=True):
                values = np.asarray(getattr(table, name), dtype=np.float64)
                row[: len(values)] = values
            columns[name] = torch.from_numpy(column).to(dtype)
        return cls(**columns)

    def __getitem__(self, index: Tensor | slice | tuple[Tensor | slice | None, ...]) -> TiltBatch:
        """Index all fields alike."""
        return TiltBatch(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, target: torch.device | torch.dtype | str) -> TiltBatch:
        """Move or convert all fields."""
        return TiltBatch(**{f.name: getattr(self, f.name).to(target) for f in fields(self)})

    def limit(self, tilt_limit_deg: float) -> TiltBatch:
        """Give zero scale to tilts beyond ± ``tilt_limit_deg``."""
        return replace(self, scale=torch.where(self.tilt_deg.abs() <= tilt_limit_deg, self.scale, 0.0))

    def __len__(self) -> int:
        return self.scale.shape[0]
