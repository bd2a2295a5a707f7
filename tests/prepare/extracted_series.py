"""Tilt series of IMOD, RELION 5 and WARP with known particles, and extraction of their subtomograms."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from opustomo.io.ctf_tables import read_relion_table
from opustomo.io.image_paths import resolve_ctf_tables, resolve_images
from opustomo.io.mrc import read_volume, write_volume
from opustomo.io.star_tables import read_particles
from opustomo.main import main
from tests.physics import posed_sets
from tests.physics.posed_sets import PosedSet
from tests.prepare import imaged_series
from tests.prepare.imaged_series import (
    AMPLITUDE,
    APIX,
    ASTIGMATISM_A,
    AZIMUTH_DEG,
    BOX,
    CS_MM,
    DEFOCUS_A,
    DOSE,
    TILTS,
    VOLTAGE_KV,
    Particles,
)

AGREE = 0.98
"""Least correlation with the forward model of subtomograms that agree with it."""
IMAGE_APIX = 4.0
FAR_A = 5000.0
VOLUME = (2600, 400, 200)
LONG, SHORT = 2700, 300


@dataclass(frozen=True)
class Series:
    """Folder with a tilt series, its particle table, and the options that name them."""

    folder: Path
    particles: Particles
    words: tuple[str, ...]


def write_star(folder: Path, particles: Particles, coordinates: dict[str, np.ndarray], tomo: str = "TS_1") -> None:
    columns: dict[str, np.ndarray | list[str]] = {"rlnTomoName": [tomo] * 3, "myNote": ["a", "b", "c"], **coordinates}
    for axis, name in enumerate(("Rot", "Tilt", "Psi")):
        columns[f"rlnAngle{name}"] = particles.eulers_deg[:, axis]
    for axis, name in enumerate("XYZ"):
        columns[f"rlnOrigin{name}Angst"] = particles.origins_A[:, axis]
    columns["rlnOpticsGroup"] = ["1"] * 3
    rows = "\n".join(" ".join(map(str, row)) for row in zip(*columns.values(), strict=True))
    optics = "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n_rlnCtfDataAreCtfPremultiplied\n1 2.0 1\n\n"
    names = "".join(f"_{name}\n" for name in columns)
    (folder / "p.star").write_text(f"{optics}data_particles\n\nloop_\n{names}{rows}\n")


def centered(particles: Particles) -> dict[str, np.ndarray]:
    return {f"rlnCenteredCoordinate{axis}Angst": particles.coordinates_A[:, i] for i, axis in enumerate("XYZ")}


def imod_series(folder: Path, far_A: float = FAR_A) -> Series:
    """An aligned stack: IMOD's tilts turn right-handed about y; coordinates in pixels of the tomogram."""
    folder.mkdir(parents=True)
    particles = imaged_series.draw_particles(far_A)
    rotations = np.stack([Rotation.from_euler("y", t, degrees=True).as_matrix() for t in TILTS])
    images = imaged_series.render(particles, rotations, np.zeros((len(TILTS), 2)), -1, (LONG, SHORT), IMAGE_APIX)
    write_volume(folder / "TS_1.ali", images, IMAGE_APIX)
    (folder / "TS_1.tlt").write_text("\n".join(map(str, TILTS)))
    (folder / "TS_1.order").write_text("\n".join(f"{t} {d}" for t, d in zip(TILTS, DOSE, strict=True)))
    nm = 0.05 * ASTIGMATISM_A
    rows = (f"{i + 1} {i + 1} 0 0 {d / 10 + nm} {d / 10 - nm} {AZIMUTH_DEG}" for i, d in enumerate(DEFOCUS_A))
    (folder / "TS_1.defocus").write_text("1 0 0. 0. 0. 3\n" + "\n".join(rows))
    pixels = particles.coordinates_A / IMAGE_APIX + np.array(VOLUME) // 2
    write_star(folder, particles, {f"rlnCoordinate{axis}": pixels[:, i] for i, axis in enumerate("XYZ")})
    sizes = ("--tomo-size", *map(str, VOLUME), "--series-apix", str(IMAGE_APIX))
    return Series(folder, particles, ("--tilts", str(folder), *sizes))


