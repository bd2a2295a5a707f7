"""The word ``latest`` instead of an epoch, and box and pixel size taken from the training."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from analysis_scripts.main import main as dsdsh
from opustomo.analysis.figures import latent_figures
from opustomo.analysis.results import ResultDir, Round
from opustomo.commands.options import selected_round
from opustomo.errors import UserError
from opustomo.io.star_tables import read_particles
from opustomo.main import main as dsd
from opustomo.run import Run
from tests.commands.test_dsdsh import APIX, BOX, COUNT, config_of_box, fabricate


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Result folder of the epochs 2 and 10, of which 10 is the last."""
    monkeypatch.setattr(latent_figures, "write_figure", lambda path, figure, dpi: path.touch())
    root = fabricate(tmp_path / "a run")
    for kind in ("z", "pose"):
        shutil.copy(root / f"{kind}.2.pkl", root / f"{kind}.10.pkl")
    for folder in ("analyze", "defanalyze"):
        shutil.copytree(root / f"{folder}.2", root / f"{folder}.10")
    config_of_box(root)
    return root


@pytest.fixture
def star(tmp_path: Path) -> Path:
    path = tmp_path / "p.star"
    head = ["data_", "loop_", "_rlnImageName", "_rlnMicrographName", "_rlnAngleRot", "_rlnAngleTilt", "_rlnAnglePsi"]
    head += [f"_rln{what}{axis}" for what in ("Coordinate", "Origin") for axis in "XYZ"]
    rows = [f"s/p{i}.mrc t1 1 2 3 10 20 30 0 0 0" for i in range(COUNT)]
    path.write_text("\n".join([*head, *rows]) + "\n")
    return path


