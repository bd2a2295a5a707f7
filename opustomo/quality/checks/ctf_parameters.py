"""CTF parameters of a particle set: plausible ranges, B factors, and how finely the box samples the CTF."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from opustomo.io.ctf_tables import TILT_COLUMNS, TiltTable
from opustomo.io.star_conventions import BFACTOR_PER_DOSE, describe_sign
from opustomo.physics.boxes import Boxes
from opustomo.physics.ctf import TiltBatch, ctf_at, electron_wavelength_A

DEFOCUS_UM = (0.1, 20.0)
VOLTAGE_KV = (60.0, 400.0)
CS_MM = (0.0, 10.0)
FREQUENCIES = 4096
FAR_BEYOND = 0.7
"""Fraction of Nyquist (in Å) below which a first zero is suspicious."""


@dataclass(frozen=True)
class BfactorSummary:
    """B factors of all tilts with weights above zero, as in the tables.

    Attributes
    ----------
    positive, negative, without
        Numbers of distinct tables whose B factors are positive, negative, or all 0.
    magnitude_A2
        Lowest and highest absolute value, Å².
    scale
        Factor that multiplies them (``--warp-bfactor-scale``).
    """

    positive: int
    negative: int
    without: int
    magnitude_A2: tuple[float, float]
    scale: float = 1.0

    @property
    def dose(self) -> tuple[float, float]:
        """Lowest and highest accumulated dose that corresponds to the B factors, e/Å²."""
        return self.magnitude_A2[0] / BFACTOR_PER_DOSE, self.magnitude_A2[1] / BFACTOR_PER_DOSE

    @property
    def line(self) -> str:
        """One line of text."""
        if not self.positive and not self.negative:
            return f"B factors: {describe_sign(0)}"
        if self.scale == 0:
            return "B factors: not applied, because --warp-bfactor-scale is 0"
        signs = [describe_sign(sign) for sign, count in ((1, self.positive), (-1, self.negative)) if count]
        text = (
            f"B factors of {_span(self.magnitude_A2)} Å²: {'; '.join(signs)}; they correspond to a dose of "
            f"{_span(self.dose)} e/Å² (|B|/{BFACTOR_PER_DOSE:g})"
        )
        return text if self.scale == 1 else f"{text}; they are multiplied by {self.scale:g} (--warp-bfactor-scale)"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about implausible values."""
        if not self.positive or not self.negative:
            return ()
        return (
            f"B factors are positive in {self.positive} CTF tables and negative in {self.negative}: the tables come "
            "from different programs; the sign is determined for each table",
        )