def relion_series(
    folder: Path, far_A: float = FAR_A, axis_deg: float = 84.0, size: tuple[int, int] = (SHORT + 280, LONG)
) -> Series:
    """RELION 5: raw images with the tilt axis turned, shifts, a turn about x, the other hand."""
    tilt_folder = folder / "Tomograms" / "job9" / "tilt_series"
    tilt_folder.mkdir(parents=True)
    particles = imaged_series.draw_particles(far_A)
    rotations = np.stack([Rotation.from_euler("xyz", [2.0, t, axis_deg], degrees=True).as_matrix() for t in TILTS])
    shifts = np.random.default_rng(0).uniform(-40, 40, (len(TILTS), 2))
    images = imaged_series.render(particles, rotations, shifts, 1, size, IMAGE_APIX)
    columns = {
        "rlnMicrographName": [f"MotionCorr/job2/TS_1_{i}.mrc" for i in range(len(TILTS))],
        "rlnTomoXTilt": [2.0] * len(TILTS),
        "rlnTomoYTilt": TILTS,
        "rlnTomoZRot": [axis_deg] * len(TILTS),
        "rlnTomoXShiftAngst": shifts[:, 0],
        "rlnTomoYShiftAngst": shifts[:, 1],
        "rlnDefocusU": DEFOCUS_A + ASTIGMATISM_A / 2,
        "rlnDefocusV": DEFOCUS_A - ASTIGMATISM_A / 2,
        "rlnDefocusAngle": [AZIMUTH_DEG] * len(TILTS),
        "rlnMicrographPreExposure": DOSE,
    }
    for name, image in zip(columns["rlnMicrographName"], images, strict=True):
        (folder / str(name)).parent.mkdir(parents=True, exist_ok=True)
        write_volume(folder / str(name), 7.0 + 3 * image[None], IMAGE_APIX)
    rows = "\n".join(" ".join(map(str, row)) for row in zip(*columns.values(), strict=True))
    names = "".join(f"_{name}\n" for name in columns)
    (tilt_folder / "TS_1.star").write_text(f"data_TS_1\n\nloop_\n{names}{rows}\n")
    row = f"TS_1 {VOLTAGE_KV} {CS_MM} {AMPLITUDE} 1 2.0 Tomograms/job9/tilt_series/TS_1.star\n"
    labels = ("TomoName", "Voltage", "SphericalAberration", "AmplitudeContrast", "TomoHand", "TomoTiltSeriesPixelSize")
    head = "".join(f"_rln{label}\n" for label in (*labels, "TomoTiltSeriesStarFile"))
    (tilt_folder.parent / "tomograms.star").write_text(f"data_global\n\nloop_\n{head}{row}")
    write_star(folder, particles, centered(particles))
    return Series(folder, particles, ("--tomograms", str(tilt_folder.parent / "tomograms.star")))


