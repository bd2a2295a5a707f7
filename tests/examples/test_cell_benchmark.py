"""Parts of the benchmark `benchmarks/cell.py` on small arrays: template matching, selection of clusters, scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from opustomo.geometry.rotations import euler_to_matrix
from opustomo.physics.ctf import TiltBatch
from opustomo.simulate.volumes import gather_volumes

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
APIX, BOX = 24.0, 16


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def tilt_series() -> TiltBatch:
    """Return tilts of ±60° in steps of 3° at 3 µm."""
    angles = torch.arange(-60.0, 61.0, 3.0)[None]
    optics = {"defocus_u_A": 3e4, "defocus_v_A": 3e4, "voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.07}
    constant = {name: torch.full_like(angles, value) for name, value in optics.items()}
    zero = {name: torch.zeros_like(angles) for name in ("astigmatism_deg", "phase_shift_deg", "bfactor_A2")}
    return TiltBatch(tilt_deg=angles, scale=torch.ones_like(angles), **constant, **zero)


def test_matching_finds_places_and_orientations() -> None:
    from cell_scores import angles_deg
    from template_matching import Search, imaging_filter, pick, rotated

    template = torch.from_numpy(gather_volumes([], ["70S_APE_mRNA"], APIX, BOX)[0][0])
    eulers = torch.tensor([[20.0, 60.0, -100.0], [-150.0, 120.0, 40.0], [75.0, 15.0, 10.0]])
    places = [(20, 18, 16), (44, 22, 20), (30, 46, 14)]  # x, y, z
    tomogram = torch.zeros(32, 64, 64)
    shells = (torch.ones(2), torch.tensor([0.0, 0.5]))
    imaged = torch.fft.rfftn(rotated(template, euler_to_matrix(eulers)), dim=(1, 2, 3))
    imaged = torch.fft.irfftn(imaged * imaging_filter(tilt_series(), BOX, APIX, shells), s=(BOX,) * 3, dim=(1, 2, 3))
    for (x, y, z), volume in zip(places, imaged, strict=True):
        half = BOX // 2
        tomogram[z - half : z + half, y - half : y + half, x - half : x + half] += volume
    noise = torch.randn(tomogram.shape, generator=torch.Generator().manual_seed(0))
    tomogram += 2.0 * tomogram.std() * noise
    search = Search(APIX, rotations=600, radius_A=160.0, distance_A=150.0, picks=3)
    found = pick(tomogram, APIX, template, APIX, tilt_series(), search)
    order = [int(np.linalg.norm(found["coordinates"] - place, axis=1).argmin()) for place in places]
    assert sorted(order) == [0, 1, 2]
    assert np.abs(found["coordinates"][order] - places).max() <= 1
    assert angles_deg(found["eulers"][order], eulers.numpy()).max() < 25  # the step of 600 rotations is about 24°


def test_clusters_above_the_largest_gap() -> None:
    from cell_scores import above_largest_gap

    assert above_largest_gap([0.7, 0.95, 0.72, 0.93]) == [1, 3]
    assert above_largest_gap([0.9, 0.1]) == [0]


def test_scores_of_a_selection() -> None:
    from cell_scores import Truth, best_threshold, by_tomogram

    classes = np.array([0, 0, 1, -1, 0, 2])
    tomograms = np.array(["a", "a", "a", "b", "b", "b"])
    truth = Truth(classes, tomograms, {"a": 3, "b": 1}, np.zeros(6), np.zeros(6))
    scores = by_tomogram(np.array([True, False, True, False, True, False]), truth)
    assert scores["all"] == {
        "kept": 3, "true": 2, "precision": 0.6667, "recall": 0.6667, "recall_of_molecules": 0.5, "f1": 0.6667,
    }  # fmt: skip
    assert scores["a"]["precision"] == 0.5 and scores["b"]["f1"] == 1.0
    kept = best_threshold(np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), truth)
    assert kept.tolist() == [True, True, False, False, False, False]


def test_cells_have_their_target_at_the_stated_frequency() -> None:
    from cell_molecules import CELLS

    for name, cell in CELLS.items():
        share = sum(cell.molecules[i].percent for i in cell.targets) / sum(one.percent for one in cell.molecules)
        assert share == pytest.approx(0.02 if name.startswith("rare") else 0.13, abs=0.001)
        maps = [(one.map, one.mirrored) for one in cell.molecules]
        assert len(maps) == len(set(maps)) >= 8
        assert [one.name.endswith("(target)") for one in cell.molecules] == [
            i in cell.targets for i in range(len(maps))
        ]


def test_last_complete_iteration_of_a_stopped_classification(tmp_path: Path) -> None:
    from cell_relion import iterations_of

    table = "data_\n\nloop_\n_rlnImageName #1\n_rlnClassNumber #2\n"
    for number, rows in ((0, 3), (1, 3), (2, 3), (3, 1)):
        text = table + "".join(f"{i}.mrc {1 + i % 2}\n" for i in range(rows))
        (tmp_path / f"run_it{number:03d}_data.star").write_text(text)
        for group in (1, 2) if number != 2 else (1,):
            (tmp_path / f"run_it{number:03d}_class{group:03d}.mrc").write_bytes(b"")
    assert iterations_of(tmp_path, classes=2, particles=3) == [0, 1]


def test_rows_of_relion_return_to_the_order_of_the_particles(tmp_path: Path) -> None:
    from cell_relion import in_order_of

    from opustomo.io.star_tables import read_particles

    head = "data_\n\nloop_\n_rlnImageName #1\n_rlnClassNumber #2\n"
    (tmp_path / "particles.star").write_text(head + "TS_1/b.mrc 0\nTS_1/a.mrc 0\nTS_2/c.mrc 0\n")
    (tmp_path / "relion.star").write_text(head + "TS_2/c.mrc 3\nTS_1/a.mrc 1\nTS_1/b.mrc 2\n")
    table = in_order_of(read_particles(tmp_path / "particles.star"), read_particles(tmp_path / "relion.star"))
    assert table.numbers("rlnClassNumber").tolist() == [2, 1, 3]


def test_classes_with_the_best_f1() -> None:
    from cell_relion import best_classes
    from cell_scores import Truth

    classes = np.array([0, 0, 0, 1, 0, 1, 1, 1])
    truth = Truth(classes, np.array(["a"] * 8), {"a": 4}, np.zeros(8), np.zeros(8))
    labels = np.array([0, 0, 1, 1, 2, 2, 2, 2])
    assert best_classes(labels, 4, truth) == [0, 1]


def test_a_training_that_was_stopped_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import argparse

    from cell import Bench

    values = dict.fromkeys(("tomograms", "epochs", "clusters", "snr"))
    args = argparse.Namespace(folder=tmp_path, cell="ribosome", reduced=True, steps=None, train_options="", **values)
    bench, lines = Bench(args), []
    monkeypatch.setattr(bench, "command", lines.append)
    (tmp_path / "train.txt").write_text("dsd train_tomo particles.star -o run")
    bench.train()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/state.pkl").touch()
    bench.train()
    args.steps = ["train"]
    bench.train()
    command = "dsd train_tomo particles.star -o run"
    assert lines == [command, f"{command} --load latest", f"{command} --overwrite"]


@pytest.mark.parametrize("size", [8, 9])
def test_the_center_of_rotation_of_a_template_in_an_odd_box_is_its_central_voxel(size: int) -> None:
    from cell_pytom import in_odd_box

    volume = torch.zeros(size, size, size)
    volume[size // 2, size // 2, size // 2] = 1.0
    padded = in_odd_box(volume)
    center = (len(padded) - 1) // 2
    assert padded.shape == (9, 9, 9) and padded[center, center, center] == 1.0


def test_a_single_tomogram_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import cell

    monkeypatch.setattr("sys.argv", ["cell.py", "--tomograms", "1"])
    with pytest.raises(SystemExit):
        cell.main()
    assert "--tomograms is 1" in capsys.readouterr().err


@pytest.mark.parametrize(("last", "epoch"), [("dsdsh results run", "latest"), ("dsdsh results run 12", "12")])
def test_the_epoch_of_the_analysis_is_that_of_the_last_line(tmp_path: Path, last: str, epoch: str) -> None:
    import argparse

    from cell import Bench

    values = dict.fromkeys(("tomograms", "epochs", "clusters", "snr"))
    bench = Bench(argparse.Namespace(folder=tmp_path, cell="ribosome", reduced=True, steps=None, **values))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.log").write_text(f"epoch 38\n     # finished: results in run; evaluate them with: {last}\n")
    assert bench.epoch == epoch
