"""Back-projection compared with the truth of an independent simulator."""

import csv
import math
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from opustomo.data.config import DataConfig
from opustomo.data.particles import load_particles
from opustomo.geometry.rotations import euler_to_matrix
from opustomo.io.mrc import read_volume
from opustomo.io.poses import Poses, write_poses
from opustomo.io.star_tables import read_particles
from opustomo.main import main
from opustomo.physics.backprojection import interpolate_rotated, sphere_frequencies
from opustomo.physics.fourier import frequencies, rfft3
from opustomo.physics.fsc import shell_correlation
from opustomo.quality.evidence.half_maps import Assignment, Backprojection, ReadOptions, back_project, half_sets
from tests.quality.evidence.conftest import Simulated

BOX = 24
NORMALIZED = ReadOptions(ctf_normalized=True)


def gaussians(points: np.ndarray, sigma: float = 1.6) -> np.ndarray:
    """Sum of Gaussians at points (P, 3) x, y, z from voxel D/2, heights 1, 2, …: (D, D, D)."""
    at = np.arange(BOX) - BOX // 2
    z, y, x = np.meshgrid(at, at, at, indexing="ij")
    total = np.zeros((BOX,) * 3)
    for height, (px, py, pz) in enumerate(points, 1):
        total += height * np.exp(-((x - px) ** 2 + (y - py) ** 2 + (z - pz) ** 2) / (2 * sigma**2))
    return total


def test_turning_brings_a_posed_density_back() -> None:
    points = np.array([[5.0, 0.0, 1.0], [-2.0, 4.0, 3.0], [1.0, -3.0, -4.0]])
    rotations = euler_to_matrix(torch.tensor([[30.0, 70.0, -110.0], [0.0, 0.0, 0.0], [-75.0, 160.0, 20.0]]).double())
    posed = np.stack([gaussians(points @ a.numpy().T) for a in rotations])  # x_sub = A x_ref
    places, at = sphere_frequencies(BOX)
    found = interpolate_rotated(rfft3(torch.from_numpy(posed).float()), rotations.float(), at)
    wanted = rfft3(torch.fft.ifftshift(torch.from_numpy(gaussians(points)))).flatten()[places]
    error = (found - wanted).abs().square().sum(1) / wanted.abs().square().sum()
    assert error.max() < 5e-3


