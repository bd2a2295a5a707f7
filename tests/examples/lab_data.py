"""Output of four processing pipelines for the same small sample: eight round particles in an empty tomogram.

Images are sums of Gaussian blobs at places that scipy's rotations give; nothing of the program makes them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from opustomo.io.mrc import write_volume
from tests.convert.pytom_lists import write_list
from tests.convert.tables import loop

APIX, BOX = 8.0, 24
VOLUME = np.array([96, 100, 48])
TILTS = np.arange(-48.0, 49.0, 12.0)
SIGMA_PX = 2.0
# x, y, z in Å from the center, apart enough that no box holds two
PLACES = np.array([[x, y, 60.0 * np.sin(x + 2 * y)] for x in (-200.0, 0.0, 200.0) for y in (-200.0, 0.0, 200.0)])[:8]
ANGLES = np.stack([np.linspace(-170, 170, 8), np.linspace(15, 165, 8), np.linspace(160, -120, 8)], axis=1)


def corner_px() -> np.ndarray:
    """Return positions in pixels from the corner of the tomogram, (8, 3)."""
    return PLACES / APIX + VOLUME // 2


def _images(rotations: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return images of dark blobs with a little noise: a point x appears at the first two components of M x."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: size[1], : size[0]]
    images = rng.normal(size=(len(rotations), size[1], size[0])) * 0.05
    for image, rotation in zip(images, rotations, strict=True):
        for at in (PLACES @ rotation.T)[:, :2] / APIX + np.array(size) // 2:
            image -= np.exp(-0.5 * ((x - at[0]) ** 2 + (y - at[1]) ** 2) / SIGMA_PX**2)
    return images.astype(np.float32)


def _text_files(folder: Path) -> None:
    (folder / "TS_1.tlt").write_text("\n".join(map(str, TILTS)))
    (folder / "TS_1.order").write_text("\n".join(f"{t} {3 * i + 3}" for i, t in enumerate(TILTS)))
    rows = (f"{i + 1} {i + 1} {t} {t} 2500" for i, t in enumerate(TILTS))
    (folder / "TS_1_ctfplotter.defocus").write_text("\n".join(rows))


def _right_handed_about_y() -> np.ndarray:
    return np.stack([Rotation.from_euler("y", t, degrees=True).as_matrix() for t in TILTS])


def warp_project(root: Path) -> dict[str, str]:
    """Write an M species, and a tilt series of WARP with its tilt axis along y."""
    folder = root / "warp tilt series"
    (folder / "tiltstack" / "TS_1").mkdir(parents=True)
    names = "_wrpCoordinateX1 _wrpCoordinateY1 _wrpCoordinateZ1 _wrpAngleRot1 _wrpAngleTilt1 _wrpAnglePsi1"
    corners = corner_px() * APIX
    rows = [" ".join(map(str, [*corners[i], *ANGLES[i]])) + f" {1 + i % 2} TS_1.tomostar" for i in range(len(PLACES))]
    (root / "species.star").write_text(loop("particles", f"{names} _wrpRandomSubset _wrpSourceName", *rows))
    # RELION's Euler matrices are the transposes of scipy's intrinsic turns
    rotations = np.stack([Rotation.from_euler("ZYZ", [0, t, 0], degrees=True).as_matrix().T for t in TILTS])
    size = (int(VOLUME[0]), int(VOLUME[1]))
    write_volume(folder / "tiltstack" / "TS_1" / "TS_1.st", _images(rotations, size), APIX)

    def column(tag: str, values: object) -> str:
        return f"<{tag}>" + "\n".join(map(str, np.broadcast_to(values, len(TILTS)))) + f"</{tag}>"

    def grid(tag: str, value: float) -> str:
        return f'<{tag} Width="1" Height="1" Depth="1"><Node X="0" Y="0" Z="0" Value="{value}"/></{tag}>'

    text = [
        '<TiltSeries LevelAngleX="0" LevelAngleY="0" AreAnglesInverted="False">',
        column("Angles", TILTS),
        column("Dose", 3.0 * np.arange(len(TILTS))),
        column("UseTilt", True),
        *(column(tag, 0.0) for tag in ("AxisAngle", "AxisOffsetX", "AxisOffsetY")),
        f'<OptionsCTF><Param Name="PixelSize" Value="{APIX}"/></OptionsCTF>',
        '<CTF><Param Name="Voltage" Value="300"/><Param Name="Cs" Value="2.7"/>',
        '<Param Name="Amplitude" Value="0.07"/></CTF>',
        grid("GridCTF", 2.5),
        grid("GridCTFDefocusDelta", 0.0),
        grid("GridCTFDefocusAngle", 0.0),
        grid("GridMovementX", 0.0),
        grid("GridMovementY", 0.0),
        "</TiltSeries>",
    ]
    (folder / "TS_1.xml").write_text("".join(text))
    return {
        "SPECIES": str(root / "species.star"),
        "WARP_DIR": str(folder),
        "TOMO_SIZE": " ".join(map(str, VOLUME)),
    }


def relion5_project(root: Path) -> dict[str, str]:
    """Write picks in pixels with quoted names, tomograms.star and one tilt series of single images."""
    folder = root / "Tomograms" / "job9" / "tilt_series"
    folder.mkdir(parents=True)
    rotations = _right_handed_about_y()
    size = (int(VOLUME[0]), int(VOLUME[1]))
    rows = []
    for index, image in enumerate(_images(rotations, size)):
        write_volume(folder / f"TS_1_{index}.mrc", image[None], APIX)
        tilt = f"0 {TILTS[index]} 0 0 0 25000 25000 0 {3 * index}"
        rows.append(f"'{folder}/TS_1_{index}.mrc' {tilt}")
    columns = (
        "MicrographName TomoXTilt TomoYTilt TomoZRot TomoXShiftAngst TomoYShiftAngst DefocusU DefocusV DefocusAngle"
    )
    (folder / "TS_1.star").write_text(loop("TS_1", f"{columns} MicrographPreExposure", *rows))
    columns = "TomoName Voltage SphericalAberration AmplitudeContrast TomoHand TomoTiltSeriesPixelSize "
    sizes = " ".join(map(str, VOLUME))
    (folder.parent / "tomograms.star").write_text(
        loop(
            "global",
            columns + "TomoSizeX TomoSizeY TomoSizeZ TomoTiltSeriesStarFile",
            f"TS_1 300 2.7 0.07 1 {APIX} {sizes} '{folder}/TS_1.star'",
        )
    )
    columns = "MicrographName CoordinateX CoordinateY CoordinateZ AngleRot AngleTilt AnglePsi PixelSize RandomSubset"
    corners = corner_px()
    rows = [
        '"F:\\\\my tomograms\\\\TS_1.rec" ' + " ".join(map(str, [*corners[i], *ANGLES[i], APIX, 1 + i % 2]))
        for i in range(len(PLACES))
    ]
    (root / "picks.star").write_text(loop("", columns, *rows))
    return {"PICKS": str(root / "picks.star"), "TOMOGRAMS": str(folder.parent / "tomograms.star")}


def pytom_project(root: Path) -> dict[str, str]:
    """Write two particle lists, two tomograms of four particles each, and text files of IMOD."""
    y, x = np.mgrid[: VOLUME[1], : VOLUME[0]]
    z = np.arange(VOLUME[2])[:, None, None]
    for folder in ("lists", "tomograms", "tilts"):
        (root / folder).mkdir(parents=True)
    corners = corner_px()
    for number in (1, 2):
        name = f"TS_{number}"
        rows = slice(4 * number - 4, 4 * number)
        volume = np.random.default_rng(number).normal(size=VOLUME[::-1]) * 0.05
        for at in corners[rows]:
            distance = (x - at[0]) ** 2 + (y - at[1]) ** 2 + (z - at[2]) ** 2
            volume += np.exp(-0.5 * distance / SIGMA_PX**2)
        write_volume(root / "tomograms" / f"{name}.mrc", volume.astype(np.float32), APIX)
        write_list(
            root / "lists" / f"list {number}.xml",
            ANGLES[rows].tolist(),
            corners[rows].tolist(),
            origin=f"/lab/tomograms/{name}.mrc",
        )
        _text_files(root / "tilts")
        if number == 2:
            for path in list((root / "tilts").glob("TS_1*")):
                path.with_name(path.name.replace("TS_1", name)).write_bytes(path.read_bytes())
    return {key.upper(): str(root / key) for key in ("lists", "tomograms", "tilts")}


def imod_project(root: Path) -> dict[str, str]:
    """Write a Dynamo table of picks binned twice, and an aligned stack with text files of IMOD."""
    folder = root / "series"
    folder.mkdir(parents=True)
    size = (int(VOLUME[0]), int(VOLUME[1]))
    write_volume(folder / "TS_1.ali", _images(_right_handed_about_y(), size), APIX)
    _text_files(folder)
    rows = []
    for index, (place, angles) in enumerate(zip(corner_px() / 2, ANGLES, strict=True), 1):
        values = ["0"] * 35
        values[0], values[19] = str(index), "3"
        # half of the way is in the shift
        values[3:6], values[23:26] = (map(str, part) for part in (np.full(3, 0.5), place - 0.5))
        values[6:9] = map(str, angles)
        rows.append(" ".join(values))
    (root / "picks.tbl").write_text("\n".join(rows) + "\n")
    (root / "picks.doc").write_text("3 /lab/my tomograms/TS_1.rec\n")
    return {
        "TABLE": str(root / "picks.tbl"),
        "TOMOGRAM_LIST": str(root / "picks.doc"),
        "SERIES": str(folder),
        "TOMO_SIZE": " ".join(map(str, VOLUME)),
        "SERIES_APIX": str(APIX),
        "PICKS_APIX": str(2 * APIX),
    }
