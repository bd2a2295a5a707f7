"""`dsdsh validate` on a trained run."""

import base64
import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis_scripts.main import main as dsdsh
from opustomo.analysis.volumes.decoding import VolumeDecoder
from opustomo.data.particles import load_particles
from opustomo.data.voxels import VoxelSource
from opustomo.io.latents import read_latent_rows
from opustomo.io.pickles import dump_pickle, dump_pickles, load_pickles, load_torch
from opustomo.model.step_records import Batch, StepState
from opustomo.physics.ctf import TiltBatch
from opustomo.quality.evidence.trained_model import (
    ComparisonSettings,
    data_of_run,
    held_out_particles,
    load_model,
    norm_of_run,
    particle_losses,
)
from opustomo.quality.evidence.training_state import training_remark
from opustomo.quality.evidence.validation import continuum_remark
from opustomo.report.report_volumes import volume_images
from opustomo.training.schedules import bfactor_at


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """The trained run, its files linked, with a k-means of our own."""
    root = tmp_path / "a run"
    root.mkdir()
    for path in trained_run.iterdir():
        if path.is_file():
            (root / path.name).symlink_to(path)
    folder = root / "analyze.1" / "kmeans2"
    folder.mkdir(parents=True)
    dump_pickle(folder / "labels.pkl", np.arange(16) // 8)
    return root


def test_the_best_epoch_of_a_run_that_overfits_is_not_said_to_improve(tmp_path: Path) -> None:
    """Judged by the epochs before it, the epoch that the log recommends seems to be one of a run that is too short."""
    table = tmp_path / "epochs.csv"
    held_out = [-1.0, -1.5, -1.7, -1.8, -1.85, *[-1.6] * 6]
    rows = [f"{epoch},{-1.0 - 0.1 * epoch},{loss}" for epoch, loss in enumerate(held_out)]
    table.write_text("\n".join(["epoch,training_gen,validation_gen", *rows]) + "\n")
    assert "overfits (overfitting since epoch 5" in training_remark(tmp_path, 10)
    assert "overfits (overfitting since epoch 5" in training_remark(tmp_path, 6)  # as later epochs show
    assert training_remark(tmp_path, 4).startswith("Epoch 4 has the lowest held-out loss")
    assert "had not converged in epoch 3" in training_remark(tmp_path, 3)


@pytest.mark.parametrize("seed", range(5))
def test_classes_that_divide_a_continuum_are_said_to_have_no_gap(seed: int) -> None:
    """500 particles whose coordinates have unit errors: thirds of a continuous change, and three separate states."""
    rng = np.random.default_rng(seed)
    errors, place = rng.normal(size=(500, 6)), rng.uniform(-8, 8, 500)
    labels = np.digitize(place, [-2.67, 2.67])
    said = continuum_remark(errors + place[:, None] * np.eye(6)[0], labels, [0, 1, 2])
    assert said.startswith("No gap in the coordinates separates the classes 0 and 1, 1 and 2, so they may be parts")
    states = errors + 9 * np.eye(6)[labels]
    states[::50] = np.nan  # not read in training
    assert continuum_remark(states, labels, [0, 1, 2]) == ""
    assert continuum_remark(states, labels, [1]) == continuum_remark(states, labels, []) == ""


def test_the_verdict_mentions_the_state_of_the_training(tmp_path: Path) -> None:
    table = tmp_path / "epochs.csv"
    assert "not known" in training_remark(tmp_path, 3)
    losses = [1.0, 0.5, 0.3, 0.2, 0.15, 0.1502, 0.1501, 0.1502, 0.1501, 0.1502]
    rows = [f"{epoch},{loss},{loss},0.05,0.001" for epoch, loss in enumerate(losses)]
    table.write_text("\n".join(["epoch,training_gen,validation_gen,latent_change,volume_change", *rows]) + "\n")
    assert "short" in training_remark(tmp_path, 1)
    assert "had not converged in epoch 3 (still improving" in training_remark(tmp_path, 3)
    assert training_remark(tmp_path, 4) == ""  # the epochs after it show that it had
    assert training_remark(tmp_path, 9) == ""


def test_losses_are_those_of_validation(run: Path) -> None:
    config = run / "config.pkl"
    held_out = held_out_particles(config, 16)
    assert held_out.tolist() == sorted(load_torch(run / "split.pkl")[12:].tolist())  # --valfrac 0.25
    particles = load_particles(data_of_run(config, poses=run / "pose.1.pkl"))
    model, norm = load_model(run / "weights.1.pkl", config, "cpu"), norm_of_run(config)
    bfactor = bfactor_at(model.physics.bfactor_A2, 1)
    losses = particle_losses(model, particles, held_out, ComparisonSettings(norm, bfactor), batch_size=3)
    # one by one, through the loss that training reports
    state = StepState(bfactor, 1.0, 0.5, 1.0, torch.tensor(0.1), None)
    source = VoxelSource(particles.images)
    for index, loss in zip(held_out, losses, strict=True):
        row = torch.tensor([index])
        batch = Batch(
            row,
            (torch.from_numpy(source.read(int(index)).astype(np.float32))[None] - norm[0]) / norm[1],
            TiltBatch.pad([particles.tables[particles.table[index]]]),
            torch.zeros(1, dtype=torch.long),
            torch.from_numpy(particles.poses.rotations[[index]]),
            torch.from_numpy(particles.poses.origins[[index]] * particles.box).float(),
            deviation=torch.zeros(1, 6),
        )
        with torch.no_grad():
            terms = model(batch, None, state).terms
        assert float(terms.gen) == pytest.approx(loss, rel=1e-3)
    # the log's mean: its poses, and the pose prior, were still those before that validation
    last = re.findall(r"validation gen_loss = (\S+),", (run / "run.log").read_text())[-1]
    assert losses.mean() == pytest.approx(float(last), rel=0.25)


def test_command_writes_the_evidence(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dsdsh(["validate", str(run), "1", "2", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "Mean generative loss of 4 held-out particles" in said and "FSC inside" in said
    after = said[said.index("Wrote") :].splitlines()
    assert any(line.startswith("Class 1 (8 particles): CANNOT TELL") for line in after)
    assert any(line.startswith("Verdict: CANNOT TELL.") for line in after)
    assert "the training is short: it is too early to judge convergence (2 of 4 epochs)" in said
    # the run has no bodies, so its conformation latents are not motion
    assert "of the conformation latents: NOT JUDGED." in said and "trained without --masks" in said
    with (run / "analyze.1" / "kmeans2" / "validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["particles"] for row in rows] == ["8", "8"]
    assert sum(int(row["held_out"]) for row in rows) == 4
    assert (run / "analyze.1" / "kmeans2" / "validation.png").stat().st_size > 10_000


def test_a_reference_names_the_clusters_and_the_next_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run / "analyze.1" / "kmeans2"
    words = ["validate", str(run), "1", "2", "--device", "cpu", "--no-likelihood"]
    assert dsdsh(words) == 0
    reference = folder / "backprojection1.mrc"
    capsys.readouterr()
    assert dsdsh([*words, "--reference", str(reference)]) == 0
    said = capsys.readouterr().out
    assert f"Class 1 resembles {reference} most, with a mean FSC of 1.000" in said
    line = next(line for line in said.splitlines() if "dsdsh select" in line)
    with (folder / "validation_reference.csv").open() as file:
        kept = [row["cluster"] for row in csv.DictReader(file) if row["kept"] == "1"]
    assert "1" in kept and f"--clusters 2:{','.join(kept)}" in line
    assert dsdsh(words) == 0
    assert not (folder / "validation_reference.csv").exists(), "it would be taken for that of the latest validation"


def test_classes_with_few_held_out_particles_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "analyze.1" / "kmeans2" / "labels.pkl"
    labels = np.zeros(16, dtype=np.int64)
    held_out = held_out_particles(run / "config.pkl", len(labels))
    labels[np.setdiff1d(np.arange(len(labels)), held_out)[:6]] = 1
    dump_pickle(path, labels)
    assert dsdsh(["validate", str(run), "1", "2", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "Class 1 has no held-out particle and therefore no held-out loss." in said
    assert "The held-out loss of class 0 is that of only 4 particles." in said


def test_without_weights_only_the_likelihood_is_missing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "weights.1.pkl").unlink()
    assert dsdsh(["validate", str(run), "1", "2"]) == 0
    assert "likelihood is not computed" in capsys.readouterr().out
    with (run / "analyze.1" / "kmeans2" / "validation.csv").open() as file:
        assert [row["held_out_loss"] for row in csv.DictReader(file)] == ["", ""]


def test_report_opens_with_the_verdict_of_its_clusters(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    dump_pickle(run / "analyze.1" / "umap.pkl", rng.normal(size=(16, 2)).astype(np.float32))
    assert dsdsh(["analyze", str(run), "1", "1", "2", "--skip-umap"]) == 0
    assert dsdsh(["validate", str(run), "1", "2", "--no-likelihood"]) == 0

    def content() -> dict[str, Any]:
        assert dsdsh(["report", str(run), "1"]) == 0
        text = (run / "analyze.1" / "report.html").read_text()
        return dict(json.loads(re.findall(r'id="report-data">(.*?)</script>', text)[0]))

    verdict = content()["verdict"]
    assert verdict["verdict"] == "cannot tell" and [one["class"] for one in verdict["classes"]] == [0, 1]
    path = run / "analyze.1" / "kmeans2" / "validation_verdict.json"
    path.write_text(path.read_text().replace('"particles": ', '"particles": 1'))
    capsys.readouterr()
    assert content()["verdict"] is None
    assert "There is no verdict on these clusters. Run dsdsh validate" in capsys.readouterr().out
    path.write_text("{}")
    assert dsdsh(["report", str(run), "1"]) == 1


def test_convergence_compares_the_clusters_of_the_analysis(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dsdsh(["convergence", str(run)]) == 0
    assert "Comparing 2 clusters, as in" in capsys.readouterr().out
    assert dsdsh(["convergence", str(run), "-k", "3"]) == 0
    assert "Comparing" not in capsys.readouterr().out


def test_errors_are_reported_in_a_sentence(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, part in (
        (["1", "3"], "analyze.1 contains kmeans2"),
        (["0", "2"], "Run dsdsh analyze"),
        (["1", "2", str(tmp_path / "gone.star")], "Give the STAR file used for training"),
    ):
        assert dsdsh(["validate", str(run), *words]) == 1
        assert part in capsys.readouterr().err
    dump_pickle(run / "analyze.1" / "kmeans2" / "labels.pkl", np.zeros(15, dtype=int))
    assert dsdsh(["validate", str(run), "1", "2"]) == 1
    assert "16 particles" in capsys.readouterr().err


def test_report_decodes_what_is_not_there(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Volumes of a trained run, its inputs as its configuration remembers them."""
    rng = np.random.default_rng(0)
    dump_pickle(run / "analyze.1" / "umap.pkl", rng.normal(size=(16, 2)).astype(np.float32))
    assert dsdsh(["analyze", str(run), "1", "1", "2", "--skip-umap"]) == 0
    assert dsdsh(["report", str(run), "1"]) == 0
    text = (run / "analyze.1" / "report.html").read_text()
    content = json.loads(re.findall(r'id="report-data">(.*?)</script>', text)[0])
    said = capsys.readouterr().out
    assert content["notes"] == [] and "Half-map FSCs have not been computed for these clusters. Run dsdsh val" in said
    assert shlex.split(content["commands"]["validate"]) == ["dsdsh", "validate", str(run), "1", "2"]
    packed = content["volumes"]
    volumes = np.frombuffer(base64.b64decode(packed["data"]), dtype=np.uint8).reshape(packed["shape"])
    assert volumes.shape[:2] == (2, 6) and content["surfaces"]["groups"]["PC1"]["grids"]["shape"][0] == 10
    latents = read_latent_rows(run / "analyze.1" / "kmeans2" / "centers.txt")
    decoder = VolumeDecoder(run / "weights.1.pkl", run / "config.pkl", "cpu")
    wanted = volume_images(list(decoder.volumes(latents, decoder.boxes.render_apix).numpy()))
    np.testing.assert_array_equal(volumes, wanted)
    names = [category["name"] for category in content["points"]["categories"]]
    assert names == ["cluster", "tomogram", "viewing direction", "training or held out"]
    assert dict(dict(content["settings"])["model"])["zdim"] == "2" and "train_tomo" in content["history"][0]["command"]


def test_files_of_a_run_are_found_from_another_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training was given paths relative to a folder above the run, where the user no longer is."""
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "particles.star").write_text("data_\n")
    content = load_pickles(run / "config.pkl")
    content[0]["dataset_args"]["star"] = "data/particles.star"
    (folder / "runs" / "one").mkdir(parents=True)
    dump_pickles(folder / "runs" / "one" / "config.pkl", *content)
    monkeypatch.chdir(tmp_path)
    assert data_of_run(folder / "runs" / "one" / "config.pkl").star == folder / "data" / "particles.star"
