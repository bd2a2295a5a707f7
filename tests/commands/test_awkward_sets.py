"""Small and unusual sets through `dsd train_tomo`: no crash, finite weights, and a note in the log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from opustomo.data.batches import read_split
from opustomo.data.voxels import VoxelSource
from opustomo.io.latents import read_latents
from opustomo.io.mrc import read_volume, write_volume
from opustomo.training.run_log import RunLog
from tests.commands.quick import assert_sound, edit_rows, own_copy, tiny_networks, train, use_tiny_networks  # noqa: F401

ROT, TILT, PSI = 6, 7, 8
"""Columns of the angles in the tiny set's table."""


def rows_of(star: Path) -> list[str]:
    return [line for line in star.read_text().splitlines() if ".mrc" in line]


def turn(star: Path, angles: np.ndarray) -> None:
    """Give the particles other angles (N, 3)."""
    rows = [line.split() for line in rows_of(star)]
    for row, values in zip(rows, angles, strict=True):
        row[ROT : PSI + 1] = [f"{value:.6f}" for value in values]
    edit_rows(star, ["\t".join(row) for row in rows])


@pytest.mark.parametrize("count", [10, 3, 2, 1])
def test_few_particles(tiny_set: Path, tmp_path: Path, count: int) -> None:
    star = own_copy(tiny_set, tmp_path / "a set", count)
    code, said = train(star, tmp_path / "run", "--valfrac", "0.2")
    assert code == 0, said
    assert_sound(tmp_path / "run", count)
    assert sorted(read_split(tmp_path / "run" / "split.pkl", count)) == list(range(count))


@pytest.mark.parametrize("spread_deg", [0.0, 3.0], ids=["identical poses", "one viewing group"])
def test_particles_seen_from_one_side(tiny_set: Path, tmp_path: Path, spread_deg: float) -> None:
    star = own_copy(tiny_set, tmp_path / "a set", 8)
    offsets = np.random.default_rng(0).uniform(-1, 1, (8, 3)) * spread_deg
    turn(star, np.array([20.0, 48.0, -70.0]) + offsets)
    code, said = train(star, tmp_path / "run", "-b", "3")
    assert code == 0, said
    assert "1 of 48 viewing groups occupied" in said
    assert_sound(tmp_path / "run", 8)


def test_a_batch_larger_than_the_set(tiny_set: Path, tmp_path: Path) -> None:
    star = own_copy(tiny_set, tmp_path / "a set", 8)
    code, said = train(star, tmp_path / "run", "-b", "64", "--accum-step", "3")
    assert code == 0, said
    assert_sound(tmp_path / "run", 8)


@pytest.mark.parametrize(("valfrac", "held_out"), [("0", 0), ("0.99", 7)])
def test_no_or_hardly_any_training_particles_held_out(
    tiny_set: Path, tmp_path: Path, valfrac: str, held_out: int
) -> None:
    star = own_copy(tiny_set, tmp_path / "a set", 8)
    code, said = train(star, tmp_path / "run", "--valfrac", valfrac, "-b", "8")
    assert code == 0, said
    assert said.count("Average training") == 2
    assert said.count("Average validation") == (2 if held_out else 0)
    assert_sound(tmp_path / "run", 8)


