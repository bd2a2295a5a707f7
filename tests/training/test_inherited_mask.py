"""A run that is continued without ``-r`` keeps the solvent mask of the earlier run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from opustomo.checkpoint.config import read_config
from opustomo.checkpoint.epoch_files import read_state
from opustomo.checkpoint.weights import read_weights
from opustomo.io.mrc import read_volume, write_volume
from opustomo.physics.boxes import Boxes, crop_window, mask_on_crop
from opustomo.training.inputs import InheritedSolvent
from tests.commands.quick import own_copy, tiny_networks, train  # noqa: F401


@pytest.fixture
def star(tiny_set: Path, tmp_path: Path) -> Path:
    return own_copy(tiny_set, tmp_path / "a set", 8)


@pytest.fixture
def masked(star: Path, tmp_path: Path) -> Path:
    """A run of one epoch with a mask."""
    assert train(star, tmp_path / "run", "-r", str(star.with_name("mask.mrc")), "-n", "1")[0] == 0
    return tmp_path / "run"


def crop_and_mask(run: Path, epoch: int) -> tuple[Boxes, torch.Tensor]:
    mask = read_weights(run / f"weights.{epoch}.pkl")["mask"]
    assert isinstance(mask, torch.Tensor)
    return read_config(run / "config.pkl")[1], mask


def test_from_weights_in_a_new_folder(star: Path, masked: Path, tmp_path: Path) -> None:
    code, said = train(star, tmp_path / "next", "--load", str(masked / "weights.0.pkl"))
    assert code == 0 and f"the solvent mask in {masked / 'state.pkl'} is used" in said, said
    before, after = crop_and_mask(masked, 0), crop_and_mask(tmp_path / "next", 1)
    assert before[0] == after[0] and torch.equal(before[1], after[1])
    assert before[0].crop != Boxes.from_window(24, 12.0).crop  # that of a run without a mask
    state = read_state(tmp_path / "next")
    assert state is not None and torch.equal(state["mask"].half(), after[1])


def test_from_weights_without_a_state(star: Path, masked: Path, tmp_path: Path) -> None:
    (masked / "state.pkl").unlink()
    code, said = train(star, tmp_path / "next", "--load", str(masked / "weights.0.pkl"))
    assert code == 0 and f"the solvent mask in {masked / 'weights.0.pkl'} is used" in said, said
    before, after = crop_and_mask(masked, 0), crop_and_mask(tmp_path / "next", 1)
    assert before[0] == after[0] and torch.equal(before[1], after[1])


def test_from_the_state_of_an_interrupted_run(star: Path, masked: Path) -> None:
    """The mask file is used as before, or the mask in the state if the file is missing."""
    star.with_name("mask.mrc").unlink()
    code, said = train(star, masked, "--load", "latest")
    assert code == 0 and f"the solvent mask in {masked / 'state.pkl'} is used" in said, said
    (first, mask), (second, kept) = crop_and_mask(masked, 0), crop_and_mask(masked, 1)
    assert first == second and torch.equal(mask, kept)


def test_a_mask_that_is_given_counts(star: Path, masked: Path, tmp_path: Path) -> None:
    mask, apix = read_volume(star.with_name("mask.mrc"))
    larger = np.zeros_like(mask)
    larger[2:-2, 2:-2, 2:-2] = 1.0
    assert apix is not None
    write_volume(tmp_path / "larger.mrc", larger, apix)
    words = ["--load", str(masked / "weights.0.pkl"), "-r", str(tmp_path / "larger.mrc")]
    code, said = train(star, tmp_path / "next", *words)
    assert code == 0 and "the solvent mask in" not in said
    assert crop_and_mask(tmp_path / "next", 1)[0].crop == 22


def test_a_run_without_a_mask_goes_on_without_one(star: Path, tmp_path: Path) -> None:
    assert train(star, tmp_path / "run", "-n", "1")[0] == 0
    code, said = train(star, tmp_path / "run", "--load", "latest")
    assert code == 0 and "the solvent mask in" not in said


def test_subtomograms_of_another_box_need_their_own_mask(star: Path, masked: Path, tmp_path: Path) -> None:
    for path in star.parent.glob("subtomo/*.mrc"):
        volume, apix = read_volume(path)
        assert apix is not None
        write_volume(path, volume[2:-2, 2:-2, 2:-2], apix)
    code, said = train(star, tmp_path / "next", "--load", str(masked / "weights.0.pkl"))
    assert code == 1 and not (tmp_path / "next").exists()
    assert "is for subtomograms of 24 voxels of 12 Å, but these have 20 voxels of 12 Å. Give a mask" in said


def test_another_downfrac_resamples_the_mask() -> None:
    """The mask that a run without the detour would have made, up to the interpolation."""
    at = np.arange(48) - 24.0
    distance = np.sqrt((at[:, None, None] - 1.0) ** 2 + at[None, :, None] ** 2 + (at[None, None, :] + 2.0) ** 2)
    mask = np.clip((16.0 - distance) / 6.0, 0.0, 1.0).astype(np.float32)
    window = crop_window(mask, 64)
    before, after = (Boxes.from_window(48, 4.0, downfrac, window) for downfrac in (0.9, 0.7))
    inherited = InheritedSolvent(mask_on_crop(mask, before), before, Path("weights.0.pkl"))
    assert Boxes.from_window(48, 4.0, 0.9, inherited.window) == before
    boxes = Boxes.from_window(48, 4.0, 0.7, inherited.window)
    found, wanted = inherited.on_crop(boxes), mask_on_crop(mask, boxes)
    assert found.shape == (boxes.crop,) * 3 and abs(boxes.crop - after.crop) <= 2
    assert float((found - wanted).abs().max()) < 0.05 and float(wanted.max()) == 1.0
    np.testing.assert_allclose(inherited.on_box(), mask, atol=0.08)
