"""Scores, figure and report of the demo on a fabricated run, and its errors."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

import analysis_scripts.main
import opustomo.main
from opustomo.commands import simulate
from opustomo.commands.option_ranges import check_options
from opustomo.demo import plan as settings
from opustomo.demo.plan import BOX, STATES, DemoPlan
from opustomo.demo.scores import (
    best_correlation,
    collect_result,
    contingency_lines,
    match_clusters,
    pose_error,
    remove_resume_state,
    report_lines,
)
from opustomo.demo.summary_figure import draw_summary
from opustomo.errors import UserError
from opustomo.io.mrc import write_volume
from opustomo.io.pickles import dump_pickle
from opustomo.io.poses import Poses, write_poses
from opustomo.physics.resampling import resample
from opustomo.simulate.densities import load_density


@pytest.fixture
def fabricated(tmp_path: Path) -> DemoPlan:
    """A simulated set and, in the places of a run, classes with two mistakes and blurred volumes."""
    plan = DemoPlan(tmp_path / "the demo", particles=30)
    assert opustomo.main.main(list(plan.steps()[0].words)) == 0
    truth = np.load(plan.data / "truth.npz")
    rng = np.random.default_rng(0)
    plan.kmeans.mkdir(parents=True)
    state_of_class = np.array([2, 0, 1])
    labels = np.argsort(state_of_class)[truth["labels"]]
    labels[:2] = (labels[:2] + 1) % 3
    dump_pickle(plan.kmeans / "labels.pkl", labels)
    dump_pickle(plan.analysis / "umap.pkl", rng.normal(size=(30, 2)) + 6 * truth["labels"][:, None])
    np.savetxt(plan.kmeans / "centers_ind.txt", [np.flatnonzero(labels == k)[-1] for k in range(3)], fmt="%d")
    for k, state in enumerate(state_of_class):
        blurred = gaussian_filter(load_density(STATES[state])[0], 0.8)
        write_volume(plan.kmeans / f"reference{k}.mrc", resample(blurred, 12.0, 26, 12.0), 12.0)
    halfway = 0.5 * (truth["origin"] + truth["origin_used"]) / BOX
    write_poses(plan.run / f"pose.{plan.epoch}.pkl", Poses(truth["eulers"], halfway))
    return plan


def test_result_of_a_fabricated_run(fabricated: DemoPlan) -> None:
    plan = fabricated
    result = collect_result(plan.data, plan.analysis, plan.run / f"pose.{plan.epoch}.pkl", STATES)
    assert result.matching.tolist() == [2, 0, 1]
    assert result.table.sum() == 30 and sum(result.table[s, k] for k, s in enumerate(result.matching)) == 28
    assert 0.6 < result.ari < 1
    assert 0.5 < result.before.angle_deg < 3 and result.after.angle_deg < 0.1
    assert result.after.shift_px == pytest.approx(0.5 * result.before.shift_px, rel=0.2)
    assert [volume.state for volume in result.volumes] == [2, 0, 1]
    assert all(volume.correlation > 0.9 for volume in result.volumes)
    text = "\n".join(report_lines(result, plan))
    assert f"{result.ari:.3f}" in text and str(plan.root / "demo.png") in text
    counts = np.array([line.split()[1:] for line in contingency_lines(result)[1:]], dtype=int)
    assert (counts == result.table).all()
    draw_summary(plan.root / "demo.png", result)
    picture = matplotlib.image.imread(plan.root / "demo.png")[..., :3]
    assert picture.shape[1] > 1200 and picture.std() > 0.1


def test_the_state_of_the_training_is_removed(fabricated: DemoPlan) -> None:
    state = fabricated.run / "state.pkl"
    state.write_bytes(bytes(3_000_000))
    first, second = remove_resume_state(fabricated)
    assert not state.exists() and "(3 MB)" in first and str(fabricated.root) in second
    assert len(remove_resume_state(fabricated)) == 1


def test_a_wrong_volume_is_reported(fabricated: DemoPlan) -> None:
    plan = fabricated
    other = resample(load_density("50S")[0], 12.0, 26, 12.0)
    write_volume(plan.kmeans / "reference2.mrc", other, 12.0)
    result = collect_result(plan.data, plan.analysis, plan.run / f"pose.{plan.epoch}.pkl", STATES)
    assert result.volumes[2].correlation < 0.3


def test_pose_error_ignores_only_what_is_common() -> None:
    rng = np.random.default_rng(0)
    true = Rotation.random(200, rng)
    common = Rotation.from_rotvec([0.1, -0.05, 0.2])
    signs = rng.choice([-1.0, 1.0], 200)
    axes = np.eye(3)[rng.integers(0, 3, 200)] * signs[:, None]
    found = true * common * Rotation.from_rotvec(np.deg2rad(4.0) * axes)
    origins = rng.normal(size=(200, 3))
    same = pose_error((true * common).as_matrix(), origins, true.as_matrix(), origins)
    assert same.angle_deg < 1e-3 and same.shift_px < 1e-3
    moved = origins + (true * common).apply([0.5, -1.0, 2.0])
    assert pose_error((true * common).as_matrix(), moved, true.as_matrix(), origins).shift_px < 1e-6
    off = pose_error(found.as_matrix(), origins + 0.3 * signs[:, None], true.as_matrix(), origins)
    assert off.angle_deg == pytest.approx(4.0, abs=0.3)
    assert off.shift_px == pytest.approx(0.3 * np.sqrt(3), abs=0.08)


def test_best_correlation_looks_within_a_voxel() -> None:
    density, _ = load_density("50S")
    inside = np.ones_like(density)
    assert best_correlation(np.roll(density, 1, 0), density, inside) > 0.999
    assert best_correlation(np.roll(density, 4, 0), density, inside) < 0.9


def test_matching_puts_most_particles_right() -> None:
    assert match_clusters(np.array([[0, 9, 1], [5, 4, 0], [5, 0, 1]])).tolist() == [1, 0, 2]


def command(*words: object) -> None:
    parser = argparse.ArgumentParser("dsd demo")
    simulate.add_demo_arguments(parser)
    args = parser.parse_args([str(word) for word in words])
    check_options(parser, args)
    simulate.run_demo(args)


def test_the_commands_are_shown_and_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failing step ends the demo; later steps are not run."""
    ran: list[str] = []

    def program(name: str, failing: str) -> object:
        def main(words: list[str]) -> int:
            ran.append(f"{name} {words[0]}")
            return 1 if words[0] == failing else 0

        return main

    monkeypatch.setattr(opustomo.main, "main", program("dsd", "train_tomo"))
    monkeypatch.setattr(analysis_scripts.main, "main", program("dsdsh", ""))
    with pytest.raises(UserError, match="dsd train_tomo"):
        command("-o", tmp_path / "my demo", "--quick", "--device", "cpu")
    assert ran == ["dsd simulate", "dsdsh prepare", "dsd train_tomo"]
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("$ ")]
    assert [line.split()[1:3] for line in shown] == [words.split() for words in ran]
    # names with spaces can be pasted back into a shell
    assert f"'{tmp_path / 'my demo' / 'data' / 'particles.star'}'" in shown[1]


