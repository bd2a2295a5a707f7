"""The page of the report holds the content of the analysis."""

import csv
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from analysis_scripts.main import main as dsdsh
from opustomo.analysis.clusters.cluster_stars import load_labels
from opustomo.analysis.clusters.epoch_convergence import EpochStability, write_convergence
from opustomo.geometry.rotations import viewing_groups
from opustomo.io.latents import read_latents, write_table
from opustomo.io.log_files import read_commands
from opustomo.io.pickles import dump_pickle, load_pickle
from opustomo.io.poses import read_poses
from opustomo.io.star_tables import read_particles
from opustomo.physics.boxes import Boxes
from opustomo.report import html_report, report_volumes
from opustomo.report.report_volumes import VolumeGroup, describe_surfaces, volume_images
from tests.report.conftest import CLUSTERS, COUNT, SAMPLED, TOMOGRAMS, balls
from tests.report.page_content import content_of, inflated, unpacked


def test_points_are_those_of_the_analysis(page: Path, run: Path) -> None:
    points = content_of(page)["points"]
    assert (points["count"], points["total"], points["index"]) == (COUNT, COUNT, None)
    labels = load_labels(run / "analyze.4" / "kmeans3" / "labels.pkl")
    categories = {category["name"]: category for category in points["categories"]}
    assert list(categories) == ["cluster", "tomogram", "viewing direction"]
    np.testing.assert_array_equal(unpacked(categories["cluster"]["codes"]), labels)
    np.testing.assert_array_equal(
        unpacked(categories["viewing direction"]["codes"]), viewing_groups(read_poses(run / "pose.4.pkl").eulers_deg)
    )
    assert sorted(categories["tomogram"]["labels"]) == sorted(TOMOGRAMS)
    names = [categories["tomogram"]["labels"][code] for code in unpacked(categories["tomogram"]["codes"])]
    star = read_particles(run / "all.star")
    assert names == star.strings("rlnMicrographName")
    for column, wanted in (
        ("umap1", load_pickle(run / "analyze.4" / "umap.pkl")[:, 1]),
        ("pc2", load_pickle(run / "analyze.4" / "pc.pkl")[:, 2]),
        ("rlnAutopickFigureOfMerit", star.numbers("rlnAutopickFigureOfMerit")),
    ):
        np.testing.assert_allclose(unpacked(points["columns"][column]), wanted, rtol=1e-6)
    np.testing.assert_allclose(unpacked(points["coordinates"]["y"]), star.numbers("rlnCoordinateY"), rtol=1e-6)
    chosen = np.loadtxt(run / "analyze.4" / "kmeans3" / "centers_ind.txt")
    np.testing.assert_array_equal(unpacked(points["centers"]), chosen)
    assert {measure["column"] for measure in points["measures"]} | {"nearest", "distance"} == set(points["columns"])
    particle = [measure["name"] for measure in points["measures"] if measure["kind"] == "particle"]
    assert particle == ["AutopickFigureOfMerit", "tilt angle of the particle", "height z in the tomogram"]
    np.testing.assert_allclose(unpacked(points["columns"]["tilt"]), star.numbers("rlnAngleTilt"), rtol=1e-5)
    np.testing.assert_allclose(unpacked(points["columns"]["height"]), star.numbers("rlnCoordinateZ"), rtol=1e-6)


def test_volumes_and_losses_are_in_the_page(page: Path) -> None:
    content = content_of(page)
    volumes = unpacked(content["volumes"])
    assert volumes.shape == (CLUSTERS, 6, 16, 16) and volumes.max() == 255
    # reference2 is 3 voxels long in z: slice y shows rows 5 to 7, and so does the sum along y
    assert (volumes[2, 1].max(1) == 255).nonzero()[0].tolist() == [5, 6, 7]
    assert volumes[2, 3].max() > volumes[0, 3].max()  # thicker along z, hence brighter in the sum along z
    groups = content["surfaces"]["groups"]
    assert {kind: group["grids"]["shape"][0] for kind, group in groups.items()} == {
        "cluster": CLUSTERS, "PC1": 10, "PC2": 10, "sampled": SAMPLED,
    }  # fmt: skip
    grids = inflated(groups["cluster"]["grids"])
    assert grids.shape[1:] == (64, 64, 64) and groups["cluster"]["apix"] == 6.0 * 16 / 64
    # the volumes are interpolated about their center: the box from 4 to 9 of 16 voxels is now that from 16 to 36
    inside = grids[0, 23] > 255 * content["surfaces"]["level"]
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    assert np.abs([rows[0] - 14, rows[-1] - 34, columns[0] - 10, columns[-1] - 50]).max() <= 1
    assert content["losses"]["validation"]["epochs"] == [0, 1, 2, 3, 4]
    assert content["losses"]["training"]["gen_loss"][4] == pytest.approx(-0.5)
    assert [cluster["count"] for cluster in content["clusters"]] == np.bincount(
        unpacked(content["points"]["categories"][0]["codes"])
    ).tolist()