def damaged(path: Path, kind: str) -> None:
    """Break a subtomogram on disk."""
    volume, apix = read_volume(path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "deleted":
        path.unlink()
    else:
        write_volume(path, np.full(volume.shape, np.nan if kind == "NaN" else 7.0, np.float16), apix or 1.0)


def damage_in_epoch_3(monkeypatch: pytest.MonkeyPatch, kinds: dict[int, str]) -> None:
    """Break subtomograms, by index, when they are about to be read in the third epoch."""
    epochs: list[str] = []
    raw, read = RunLog.raw, VoxelSource.read

    def watched_raw(self: RunLog, line: str) -> None:
        raw(self, line)
        epochs.extend([line] if "Average validation" in line else [])

    def watched_read(self: VoxelSource, index: int) -> np.ndarray:
        if len(epochs) == 2 and index in kinds:
            damaged(self._images[index].path, kinds.pop(index))
        return read(self, index)

    monkeypatch.setattr(RunLog, "raw", watched_raw)
    monkeypatch.setattr(VoxelSource, "read", watched_read)


@pytest.mark.filterwarnings("ignore:Data array contains NaN")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [("constant", "one constant value"), ("NaN", "values that are not finite"), ("truncated", "is truncated"),
     ("deleted", "can no longer be read")],
)  # fmt: skip
def test_a_subtomogram_that_breaks_in_epoch_3(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, reason: str
) -> None:
    star = own_copy(tiny_set, tmp_path / "a set", 5)
    damage_in_epoch_3(monkeypatch, {2: kind})
    code, said = train(star, tmp_path / "run", "-n", "3", "-b", "8")
    assert code == 0, said
    (warning,) = [line for line in said.splitlines() if "left out" in line]
    assert reason in warning and "p000002.mrc" in warning and "1 left out so far" in warning
    assert said.index("Epoch: 2 ") < said.index("left out") < said.index("Epoch: 3 ")
    assert_sound(tmp_path / "run", 5, epoch=2)
    latents = [read_latents(tmp_path / "run" / f"z.{epoch}.pkl")[0] for epoch in (1, 2)]
    moved = np.abs(latents[1] - latents[0]).max(1) > 0
    assert moved.tolist() == [index != 2 for index in range(5)]
    # the run can be gone on with although the file is still broken
    code, said = train(star, tmp_path / "run", "-n", "4", "-b", "8", "--load", "latest")
    assert code == 0, said
    assert ("can no longer be read and are excluded" in said) == (kind in ("truncated", "deleted"))


def test_too_many_broken_subtomograms_stop_the_run(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    star = own_copy(tiny_set, tmp_path / "a set", 6)
    damage_in_epoch_3(monkeypatch, {5: "truncated", 1: "truncated"})
    code, said = train(star, tmp_path / "run", "-n", "3", "-b", "8")
    assert code == 1
    assert said.splitlines()[-1].startswith("dsd train_tomo: error: 2 of 6 subtomograms cannot be used, the last")
    assert "Traceback" not in said
    monkeypatch.undo()
    use_tiny_networks(monkeypatch)
    code, said = train(star, tmp_path / "run", "-n", "3", "--load", "latest")  # still broken
    assert code == 1 and "truncated" in said.splitlines()[-1]
    for index in (1, 5):
        name = f"p{index:06d}.mrc"
        (star.parent / "subtomo" / name).write_bytes((tiny_set / "subtomo" / name).read_bytes())
    code, said = train(star, tmp_path / "run", "-n", "3", "--load", "latest")
    assert code == 0, said
    assert_sound(tmp_path / "run", 6, epoch=2)


def test_latents_at_one_point_are_reported(tiny_set: Path, tmp_path: Path) -> None:
    """Eight copies of one subtomogram have equal latents."""
    star = own_copy(tiny_set, tmp_path / "a set", 8)
    first = tmp_path / "a set" / "subtomo" / "p000000.mrc"
    for index in range(1, 8):
        (first.parent / f"p{index:06d}.mrc").write_bytes(first.read_bytes())
    turn(star, np.zeros((8, 3)))
    rows = [row.split() for row in rows_of(star)]
    edit_rows(star, ["\t".join([*row[:10], "0", "0", "0", *row[13:]]) for row in rows])
    code, said = train(star, tmp_path / "run", "-n", "11", "-b", "8", "--valfrac", "0", "--beta-control", "50")
    assert code == 0, said
    (warning,) = [line for line in said.splitlines() if "latents have collapsed" in line]
    assert "try a lower --beta-control" in warning
    assert_sound(tmp_path / "run", 8, epoch=10)
