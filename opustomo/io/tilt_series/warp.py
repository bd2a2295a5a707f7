"""Tilt series of WARP and M: XML files and the .tomostar files from which they are made."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path, PureWindowsPath

import numpy as np

from opustomo.errors import UserError
from opustomo.geometry.tilt_geometry import Deformation, SplineGrid, TiltGeometry, rotation_x, rotation_y, rotation_z
from opustomo.io.star import to_numbers
from opustomo.io.star_tables import read_table
from opustomo.io.tilt_series.series import TextTilts, TiltImage, TiltOptics, TiltSeries, check_angles, finite_number

_OFFSETS = ("wrpAxisOffsetX", "wrpAxisOffsetY")


def read_tomostar_tilts(path: str | os.PathLike[str]) -> TextTilts:
    """Read the tilts of a .tomostar file in the order of the file.

    Raises
    ------
    UserError
        The file is missing or damaged, a column is missing, or a value is not a number.
    """
    path = Path(path)
    table = read_table(path, ("wrpAngleTilt", "wrpDose"))

    def column(name: str) -> np.ndarray:
        return np.asarray(to_numbers(table[name], name, str(path)))

    tilt = -column("wrpAngleTilt")
    check_angles(path, tilt)
    placed = all(name in table for name in _OFFSETS)
    names = [str(name) for name in table["wrpMovieName"]] if "wrpMovieName" in table else []
    return TextTilts(
        source=path,
        tilt_deg=tilt,
        axis_deg=column("wrpAxisAngle") if "wrpAxisAngle" in table else np.zeros(len(tilt)),
        shifts=np.stack([column(name) for name in _OFFSETS], axis=1) if placed else None,
        shifts_in_A=True,
        dose=column("wrpDose"),
        images=tuple(PureWindowsPath(name).name for name in names),
    )


_EXCLUDED_SCALE = 1e-4


def read_warp_series(
    path: str | os.PathLike[str],
    *,
    apix: float | None = None,
    image_px: tuple[int, int] | None = None,
    image_A: tuple[float, float] | None = None,
    volume_A: tuple[float, float, float] | None = None,
) -> TiltSeries:
    """Read the XML of a tilt series.

    Parameters
    ----------
    path
        The file.
    apix
        Pixel size of the images before binning, Å; None uses that of the CTF options in the file.
    image_px
        Width and height of the images in these pixels; required if grids of movement vary over the image and the file
        does not state it.
    image_A
        The same in Å, if `image_px` is not given.
    volume_A
        Size of the tomogram in Å; required if grids vary over the specimen and the file does not state it.

    Raises
    ------
    UserError
        The file is missing, damaged or not a tilt series, or a required size is unknown.
    """
    path = Path(path)
    root = _root(path)
    reader = _Reader(path, root)
    tilt = reader.column("Angles")
    count = len(tilt)
    axis = reader.column("AxisAngle", count)
    offsets = np.stack([reader.column("AxisOffsetX", count), reader.column("AxisOffsetY", count)], axis=1)
    dose = reader.column("Dose", count)
    level_x, level_y = reader.attribute("LevelAngleX"), reader.attribute("LevelAngleY")
    if apix is None:
        apix = reader.option("PixelSize") or None
    # WARP's tilt is RELION's, a left-handed rotation about y; its axis angle is a right-handed rotation about z.
    rotations = rotation_z(axis) @ rotation_y(-(tilt + level_y)) @ rotation_x(np.asarray(level_x))
    hand = -1 if root.get("AreAnglesInverted", "False").strip().lower() == "true" else 1
    if image_px is not None and apix is not None:
        image_A = (image_px[0] * apix, image_px[1] * apix)
    bent = reader.deformation(dose, image_A, volume_A)
    used = reader.flags("UseTilt", count)
    optics = reader.optics(tilt, dose, used)
    names = (root.findtext("MoviePath") or "").split("\n")
    images = tuple(TiltImage(name.strip()) for name in names if name.strip())
    return TiltSeries(
        name=path.stem,
        source=path,
        geometry=TiltGeometry(rotations, offsets, hand, bent),
        optics=optics,
        used=used,
        images=images if len(images) == count else (),
        apix=apix,
        volume_px=reader.volume_px(apix, volume_A),
    )


def _root(path: Path) -> ElementTree.Element:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Give the XML of a WARP tilt series.") from error
    if b"<!ENTITY" in raw:
        # An entity may expand to gigabytes.
        raise UserError(f"{path}: the file has XML entities, which WARP never writes. Export it again.")
    try:
        root = ElementTree.fromstring(raw)
    except ElementTree.ParseError as error:
        raise UserError(f"{path}: not a readable XML file ({error}). Export it from WARP again.") from error
    if root.tag != "TiltSeries":
        raise UserError(f"{path}: the file is a <{root.tag}>, not a <TiltSeries>; give the XML of a WARP tilt series.")
    return root


class _Reader:
    """Reader of the fields of an XML file."""

    def __init__(self, path: Path, root: ElementTree.Element) -> None:
        self.path, self.root = path, root

    def column(self, tag: str, count: int | None = None) -> np.ndarray:
        """Return the values of a tag; zeros if the tag is missing and `count` is given."""
        text = self.root.findtext(tag)
        if text is None or not text.split():
            if count is None:
                raise UserError(f"{self.path}: there is no <{tag}>; export the tilt series from WARP again.")
            return np.zeros(count)
        try:
            values = np.array([float(word) for word in text.split()])
        except ValueError as error:
            raise UserError(f"{self.path}: <{tag}> is not numeric ({error}). Export the file again.") from error
        if count is not None and len(values) != count:
            raise UserError(
                f"{self.path}: <{tag}> has {len(values)} values, but there are {count} tilts. Export the file again."
            )
        return values

    def flags(self, tag: str, count: int) -> np.ndarray:
        words = (self.root.findtext(tag) or "").split()
        if not words:
            return np.ones(count, dtype=bool)
        if len(words) != count:
            raise UserError(
                f"{self.path}: <{tag}> has {len(words)} values, but there are {count} tilts. Export the file again."
            )
        return np.array([word.lower() == "true" for word in words])

    def attribute(self, name: str) -> float:
        return self._number(self.root.get(name) or "0", name)

    def option(self, name: str, block: str = "OptionsCTF", default: float = 0.0) -> float:
        for param in self.root.findall(f"{block}/Param"):
            if param.get("Name") == name:
                return self._number(param.get("Value") or "0", name)
        return default

    def grid(self, tag: str, axes: int = 3) -> SplineGrid | None:
        """Return a grid of nodes; None if the file has none."""
        element = self.root.find(tag)
        if element is None:
            return None
        sizes = [int(self._number(element.get(key) or "1", tag)) for key in ("Width", "Height", "Depth", "Duration")]
        if "Duration" not in element.attrib or axes == 3:
            sizes = sizes[:3]
        if min(sizes) < 1 or np.prod(sizes) > 10_000_000:
            raise UserError(f"{self.path}: <{tag}> has an impossible size {sizes}. Export the file again.")
        nodes = np.full(sizes, np.nan)
        for node in element.findall("Node"):
            place = tuple(int(self._number(node.get(key) or "0", tag)) for key in "XYZW"[: len(sizes)])
            if not all(0 <= at < size for at, size in zip(place, sizes, strict=True)):
                raise UserError(
                    f"{self.path}: <{tag}> has a node at {place}, outside its size {sizes}. Export the file again."
                )
            nodes[place] = self._number(node.get("Value") or "", tag)
        if np.isnan(nodes).any():
            raise UserError(f"{self.path}: nodes of <{tag}> are missing. Export the file again.")
        margins = tuple(self._number(element.get(f"Margin{key}") or "0", tag) for key in "XYZW"[: len(sizes)])
        if len(sizes) < axes:
            nodes, margins = nodes[..., None], (*margins, 0.0)
        return SplineGrid(nodes, margins)

    def per_tilt(self, tag: str, count: int) -> np.ndarray:
        """Return the values of a grid at the center of the image for each tilt."""
        grid = self.grid(tag)
        if grid is None:
            return np.zeros(count)
        index = np.linspace(0.0, 1.0, count) if count > 1 else np.zeros(1)
        return grid(np.full(count, 0.5), np.full(count, 0.5), index)

    def optics(self, tilt: np.ndarray, dose: np.ndarray, used: np.ndarray) -> TiltOptics:
        """Return the CTF parameters; the scale is cos t and the B factor is 4·dose unless M has refined them."""
        count = len(tilt)
        mean, delta = 1e4 * self.per_tilt("GridCTF", count), 1e4 * self.per_tilt("GridCTFDefocusDelta", count)
        weights, damping = self.grid("GridDoseWeights"), self.grid("GridDoseBfacs")
        scale = np.cos(np.deg2rad(tilt))
        if weights is not None and not weights.is_constant:
            scale = self.per_tilt("GridDoseWeights", count)
        bfactor = 4.0 * dose
        if damping is not None and not damping.is_constant:
            bfactor = np.maximum(-self.per_tilt("GridDoseBfacs", count), 3.0 * dose)
        return TiltOptics(
            defocus_u_A=mean + 0.5 * delta,
            defocus_v_A=mean - 0.5 * delta,
            astigmatism_deg=self.per_tilt("GridCTFDefocusAngle", count),
            # Phase shifts of WARP are in units of π.
            phase_shift_deg=180.0 * self.per_tilt("GridCTFPhase", count),
            bfactor_A2=bfactor,
            scale=np.where(used, np.maximum(scale, 0.0), _EXCLUDED_SCALE),
            voltage_kv=self.option("Voltage", "CTF", 300.0),
            cs_mm=self.option("Cs", "CTF", 2.7),
            amplitude_contrast=self.option("Amplitude", "CTF", 0.07),
        )

    def deformation(
        self,
        dose: np.ndarray,
        image_A: tuple[float, float] | None,
        volume_A: tuple[float, float, float] | None,
    ) -> Deformation | None:
        movement = [self.grid(f"GridMovement{axis}") or SplineGrid.constant(0.0) for axis in "XY"]
        warp = [self.grid(f"GridVolumeWarp{axis}", 4) or SplineGrid.constant(0.0, 4) for axis in "XYZ"]
        angles = [self.grid(f"GridAngle{axis}") or SplineGrid.constant(0.0) for axis in "XYZ"]
        if not any(grid.nodes.any() for grid in (*movement, *warp, *angles)):
            return None
        image = self._size("ImageDimensionsAngstrom", 2)
        if image is None and image_A is not None:
            image = np.array(image_A)
        if image is None and any(max(grid.nodes.shape[:2]) > 1 for grid in movement):
            raise UserError(
                f"{self.path}: the grids of movement require the size of the images, which the file does not state; "
                "give it with --image-size."
            )
        volume = self._size("VolumeDimensionsAngstrom", 3) if volume_A is None else np.array(volume_A)
        varies = any(max(grid.nodes.shape[:3]) > 1 for grid in warp) or any(max(g.nodes.shape[:2]) > 1 for g in angles)
        if volume is None and varies:
            raise UserError(
                f"{self.path}: the grids over the specimen require the size of the tomogram, which the file does not "
                "state. Give it with --tomo-size."
            )
        span = float(np.ptp(dose))
        return Deformation(
            volume_size_A=np.ones(3) if volume is None else volume,
            image_size_A=np.ones(2) if image is None else image,
            time=(dose - dose.min()) / span if span > 0 else np.zeros_like(dose),
            movement=(movement[0], movement[1]),
            warp=(warp[0], warp[1], warp[2]),
            angles=(angles[0], angles[1], angles[2]),
        )

    def volume_px(self, apix: float | None, volume_A: tuple[float, float, float] | None) -> tuple[int, int, int] | None:
        size = self._size("VolumeDimensionsAngstrom", 3) if volume_A is None else np.array(volume_A)
        if size is None or apix is None:
            return None
        x, y, z = (round(float(length) / apix) for length in size)
        return x, y, z

    def _size(self, name: str, axes: int) -> np.ndarray | None:
        text = self.root.get(name)
        if not text:
            return None
        size = np.array([self._number(word, name) for word in text.strip("()").split(",")])
        if size.shape != (axes,) or not (size > 0).all():
            raise UserError(
                f"{self.path}: {name} is {text!r}, but it must be {axes} positive lengths. Export the file again."
            )
        return size

    def _number(self, text: str, name: str) -> float:
        return finite_number(self.path, name, text)
