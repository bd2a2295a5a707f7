"""Summaries of tilts, optics, views, mask and memory, and the report of `dsd check`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from opustomo.data.config import DataConfig
from opustomo.data.particles import ParticleSet, load_particles
from opustomo.data.voxels import VoxelSource
from opustomo.errors import UserError
from opustomo.io.ctf_tables import TiltTable, wedge_only_table
from opustomo.model.config import ModelConfig, PhysicsConfig
from opustomo.physics.boxes import Boxes
from opustomo.quality.checks.ctf_parameters import OpticsSummary, summarize_optics
from opustomo.quality.checks.gpu_memory import bytes_per_particle, estimate_memory
from opustomo.quality.checks.inspection import PlannedRun, Preflight, inspect_particles
from opustomo.quality.checks.set_contents import summarize_mask, summarize_views
from opustomo.quality.checks.tilt_scheme import TiltSummary, summarize_tilts
from tests.quality.checks.conftest import Load

BOXES = Boxes(64, 4.0, 64, 54)


def table(tilts: np.ndarray, **other: float) -> TiltTable:
    values = {
        "defocus_u_A": 30000.0,
        "defocus_v_A": 30000.0,
        "astigmatism_deg": 0.0,
        "voltage_kv": 300.0,
        "cs_mm": 2.7,
        "amplitude_contrast": 0.07,
        "phase_shift_deg": 0.0,
        "bfactor_A2": 0.0,
        "scale": 1.0,
    } | other
    return TiltTable(tilt_deg=tilts, **{name: np.full(len(tilts), value) for name, value in values.items()})


@pytest.fixture
def tiny(tiny_set: Path) -> ParticleSet:
    return load_particles(DataConfig(tiny_set / "particles.star"))


def with_tables(particles: ParticleSet, tables: list[TiltTable], which: list[int]) -> TiltSummary:
    return summarize_tilts(replace(particles, tables=tables, table=np.array(which)))


def test_one_symmetric_scheme(tiny: ParticleSet) -> None:
    found = summarize_tilts(tiny)
    assert (found.lowest_deg, found.highest_deg, found.step_deg) == (-60, 60, 6)
    assert found.fewest == found.median == found.most == 21
    assert found.off_center == 0 and len(found.schemes) == 1 and found.schemes[0].particles == 16
    assert "asymmetric" not in found.line and "schemes" not in found.line


def test_several_asymmetric_schemes_are_said_plainly(tiny: ParticleSet) -> None:
    symmetric, lamella = table(np.arange(-60.0, 61.0, 3.0)), table(np.arange(-40.0, 63.0, 2.0))
    idle = table(np.array([-80.0, 0.0, 3.0]))
    idle.scale[0] = 0.0  # has no weight
    found = with_tables(tiny, [symmetric, lamella, idle], [0] * 10 + [1] * 5 + [2])
    assert (found.lowest_deg, found.highest_deg) == (-60, 62)
    assert (found.fewest, found.median, found.most) == (2, 41, 52)
    assert [(s.lowest_deg, s.highest_deg, s.tilts, s.particles) for s in found.schemes] == [
        (-60, 60, 41, 10),
        (-40, 62, 52, 5),
        (0, 3, 2, 1),
    ]
    assert found.off_center == 5 and found.off_center_deg == 11
    assert "3 schemes" in found.line and "the range of 5 particles is centered at +11°" in found.line


def test_refined_tilts_of_one_scheme_are_one_scheme(tiny: ParticleSet) -> None:
    """Ends near ±10.5°, which refinement moves by some tenths, do not fall apart by rounding."""
    rng = np.random.default_rng(0)
    tables = [table(np.linspace(-10.5, 10.5, 8) + rng.normal(0, 0.15, 8)) for _ in range(72)]
    found = with_tables(tiny, tables, list(range(72)))
    assert [(s.tilts, s.particles) for s in found.schemes] == [(8, 72)]
    assert found.schemes[0].lowest_deg == pytest.approx(-10.5, abs=0.1) and "schemes" not in found.line
    other = [table(np.arange(-60.0, high + 1, 3.0)) for high in (54.0, 57.0, 60.0)]
    assert len(with_tables(tiny, [*tables, *other], list(range(75))).schemes) == 4


@pytest.mark.parametrize(
    ("asked", "warns"),
    [((None, None), False), ((60.0, 6.0), False), ((50.0, None), True), ((None, 3.0), True), ((58.0, 6.5), False)],
)
def test_expected_tilts_are_compared_only_when_given(
    tiny: ParticleSet, asked: tuple[float | None, float | None], warns: bool
) -> None:
    found = summarize_tilts(tiny, *asked)
    assert len(found.warnings) == warns
    if warns:
        assert "-60…60°" in found.warnings[0] and "which are used" in found.warnings[0]


def optics(**other: float) -> OpticsSummary:
    return summarize_optics([table(np.arange(-3.0, 4.0), **other)], BOXES)


def test_first_zero_at_the_textbook_place() -> None:
    """Without Cs, π λ Δf s² + asin(w) = π there."""
    found = optics(cs_mm=0.0)
    wavelength = 0.0196875  # Å at 300 kV
    expected = np.sqrt(wavelength * 30000 / (1 - np.arcsin(0.07) / np.pi))
    assert found.first_zero_A == pytest.approx(expected, rel=1e-4)
    assert found.nyquist_A == 8.0 and found.warnings == ()
    assert found.resolved_to_A == pytest.approx(2 * wavelength * 30000 / 256, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"defocus_u_A": 3.0, "defocus_v_A": 3.0}, "0.1 to 20 is expected"),
        ({"defocus_u_A": 3e6, "defocus_v_A": 3e6}, "0.1 to 20 is expected"),
        ({"defocus_u_A": -3e4, "defocus_v_A": -3e4}, "overfocus"),
        ({"voltage_kv": 3.0}, "voltage is 3 kV"),
        ({"cs_mm": 2700.0}, "spherical aberration is 2700"),
        ({"defocus_u_A": 150000.0, "defocus_v_A": 150000.0}, "oscillates faster than the box"),
        ({"defocus_u_A": 1200.0, "defocus_v_A": 1200.0}, "no zero near Nyquist"),
    ],
)
def test_implausible_optics_are_named(change: dict[str, float], words: str) -> None:
    assert any(words in warning for warning in optics(**change).warnings)


def test_without_ctf_the_optics_are_left_alone() -> None:
    found = summarize_optics([wedge_only_table(60, 3)], BOXES)
    assert not found.modeled and found.warnings == () and "only the missing wedge" in found.line


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        (
            [(480.0, 1, 1.0)],
            "480 Å²: positive in the file, damping exp(-B s²/4); they correspond to a dose of 120 e/Å² (|B|/4)",
        ),
        (
            [(480.0, -1, 1.0)],
            "480 Å²: negative in the file, damping exp(+B s²/4); they correspond to a dose of 120 e/Å²",
        ),
        (
            [(120.0, -1, 0.25)],
            "480 Å²: negative in the file, damping exp(+B s²/4); they correspond to a dose of 120 e/Å²",
        ),
        ([(0.0, -1, 0.0)], "B factors: not applied, because --warp-bfactor-scale is 0"),
        ([(0.0, 0, 1.0)], "B factors: all 0 in the file, no damping"),
        ([(4.0, 1, 1.0), (480.0, -1, 1.0)], "of 4…480 Å²: positive in the file, damping exp(-B s²/4); negative in"),
    ],
)
def test_signs_of_bfactors_and_doses(tables: list[tuple[float, int, float]], words: str) -> None:
    tilts = np.arange(-3.0, 4.0)
    given = [
        replace(table(tilts, bfactor_A2=value), bfactor_sign=sign, bfactor_scale=scale) for value, sign, scale in tables
    ]
    found = summarize_optics(given, BOXES)
    assert words in found.line
    assert ("they are multiplied by 0.25" in found.line) == (tables[0][2] == 0.25)
    assert any("come from different programs" in text for text in found.warnings) == (len(tables) > 1)


def test_views() -> None:
    rng = np.random.default_rng(0)
    spread = np.stack([rng.uniform(-180, 180, 500), np.rad2deg(np.arccos(rng.uniform(-1, 1, 500))), np.zeros(500)], 1)
    found = summarize_views(spread)
    assert found.occupied == 48 and found.warnings == () and 10 < found.largest < 40
    one = summarize_views(np.array([[10.0, 40.0, psi] for psi in range(20)]))
    assert one.occupied == 1 and one.largest == 20 and "one viewing group" in one.warnings[0]
    same = summarize_views(np.zeros((20, 3)))
    assert same.identical and "same angles" in same.warnings[0] and len(same.warnings) == 1
    assert summarize_views(np.zeros((1, 3))).warnings == ()


def test_mask() -> None:
    mask = np.zeros((8, 8, 8))
    mask[2:6, 2:6, 2:6] = 1
    assert summarize_mask(mask).inside == 0.125 and summarize_mask(mask).warnings == ()
    assert "covers 100 %" in summarize_mask(mask * 0 + 1).warnings[0]
    assert "0 to 1 is expected" in summarize_mask(mask * 255).warnings[0]
    assert "no solvent mask" in summarize_mask(None).warnings[0]


def test_memory_suggests_what_fits() -> None:
    model = ModelConfig(zdim=12, templateres=160)
    boxes = Boxes(128, 3.0, 128, 100)
    needed = estimate_memory(boxes, model, 20, None)
    assert needed.warnings == () and "no GPU" in needed.line
    roomy = estimate_memory(boxes, model, 20, int(2 * needed.estimate_bytes))
    assert roomy.warnings == () and roomy.largest_batch is not None and roomy.largest_batch > 20
    tight = estimate_memory(boxes, model, 20, int(0.7 * needed.estimate_bytes))
    assert tight.largest_batch is not None and 0 < tight.largest_batch < 20
    assert f"-b {tight.largest_batch}" in tight.warnings[0]
    fits = estimate_memory(boxes, model, tight.largest_batch, None).estimate_bytes
    assert fits <= 0.7 * needed.estimate_bytes < fits + 3 * bytes_per_particle(boxes, model)
    assert "--templateres" in estimate_memory(boxes, model, 20, 10**9).warnings[0]


def inspect(particles: ParticleSet) -> Preflight:
    boxes = Boxes.from_window(particles.box, particles.apix)
    physics, model = PhysicsConfig(ctf_normalized=True), ModelConfig(zdim=2)
    run = PlannedRun(boxes, None, physics, model, 8, tilt_range_deg=30)
    return inspect_particles(particles, VoxelSource(particles.images), run)


def test_report_as_text_and_json(simulated: Load) -> None:
    found = inspect(simulated(-30.0, 60.0, True))
    text = found.as_text()
    for words in (
        "16 subtomograms, box 32",
        "-30…60°",
        "first zero",
        "sign of the tilts is right",
        "viewing groups",
        "GiB",
    ):
        assert words in text
    assert [line.split(":")[0].strip() for line in text.splitlines()].count("warning") == len(found.warnings) == 2
    content = json.loads(found.as_json())
    assert content["contents"]["particles"] == 16 and content["wedge"]["verdict"] == "right"
    assert content["warnings"] == list(found.warnings)


def test_what_cannot_be_computed_is_null_in_json(tiny: ParticleSet) -> None:
    found = inspect(tiny)
    found = replace(found, wedge=replace(found.wedge, correlation=float("nan")))
    assert json.loads(found.as_json())["wedge"]["correlation"] is None
    assert any("could not be compared" in warning for warning in found.warnings)


def test_the_wedge_only_model_is_not_compared_with_itself(tiny_set: Path) -> None:
    config = DataConfig(tiny_set / "particles.star", use_ctf=False, tilt_range_deg=60.0, tilt_step_deg=6.0)
    found = inspect(load_particles(config))
    assert not found.optics.modeled and found.tilts.warnings == () and "no CTF is applied" in found.as_text()


def test_force_takes_a_disagreeing_pixel_size_loudly(tiny_set: Path) -> None:
    config = DataConfig(tiny_set / "particles.star", apix=10.0)
    with pytest.raises(UserError, match="--force"):
        load_particles(config)
    particles = load_particles(replace(config, force=True))
    assert particles.apix == 10.0 and any("--force" in note for note in particles.notes)
    warnings = inspect(particles).warnings
    assert any("headers say 12 Å/pixel, but 10 is used" in warning for warning in warnings)