def warp_series(folder: Path, far_A: float = FAR_A) -> Series:
    """WARP: a stack of the used tilts, level angles, axis offsets, movement that varies over image and tilt."""
    (folder / "tiltstack" / "TS_1").mkdir(parents=True)
    particles = imaged_series.draw_particles(far_A)
    count = len(TILTS)
    level_x, level_y, axis = 1.5, -2.0, -86.0
    # RELION's Euler matrices are the transposes of scipy's intrinsic turns
    turns = [Rotation.from_euler("ZYZ", [0, t + level_y, -axis], degrees=True).as_matrix().T for t in TILTS]
    rotations = np.stack(turns) @ Rotation.from_euler("x", level_x, degrees=True).as_matrix()
    offsets = np.random.default_rng(2).uniform(-30, 30, (count, 2))
    size = (SHORT + 100, LONG)

    def movement(places: np.ndarray, tilt: int) -> np.ndarray:
        on_image = places / (np.array(size) * IMAGE_APIX) + 0.5
        return np.stack([8 * on_image[:, 0] + 0.3 * tilt, -5 * on_image[:, 1] + 0 * places[:, 0]], axis=1)

    images = imaged_series.render(particles, rotations, offsets, 1, size, IMAGE_APIX, movement)
    write_volume(folder / "tiltstack" / "TS_1" / "TS_1.st", np.delete(images, 3, axis=0), IMAGE_APIX)

    def column(tag: str, values: object) -> str:
        return f"<{tag}>" + "\n".join(map(str, np.broadcast_to(values, count))) + f"</{tag}>"

    def grid(tag: str, nodes: np.ndarray) -> str:
        inside = "".join(
            f'<Node X="{x}" Y="{y}" Z="{z}" Value="{nodes[x, y, z]}"/>' for x, y, z in np.ndindex(nodes.shape)
        )
        x, y, z = nodes.shape
        return f'<{tag} Width="{x}" Height="{y}" Depth="{z}">{inside}</{tag}>'

    xs, ys, tilts = np.meshgrid([0, 1], [0, 1], np.arange(count), indexing="ij")
    constant = np.ones((1, 1, count))
    optics = f'<Param Name="Voltage" Value="{VOLTAGE_KV}"/><Param Name="Cs" Value="{CS_MM}"/>'
    text = "".join(
        [
            f'<TiltSeries LevelAngleX="{level_x}" LevelAngleY="{level_y}" AreAnglesInverted="False">',
            column("Angles", TILTS),
            column("Dose", DOSE),
            column("UseTilt", np.arange(count) != 3),
            column("AxisAngle", axis),
            column("AxisOffsetX", offsets[:, 0]),
            column("AxisOffsetY", offsets[:, 1]),
            f'<OptionsCTF><Param Name="PixelSize" Value="2.0"/></OptionsCTF><CTF>{optics}',
            f'<Param Name="Amplitude" Value="{AMPLITUDE}"/></CTF>',
            grid("GridCTF", 1e-4 * DEFOCUS_A[None, None]),
            grid("GridCTFDefocusDelta", 1e-4 * ASTIGMATISM_A * constant),
            grid("GridCTFDefocusAngle", AZIMUTH_DEG * constant),
            grid("GridMovementX", 8.0 * xs + 0.3 * tilts),
            grid("GridMovementY", -5.0 * ys),
            "</TiltSeries>",
        ]
    )
    (folder / "TS_1.xml").write_text(text)
    write_star(folder, particles, centered(particles), tomo="TS_1.tomostar")
    return Series(folder, particles, ("--warp", str(folder)))


MAKERS = {"imod": imod_series, "relion5": relion_series, "warp": warp_series}


def extract(series: Series, *words: str) -> Path:
    """Extract subtomograms without division by the scale of noise-free images, and return their folder."""
    out = series.folder / f"out {len(list(series.folder.glob('out *')))}"
    star = str(series.folder / "p.star")
    start = ["extract_subtomos", star, "-o", str(out), "--box", str(BOX), "--apix", str(APIX)]
    assert main([*start, *series.words, "--keep-scale", *words, "--workers", "1"]) == 0
    return out


def extracted(out: Path, normalized: bool = True) -> PosedSet:
    """Read extracted subtomograms as training does."""
    star = read_particles(out / "particles.star")
    tables = resolve_ctf_tables(star, None, warp=False)
    assert tables is not None
    images = np.stack([read_volume(path)[0] for path in resolve_images(star, None)])
    density = imaged_series.density()
    tilts = [read_relion_table(path) for path in tables]
    return PosedSet(density, APIX, star.eulers_deg(), star.origins_px(), tilts, images, normalized)


def score(particles: PosedSet) -> np.ndarray:
    posed = posed_sets.pose(particles.density, posed_sets.matrices_of(particles))
    return posed_sets.correlations(
        particles, posed_sets.predict(particles, posed, particles.tables, particles.origins_px)
    )


def traveling(work: Callable, jobs: list, workers: int) -> Iterator[tuple[int, object]]:
    """Process jobs as `run_jobs` does, but in reverse order and after a round trip through pickle."""
    return ((index, work(pickle.loads(pickle.dumps(jobs[index])))) for index in reversed(range(len(jobs))))
