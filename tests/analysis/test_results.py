from pathlib import Path

import numpy as np
import pytest

from opustomo.analysis.results import ResultDir, Round, parse_round
from opustomo.errors import UserError
from opustomo.io.latents import write_latents
from opustomo.io.pickles import dump_pickle
from opustomo.io.poses import Poses, write_poses


@pytest.fixture
def run(tmp_path: Path) -> ResultDir:
    root = tmp_path / "my run"
    root.mkdir()
    for epoch in (0, 1, 2, 5, 10):
        write_latents(root / f"z.{epoch}.pkl", np.full((4, 3), epoch), np.ones((4, 2)))
    write_poses(root / "pose.5.pkl", Poses(np.zeros((3, 3)), np.zeros((3, 3))))
    return ResultDir.open(root)


def test_rounds() -> None:
    assert parse_round("16") == Round(16)
    assert parse_round(7) == Round(7)
    for text, depth in (("16", 0), ("filter.16", 1), ("filter.filter.16", 2)):
        assert parse_round(text) == Round(16, depth)
        assert parse_round(text).label == text
    assert Round(16).next == parse_round("filter.16") and Round(16).next.next.label == "filter.filter.16"
    for text in ("x", "-1", "filter", "filter.a", "1.5", "", "filterfilter.3", "filter.filter3"):
        with pytest.raises(UserError, match="is not an epoch"):
            parse_round(text)
    assert parse_round("7").first_epoch() == 7
    with pytest.raises(UserError, match=r"an epoch is required. Give 16"):
        parse_round("filter.16").first_epoch()


def test_epochs_and_latents(run: ResultDir) -> None:
    assert run.epochs() == [0, 1, 2, 5, 10]
    mu, multi_mu = run.load_latents(10)
    np.testing.assert_array_equal(mu, np.full((4, 3), 10))
    assert multi_mu is not None and multi_mu.shape == (4, 2)


def test_missing_epoch_names_those_present(run: ResultDir) -> None:
    with pytest.raises(UserError, match=r"z\.7\.pkl does not exist. The available epochs are 0-2, 5, 10 "):
        run.load_latents(7)
    with pytest.raises(UserError, match=r"There is no weights\.N\.pkl"):
        run.epoch_file("weights", 5)


def test_poses_of_another_number(run: ResultDir) -> None:
    assert len(run.load_poses(5, 3)) == 3
    with pytest.raises(UserError, match=r"3 poses, but z\.5\.pkl has 4"):
        run.load_poses(5, 4)


def test_folders_that_are_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        ResultDir.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"contains no z\.N\.pkl"):
        ResultDir.open(tmp_path)


def test_folder_names(run: ResultDir) -> None:
    assert run.analysis(Round(3)).name == "analyze.3"
    assert run.analysis(Round(3, filtered=True), dynamics=True).name == "defanalyze.filter.3"


def test_plain_latents(run: ResultDir) -> None:
    values = np.arange(6, dtype=np.float64).reshape(3, 2)
    dump_pickle(run.root / "z.11.pkl", values)
    np.testing.assert_array_equal(run.load_plain_latents(11), values)
    np.testing.assert_array_equal(run.load_plain_latents(2), np.full((4, 3), 2))
    dump_pickle(run.root / "z.12.pkl", np.array([1.0, np.nan]))
    with pytest.raises(UserError, match="not an array of finite latents"):
        run.load_plain_latents(12)
