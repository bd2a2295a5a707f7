"""`dsd train_tomo --focus` through the command line."""

from pathlib import Path

import numpy as np
import torch

from opustomo.checkpoint.weights import read_weights
from opustomo.io.mrc import read_volume, write_volume
from opustomo.quality.evidence.trained_model import load_model
from tests.commands.quick import tiny_networks, train  # noqa: F401


def half_mask(tiny_set: Path, path: Path, upper: bool) -> Path:
    """Write a mask of half the box."""
    whole, apix = read_volume(tiny_set / "mask.mrc")
    part = np.zeros_like(whole)
    half = len(part) // 2
    part[half:] = upper
    part[:half] = not upper
    write_volume(path, part, apix)
    return path


def test_focus_is_part_of_the_run(tiny_set: Path, tmp_path: Path) -> None:
    upper, lower = (half_mask(tiny_set, tmp_path / f"{i}.mrc", bool(i)) for i in (1, 0))
    star, out = tiny_set / "particles.star", tmp_path / "run"
    words = ["-r", str(tiny_set / "mask.mrc"), "--focus"]
    code, said = train(star, out, *words, str(upper))
    assert code == 0, said
    stored = read_weights(out / "weights.1.pkl")["focus"].float()
    middle = len(stored) // 2
    assert stored[middle + 1 :].min() == 1.0 and stored[: middle - 1].max() == 0.0
    restored = load_model(out / "weights.1.pkl", out / "config.pkl", "cpu")
    assert restored.focused
    torch.testing.assert_close(restored.focus, stored)
    code, said = train(star, out, *words, str(lower), "--load", "latest", "-n", "3")
    assert code == 1 and "--focus is" in said and str(upper) in said, said
    code, said = train(star, out, "--load", "latest", "-n", "3")
    assert code == 0, said
    assert torch.equal(read_weights(out / "weights.2.pkl")["focus"].float(), stored)


def test_a_focus_outside_of_the_particle_is_refused(tiny_set: Path, tmp_path: Path) -> None:
    whole, apix = read_volume(tiny_set / "mask.mrc")
    corner = np.zeros_like(whole)
    corner[0, 0, 0] = 1.0
    write_volume(tmp_path / "corner.mrc", corner, apix)
    words = ["-r", str(tiny_set / "mask.mrc"), "--focus", str(tmp_path / "corner.mrc")]
    code, said = train(tiny_set / "particles.star", tmp_path / "never", *words)
    assert code == 1 and "does not overlap the solvent mask" in said
    assert not (tmp_path / "never").exists()
