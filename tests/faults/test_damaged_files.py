"""Files that are damaged after writing are refused, whichever bit is flipped."""

from __future__ import annotations

import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from opustomo.checkpoint.epoch_files import STATE_FILE, read_state, write_state
from opustomo.errors import UserError
from opustomo.io.latents import read_latents, write_latents
from opustomo.io.pickles import (
    SEAL_LENGTH,
    dump_pickle,
    dump_pickles,
    dump_torch,
    load_pickle,
    load_pickles,
    load_torch,
)
from opustomo.io.poses import Poses, read_poses, write_poses

POSES = Poses(np.arange(12.0).reshape(4, 3), np.arange(12.0).reshape(4, 3) / 100)
TENSORS = {"progress": {"epoch": 3}, "weights": torch.arange(60.0).reshape(3, 20), "names": ["a", "b"]}

Write = Callable[[Path], None]
Read = Callable[[Path], object]
KINDS: dict[str, tuple[Write, Read]] = {
    "state.pkl": (lambda path: write_state(path.parent, TENSORS), lambda path: read_state(path.parent)),
    "weights.3.pkl": (lambda path: dump_torch(path, TENSORS), load_torch),
    "z.3.pkl": (lambda path: write_latents(path, np.ones((4, 2)), np.zeros((4, 1))), read_latents),
    "pose.3.pkl": (lambda path: write_poses(path, POSES), read_poses),
    "labels.pkl": (lambda path: dump_pickle(path, np.arange(9)), load_pickle),
    "config.pkl": (lambda path: dump_pickles(path, {"lr": 1e-4}, {"cmd": ["dsd"]}), load_pickles),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_flipped_bit_is_refused(name: str, tmp_path: Path) -> None:
    write, read = KINDS[name]
    path = tmp_path / name
    write(path)
    read(path)
    content = path.read_bytes()
    chance = random.Random(4)
    places = {0, len(content) - 1, *range(len(content) - SEAL_LENGTH, len(content))}
    places |= {chance.randrange(len(content)) for _ in range(80)}
    for place in sorted(places):
        damaged = bytearray(content)
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=path.stem):
            read(path)


def test_other_programs_read_what_is_sealed(tmp_path: Path) -> None:
    """The original opens latents and weights with torch.load, poses and settings with pickle.load."""
    write_latents(tmp_path / "z.0.pkl", np.full((4, 2), 0.5))
    assert torch.load(tmp_path / "z.0.pkl", weights_only=False)["mu"].eq(0.5).all()
    assert zipfile.ZipFile(tmp_path / "z.0.pkl").testzip() is None
    write_poses(tmp_path / "pose.0.pkl", POSES)
    with (tmp_path / "pose.0.pkl").open("rb") as handle:
        assert np.array_equal(pickle.load(handle)[2], POSES.eulers_deg)
    dump_pickles(tmp_path / "config.pkl", {"a": 1}, {"b": 2})
    with (tmp_path / "config.pkl").open("rb") as handle:
        assert (pickle.load(handle), pickle.load(handle)) == ({"a": 1}, {"b": 2})


def test_files_without_checksum_still_open(tmp_path: Path) -> None:
    path = tmp_path / "old.pkl"
    torch.save(TENSORS, path)
    assert torch.equal(load_torch(path)["weights"], TENSORS["weights"])
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    assert torch.equal(load_torch(path)["weights"], TENSORS["weights"])
    path.write_bytes(pickle.dumps((POSES.rotations, POSES.origins, POSES.eulers_deg)))
    assert np.array_equal(read_poses(path).origins, POSES.origins)
    path.write_bytes(pickle.dumps({"a": 1}) + pickle.dumps({"b": 2}))
    assert load_pickles(path) == [{"a": 1}, {"b": 2}]


def test_tensors_in_old_torch_files_are_compared_with_their_check_values(tmp_path: Path) -> None:
    path = tmp_path / "weights.0.pkl"
    torch.save(TENSORS, path)
    content = bytearray(path.read_bytes())
    place = content.index(TENSORS["weights"].numpy().tobytes())
    content[place + 50] ^= 16
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.0\.pkl"):
        load_torch(path)


def test_a_damaged_state_names_the_weights_to_go_on_from(tmp_path: Path) -> None:
    for epoch in (2, 10, 9):
        (tmp_path / f"weights.{epoch}.pkl").touch()
    write_state(tmp_path, TENSORS)
    content = bytearray((tmp_path / STATE_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / STATE_FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"state\.pkl.*--load .*weights\.10\.pkl"):
        read_state(tmp_path)