def test_only_an_earlier_demo_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="does not contain an earlier demo"):
        command("-o", tmp_path)
    assert (tmp_path / "run" / "thesis.txt").exists()
    (tmp_path / simulate.MARKER).write_text("{}")
    monkeypatch.setattr(opustomo.main, "main", lambda words: 1)
    with pytest.raises(UserError, match="dsd simulate"):
        command("-o", tmp_path)
    assert not (tmp_path / "run").exists()


def test_interrupting_a_step_interrupts_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opustomo.main, "main", lambda words: 130)
    with pytest.raises(KeyboardInterrupt):
        command("-o", tmp_path / "d")


@pytest.mark.parametrize("words", [("--epochs", "0"), ("--seed", "-1")])
def test_impossible_options(words: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words[0]):
        command("-o", tmp_path / "d", *words)
    assert not (tmp_path / "d").exists()


def test_options_reach_the_commands(tmp_path: Path) -> None:
    steps = DemoPlan(tmp_path, particles=7, epochs=5, seed=3, device="cuda").steps()
    train = next(step.words for step in steps if step.words[0] == "train_tomo")
    assert train[train.index("-n") + 1] == "5" and train[train.index("--seed") + 1] == "3"
    assert train[train.index("--device") + 1] == "cuda"
    analyses = [step.words for step in steps if step.words[0] in ("analyze", "eval_vol")]
    assert all(words[2] == "4" for words in analyses)
    assert settings.APIX == load_density(STATES[0])[1]
    assert load_density(STATES[0])[0].shape[0] == BOX
