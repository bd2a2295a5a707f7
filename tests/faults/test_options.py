"""Ranges of the options of all commands: one table, and one sentence for a value outside of its range."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

import analysis_scripts.main
import opustomo.main
from opustomo.commands.option_ranges import RANGES, Range, check_options, range_of
from opustomo.commands.registry import DSD, DSDSH, load_command
from opustomo.errors import UserError

PROGRAMS = {"dsd": DSD, "dsdsh": DSDSH}
MAIN = {"dsd": opustomo.main.main, "dsdsh": analysis_scripts.main.main}


def numeric_options() -> Iterator[tuple[str, argparse.Action]]:
    """Every option that takes a number, with its command."""
    for program, commands in PROGRAMS.items():
        for name, path in commands.items():
            parser = argparse.ArgumentParser(prog=f"{program} {name}")
            load_command(path).add_arguments(parser)
            for action in parser._actions:
                kind = getattr(action.type, "__name__", "")
                if kind in ("int", "float", "_count") and not action.choices:
                    yield name, action


def test_every_number_has_a_range() -> None:
    lacking, count = set(), 0
    for name, action in numeric_options():
        titles = action.option_strings or [action.dest]
        count += 1
        if not any(title in RANGES or f"{name} {title}" in RANGES for title in titles):
            lacking.add((name, *titles))
    assert count > 150
    assert not lacking, "say their range in opustomo/commands/options.py"


def test_every_default_lies_in_its_range() -> None:
    for name, action in numeric_options():
        defaults = action.default if isinstance(action.default, (list, tuple)) else [action.default]
        for value in defaults:
            if isinstance(value, (int, float)) and not (name == "eval_vol" and action.dest == "num_bodies"):
                assert value in range_of(name, action, type(value)), (name, action.dest, value)


@pytest.mark.parametrize(
    ("limits", "inside", "outside"),
    [
        (Range(0.0, 1.0, open_high=True), (0, 0.999), (1, -1e-9, math.nan, math.inf)),
        (Range(0.0, open_low=True), (1e-300, 1e300), (0, -1, math.inf, math.nan)),
        (Range(0.0, open_low=True, infinite=True), (1, math.inf), (-math.inf, math.nan)),
        (Range(0, 2**64 - 1), (0, 2**64 - 1), (2**64, -1, 10**400)),
        (Range(), (-1e300, 0), (math.inf, math.nan)),
    ],
)
def test_ranges(limits: Range, inside: tuple[float, ...], outside: tuple[float, ...]) -> None:
    assert all(value in limits for value in inside)
    assert not any(value in limits for value in outside)
    assert all(limits.demand(value) for value in outside)


TRAIN = "dsd train_tomo {set}/particles.star -o {out} --device cpu --zdim 2 --templateres 32 --encoderres 8 -n 1"
REFUSED = {
    f"{TRAIN} --seed 99999999999999999999999": "--seed must be at most 18446744073709551615",
    f"{TRAIN} --seed -1": "--seed must be at least 0, got -1",
    f"{TRAIN} --num-workers -3": "--num-workers must be at least 1, got -3",
    f"{TRAIN} --num-workers 99999": "--num-workers must be at most 1024, got 99999",
    f"{TRAIN} --multigpu --num-gpus 99999": "--num-gpus 99999 processes are too many for this machine",
    f"{TRAIN} --tmp-prefix ../../x": "--tmp-prefix is '../../x', but it must be a file name",
    f"{TRAIN} --tmp-prefix /etc/x": "--tmp-prefix is '/etc/x', but it must be a file name",
    f"{TRAIN} --templateres 99999999999": "--templateres must be at most 16384, got 99999999999",
    f"{TRAIN} --lr 1e400": "--lr must be a finite number, got inf",
    f"{TRAIN} --bfactor nan": "--bfactor must be a finite number, got nan",
    f"{TRAIN} --norm 0 0": "--norm is 0 0, but the scale",
    f"{TRAIN} -b 99999999999999999999": "--batch-size must be at most 2147483647",
    "dsd eval_vol --load w.pkl -o {out} -z 0 0 --prefix ../../x": "--prefix is '../../x', but it must be a file name",
    "dsd eval_vol --load w.pkl -o {out} -z 0 nan": "-z must be a finite number, got nan",
    "dsd eval_vol --load w.pkl -o {out} -z 0 0 --Apix inf": "--Apix must be a finite number, got inf",
    "dsd parse_pose_star {set}/particles.star -D 24 -o {out} --seed 99999999999999999999": "--seed must be at most",
    "dsd simulate --builtin 50S -o {out} --seed 99999999999999999999": "--seed must be at most",
    "dsd check {set}/particles.star -b -5": "--batch-size must be at least 1, got -5",
    "dsd check {set}/particles.star --tilt-range nan": "--tilt-range must lie in (0, 90), got nan",
    "dsd pc_traversal {set}/z.pkl --lim nan 5": "--lim must lie in [0, 100], got nan",
    "dsd prepare_ctf {set}/p.star -o {out} --image-name ../../x": "--image-name is '../../x', which is outside",
    "dsdsh extract_tomo_cubes a b --box-size 8 -o {out} --prefix ..": "--prefix is '..', but it must be a file name",
    "dsdsh validate {set} 0 -3": "K must be at least 1, got -3",
    "dsdsh prepare {set}/particles.star 24 -12": "apix must be positive, got -12",
    "dsdsh convert_warp {set}/particles.star nan": "angpix must be a finite number, got nan",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_out_of_range_is_refused_before_anything_is_written(
    line: str, tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *words = (word.format(set=tiny_set, out=tmp_path / "out") for word in line.split())
    assert MAIN[program](words) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"{program} {words[0]}: error: {REFUSED[line]}")
    assert said.err.count("\n") == 1 and said.out == ""
    assert not list(tmp_path.iterdir())


def test_the_seed_may_have_64_bits() -> None:
    parser = argparse.ArgumentParser(prog="dsd train_tomo")
    parser.add_argument("--seed", type=int, default=0)
    check_options(parser, parser.parse_args(["--seed", str(2**64 - 1)]))
    with pytest.raises(UserError):
        check_options(parser, parser.parse_args(["--seed", str(2**64)]))
