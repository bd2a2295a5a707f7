"""Settings that `dsd check` proposes."""

from __future__ import annotations

import math
import shlex

import pytest

from opustomo.quality.checks.gpu_memory import GIB
from opustomo.quality.checks.proposed_commands import BODY_UPDATES, Extent, Settings, command_line, propose_settings
from opustomo.training.schedules import MOTION_FIRST


def proposed(particles: int, box: int, apix: float, gpu_gib: float | None, **given: float) -> Settings:
    gpu = None if gpu_gib is None else int(gpu_gib * GIB)
    return propose_settings(Extent(particles, box, apix, 0.7), gpu, True, given)


def test_a_small_set_without_gpu() -> None:
    found = proposed(240, 48, 8.0, None)
    assert (found.downfrac, found.templateres, found.encoderres, found.zdim, found.batch_size) == (1.0, 32, 8, 6, 8)
    assert found.num_epochs == 32 and 1e-4 < found.lr <= 4e-4


def test_a_large_set_on_a_gpu() -> None:
    found = proposed(60_000, 128, 3.37, 80.0)
    assert found.num_epochs == 20 and found.lr == 4.5e-5 and found.zdim == 12 and found.batch_size == 8
    assert found.templateres == 160 and found.encoderres == 12
    assert found.downfrac == 1.0  # 6.7 Å is within reach of as many particles
    assert proposed(2_000, 128, 2.1, 80.0).downfrac < 0.6  # 12 Å is not 4.2 Å


def test_the_gpu_memory_limits_template_and_batch() -> None:
    free, small, tiny = (proposed(5_000, 128, 4.0, gib) for gib in (80.0, 4.5, 3.0))
    assert free.templateres > small.templateres >= tiny.templateres >= 64
    assert tiny.batch_size < 8
    assert "fits" in tiny.reasons["batch_size"]


@pytest.mark.parametrize("particles", [5, 100, 299, 1_000, 30_000])
@pytest.mark.parametrize("gpu_gib", [None, 16.0])
def test_all_sets_get_settings_within_their_ranges(particles: int, gpu_gib: float | None) -> None:
    for box, apix in ((24, 16.0), (64, 6.0), (236, 2.1)):
        found = proposed(particles, box, apix, gpu_gib)
        assert 0 < found.downfrac <= 1 and found.templateres % 16 == 0 and 32 <= found.templateres <= 176
        assert 1 <= found.batch_size <= 8 and 8 <= found.num_epochs <= 100 and 4.5e-5 <= found.lr <= 4e-4
        assert all(reason.endswith(".") for reason in found.reasons.values())


def test_given_values_and_the_command() -> None:
    found = proposed(240, 48, 8.0, None, zdim=3, templateres=50, downfrac=0.8)
    assert (found.zdim, found.templateres, found.downfrac) == (3, 64, 0.8)
    words = shlex.split(command_line("my set.star", ["-r", "a mask.mrc"], found, "run 1"))
    assert words[:5] == ["dsd", "train_tomo", "my set.star", "-r", "a mask.mrc"] and words[-2:] == ["-o", "run 1"]
    assert words[words.index("--downfrac") + 1] == "0.8" and "--normalizectf" in words


def test_too_few_epochs_are_named_with_the_number_that_is_needed() -> None:
    """320 particles, 256 of which train: 24 epochs of 32 updates."""
    short = proposed(320, 32, 12.0, None, num_epochs=10)
    assert short.num_epochs == 10 and "-n 10 is too short" in short.warning
    assert "320 updates" in short.warning and "-n 24, which makes 768" in short.warning
    assert not proposed(320, 32, 12.0, None, num_epochs=24).warning and not proposed(320, 32, 12.0, None).warning


def test_short_epochs_on_a_gpu_are_not_all_written() -> None:
    found = proposed(780, 48, 10.0, 80.0)  # 624 particles train
    assert found.checkpoint == 4 and "--checkpoint 4" in command_line("p.star", [], found, "run")
    assert proposed(780, 48, 10.0, None).checkpoint == proposed(5_000, 48, 10.0, 80.0).checkpoint == 1
    assert "--checkpoint" not in command_line("p.star", [], proposed(780, 48, 10.0, None), "run")
    assert proposed(150, 32, 15.0, None, num_epochs=30).checkpoint == 6


def test_runs_with_bodies_last_until_the_composition_is_at_full_strength() -> None:
    """The rule for other runs would end before the composition is switched on."""
    assert MOTION_FIRST[1] == BODY_UPDATES
    for particles, gpu in ((100, None), (400, None), (400, 80.0), (60_000, 80.0)):
        free = None if gpu is None else int(gpu * GIB)
        found = propose_settings(Extent(particles, 32, 12.0, 0.9, bodies=True), free, True, {})
        assert found.num_epochs * math.ceil(0.8 * particles / found.batch_size) >= BODY_UPDATES
    short = propose_settings(Extent(400, 32, 12.0, 0.9), None, True, {})
    assert short.num_epochs * math.ceil(320 / short.batch_size) < BODY_UPDATES
    assert "2,000 updates" in propose_settings(Extent(400, 32, 12.0, 0.9, True), None, True, {}).reasons["num_epochs"]


def test_the_time_includes_inference_and_writing_of_the_written_epochs() -> None:
    """On a CPU, the end of an epoch of 300 particles takes 11 s or more, and its training half a minute."""
    found = proposed(300, 32, 12.0, None)
    visits = 0.125 * 300 * found.num_epochs
    written = math.ceil(found.num_epochs / found.checkpoint)
    assert found.run_seconds(300, 0.125) == pytest.approx(visits + written * (0.3 * 37.5 + 5.0))
    rarely = proposed(780, 48, 10.0, 80.0)  # writes every fourth epoch
    assert rarely.run_seconds(780, 0.001) < 0.78 * rarely.num_epochs * 1.3 + 5.0 * (rarely.num_epochs / 4 + 1)


def test_disk_space_counts_the_kept_weights() -> None:
    found = proposed(240, 48, 8.0, None)
    assert 1.4e9 < found.disk_bytes(240) < 1.6e9  # state.pkl of 735 MB and three times 245 MB