def test_every_command_that_takes_an_epoch_takes_latest(
    run: Path, star: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dsd(["analyze", str(run), "latest", "--skip-vol", "--skip-umap", "--ksample", "3", "--pc", "1"]) == 0
    assert (run / "analyze.10" / "kmeans3" / "labels.pkl").is_file()
    assert dsdsh(["analyze", str(run), "latest", "1", "4", "--skip-umap"]) == 0
    assert dsdsh(["parse_pose", str(star), str(run), "latest", "3"]) == 0
    assert (run / "analyze.10" / "kmeans3" / "pre0.star").is_file()
    assert dsdsh(["select", str(star), str(run), "latest", "--clusters", "3:0", "-o", str(tmp_path / "s.star")]) == 0
    assert dsdsh(["artiax", str(star), str(run), "latest", "3", "--coord-angpix", "8"]) == 0
    assert (run / "analyze.10" / "kmeans3" / "artiax").is_dir()
    assert dsdsh(["report", str(run), "latest", "--skip-vol"]) == 0
    assert (run / "analyze.10" / "report.html").is_file()
    assert capsys.readouterr().out.count(f"The last saved epoch of {run} is 10.") == 6
    # These need files that the folder lacks, and say so of epoch 10.
    for words, missing in (
        (["eval_vol", str(run), "latest", "kmeans", "3"], "weights.10.pkl"),
        (["dynamics", str(run), "latest"], "weights.10.pkl"),
        (["landscape", str(run), "latest", "--no-star"], "weights.10.pkl"),
        (["place", str(run), "latest", "--tomogram", "t1", "--star", str(star), "-k", "3"], "weights.10.pkl"),
        (["validate", str(run), "latest", "5"], "analyze.10/kmeans5/labels.pkl"),
    ):
        assert dsdsh(words) == 1
        assert missing in capsys.readouterr().err
    assert dsdsh(["analyze", str(run), "lates", "1", "3"]) == 1
    assert "'lates' is not an epoch. Give a number such as 16, latest" in capsys.readouterr().err


def test_latest_is_the_best_epoch_of_a_run_that_overfits(
    run: Path, star: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = [-1.0, -1.65, -1.7, -1.65, *[-1.4] * 7]
    rows = [f"{epoch},{-1.0 - 0.1 * epoch},{loss}" for epoch, loss in enumerate(held_out)]
    (run / "epochs.csv").write_text("\n".join(["epoch,training_gen,validation_gen", *rows]) + "\n")
    words = ["analyze", str(run), "latest", "1", "3", "--skip-umap"]
    assert dsdsh(words) == 0  # there are no weights of epoch 2
    assert f"The last saved epoch of {run} is 10." in capsys.readouterr().out
    (run / "weights.2.pkl").touch()
    assert Run(run, star).latest == 2
    assert dsdsh(words) == 0
    said = capsys.readouterr().out
    assert f"The training overfits, so epoch 2 of {run}, which has a lower held-out loss, is used" in said
    assert "give 10 instead of latest" in said and f"Wrote the analysis to {run / 'analyze.2'}" in said
    table = tmp_path / "s.star"
    assert dsdsh(["select", str(star), str(run), "filter.latest", "--clusters", "3:0", "-o", str(table)]) == 1
    assert "analyze.filter.2" in capsys.readouterr().err
    assert dsdsh(["analyze", str(run), "10", "1", "3", "--skip-umap"]) == 0
    assert "overfits" not in capsys.readouterr().out


def test_latest_in_rounds_and_in_python(run: Path) -> None:
    results = ResultDir.open(run)
    names = {"latest": Round(10), "filter.latest": Round(10, 1), "2": Round(2)}
    assert {name: selected_round(run, name)[1] for name in names} == names
    assert np.array_equal(Run(run).analyzed("latest").members, np.arange(COUNT))
    with pytest.raises(UserError, match=r"Run dsdsh analyze .* 7 2 --k auto first, or give .* \(2, 10\)"):
        results.analyzed_file(Round(7), "pc.pkl")


@pytest.mark.parametrize("folder", ["kmeans6", "gmm2", "pc3", "hdbscan2"])
def test_the_command_named_for_missing_results_is_complete(run: Path, folder: str) -> None:
    with pytest.raises(UserError) as caught:
        ResultDir.open(run).analyzed_file(Round(2), folder, "absent.txt")
    match = re.search(r"[Rr]un dsdsh (.*?) first", str(caught.value))
    assert match is not None
    words = shlex.split(match[1])
    assert words[:3] == ["analyze", str(run), "2"]
    assert dsdsh([*words, "--skip-umap"]) == 0
    assert folder == "hdbscan2" or (run / "analyze.2" / folder).is_dir()


def test_box_and_pixel_size_are_those_of_the_training(
    run: Path, star: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dsdsh(["analyze", str(run), "10", "1", "3", "--skip-umap"]) == 0
    table = run / "analyze.10" / "kmeans3" / "pre0.star"
    words = ["parse_pose", str(star)]
    given, rest = [str(BOX), str(APIX)], [str(run), "10", "3", "--refined"]
    assert dsdsh([*words, *given, *rest]) == 0
    wanted = read_particles(table).numbers("rlnOriginX")
    table.unlink()
    assert dsdsh([*words, *rest]) == 0
    np.testing.assert_array_equal(read_particles(table).numbers("rlnOriginX"), wanted)
    table.unlink()
    capsys.readouterr()
    for wrong, part in (
        ([str(2 * BOX), str(APIX)], f"subtomograms of {BOX} pixels, but the given box is {2 * BOX}"),
        ([str(BOX), "6"], f"trained at {APIX:g} Å per pixel, but the given pixel size is 6 Å"),
        ([str(BOX)], f"The box size {BOX} is given without a pixel size"),
    ):
        assert dsdsh([*words, *wrong, str(run), "10", "3"]) == 1
        assert part in capsys.readouterr().err and not table.exists()
    assert dsd(["analyze", str(run), "10", "--skip-vol", "--D", "64"]) == 1
    assert f"subtomograms of {BOX} pixels, but the given box is 64" in capsys.readouterr().err
    assert dsdsh(["validate", str(run), "10", "3", "--angpix", "6"]) == 1
    assert f"trained at {APIX:g} Å per pixel, but the given pixel size is 6 Å" in capsys.readouterr().err
    (run / "config.pkl").unlink()
    assert dsdsh([*words, *rest]) == 1
    assert "has no config.pkl, so box and pixel size of the training are unknown" in capsys.readouterr().err
    assert dsdsh([*words, *given, *rest]) == 0