@dataclass(frozen=True)
class OpticsSummary:
    """CTF parameters of all tilts with weights above zero.

    Attributes
    ----------
    modeled
        False if only the missing wedge is modeled.
    defocus_um
        Lowest, mean and highest defocus in µm, underfocus positive.
    astigmatism_um
        Largest |u - v| in µm.
    voltage_kv, cs_mm, amplitude_contrast, phase_shift_deg
        Lowest and highest value.
    first_zero_A
        Resolution of the first CTF zero at the mean defocus, Å; None if the CTF has no zero.
    nyquist_A
        Nyquist limit of the render box, Å.
    resolved_to_A
        Resolution beyond which the CTF oscillates faster than the box can represent, Å.
    bfactors
        B factors of the tables.
    """

    modeled: bool
    defocus_um: tuple[float, float, float]
    astigmatism_um: float
    voltage_kv: tuple[float, float]
    cs_mm: tuple[float, float]
    amplitude_contrast: tuple[float, float]
    phase_shift_deg: tuple[float, float]
    first_zero_A: float | None
    nyquist_A: float
    resolved_to_A: float
    bfactors: BfactorSummary

    @property
    def line(self) -> str:
        """One line of text."""
        if not self.modeled:
            return f"none modeled, only the missing wedge; Nyquist {self.nyquist_A:.4g} Å"
        zero = "no zero" if self.first_zero_A is None else f"first zero at {self.first_zero_A:.3g} Å"
        beyond = self.first_zero_A is None or self.first_zero_A < self.nyquist_A
        low, mean, high = self.defocus_um
        phase = f", phase shift {_span(self.phase_shift_deg)}°" if any(self.phase_shift_deg) else ""
        return (
            f"defocus {low:.3g}…{high:.3g} µm, mean {mean:.3g} (astigmatism up to {self.astigmatism_um:.2g}), "
            f"{_span(self.voltage_kv)} kV, Cs {_span(self.cs_mm)} mm, "
            f"amplitude contrast {_span(self.amplitude_contrast)}{phase}; "
            f"{zero}{', beyond' if beyond else ','} Nyquist {self.nyquist_A:.4g} Å\n{self.bfactors.line}"
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about implausible values."""
        if not self.modeled:
            return ()
        found = []
        low, mean, high = self.defocus_um
        if mean < 0:
            found.append(f"the mean defocus is {mean:.3g} µm, overfocus: underfocus must be positive in these tables")
        elif low < DEFOCUS_UM[0] or high > DEFOCUS_UM[1]:
            found.append(
                f"the defocus is between {low:.3g} and {high:.3g} µm, but {DEFOCUS_UM[0]:g} to {DEFOCUS_UM[1]:g} is "
                "expected; RELION tables are in Å, the csv tables of WARP in meters (--warp)"
            )
        for name, span, (least, greatest), unit in (
            ("voltage", self.voltage_kv, VOLTAGE_KV, "kV"),
            ("spherical aberration", self.cs_mm, CS_MM, "mm"),
            ("phase shift", self.phase_shift_deg, (-180.0, 180.0), "degrees"),
        ):
            if span[0] < least or span[1] > greatest:
                found.append(f"the {name} is {_span(span)} {unit}, but {least:g} to {greatest:g} is expected")
        if self.first_zero_A is None or self.first_zero_A < FAR_BEYOND * self.nyquist_A:
            found.append(
                "the CTF has no zero near Nyquist: either it hardly matters at this pixel size, "
                "or defocus or pixel size are wrong"
            )
        if self.resolved_to_A > self.nyquist_A:
            found.append(
                f"at the mean defocus, the CTF oscillates faster than the box can represent beyond "
                f"{self.resolved_to_A:.3g} Å: extract larger boxes or lower --downfrac"
            )
        return (*found, *self.bfactors.warnings)


def _span(values: tuple[float, float]) -> str:
    return f"{values[0]:.4g}" if values[0] == values[1] else f"{values[0]:.4g}…{values[1]:.4g}"


def summarize_optics(tables: list[TiltTable], boxes: Boxes) -> OpticsSummary:
    """Summarize the CTF parameters of distinct tables for the render box of ``boxes``."""
    used = np.concatenate([table.scale for table in tables]) > 0
    column = {name: np.concatenate([getattr(table, name) for table in tables])[used] for name in TILT_COLUMNS}

    def span(name: str) -> tuple[float, float]:
        return float(column[name].min()), float(column[name].max())

    defocus = 0.5 * (column["defocus_u_A"] + column["defocus_v_A"])
    mean = {name: float(values.mean()) for name, values in column.items()}
    mean_defocus = float(defocus.mean())
    nyquist = 2.0 * boxes.render_apix
    wavelength = float(electron_wavelength_A(torch.tensor(mean["voltage_kv"])))
    return OpticsSummary(
        modeled=bool(defocus.any() or (column["amplitude_contrast"] < 1).any()),
        defocus_um=(float(defocus.min()) * 1e-4, mean_defocus * 1e-4, float(defocus.max()) * 1e-4),
        astigmatism_um=float(np.abs(column["defocus_u_A"] - column["defocus_v_A"]).max()) * 1e-4,
        voltage_kv=span("voltage_kv"),
        cs_mm=span("cs_mm"),
        amplitude_contrast=span("amplitude_contrast"),
        phase_shift_deg=span("phase_shift_deg"),
        first_zero_A=first_zero(mean, mean_defocus, 0.25 * nyquist),
        nyquist_A=nyquist,
        resolved_to_A=2.0 * wavelength * abs(mean_defocus) / (boxes.box * boxes.apix),
        bfactors=summarize_bfactors(tables),
    )


def summarize_bfactors(tables: list[TiltTable]) -> BfactorSummary:
    """Summarize the signs and absolute values of B factors."""
    signs = [table.bfactor_sign for table in tables]
    scale = next((table.bfactor_scale for table in tables), 1.0)
    written = np.concatenate([(table.bfactor_A2 / (table.bfactor_scale or 1.0))[table.scale > 0] for table in tables])
    return BfactorSummary(
        positive=signs.count(1),
        negative=signs.count(-1),
        without=signs.count(0),
        magnitude_A2=(float(written.min()), float(written.max())),
        scale=scale,
    )


def first_zero(mean: dict[str, float], defocus_A: float, finest_A: float) -> float | None:
    """Return the resolution in Å of the first zero of a CTF without astigmatism; None if none is up to ``finest_A``.

    Parameters
    ----------
    mean
        Mean CTF parameters by name.
    defocus_A
        Defocus, underfocus positive.
    finest_A
        Finest resolution of the search, Å.
    """
    values = {**mean, "defocus_u_A": defocus_A, "defocus_v_A": defocus_A, "bfactor_A2": 0.0}
    tilt = TiltBatch(**{name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()})
    s = torch.linspace(0.0, 1.0 / finest_A, FREQUENCIES + 1, dtype=torch.float64)[1:]
    curve = ctf_at(s, torch.zeros_like(s), tilt)
    crossing = torch.nonzero(curve.sign() != curve[0].sign()).flatten()
    if not len(crossing):
        return None
    after = int(crossing[0])
    before, change = curve[after - 1], curve[after - 1] - curve[after]
    return float(1.0 / (s[after - 1] + (s[after] - s[after - 1]) * before / change))
