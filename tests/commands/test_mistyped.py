"""Mistyped commands, options and values: one line with a suggestion, and exit code 2."""

import pytest

from analysis_scripts.main import main as dsdsh
from opustomo import __version__
from opustomo.commands.parser import CommandParser
from opustomo.main import main as dsd

CASES = {
    "dsd analyse": "There is no command 'analyse'. Did you mean analyze?",
    "dsd trian_tomo x.star": "There is no command 'trian_tomo'. Did you mean train_tomo",
    "dsd validate run 3 4": "There is no command 'validate' of dsd, but `dsdsh validate` exists.",
    "dsdsh train_tomo x.star": "There is no command 'train_tomo' of dsdsh, but `dsd train_tomo` exists.",
    "dsd selct": "There is no command 'selct'. Did you mean dsdsh select?",
    "dsd --verson": "There is no option --verson. Did you mean --version?",
    "dsd qwertz": "There is no command 'qwertz'. Run `dsd -h` for a list.",
    "dsd train_tomo x.star -o run --zdm 3": "There is no option --zdm. Did you mean --zdim",
    "dsdsh validate run 3 --maks m.mrc 4": "There is no option --maks. Did you mean --mask?",
    "dsdsh validate run 3 4 -Q": "There is no option -Q.",
    "dsdsh validate run 3 4 --gmm=4": "--gmm takes no value, but '4' is given.",
    "dsdsh validate run 3 4 --no": "--no is ambiguous. It could be --normalizectf, --no-likelihood.",
    "dsdsh validate": "resdir, N and K are missing in `dsdsh validate resdir N K [STAR]`.",
    "dsdsh validate run 3": "K is missing in `dsdsh validate resdir N K [STAR]`.",
    "dsd eval_vol -z 1": "--load and --outdir are missing in `dsd eval_vol --load WEIGHTS --outdir OUTDIR`.",
    "dsdsh validate run 3 four": "K is 'four', but it must be an integer.",
    "dsdsh validate run 3 4 a.star b.star": "'b.star' is one argument too many",
    "dsdsh eval_vol run 3 kmean 4 8": "mode: 'kmean' is not one of kmeans, gmm, hdbscan, pc, dpc, joint. Did you mean",
    "dsd train_tomo x.star -o run -n": "--num-epochs requires a value.",
    "dsd train_tomo x.star -o run --lr fast": "--lr is 'fast', but it must be a number.",
    "dsd eval_vol --load w -o v --zfile a -z 1": "-z cannot be combined with --zfile.",
}


@pytest.mark.parametrize("line", CASES)
def test_errors_are_one_line_with_a_suggestion(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, *words = line.split()
    assert {"dsd": dsd, "dsdsh": dsdsh}[program](words) == 2
    printed = capsys.readouterr()
    command = program if "Run `" + program + " -h`" in printed.err else f"{program} {words[0]}"
    assert printed.err.startswith(f"{command}: error: {CASES[line]}")
    assert printed.err.count("\n") == 1 and "usage" not in printed.err and printed.out == ""


@pytest.mark.parametrize(("main", "name"), [(dsd, "dsd"), (dsdsh, "dsdsh")])
def test_version(main: object, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(main) and main(["--version"]) == 0
    assert capsys.readouterr().out == f"{name} {__version__}\n"


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("a.star 32 12 run 4", ("a.star", 32, 12.0, "run", False)),
        ("a.star run 4", ("a.star", None, None, "run", False)),
        ("a.star --refined 32 12 run 4", ("a.star", 32, 12.0, "run", True)),
        ("a.star --refined run 4", ("a.star", None, None, "run", True)),
        ("--refined a.star run 4", ("a.star", None, None, "run", True)),
        ("a.star 32 12 run --refined 4", ("a.star", 32, 12.0, "run", True)),
    ],
)
def test_optional_arguments_may_stand_before_others(line: str, wanted: tuple[object, ...]) -> None:
    parser = CommandParser(prog="prog")
    parser.add_argument("star")
    parser.add_argument("box", type=int, nargs="?")
    parser.add_argument("apix", type=float, nargs="?")
    parser.add_argument("run")
    parser.add_argument("epoch")
    parser.add_argument("--refined", action="store_true")
    found = parser.parse_args(line.split())
    assert (found.star, found.box, found.apix, found.run, found.refined) == wanted and found.epoch == "4"