def test_the_nearest_sampled_particle_is_reported(page: Path, run: Path) -> None:
    content = content_of(page)
    latents = read_latents(run / "z.4.pkl")[0].astype(np.float64)
    rows = unpacked(content["surfaces"]["groups"]["sampled"]["particles"]).astype(int)
    distances = np.linalg.norm(latents[:, None] - latents[rows], axis=2)
    columns = content["points"]["columns"]
    np.testing.assert_array_equal(unpacked(columns["nearest"]), distances.argmin(1))
    spread = np.sqrt(((latents - latents.mean(0)) ** 2).sum(1).mean())
    np.testing.assert_allclose(unpacked(columns["distance"]), distances.min(1) / spread, atol=1e-5)


def test_motions_are_decoded_with_the_composition_of_the_largest_cluster(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(run, root)
    labels = load_labels(root / "analyze.4" / "kmeans3" / "labels.pkl")
    scores = np.random.default_rng(0).normal(size=(COUNT, 3)).astype(np.float32)
    dump_pickle(root / "defanalyze.4" / "pc.pkl", scores)
    table = np.linspace(-1, 1, 10)[:, None] * [1.0, 0.0, 0.5]
    write_table(root / "defanalyze.4" / "pc2" / "z_pc.txt", table)
    given: list[np.ndarray] = []

    def volumes(latents: np.ndarray, apix: float) -> torch.Tensor:
        given.extend(latents)
        return balls(latents, apix)

    decoder = SimpleNamespace(boxes=Boxes(16, 6.0, 16, 16), bodies=object(), volumes=volumes)
    monkeypatch.setattr(report_volumes, "_decoder", lambda *_: decoder)
    words = ["report", str(root), "4", "--star", str(root / "all.star"), "--particle-volumes", "0"]
    assert dsdsh(words) == 0
    group = content_of(root / "analyze.4" / "report.html")["surfaces"]["groups"]["motion PC2"]
    largest = int(np.bincount(labels).argmax())
    center = np.loadtxt(root / "analyze.4" / "kmeans3" / "centers.txt")[largest]
    np.testing.assert_allclose(given, np.concatenate([np.tile(center, (10, 1)), table], axis=1), rtol=1e-5, atol=1e-6)
    assert group["about"] == f"motion of the bodies, composition of cluster {largest}"
    assert [group["scores"][0], group["scores"][-1]] == pytest.approx(np.percentile(scores[:, 1], (1, 99)), rel=1e-5)
    assert group["grids"]["shape"] == [10, 64, 64, 64] and group["apix"] == 6.0 * 16 / 64


def test_volumes_are_downsampled_until_they_fit() -> None:
    noise = np.random.default_rng(0).random((3, 64, 64, 64)).astype(np.float32)
    group = {"cluster": VolumeGroup(list(noise), 2.0, {})}
    large = describe_surfaces(group)
    small = describe_surfaces(group, budget=400_000)
    assert large is not None and large["groups"]["cluster"]["grids"]["shape"] == [3, 64, 64, 64]
    assert small is not None and small["groups"]["cluster"]["grids"]["shape"] == [3, 32, 32, 32]
    assert small["groups"]["cluster"]["apix"] == 4.0 and len(small["groups"]["cluster"]["grids"]["data"]) < 400_000
    # the densities come back with an error of at most half a step of 255
    grids = inflated(large["groups"]["cluster"]["grids"])
    error = np.abs(grids / 255 - np.clip(noise / large["top"], 0, 1))
    assert error.max() <= 0.5 / 255 + 1e-6


def test_junk_scores_are_shown(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "copy"
    shutil.copytree(run, root)
    scores = np.random.default_rng(0).normal(scale=9, size=COUNT)
    lines = [f"{i},{int(score > 0)},{score:.3f},0,0,1.0" for i, score in enumerate(scores)]
    table = root / "analyze.4" / "junk" / "scores.csv"
    table.parent.mkdir()
    table.write_text("\n".join(["particle,kept,score,class,molecule,latent_distance", *lines]) + "\n")
    words = ["report", str(root), "4", "--skip-vol", "--star", str(root / "all.star")]
    assert dsdsh(words) == 0
    points = content_of(root / "analyze.4" / "report.html")["points"]
    np.testing.assert_allclose(unpacked(points["columns"]["junk"]), scores, atol=1e-3)
    category = next(entry for entry in points["categories"] if entry["name"] == "kept or junk")
    np.testing.assert_array_equal(unpacked(category["codes"]), scores <= 0)
    capsys.readouterr()
    table.write_text("\n".join(["particle,kept,score", *lines[:5]]) + "\n")
    assert dsdsh(words) == 1
    assert "has 5 particles, but the run has 120. Run dsdsh junk again." in capsys.readouterr().err


def test_many_particles_leave_less_room_for_volumes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[int] = []
    wanted = html_report.collect_volumes

    def collect(*parts: Any) -> Any:
        given.append(parts[5])
        return wanted(*parts)

    monkeypatch.setattr(html_report, "collect_volumes", collect)
    monkeypatch.setattr(html_report, "packed_size", lambda points: 15_000_000)
    monkeypatch.setattr(html_report, "LARGEST_BYTES", 100_000)
    words = ["report", str(run), "4", "--star", str(run / "all.star"), "-o", str(tmp_path / "a.html")]
    assert dsdsh([*words, "--particle-volumes", "0"]) == 0
    assert "because of its 120 particles, and opens slowly" in capsys.readouterr().out
    monkeypatch.setattr(html_report, "LARGEST_BYTES", 25_000_000)
    assert dsdsh([*words, "--particle-volumes", "0"]) == 0
    assert given == [2_000_000, 7_500_000] and "opens slowly" not in capsys.readouterr().out


def test_commands_are_recorded_and_listed(run: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(run, root)
    (root / "commands.log").unlink()
    analyze = ["analyze", str(root), "4", "1", "2", "--skip-umap"]
    report = ["report", str(root), "4", "--skip-vol", "--star", str(root / "all.star")]
    assert dsdsh(analyze) == 0 and dsdsh(report) == 0
    history = content_of(root / "analyze.4" / "report.html")["history"]
    assert [shlex.split(entry["command"]) for entry in history] == [["dsdsh", *analyze], ["dsdsh", *report]]
    assert history[1]["time"] == "this report"
    assert dsdsh(["analyze", str(root), "9", "1", "2"]) == 1  # a command that fails made nothing
    assert [shlex.split(command)[1] for _, command in read_commands(root)] == ["analyze", "report"]


def test_evidence_is_shown_and_stale_evidence_is_not(run: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(run, root)
    counts = np.bincount(load_labels(root / "analyze.4" / "kmeans3" / "labels.pkl")).tolist()
    folder = root / "analyze.4" / "kmeans3"

    def write(numbers: list[int]) -> dict[str, Any]:
        with (folder / "validation.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(
                ["cluster", "particles", "resolution_0.143_A", "control_0.143_A", "held_out_loss", "held_out"]
            )
            table.writerows([i, number, 21.5, 30.0, -0.125, 7] for i, number in enumerate(numbers))
        assert dsdsh(["report", str(root), "4", "--star", str(root / "all.star")]) == 0
        return content_of(root / "analyze.4" / "report.html")

    (folder / "validation_fsc.csv").write_text(
        "shell,frequency_per_A,resolution_A,cluster1,control1\n0,0,inf,1,1\n1,0.01,100,0.9,0.8\n"
    )
    epochs = [EpochStability(3, None, np.nan, 0.5, np.nan, 1.0), EpochStability(4, 3, 0.5, 1.0, 0.2, 1.0)]
    write_convergence(root / "convergence.csv", epochs)
    content = write(counts)
    assert dict(content["clusters"][1]["evidence"]) == {
        "FSC 0.143": "21.5 Å (control 30.0 Å)",
        "loss (7 held out)": "−0.125",
    }
    assert content["clusters"][1]["curve"]["own"] == [1.0, 0.9] and content["clusters"][0]["curve"] is None
    assert content["convergence"]["ari_previous"] == [None, 0.5]
    content = write([counts[0] + 1, *counts[1:]])  # of an earlier clustering
    assert not any(cluster["evidence"] or cluster["curve"] for cluster in content["clusters"])
    assert content["verdict"] is None and shlex.split(content["commands"]["validate"]) == [
        *("dsdsh", "validate", str(root), "4", "3")
    ]


def test_the_state_of_the_training_is_shown(run: Path, tmp_path: Path) -> None:
    """A run with the latents of one epoch gets no command that would compare epochs and fail."""
    root = tmp_path / "copy"
    shutil.copytree(run, root)

    def content(words: tuple[str, ...] = ()) -> dict[str, Any]:
        assert dsdsh(["report", str(root), "4", "--star", str(root / "all.star"), "--skip-vol", *words]) == 0
        return content_of(root / "analyze.4" / "report.html")

    assert content()["commands"]["convergence"] == "" and "no epochs.csv" in content()["state"]
    shutil.copy(root / "z.4.pkl", root / "z.3.pkl")
    rows = [f"{epoch},{loss},{loss}" for epoch, loss in enumerate((-0.1, -0.2, -0.3, -0.4, -0.5))]
    (root / "epochs.csv").write_text("\n".join(["epoch,training_gen,validation_gen", *rows]) + "\n")
    assert content()["commands"]["convergence"] == shlex.join(["dsdsh", "convergence", str(root), "-k", "3"])
    assert "still improving: the held-out loss fell by 0.3" in content()["state"]


def test_a_second_round_keeps_the_numbers_of_the_table(run: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(run, root)
    assert dsdsh(["analyze", str(root), "4", "1", "2", "--skip-umap", "--kpc", "3:0,2"]) == 0
    assert dsdsh(["report", str(root), "filter.4", "--star", str(root / "all.star"), "--skip-vol"]) == 0
    content = content_of(root / "analyze.filter.4" / "report.html")
    indices = unpacked(content["points"]["index"])
    first = load_labels(root / "analyze.4" / "kmeans3" / "labels.pkl")
    np.testing.assert_array_equal(indices, np.flatnonzero(first != 1))
    assert content["points"]["count"] == len(indices) and content["points"]["total"] == COUNT
    chosen = np.loadtxt(root / "analyze.filter.4" / "kmeans2" / "centers_ind.txt")
    np.testing.assert_array_equal(indices[unpacked(content["points"]["centers"])], chosen)
    assert content["volumes"] is None and content["surfaces"] is None


def test_what_is_not_there_is_reported_and_left_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "bare"
    shutil.copytree(run, root)
    (root / "analyze.4" / "umap.pkl").unlink()
    (root / "analyze.4" / "kmeans3" / "reference1.mrc").unlink()
    assert dsdsh(["report", str(root), "4"]) == 0
    said = capsys.readouterr().out
    assert "Tomograms and scores are not shown" in said and "Volumes are not shown" in said
    content = content_of(root / "analyze.4" / "report.html")
    assert content["points"]["coordinates"] is None and content["volumes"] is None
    assert content["points"]["measures"][0]["label"].startswith("PC1 (") and content["surfaces"] is None


def test_errors_are_reported_in_a_sentence(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "copy"
    shutil.copytree(run, root)
    short = read_particles(root / "all.star").subset(np.arange(50))
    short.write(tmp_path / "short.star")
    dump_pickle(root / "analyze.4" / "pc.pkl", np.zeros((7, 5), dtype=np.float32))
    for words, part in (
        (["4", "-k", "9"], "analyze.4 contains kmeans3"),
        (["3"], "Run dsdsh analyze"),
        (["4", "--gmm"], "Give it with -k"),
        (["4"], "different numbers of particles"),
    ):
        assert dsdsh(["report", str(root), *words]) == 1
        assert part in capsys.readouterr().err
    assert dsdsh(["report", str(run), "4", "--star", str(tmp_path / "short.star"), "-o", str(tmp_path / "x.html")]) == 1
    assert "has 50 particles, but the run has 120" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists() and not (root / "analyze.4" / "report.html").exists()


def test_large_volumes_become_small_pictures() -> None:
    at = np.arange(120) - 60
    z, y, x = np.meshgrid(at, at, at, indexing="ij")
    volume = np.exp(-((x - 20) ** 2 + y**2 + z**2) / 200).astype(np.float32)
    small = volume_images([volume])
    assert small.shape == (1, 6, 96, 96)
    for view in (0, 3):
        bright = small[0, view] > 128
        assert np.nonzero(bright)[0].mean() == pytest.approx(48, abs=0.5)
        assert np.nonzero(bright)[1].mean() == pytest.approx(48 + 20 * 96 / 120, abs=0.5)
    assert volume_images([np.zeros((8, 8, 8))]).max() <= 19  # an empty volume is not stretched to white