def test_a_shift_of_the_content_is_undone_by_the_origin() -> None:
    points = np.array([[4.0, 1.0, -2.0], [-3.0, 0.0, 2.0]])
    origin = np.array([1.5, -2.0, 0.75])
    rotation = euler_to_matrix(torch.tensor([[50.0, 35.0, 100.0]]).double())
    posed = points @ rotation[0].numpy().T
    sums = Backprojection(BOX, 1, "cpu")
    volume = torch.from_numpy(gaussians(posed - origin)).float()[None]
    ones = torch.ones(1, BOX, BOX, BOX // 2 + 1)
    one = torch.zeros(1, 1, dtype=torch.long)
    sums.add(volume, ones, rotation.float(), torch.from_numpy(origin).float()[None], one)
    found = sums.volume(0).numpy() * 1.1  # the regularizer takes a tenth of what full weights give
    assert abs(found - gaussians(points)).max() < 0.05  # of 2


def test_reconstruction_finds_the_true_density(simulated: Simulated) -> None:
    every = Assignment(np.zeros((1, 80), dtype=np.int64), 1)
    truth = torch.from_numpy(simulated.density)
    inside = truth > 0.05 * truth.max()
    correlation, area = {}, {}
    shifted = Poses(simulated.true_poses.eulers_deg, simulated.true_poses.origins + 1.0 / BOX)
    for name, poses in (("true", simulated.true_poses), ("told", simulated.particles.poses), ("shifted", shifted)):
        volume = back_project(simulated.particles, every, poses, reading=NORMALIZED).volume(0)
        correlation[name] = np.corrcoef(volume[inside], truth[inside])[0, 1]
        area[name] = float(shell_correlation(volume, truth)[1:].mean())
    assert correlation["true"] > 0.9 and area["true"] > 0.85
    # the center of rotation is voxel D/2: poses off by a voxel, or by 6°, are worse
    assert area["told"] < area["true"] - 0.03
    assert area["shifted"] < area["true"] - 0.03


def test_padded_sums_keep_noise_from_folding_back(simulated: Simulated) -> None:
    """Measured: mean shell correlation with the truth 0.967 with padding, 0.956 without."""
    every = Assignment(np.zeros((1, 80), dtype=np.int64), 1)
    truth = torch.from_numpy(simulated.density)
    area = {}
    for padding in (1, 2):
        sums = back_project(simulated.particles, every, simulated.true_poses, reading=NORMALIZED, padding=padding)
        area[padding] = float(shell_correlation(sums.volume(0), truth)[1:].mean())
    assert area[2] > area[1] + 0.005


def test_sums_add_up_and_members_are_kept_apart(simulated: Simulated) -> None:
    members = np.full((2, 80), -1)
    members[0, :30] = np.arange(30) % 2
    members[1, :20] = 2
    parts = back_project(simulated.particles, Assignment(members, 3), reading=NORMALIZED)
    whole = np.full((1, 80), -1)
    whole[0, :30] = 0
    together = back_project(simulated.particles, Assignment(whole, 1), reading=NORMALIZED)
    torch.testing.assert_close(parts.volume(0, 1), together.volume(0), atol=1e-5, rtol=1e-3)
    assert [parts.count(0), parts.count(1), parts.count(2), parts.count(0, 1)] == [15, 15, 20, 30]
    assert not torch.allclose(parts.volume(2), together.volume(0), rtol=0.1)


def test_nothing_in_nothing_out() -> None:
    assert (Backprojection(BOX, 1, "cpu").volume(0) == 0).all()


def test_the_sphere_holds_each_frequency_once() -> None:
    places, at = sphere_frequencies(8)
    kz, ky, kx = (k.expand(8, 8, 5).flatten() for k in frequencies(8))
    assert torch.equal(torch.stack([kx, ky, kz], -1)[places], at)
    assert (at.norm(dim=1) <= 4).all() and len(places) == int((kx**2 + ky**2 + kz**2 <= 16).sum())


def test_half_sets_follow_the_table(simulated: Simulated) -> None:
    star = simulated.particles.star
    table = star.particles.drop(columns="rlnRandomSubset")
    halves, origin = half_sets(star._with_particles(table))
    assert halves.tolist() == [0, 1] * 40 and "odd and even" in origin
    table["rlnRandomSubset"] = ["2", "1", "1", "2"] * 20
    halves, origin = half_sets(star._with_particles(table))
    assert halves.tolist() == [1, 0, 0, 1] * 20 and origin == "rlnRandomSubset"
    table["rlnRandomSubset"] = ["1"] * 80
    assert half_sets(star._with_particles(table))[0].tolist() == [0, 1] * 40


@pytest.fixture(scope="module")
def made(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a reconstruction with half maps at the true poses."""
    folder = tmp_path_factory.mktemp("maps") / "my maps"
    write_poses(folder / "true.pkl", simulated.true_poses)
    words = ["reconstruct", str(simulated.star), "--halves", "--normalizectf", "-o", str(folder / "map.mrc")]
    mask = ["--mask", str(simulated.folder / "mask.mrc")]
    assert main([*words, *mask, "--poses", str(folder / "true.pkl"), "--device", "cpu"]) == 0
    return folder


def test_command_writes_valid_maps_and_the_curve(made: Path, simulated: Simulated) -> None:
    names = {path.name for path in made.iterdir()}
    assert names == {"true.pkl", "map.mrc", "map_half1.mrc", "map_half2.mrc", "map_fsc.csv", "map_fsc.png"}
    maps = {}
    for name in ("map", "map_half1", "map_half2"):
        assert mrcfile.validate(made / f"{name}.mrc")
        maps[name], apix = read_volume(made / f"{name}.mrc")
        assert apix == pytest.approx(12.0, rel=1e-5)
    with (made / "map_fsc.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == BOX // 2 + 1
    half = [torch.from_numpy(maps[f"map_half{i}"]) for i in (1, 2)]
    told = [float(row["fsc_unmasked"]) for row in rows]
    np.testing.assert_allclose(told, shell_correlation(half[0], half[1]), atol=1e-5)
    assert float(rows[6]["resolution_A"]) == pytest.approx(BOX * 12 / 6, rel=1e-4)
    # half maps tell of the map against the truth, FSC_truth² = 2 FSC / (1 + FSC), if noise is all they differ in
    truth = shell_correlation(torch.from_numpy(maps["map"]), torch.from_numpy(simulated.density))
    plain = np.clip(told, 0, 1)
    assert np.abs(np.sqrt(2 * plain / (1 + plain)) - truth.numpy())[1:10].mean() < 0.1


def test_a_resolution_that_the_pixel_size_limits_is_called_so(
    simulated: Simulated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With little noise and true poses, the FSC is high up to Nyquist, so the resolution is a limit of the sampling."""
    write_poses(tmp_path / "true.pkl", simulated.true_poses)
    words = ["reconstruct", str(simulated.star), "--halves", "--normalizectf", "-o", str(tmp_path / "map.mrc")]
    assert main([*words, "--poses", str(tmp_path / "true.pkl"), "--device", "cpu"]) == 0
    assert "the pixel size limits the resolution" in capsys.readouterr().out
    (tmp_path / "few.txt").write_text("1\n2\n3\n4\n")
    assert main([*words, "--ind", str(tmp_path / "few.txt"), "--device", "cpu"]) == 0
    assert "the pixel size limits" not in capsys.readouterr().out


def test_a_subset_by_index_file(made: Path, simulated: Simulated, tmp_path: Path) -> None:
    (tmp_path / "few.json").write_text('{"particles": 80, "indices": [3, 5, 8, 13, 21]}')
    words = ["reconstruct", str(simulated.star), "-o", str(tmp_path / "few"), "--device", "cpu"]
    assert main([*words, "--ind", str(tmp_path / "few.json"), "--normalizectf"]) == 0
    found, _ = read_volume(tmp_path / "few.mrc")
    particles = load_particles(DataConfig(star=simulated.star, ind=tmp_path / "few.json"))
    sums = back_project(particles, Assignment(np.zeros((1, 5), dtype=np.int64), 1), reading=NORMALIZED)
    np.testing.assert_allclose(found, sums.volume(0).numpy(), atol=1e-6)
    assert not (tmp_path / "few_fsc.csv").exists()


def test_errors_are_reported_in_a_sentence(
    simulated: Simulated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reconstruct", str(simulated.star), "-o"]
    (tmp_path / "one.txt").write_text("7\n")
    single = ["--halves", "--ind", str(tmp_path / "one.txt")]
    for options, part in (
        ([str(tmp_path / "map.txt")], "must have the suffix .mrc"),
        ([str(tmp_path / "map"), "--mask", "m.mrc"], "Add --halves"),
        ([str(tmp_path / "map"), *single], "too few for two half maps"),
    ):
        assert main([*words, *options]) == 1
        assert part in capsys.readouterr().err
    assert not list(tmp_path.glob("map*"))


def test_real_ribosomes_agree_with_the_atomic_model(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "ribosomes_10499"
    star = read_particles(folder / "particles.star")
    (tmp_path / "some.txt").write_text("\n".join(map(str, range(0, 90))))
    assert len(star) == 267
    words = ["reconstruct", str(folder / "particles.star"), "-o", str(tmp_path / "map.mrc"), "--halves"]
    options = ["--normalizectf", "--mask", str(folder / "mask.mrc"), "--ind", str(tmp_path / "some.txt")]
    assert main([*words, *options, "--device", "cpu"]) == 0
    volume, mask = (read_volume(path)[0] for path in (tmp_path / "map.mrc", folder / "mask.mrc"))
    reference, _ = read_volume(folder / "reference_4v5d.mrc")
    inside = mask > 0.5
    assert np.corrcoef(volume[inside], reference[inside])[0, 1] > 0.8
    with (tmp_path / "map_fsc.csv").open() as file:
        rows = list(csv.DictReader(file))
    below = next(row for row in rows[1:] if float(row["fsc_true"]) < 0.143)
    assert 20.0 < float(below["resolution_A"]) < 40.0
    assert math.isclose(float(rows[0]["fsc_masked"]), 1.0, abs_tol=1e-3)
