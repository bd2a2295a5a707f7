"""Statement on the convergence of a run, from synthetic curves."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from opustomo.training.monitors.convergence_state import (
    ConvergenceMonitor,
    EpochNumbers,
    Statement,
    convergence_statement,
    epoch_summary,
    latest_epoch,
    read_history,
)
from opustomo.training.monitors.metrics import MetricsFile
from opustomo.training.monitors.records import Encoded, EpochRecord

EPOCHS = np.arange(20)


def curve(
    held_out: np.ndarray,
    training: np.ndarray | None = None,
    latents: float | np.ndarray = 0.05,
    volume: float | np.ndarray = 0.001,
) -> list[EpochNumbers]:
    training = held_out if training is None else training
    latents, volume = (np.broadcast_to(values, len(held_out)) for values in (latents, volume))
    return [
        EpochNumbers(epoch, float(t), float(h), float(x), float(v))
        for epoch, (t, h, x, v) in enumerate(zip(training, held_out, latents, volume, strict=True))
    ]


def noisy(values: np.ndarray, deviation: float, seed: int) -> np.ndarray:
    return values + np.random.default_rng(seed).normal(0.0, deviation, len(values))


@pytest.mark.parametrize("seed", range(20))
def test_a_falling_loss_still_improves(seed: int) -> None:
    """A steady fall counts even with noise of a fifth of the fall per epoch."""
    found = convergence_statement(curve(noisy(1.0 - 0.02 * EPOCHS, 0.004, seed)))
    assert found.state == "improving" and found.since is None and "still improving" in found.sentence


@pytest.mark.parametrize("seed", range(20))
def test_a_flat_loss_has_converged(seed: int) -> None:
    found = convergence_statement(curve(noisy(np.exp(-EPOCHS / 1.5), 0.003, seed)))
    assert found.state == "converged" and found.since is not None and 3 <= found.since <= 15, found
    assert f"converged since epoch {found.since}" in found.sentence


@pytest.mark.parametrize("seed", range(20))
def test_a_rising_held_out_loss_is_overfitting(seed: int) -> None:
    held_out = np.where(EPOCHS <= 8, np.exp(-EPOCHS / 3.0), math.exp(-8 / 3) + 0.02 * (EPOCHS - 8))
    found = convergence_statement(curve(noisy(held_out, 0.003, seed), np.exp(-EPOCHS / 3.0)))
    assert found.state == "overfitting" and found.since in (7, 8, 9, 10) and found.best == found.since - 1
    # a loss that rises for the particles that train as well is no overfitting
    assert convergence_statement(curve(noisy(held_out, 0.003, seed))).state != "overfitting"


# Held-out and training losses of real runs: 270 and 240 simulated particles, and the 267 ribosomes in two of them.
DEMO = (
    "-.0132 -.0273 -.1187 -.3496 -.4833 -.5451 -.5764 -.6233 -.5793 -.6633 -.7341 -.8040 -.8472 -.8709 -.8953 -.9189 "
    "-.93 -.9465 -.9662 -.9735 -.9777 -.9894 -1.0019 -1.006"
)
STATES = (
    "-.0194 -.0847 -.2447 -.3386 -.3841 -.3661 -.4358 -.4554 -.4621 -.4680 -.4694 -.4723 -.4762 -.4767 -.4788 -.4782 "
    "-.4801 -.4797 -.4798 -.4758"
)
RIBOSOMES = "-.0015 -.0304 -.0258 -.0352 -.0404 -.0452 -.0452 -.0467 -.0481 -.0481 -.0487 -.0471"
OVERFITTED = "-.0312 -.0326 -.0322 -.0320 -.0314 -.0314 -.0313 -.0313 -.0311 -.0312 -.0307 -.0311"
OVERFITTED_TRAINING = "-.0412 -.0362 -.0353 -.0346 -.0333 -.0341 -.0343 -.0347 -.0350 -.0354 -.0356 -.0357"


def real(held_out: str, epochs: int, training: str | None = None) -> str:
    losses = [np.array(text.split(), dtype=float)[:epochs] for text in (held_out, training or held_out)]
    return convergence_statement(curve(*losses)).state


def test_real_runs_that_improve_are_not_called_converged() -> None:
    """One worse epoch in a falling curve is no convergence."""
    assert [real(DEMO, epochs) for epochs in range(9, 25)] == ["unclear", "unclear", *["improving"] * 14]
    assert "converged" not in {real(STATES, epochs) for epochs in range(4, 11)}
    assert real(STATES, 20) == "converged"
    assert (
        "converged" not in {real(RIBOSOMES, epochs) for epochs in range(4, 12)} and real(RIBOSOMES, 12) == "converged"
    )


def test_a_real_run_that_overfits() -> None:
    """Its training loss rose before it fell, because the noise spectrum was still estimated."""
    states = [real(OVERFITTED, epochs, OVERFITTED_TRAINING) for epochs in range(4, 13)]
    assert states == ["improving", *["unclear"] * 5, *["overfitting"] * 3]


def test_a_real_run_whose_losses_both_rise() -> None:
    """The 267 ribosomes: both losses rise after epoch 1, because the noise of the data is estimated meanwhile."""
    held_out = np.array("-.03126 -.03265 -.03220 -.03201 -.03160 -.03141 -.03129 -.03128".split(), dtype=float)
    training = np.array("-.04137 -.03618 -.03538 -.03461 -.03448 -.03419 -.03406 -.03421".split(), dtype=float)
    found = convergence_statement(curve(held_out, training))
    assert found.state == "unclear"
    assert "since epoch 1 the held-out loss has risen by 0.00091" in found.sentence
    assert "the training loss has not fallen" in found.sentence


# Six states of ribosomes at low signal, which overfit late, and picks of template matching whose poses were searched
# after epochs 6 and 14.
LATE = (
    "-.01373 -.01943 -.02989 -.03652 -.03920 -.04031 -.04150 -.04208 -.04278 -.04317 -.04434 -.04552 -.04655 -.04748 "
    "-.04821 -.04903 -.04905 -.05021 -.05036 -.05046 -.05062 -.05000 -.04985 -.05020 -.04937 -.04823 -.04679 -.04622"
)
LATE_TRAINING = (
    "-.01430 -.01916 -.02531 -.03370 -.03904 -.04124 -.04262 -.04348 -.04434 -.04519 -.04616 -.04762 -.04913 -.05048 "
    "-.05196 -.05338 -.05466 -.05632 -.05831 -.06012 -.06183 -.06380 -.06615 -.06888 -.07173 -.07499 -.07845 -.08217"
)
SEARCHED = (
    "-.0132 -.0640 -.1158 -.1725 -.2126 -.2373 -.2529 -.2384 -.2234 -.2440 -.2609 -.2716 -.2771 -.2813 -.2872 -.2616 "
    "-.2421 -.2587 -.2729 -.2821 -.2895 -.2939 -.2951 -.2991 -.3013 -.3046 -.3034 -.3049"
)
SEARCHED_TRAINING = (
    "-.0115 -.0495 -.0983 -.1512 -.2029 -.2360 -.2554 -.2704 -.2357 -.2441 -.2660 -.2783 -.2866 -.2915 -.2962 -.3011 "
    "-.2566 -.2629 -.2796 -.2934 -.3012 -.3073 -.3103 -.3127 -.3166 -.3195 -.3218 -.3229"
)


def test_a_rise_at_the_end_of_a_real_run_is_overfitting() -> None:
    """Most of the epochs after the minimum lie close to it, the last ones do not."""
    states = [real(LATE, epochs, LATE_TRAINING) for epochs in range(4, 29)]
    assert states[-2:] == ["overfitting"] * 2 and "overfitting" not in states[:-2]
    losses = [np.array(text.split(), dtype=float) for text in (LATE, LATE_TRAINING)]
    assert convergence_statement(curve(*losses)).best == 20


def test_a_search_for_poses_is_no_overfitting() -> None:
    """Both losses rise when poses are replaced, and fall again together."""
    states = [real(SEARCHED, epochs, SEARCHED_TRAINING) for epochs in range(4, 29)]
    assert "overfitting" not in states and states[-1] == "converged"


# Two states at high signal (320 particles), whose consensus volume is updated at the end of epochs 3 and 7: training
# losses fall in epochs 4 and 8, held-out losses already in 3 and 7. Both rise in between, because the noise falls.
UPDATED = "-3.2915 -4.3274 -4.6308 -5.2855 -5.1634 -5.0763 -5.0227 -5.0937 -5.0297 -4.9931"
UPDATED_TRAINING = "-3.4706 -4.2267 -4.5664 -4.7858 -5.2823 -5.1545 -5.0810 -5.0426 -5.0840 -5.0330"


def test_an_update_of_the_consensus_is_no_overfitting() -> None:
    states = [real(UPDATED, epochs, UPDATED_TRAINING) for epochs in range(4, 11)]
    assert "overfitting" not in states, states


# Negative log-likelihoods of 64 particles, whose epochs of seven updates scatter: epoch 19 is a lucky one.
SCATTERED = (
    "999.3 975.8 975.2 926.8 924.9 924.2 924.0 915.9 915.5 915.5 915.3 915.4 916.4 916.7 917.4 915.0 913.8 915.3 917.1 "
    "912.8 916.4 919.4 918.8 916.6 919.8 916.6 915.9 914.6 914.3"
)
SCATTERED_TRAINING = (
    "1014.4 993.0 988.7 987.0 930.0 928.2 927.4 926.6 913.3 913.5 911.9 912.4 914.8 911.8 911.8 912.5 906.8 906.5 "
    "905.3 904.2 907.4 913.9 915.2 914.8 908.5 907.9 906.0 904.1 901.4"
)


def test_losses_that_scatter_about_a_level_are_no_overfitting() -> None:
    """Above the best of 20 epochs lie all later ones."""
    states = [real(SCATTERED, epochs, SCATTERED_TRAINING) for epochs in range(4, 30)]
    assert "overfitting" not in states, states


# Negative log-likelihoods of 80 particles of two 50S at an SNR of 0.015, trained at a high rate.
TOO_LONG = (
    "921.5 913.7 911.8 895.7 895.6 896.3 896.4 895.3 894.8 895.4 895.7 898.5 897.0 897.3 897.7 898.2 898.6 900.7 899.7 "
    "899.4 899.9 900.4 901.8 900.7 901.9 903.9 902.2 902.5 903.0 904.1 903.7 904.6 903.9 904.7 906.6 905.0 903.9 905.6"
)
TOO_LONG_TRAINING = (
    "911.2 901.9 901.1 900.5 878.0 876.9 877.9 877.3 872.8 872.3 872.5 873.0 873.1 873.2 872.4 872.2 871.2 871.3 871.4 "
    "870.3 869.7 870.3 869.6 869.7 868.8 868.1 868.4 868.2 867.7 867.0 866.7 866.4 867.4 867.5 866.1 866.4 866.3 865.2"
)


def test_a_run_that_overfits_for_long_is_called_so_from_some_epoch_on() -> None:
    """The statement does not change with single epochs."""
    states = [real(TOO_LONG, epochs, TOO_LONG_TRAINING) for epochs in range(4, 39)]
    first = states.index("overfitting")
    assert first <= 14 and set(states[first:]) == {"overfitting"}, states
    losses = [np.array(text.split(), dtype=float) for text in (TOO_LONG, TOO_LONG_TRAINING)]
    assert convergence_statement(curve(*losses)).best == 8


def test_epochs_are_compared_by_their_likelihood_if_all_have_one(tmp_path: Path) -> None:
    table = tmp_path / "epochs.csv"
    rows = ["0,-1.5,-1.4,480,481", "1,-1.7,-1.6,460,462"]
    table.write_text("\n".join(["epoch,training_gen,validation_gen,training_nll,validation_nll", *rows]) + "\n")
    assert [(row.training, row.held_out) for row in read_history(table)] == [(480.0, 481.0), (460.0, 462.0)]
    table.write_text(table.read_text().replace("460", "").replace("480", "nan"))
    assert [row.training for row in read_history(table)] == [-1.5, -1.7]


def test_a_resumed_run_of_an_earlier_version_keeps_its_loss(tmp_path: Path) -> None:
    rng, lines = np.random.default_rng(0), []
    (tmp_path / "epochs.csv").write_text("epoch,training_gen,validation_gen\n0,-1.5,-1.4\n")
    for folder in (tmp_path, tmp_path / "new"):
        monitor = ConvergenceMonitor(folder, lines.append)
        for epoch in (1, 2):
            made = record(epoch, -2.0, rng.normal(size=(50, 3)), np.ones((8, 8, 8)))
            monitor.epoch(
                replace(made, training={**made.training, "nll": 460.0}, validation={"gen": -1.9, "nll": 461.0})
            )
        assert monitor.history is not None
        held_out = [row.held_out for row in monitor.history]
        assert held_out == ([-1.4, -1.9, -1.9] if folder == tmp_path else [461.0, 461.0])


def overfitted_run(folder: Path, weights: range) -> None:
    held_out, training = LATE.split(), LATE_TRAINING.split()
    rows = [f"{epoch},{training[epoch]},{held_out[epoch]}" for epoch in range(28)]
    (folder / "epochs.csv").write_text("\n".join(["epoch,training_gen,validation_gen", *rows]) + "\n")
    for epoch in weights:
        (folder / f"weights.{epoch}.pkl").touch()


def test_the_epoch_to_use_is_the_best_one_with_weights_if_the_run_overfits(tmp_path: Path) -> None:
    for epoch in range(28):
        (tmp_path / f"z.{epoch}.pkl").touch()
    assert latest_epoch(tmp_path) == 27  # nothing is known of this run
    overfitted_run(tmp_path, range(24, 28))
    assert latest_epoch(tmp_path) == 24
    overfitted_run(tmp_path, range(20, 28))
    assert latest_epoch(tmp_path) == 20


def test_a_loss_that_has_risen_a_little_is_stable_only_from_its_present_level_on() -> None:
    found = convergence_statement(curve(np.array([-1.0, -2.0, -2.0, -2.0, *[-1.96] * 8])))
    assert found.state == "converged" and found.since is not None and found.since >= 4


def test_the_advice_names_an_epoch_whose_weights_exist(tmp_path: Path) -> None:
    statement = Statement("overfitting", 3, "overfitting since epoch 3", ranking=(2, 5, 3, 7))
    assert statement.advice(tmp_path).endswith("do not exist: train again with -n 3")
    (tmp_path / "weights.3.pkl").touch()
    (tmp_path / "weights.7.pkl").touch()
    assert "use epoch 3, the best with weights" in statement.advice(tmp_path)
    assert statement.epoch_to_use(tmp_path) == 3
    (tmp_path / "weights.2.pkl").touch()
    assert statement.advice(tmp_path) == "; use epoch 2"
    converged = Statement("converged", 3, "converged")
    assert converged.advice(tmp_path) == "" and converged.epoch_to_use(tmp_path) is None


def test_a_loss_that_falls_in_every_epoch_improves_although_its_curve_bends() -> None:
    """The curve of a run with 1,500 particles; its second differences are larger than the last falls."""
    losses = "-.135 -.296 -.392 -.436 -.453 -.461 -.464 -.466 -.468"
    assert [real(losses, epochs) for epochs in (6, 7)] == ["improving", "improving"]


def test_latents_of_different_kinds_are_not_compared(tmp_path: Path) -> None:
    """With --checkpoint 3, latents are collected in training, then written, and stay those of the written epoch."""
    rng = np.random.default_rng(0)
    monitor = ConvergenceMonitor(tmp_path, lambda line: None)
    for epoch, written in enumerate((None, None, 2, 2, 2, 5)):
        made = record(epoch, 1.0, rng.normal(size=(50, 3)), rng.normal(size=(8, 8, 8)))
        monitor.epoch(replace(made, written=written))
    assert monitor.history is not None
    known = [math.isfinite(row.latent_change) for row in monitor.history]
    assert known == [False, True, False, False, False, True]


def test_the_means_of_the_encoder_decide_whether_latents_move(tmp_path: Path) -> None:
    """Posterior means of particles that are all the same have next to no spread, and move by many times it."""
    rng = np.random.default_rng(0)
    means, monitor = rng.normal(size=(50, 3)), ConvergenceMonitor(tmp_path, lambda line: None)
    for epoch in range(2):
        encoded = Encoded(means + 0.05 * rng.normal(size=means.shape), np.ones_like(means))
        made = record(epoch, 1.0, epoch + 0.01 * rng.normal(size=(50, 3)), np.ones((8, 8, 8)))
        monitor.epoch(replace(made, encoded=encoded))
    assert monitor.history is not None
    assert monitor.history[1].latent_change < 0.2


def latent_changes(tmp_path: Path, means: list[np.ndarray], width: float) -> list[float]:
    monitor = ConvergenceMonitor(tmp_path, lambda line: None)
    for epoch, values in enumerate(means):
        made = record(epoch, 1.0, values, np.ones((8, 8, 8)))
        monitor.epoch(replace(made, encoded=Encoded(values, np.full_like(values, width))))
    assert monitor.history is not None
    return [row.latent_change for row in monitor.history][1:]


def test_a_shift_of_all_latents_is_no_movement(tmp_path: Path) -> None:
    """Encoders of 300 particles of one structure shift all their means by more than their spread in every epoch."""
    means = np.random.default_rng(0).normal(size=(50, 3))
    assert latent_changes(tmp_path, [means, means + 2.0, means + [0.0, 3.0, 1.0]], 0.1) == pytest.approx([0.0, 0.0])


def test_latents_move_relative_to_the_widths_of_their_posteriors(tmp_path: Path) -> None:
    """Means of equal particles scatter in every epoch by less than the widths of the posteriors."""
    rng = np.random.default_rng(0)
    scatter = [0.1 * rng.normal(size=(50, 3)) for _ in range(4)]
    assert max(latent_changes(tmp_path / "wide", scatter, 1.0)) < 0.2
    assert min(latent_changes(tmp_path / "narrow", scatter, 0.01)) > 1.0


def test_unknown_latents_and_volumes_are_not_called_stable() -> None:
    unknown = convergence_statement(curve(np.exp(-EPOCHS / 1.5), latents=math.nan, volume=math.nan))
    assert unknown.state == "converged" and "the held-out loss is stable" in unknown.sentence
    assert "latents" not in unknown.sentence


def test_moving_latents_or_volumes_contradict_a_flat_loss() -> None:
    flat = np.exp(-EPOCHS / 1.5)
    latents = convergence_statement(curve(flat, latents=0.6))
    volume = convergence_statement(curve(flat, volume=0.05))
    assert latents.state == volume.state == "improving"
    assert "latents moved by 60 %" in latents.sentence and "volume changed" in volume.sentence
    settled = convergence_statement(curve(flat, latents=np.where(EPOCHS < 12, 0.6, 0.1)))
    assert settled.state == "converged" and settled.since == 12


def test_few_epochs_and_values_that_are_not_finite() -> None:
    assert convergence_statement(()).state == "too early"
    assert "3 of 4 epochs" in convergence_statement(curve(1.0 / (1.0 + EPOCHS[:3]))).sentence
    broken = curve(np.exp(-EPOCHS / 1.5))
    broken[5] = replace(broken[5], held_out=math.nan)
    assert "not finite" in convergence_statement(broken).sentence


def test_without_held_out_particles_the_training_loss_decides() -> None:
    rows = [replace(row, held_out=math.nan) for row in curve(np.exp(-EPOCHS / 1.5))]
    found = convergence_statement(rows)
    assert found.state == "converged" and "training loss" in found.sentence


def record(epoch: int, loss: float, latents: np.ndarray, template: np.ndarray) -> EpochRecord:
    seen = np.ones(len(latents), dtype=bool)
    return EpochRecord(epoch, {"gen": loss}, {"gen": loss + 0.1}, 1.0, latents, 2, seen, template, written=epoch)


def test_the_monitor_logs_one_line_per_epoch_and_resumes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    latents, template = rng.normal(size=(50, 3)), rng.normal(size=(8, 8, 8))
    lines: list[str] = []

    def visit(monitor: ConvergenceMonitor, metrics: MetricsFile, epoch: int) -> None:
        moved = latents + 0.1 * rng.normal(size=latents.shape)
        made = record(epoch, math.exp(-epoch), moved, template + 0.01 * rng.normal(size=template.shape))
        monitor.epoch(made)
        metrics.epoch(made)

    monitor = ConvergenceMonitor(tmp_path, lines.append)
    metrics = MetricsFile(tmp_path / "metrics.csv", monitor.columns)
    for epoch in range(6):
        visit(monitor, metrics, epoch)
    assert len(lines) == 6 and lines[0].startswith("# epoch 0: held-out loss 1.1, training loss 1; too early")
    assert [line.endswith(" (in the lines of OPUS-TOMO above, Epoch: 1)") for line in lines] == [True, *[False] * 5]
    assert "held-out loss 0.46788 (-0.63), training loss 0.36788 (-0.63), latents moved by" in lines[1]
    history = read_history(tmp_path / "epochs.csv")
    assert len(history) == 6 and math.isnan(history[0].latent_change) and 0.05 < history[5].latent_change < 0.3
    assert history[5].volume_change == pytest.approx(monitor.history[5].volume_change, rel=1e-5)  # type: ignore[index]

    again = ConvergenceMonitor(tmp_path, lines.append)
    metrics = MetricsFile(tmp_path / "metrics.csv", again.columns)
    metrics.resume_from(10**9)
    visit(again, metrics, 4)  # epoch 5 was lost
    assert [row.epoch for row in again.history] == [0, 1, 2, 3, 4]  # type: ignore[union-attr]
    assert "(-0.031)" in lines[-1]  # the change is relative to the epoch before the resumption


def test_summaries_without_history() -> None:
    assert epoch_summary(EpochNumbers(0, 0.5, math.nan), None) == "epoch 0: training loss 0.5"


def test_latents_that_leave_an_untrained_encoder_move_by_their_spread(tmp_path: Path) -> None:
    """Relative to the spread before, which is nearly zero, they would move by thousands of percent."""
    rng = np.random.default_rng(0)
    lines: list[str] = []
    monitor = ConvergenceMonitor(tmp_path, lines.append)
    for epoch, scale in enumerate((0.01, 1.0)):
        monitor.epoch(record(epoch, 1.0, scale * rng.normal(size=(50, 3)), rng.normal(size=(8, 8, 8))))
    assert "latents moved by 10" in lines[1] or "latents moved by 9" in lines[1]


def test_both_losses_exploding_is_not_overfitting() -> None:
    """Epochs of a run at a high learning rate, whose losses rose together and were recovering at its end."""
    training = [
        990,
        960,
        940,
        920,
        905,
        895,
        888,
        881,
        875,
        869,
        864,
        859,
        855,
        851,
        848,
        860,
        951,
        930,
        905,
        885,
        866,
        852,
    ]
    held_out = [
        992,
        962,
        941,
        922,
        906,
        897,
        889,
        883,
        877,
        871,
        866,
        861,
        848,
        850,
        852,
        871,
        906,
        900,
        893,
        881,
        868,
        853,
    ]
    history = [EpochNumbers(*row, 0.1, 0.001) for row in zip(range(22), training, held_out, strict=True)]
    assert convergence_statement(history).state != "overfitting"
