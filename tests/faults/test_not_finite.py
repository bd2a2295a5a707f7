"""Values that are not finite do not enter the state of a run, and a run that cannot recover reports it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import torch

from opustomo.checkpoint.epoch_files import read_state, require_finite
from opustomo.errors import UserError
from opustomo.io.latents import read_latents
from opustomo.training.finite_values import add_if_finite, average_if_finite, finite_rows, replace_rows
from tests.commands.quick import assert_sound, own_copy, tiny_networks, train  # noqa: F401

INF, NAN = float("inf"), float("nan")


@pytest.fixture
def star(tiny_set: Path, tmp_path: Path) -> Path:
    """Write a set whose fourth subtomogram contains one huge value outside of the sample for the scale."""
    star = own_copy(tiny_set, tmp_path / "a set")
    path = sorted((tmp_path / "a set").glob("subtomo/*.mrc"))[3]
    with mrcfile.open(path) as file:
        volume, voxel_size = file.data.astype(np.float32), file.voxel_size.copy()
    volume[-3, 5, 5] = 1e37
    with mrcfile.new(path, volume, overwrite=True) as file:
        file.voxel_size = voxel_size
    return star


def all_finite(content: Any) -> bool:
    if isinstance(content, Mapping):
        return all(map(all_finite, content.values()))
    if isinstance(content, (list, tuple)):
        return all(map(all_finite, content))
    if isinstance(content, torch.Tensor):
        return bool(torch.isfinite(content).all())
    return not isinstance(content, float) or bool(np.isfinite(content))


@pytest.mark.parametrize("place", [0, 15])
def test_one_absurd_subtomogram_spoils_nothing_else(star: Path, tmp_path: Path, place: int) -> None:
    """Whether it trains or is held out."""
    order = np.r_[3, np.delete(np.arange(16), 3)] if place == 0 else np.r_[np.delete(np.arange(16), 3), 3]
    torch.save(torch.from_numpy(order), tmp_path / "split.pkl")
    words = ["-n", "3", "--norm", "0", "0.03", "--split", str(tmp_path / "split.pkl")]
    code, said = train(star, tmp_path / "run", *words)
    assert code == 0, said
    assert_sound(tmp_path / "run", 16, epoch=2)
    state = read_state(tmp_path / "run")
    assert state is not None and all_finite(state)
    means = (tmp_path / "run" / "epochs.csv").read_text()
    assert "nan" not in means and "inf" not in means
    mu, _ = read_latents(tmp_path / "run" / "z.2.pkl")
    assert len(np.unique(mu, axis=0)) == 16
    assert "particle 4 is left out: one voxel of" in said and "p000003.mrc contributes more than half" in said


def test_a_run_that_cannot_recover_ends_and_names_the_last_good_epoch(tiny_set: Path, tmp_path: Path) -> None:
    star, run = own_copy(tiny_set, tmp_path / "a set"), tmp_path / "run"
    code, said = train(star, run, "-n", "2", "--lr", "1e-4")
    assert code == 0, said
    good = {name: (run / name).read_bytes() for name in ("state.pkl", "weights.1.pkl", "z.1.pkl", "pose.1.pkl")}
    code, said = train(star, run, "--load", "latest", "-n", "9", "--lr", "1e9")
    assert code == 1 and "Traceback" not in said
    (sentence,) = [line for line in said.splitlines() if "error:" in line]
    assert re.search(r"cannot recover in epoch \d", sentence) and "the last good epoch with --load" in sentence
    assert f"--load {run / 'weights.1.pkl'}" in sentence and "lower --lr" in sentence
    assert {name: (run / name).read_bytes() for name in good} == good
    assert sentence.partition("error: ")[2] in (run / "run.log").read_text()
    assert "finished" not in said and not (run / "weights.2.pkl").exists()
    # the advice leads out
    code, said = train(star, run, "--load", str(run / "weights.1.pkl"), "-n", "3", "--lr", "1e-5")
    assert code == 0, said
    assert_sound(run, 16, epoch=2)


def test_a_run_that_never_was_good_says_so(tiny_set: Path, tmp_path: Path) -> None:
    star = own_copy(tiny_set, tmp_path / "a set")
    code, said = train(star, tmp_path / "run", "-n", "4", "--lr", "1e9")
    assert code == 1 and "No earlier epoch was saved" in said and "finished" not in said
    assert not list((tmp_path / "run").glob("weights.*")) and not (tmp_path / "run" / "state.pkl").exists()


def test_checkpoints_are_checked_before_anything_is_replaced(tmp_path: Path) -> None:
    require_finite(tmp_path, {"a": torch.ones(2), "b": [1, 2.0, "text", None], "c": np.arange(3), "d": torch.arange(2)})
    for bad in (torch.tensor([1.0, NAN]), np.array([INF]), -INF, [torch.tensor(1.0), {"x": torch.tensor(INF)}]):
        with pytest.raises(UserError, match=r"state\.pkl was not written, because outer\.inner"):
            require_finite(tmp_path / "state.pkl", {"outer": {"inner": bad}})


def test_values_that_are_not_finite_are_left_out_on_the_device() -> None:
    mu = torch.tensor([[1.0, 2.0], [NAN, 0.0], [3.0, INF]])
    usable = finite_rows(mu, torch.zeros(3, 3, 3))
    assert usable.tolist() == [1.0, 0.0, 0.0]
    assert replace_rows(mu, usable).tolist() == [[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]
    turns = replace_rows(torch.full((3, 3, 3), 2.0), usable, torch.eye(3))
    assert torch.equal(turns[1], torch.eye(3)) and bool((turns[0] == 2.0).all())
    total, running = torch.ones(2), torch.ones(())
    assert bool(add_if_finite(total, torch.tensor([1.0, 2.0]))) and total.tolist() == [2.0, 3.0]
    assert not bool(add_if_finite(total, torch.tensor([1.0, NAN]))) and total.tolist() == [2.0, 3.0]
    average_if_finite(running, torch.tensor(3.0), 0.5)
    average_if_finite(running, torch.tensor(INF), 0.5)
    assert float(running) == 2.0
