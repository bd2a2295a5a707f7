"""Options of resumed runs: identity-defining options cannot change, and omitted options keep their values."""

from __future__ import annotations

import argparse
import contextlib
import io
import pickle
import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from opustomo.commands.resumed_options import MAY_CHANGE
from opustomo.commands.train_tomo import INERT_FLAGS, INERT_VALUES, add_arguments
from opustomo.io.latents import read_latents
from opustomo.io.pickles import load_torch
from opustomo.io.poses import Poses, read_poses, write_poses
from opustomo.main import main
from opustomo.training.resume_checks import COMPARISON, CONTENTS, NETWORKS
from tests.commands.quick import own_copy, tiny_networks, train, use_tiny_networks  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def begun(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a set and, in ``run``, one epoch of training; tests resume a copy."""
    folder = tmp_path_factory.mktemp("begun") / "here"
    star = own_copy(tiny_set, folder)
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_networks(patch)
        code, said = train(star, folder / "run", "-n", "1", "-r", str(folder / "mask.mrc"), "--lr", "2e-4")
    assert code == 0, said
    return folder


@pytest.fixture
def folder(begun: Path, tmp_path: Path) -> Path:
    """A copy of the set and the run under the same names relative to their folder."""
    shutil.copytree(begun, tmp_path / "copy")
    return tmp_path / "copy"


def go_on(*words: str) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(["train_tomo", "--load", "latest", *words])
    return code, said.getvalue()


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir()}


CHANGES = {
    "--templateres": (["48"], "48", "32"),
    "--zdim": (["3"], "3", "2"),
    "--zaffinedim": (["1"], "1", "2"),
    "--encoderres": (["10"], "10", "8"),
    "--encode-mode": (["fixed"], "fixed", "grad"),
    "--bfactor": (["400"], "400", "4"),
    "--downfrac": (["0.5"], "0.5", "1"),
    "--ctfalpha": (["0.5"], "0.5", "0"),
    "--ctfbeta": (["0"], "0", "1"),
    "--norm": (["0", "3"], "0 3", "0 "),
    "--no-ctf": ([], "on", "off"),
    "--warp": ([], "on", "off"),
    "--tilt-limit": (["40"], "40", "not given"),
    "--valfrac": (["0.5"], "0.5", "0.2"),
    "--seed": (["6"], "6", "5"),
    "--preset": (["original"], "original", "opustomo"),
}


@pytest.mark.parametrize("option", CHANGES)
def test_what_defines_a_run_cannot_change(option: str, folder: Path) -> None:
    values, now, then = CHANGES[option]
    before = contents(folder / "run")
    code, said = go_on("-o", str(folder / "run"), "-n", "2", option, *values)
    assert code == 1 and "Traceback" not in said
    (sentence,) = [line for line in said.splitlines() if "error:" in line]
    assert f"{option} is {now} and was {then}" in sentence
    assert contents(folder / "run") == before


def test_a_set_without_division_cannot_become_one_with(folder: Path) -> None:
    for word in ("--divide", "--no-normalizectf"):
        code, said = go_on("-o", str(folder / "run"), "-n", "2", word)
        assert code != 0 and word in said


def test_another_pixel_size_is_refused(folder: Path) -> None:
    code, said = go_on("-o", str(folder / "run"), "--angpix", "6", "--force")
    assert code == 1 and "--angpix is 6 and was 12" in said


def test_other_inputs_are_refused_by_their_content(folder: Path) -> None:
    run, mask = str(folder / "run"), folder / "other mask.mrc"
    before = contents(folder / "run")
    poses = read_poses(folder / "run" / "pose.0.pkl")
    write_poses(folder / "p.pkl", Poses(poses.eulers_deg + 1.0, poses.origins))
    code, said = go_on("-o", run, "--poses", str(folder / "p.pkl"))
    assert code == 1 and f"--poses is {folder / 'p.pkl'} and was the poses of" in said
    shutil.copy(folder / "mask.mrc", mask)
    with mrcfile.open(mask, "r+") as file:
        file.data[12, 12, 12] = 0.5
    code, said = go_on("-o", run, "-r", str(mask))
    assert code == 1 and f"-r is {mask} and was " in said and "/mask.mrc" in said
    torch.save(torch.arange(16), folder / "s.pkl")
    code, said = go_on("-o", run, "--split", str(folder / "s.pkl"))
    assert code == 1 and "--split is" in said
    rows = [line for line in (folder / "particles.star").read_text().splitlines() if ".mrc" in line]
    head = [line for line in (folder / "particles.star").read_text().splitlines() if ".mrc" not in line]
    (folder / "other.star").write_text("\n".join([*head, *rows[:-1], rows[0]]) + "\n")
    code, said = go_on(str(folder / "other.star"), "-o", run)
    assert code == 1 and "STAR is" in said and "other.star" in said
    assert contents(folder / "run") == before


def test_an_input_that_changed_under_its_name_is_refused(begun: Path, tmp_path: Path) -> None:
    star = own_copy(begun, tmp_path / "set")
    assert train(star, tmp_path / "run", "-n", "1", "-r", str(tmp_path / "set" / "mask.mrc"))[0] == 0
    with mrcfile.open(tmp_path / "set" / "mask.mrc", "r+") as file:
        file.data[12, 12, 12] = 0.5
    code, said = go_on("-o", str(tmp_path / "run"), "-n", "2")
    assert code == 1 and f"the content of -r {tmp_path / 'set' / 'mask.mrc'} has changed" in said


def test_without_options_a_run_goes_on_with_all_it_began_with(begun: Path, folder: Path, tmp_path: Path) -> None:
    """The same results as with all options given again."""
    short, full = folder / "run", tmp_path / "again"
    shutil.copytree(short, full)
    star, mask = begun / "particles.star", begun / "mask.mrc"
    assert train(star, full, "-n", "2", "-r", str(mask), "--lr", "2e-4", "--load", "latest")[0] == 0
    code, said = go_on("-o", str(short), "-n", "2")
    assert code == 0, said
    (kept,) = [line for line in said.splitlines() if "note: Unchanged options of the run:" in line]
    assert "--estpose" in kept and f"-r {mask}" in kept and "--lr 0.0002" in kept and "--zdim 2" in kept
    for a, b in zip(read_latents(short / "z.1.pkl"), read_latents(full / "z.1.pkl"), strict=True):
        assert a is not None and b is not None and np.array_equal(a, b)
    assert (short / "pose.1.pkl").read_bytes() == (full / "pose.1.pkl").read_bytes()
    code, said = go_on("-o", str(short))  # and once more, with nothing to do
    assert code == 0 and "nothing is left to train" in said and "-n 2" in said


def test_what_may_change_is_noted(folder: Path) -> None:
    words = "-n 2 -b 3 --lr 1e-4 --num-workers 2 --log-interval 3 --beta-control 0.7".split()
    code, said = go_on("-o", str(folder / "run"), *words)
    assert code == 0, said
    for note in (
        "--num-epochs changes from 1 to 2",
        "--batch-size changes from 4 to 3",
        "--lr changes from 0.0002 to 0.0001",
        "--beta-control changes from 0.5 to 0.7",
    ):
        assert said.count(note) == 1
    assert "--num-epochs was" not in go_on("-o", str(folder / "run"))[1]


def test_data_may_move(begun: Path, folder: Path) -> None:
    """Paths do not define a run: the same set can be in another folder under another name."""
    (folder / "particles.star").rename(folder / "moved.star")
    words = ["-r", str(folder / "mask.mrc"), "--datadir", str(folder), "-n", "2"]
    code, said = go_on(str(folder / "moved.star"), "-o", str(folder / "run"), *words)
    assert code == 0, said
    assert f"the particle table changes from {begun / 'particles.star'} to {folder / 'moved.star'}" in said


def test_a_run_of_an_earlier_version_goes_on(folder: Path) -> None:
    """Its config.pkl contains the command line instead of the options."""
    path = folder / "run" / "config.pkl"
    with path.open("rb") as handle:
        settings, about = pickle.load(handle), pickle.load(handle)
    del settings["opustomo"]["options"], settings["opustomo"]["contents"]
    path.write_bytes(pickle.dumps(settings) + pickle.dumps(about))
    code, said = go_on("-o", str(folder / "run"), "--bfactor", "400")
    assert code == 1 and "--bfactor is 400 and was 4" in said
    code, said = go_on("-o", str(folder / "run"), "-n", "2")
    assert code == 0, said
    assert (folder / "run" / "weights.1.pkl").exists()


def test_nothing_to_go_on_with(folder: Path, tmp_path: Path) -> None:
    code, said = go_on("-o", str(tmp_path / "empty"))
    assert code == 1 and "No particle table" in said and not (tmp_path / "empty").exists()
    (folder / "run" / "config.pkl").unlink()
    code, said = go_on(str(folder / "particles.star"), "-o", str(folder / "run"))
    assert code == 1 and "config.pkl is missing" in said


def test_a_damaged_split_is_not_replaced_by_another(folder: Path) -> None:
    path = folder / "run" / "split.pkl"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    code, said = go_on("-o", str(folder / "run"), "-n", "2")
    assert code == 1 and "split.pkl" in said and path.read_bytes() == content


def test_weights_of_other_networks_are_refused_by_option(folder: Path, tmp_path: Path) -> None:
    star, weights = folder / "particles.star", folder / "run" / "weights.0.pkl"
    code, said = train(star, tmp_path / "new", "--load", str(weights), "--templateres", "48")
    assert code == 1 and "--templateres is 48 and was 32" in said and not (tmp_path / "new").exists()
    code, said = train(star, tmp_path / "new", "--load", str(weights), "--bfactor", "8", "-n", "2")
    assert code == 0 and "--bfactor is 8 and was 4" in said and "the state of the optimizer is initialized" in said


def test_a_power_of_zero_of_the_ctf_gives_no_nan(folder: Path, tmp_path: Path) -> None:
    """0 to a power that is drawn around 0 must not become infinite."""
    code, said = train(folder / "particles.star", tmp_path / "run", "--ctfbeta", "0", "-n", "2")
    assert code == 0 and "left out" not in said, said
    state = load_torch(tmp_path / "run" / "state.pkl")
    assert torch.isfinite(state["latents"]).all() and np.isfinite(state["progress"]["seconds"])
    assert "nan" not in (tmp_path / "run" / "epochs.csv").read_text()


def test_every_option_is_fixed_or_may_change() -> None:
    """And the page names both kinds."""
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    free = {"load", "latents", "overwrite", "outdir", "force", "verbose", "relion31", "float16"}
    only_checked = {"tilt_step", "tilt_range"}  # with --no-ctf they make the tables, which are compared
    by_content = {"masks", "particles", "poses", "mask", "focus", "split", "ind"}
    fixed = {option.removeprefix("--").replace("-", "_") for option in NETWORKS | COMPARISON}
    page = (ROOT / "docs" / "resume.md").read_text()
    for action in parser._actions:
        name = action.dest
        if name.removeprefix("inert ") in INERT_FLAGS + INERT_VALUES:
            continue
        kinds = [name in kind for kind in (free, only_checked, by_content | fixed, set(MAY_CHANGE) - {"particles"})]
        assert sum(kinds) == 1, name
        if action.option_strings and name not in free:
            assert any(f"`{option}`" in page for option in action.option_strings), name
    assert len(CONTENTS) == 7
