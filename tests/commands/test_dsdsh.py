"""`dsdsh analyze | eval_vol | parse_pose` and `dsd analyze` on fabricated result folders."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import opustomo.main
from analysis_scripts.main import main as dsdsh
from opustomo.analysis.figures import latent_figures
from opustomo.analysis.volumes import decoding
from opustomo.analysis.volumes.decoding import EvalRequest
from opustomo.checkpoint.config import run_settings, write_config
from opustomo.geometry.rotations import viewing_groups
from opustomo.io.latents import write_latents
from opustomo.io.pickles import dump_pickle, load_pickle
from opustomo.io.poses import Poses, read_poses, write_poses
from opustomo.io.star_tables import read_particles
from opustomo.model.config import ModelConfig, PhysicsConfig
from opustomo.physics.boxes import Boxes

COUNT, ZDIM, ZAFFINE, BOX, APIX = 60, 5, 3, 48, 8.0
TRUTH = np.arange(COUNT) % 3
EPOCH_LINE = (
    "2026-01-31 12:00:00     # =====> Epoch: {} Average {} gen_loss = -0.25, SNR2 = 0.01, total loss = -0.2; "
    "Finished in 0:01:02"
)
TREE = """
pc.pkl pca.pkl explained_variance_ratio.txt analyze_config.json umap.pkl umap.png umap_hexbin.png z_pca.png
z_pca_hexbin.png pc1/z_pc.txt pc1/umap.png pc2/z_pc.txt pc2/umap.png kmeans3/labels.pkl kmeans3/centers.pkl
kmeans3/centers.txt kmeans3/centers_ind.txt kmeans3/z_pca.png kmeans3/z_pca_hex.png kmeans3/umap.png
kmeans3/umap_hex.png
""".split()


def fabricate(root: Path, count: int = COUNT, zdim: int = ZDIM, affine: int = ZAFFINE) -> Path:
    """A result folder of epoch 2 with three known clusters and the UMAP pictures of an earlier analysis."""
    rng = np.random.default_rng(0)
    truth = np.arange(count) % 3
    mu = (6.0 * np.eye(3, zdim)[truth] + 3.0 * truth[:, None] + rng.normal(scale=0.3, size=(count, zdim))).astype(
        np.float32
    )
    root.mkdir(parents=True)
    write_latents(root / "z.2.pkl", mu, rng.normal(size=(count, affine)) if affine else None)
    eulers = np.stack([rng.uniform(-180, 180, count), rng.uniform(0, 180, count), rng.uniform(-180, 180, count)], 1)
    write_poses(root / "pose.2.pkl", Poses(eulers, rng.normal(size=(count, 3)) / BOX))
    lines = [EPOCH_LINE.format(epoch, part) for epoch in (1, 2, 3) for part in ("training", "validation")]
    (root / "run.log").write_text("\n".join(lines))
    for folder in ("analyze.2", "defanalyze.2"):
        (root / folder).mkdir()
        dump_pickle(root / folder / "umap.pkl", rng.normal(size=(count, 2)).astype(np.float32))
    return root


def config_of_box(root: Path) -> None:
    """Write the config.pkl of a run on subtomograms of `BOX` pixels."""
    boxes = Boxes(BOX, APIX, BOX, BOX)
    settings = run_settings(ModelConfig(zdim=ZDIM), PhysicsConfig(), boxes, {}, 0)
    write_config(root / "config.pkl", settings, ("dsd",))


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_figures, "DPI", 40)
        root = fabricate(tmp_path_factory.mktemp("runs") / "my run")
        assert dsdsh(["analyze", str(root), "2", "2", "3", "--skip-umap", "--joint"]) == 0
        yield root


@pytest.fixture
def run(analyzed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private copy of the analyzed folder; further figures are laid out but left empty, which is quick."""
    monkeypatch.setattr(latent_figures, "write_figure", lambda path, figure, dpi: path.touch())
    return Path(shutil.copytree(analyzed, tmp_path / "a run"))


@pytest.fixture
def star(tmp_path: Path) -> Path:
    path = tmp_path / "my particles.star"
    head = ["data_optics", "loop_", "_rlnOpticsGroup #1", "_rlnImagePixelSize #2", f"1 {APIX:.3f}", ""]
    columns = ("rlnImageName", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst")
    columns += ("rlnOriginYAngst", "rlnOriginZAngst", "rlnOpticsGroup", "myOwn")
    head += ["data_particles", "loop_", *(f"_{name} #{i + 1}" for i, name in enumerate(columns))]
    rows = [f"s/p{i}.mrc {i}.10 {i}.20 -{i}.30 1.50 0.00 -2.5000 1 0{i}e" for i in range(COUNT)]
    path.write_text("\n".join([*head, *rows]) + "\n")
    return path


@pytest.fixture
def decoded(run: Path, monkeypatch: pytest.MonkeyPatch) -> list[EvalRequest]:
    """Requests that reach the decoder, which is replaced by one that writes empty files."""
    requests: list[EvalRequest] = []

    def evaluate(request: EvalRequest) -> list[Path]:
        requests.append(request)
        paths = [request.outdir / f"{request.prefix}{i}.mrc" for i in range(len(request.latents))]
        for path in paths:
            path.touch()
        return paths

    (run / "weights.2.pkl").touch()
    sizes = {"zdim": ZDIM, "z_affine_dim": ZAFFINE, "templateres": 32, "down_vol_size": 40, "Apix": 8.0}
    config = {"model_args": sizes, "lattice_args": {"D": BOX + 1}, "dataset_args": {"downfrac": 1.0}}
    dump_pickle(run / "config.pkl", config)
    monkeypatch.setattr(decoding, "evaluate_volumes", evaluate)
    return requests


def mistake(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run `dsdsh` with an error in the input and return its message."""
    capsys.readouterr()
    assert dsdsh([str(word) for word in words]) == 1
    message = capsys.readouterr().err.strip()
    assert "\n" not in message and message.startswith(f"dsdsh {words[0]}: error: ")
    return message


@pytest.mark.parametrize("folder", ["analyze.2", "defanalyze.2"])
def test_analysis_is_complete(analyzed: Path, folder: str) -> None:
    found = sorted(str(path.relative_to(analyzed / folder)) for path in (analyzed / folder).rglob("*.*"))
    extra = ["kmeans3/centers_joint.txt"] if folder == "analyze.2" else []
    assert found == sorted([*TREE, *extra])
    assert (analyzed / "train_losses.png").stat().st_size > 1000
    poses = read_poses(analyzed / "pose.2.pkl")
    np.testing.assert_array_equal(load_pickle(analyzed / "groups.pkl"), viewing_groups(poses.eulers_deg))


def test_contents_agree_with_one_another(analyzed: Path) -> None:
    import torch

    mu = torch.load(analyzed / "z.2.pkl")["mu"].numpy()
    folder = analyzed / "analyze.2"
    scores, axes = load_pickle(folder / "pc.pkl"), load_pickle(folder / "pca.pkl")
    np.testing.assert_allclose(scores @ axes["components"] + axes["mean"], mu, atol=1e-4)
    ratio = np.loadtxt(folder / "explained_variance_ratio.txt")
    np.testing.assert_allclose(ratio, scores.var(axis=0) / scores.var(axis=0).sum(), rtol=1e-4)
    path = np.loadtxt(folder / "pc2" / "z_pc.txt")
    on_axes = (path - axes["mean"]) @ axes["components"].T
    np.testing.assert_allclose(on_axes[[0, -1], 1], np.percentile(scores[:, 1], [1, 99]), atol=1e-4)
    np.testing.assert_allclose(np.delete(on_axes, 1, axis=1), 0, atol=1e-4)
    labels = load_pickle(folder / "kmeans3" / "labels.pkl")
    assert labels.dtype == np.int64
    assert len(set(zip(TRUTH, labels, strict=True))) == 3
    indices = np.loadtxt(folder / "kmeans3" / "centers_ind.txt", dtype=int)
    centers = np.loadtxt(folder / "kmeans3" / "centers.txt", dtype=np.float32)
    assert labels[indices].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(centers, mu[indices])
    np.testing.assert_array_equal(load_pickle(folder / "kmeans3" / "centers.pkl"), mu[indices])
    joint = np.loadtxt(folder / "kmeans3" / "centers_joint.txt", dtype=np.float32)
    multi_mu = torch.load(analyzed / "z.2.pkl")["multi_mu"].numpy()
    np.testing.assert_array_equal(joint, np.hstack([mu[indices], multi_mu[indices]]))
    settings = json.loads((folder / "analyze_config.json").read_text())
    assert (settings["epoch"], settings["particles"], settings["num_clusters"]) == (2, COUNT, 3)


def test_second_round(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = load_pickle(run / "analyze.2" / "kmeans3" / "labels.pkl")
    words = ["analyze", str(run), "2", "1", "4", "--skip-umap", "--kpc", "3:0,2", "--joint"]
    assert dsdsh(words) == 0
    folder = run / "analyze.filter.2"
    chosen = np.flatnonzero(first != 1)
    np.testing.assert_array_equal(load_pickle(folder / "ind.filter.2.pkl"), chosen)
    labels = load_pickle(folder / "kmeans4" / "labels.pkl")
    assert len(labels) == COUNT and np.all(labels[first == 1] == 4)
    assert sorted(set(labels[chosen].tolist())) == [0, 1, 2, 3]
    indices = np.loadtxt(folder / "kmeans4" / "centers_ind.txt", dtype=int)
    assert labels[indices].tolist() == [0, 1, 2, 3]
    assert load_pickle(folder / "pc.pkl").shape == (len(chosen), ZDIM)
    poses, part = read_poses(run / "pose.2.pkl"), read_poses(folder / "pose.filter.2.pkl")
    np.testing.assert_array_equal(part.eulers_deg, poses.eulers_deg[chosen])
    embedding = load_pickle(run / "analyze.2" / "umap.pkl")[chosen]
    np.testing.assert_array_equal(load_pickle(folder / "umap.pkl"), embedding)
    assert (run / "defanalyze.filter.2" / "kmeans4" / "umap.png").is_file()
    # the embedding of this second round is found again, but not mistaken for that of another one
    own = np.random.default_rng(1).normal(size=(len(chosen), 2)).astype(np.float32)
    dump_pickle(folder / "umap.pkl", own)
    assert dsdsh(words) == 0
    np.testing.assert_array_equal(load_pickle(folder / "umap.pkl"), own)
    words[words.index("3:0,2")] = "3:0-1"
    assert dsdsh(words) == 0
    others = load_pickle(run / "analyze.2" / "umap.pkl")[first != 2]
    np.testing.assert_array_equal(load_pickle(folder / "umap.pkl"), others)
    assert "none" in mistake(capsys, "analyze", run, 2, 1, 4, "--kpc", "3:none")
    assert "40 particles cannot be divided into 41 clusters" in mistake(
        capsys, "analyze", run, 2, 1, 41, "--kpc", "3:0,2"
    )


def test_third_round_and_a_round_clustered_again(run: Path, star: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--skip-umap"]
    assert dsdsh(["analyze", str(run), "2", "1", "4", "--kpc", "3:0,2", *words]) == 0
    assert dsdsh(["analyze", str(run), "filter.2", "1", "3", "--kpc", "4:1-2", *words]) == 0
    second = load_pickle(run / "analyze.filter.2" / "kmeans4" / "labels.pkl")
    folder = run / "analyze.filter.filter.2"
    chosen = np.flatnonzero((second == 1) | (second == 2))
    np.testing.assert_array_equal(load_pickle(folder / "ind.filter.filter.2.pkl"), chosen)
    labels = load_pickle(folder / "kmeans3" / "labels.pkl")
    assert len(labels) == COUNT and set(labels[chosen].tolist()) == {0, 1, 2}
    assert np.all(np.delete(labels, chosen) == 3)
    assert (run / "defanalyze.filter.filter.2" / "kmeans3" / "labels.pkl").is_file()
    assert "kmeans3" in json.loads((folder / "analyze_config.json").read_text())["clustering"] + "3"
    assert dsdsh(["parse_pose", str(star), str(BOX), str(APIX), str(run), "filter.filter.2", "3"]) == 0
    assert len(read_particles(folder / "kmeans3" / "pre2.star")) == int((labels == 2).sum())
    # the second round again with other numbers, of the same particles
    before = load_pickle(run / "analyze.filter.2" / "ind.filter.2.pkl")
    assert dsdsh(["analyze", str(run), "filter.2", "2", "2", *words]) == 0
    np.testing.assert_array_equal(load_pickle(run / "analyze.filter.2" / "ind.filter.2.pkl"), before)
    again = load_pickle(run / "analyze.filter.2" / "kmeans2" / "labels.pkl")
    np.testing.assert_array_equal(np.flatnonzero(again < 2), before)
    # another choice leaves clusterings of the first one behind, which is told
    capsys.readouterr()
    assert dsdsh(["analyze", str(run), "2", "1", "5", "--kpc", "3:0", *words]) == 0
    assert "kmeans2, kmeans4 belong to a different selection" in capsys.readouterr().out


def test_gaussian_mixture_beside_k_means(run: Path, star: Path, decoded: list[EvalRequest]) -> None:
    assert dsdsh(["analyze", str(run), "2", "1", "3", "--skip-umap", "--gmm", "--joint"]) == 0
    names = sorted(path.name for path in (run / "analyze.2" / "gmm3").iterdir())
    assert names == sorted(path.name for path in (run / "analyze.2" / "kmeans3").iterdir())
    labels = load_pickle(run / "analyze.2" / "gmm3" / "labels.pkl")
    assert len(set(zip(TRUTH, labels, strict=True))) == 3
    assert dsdsh(["eval_vol", str(run), "2", "gmm", "3", "4"]) == 0
    assert decoded[0].outdir == run / "analyze.2" / "gmm3"
    assert dsdsh(["parse_pose", str(star), str(BOX), str(APIX), str(run), "2", "3", "--gmm"]) == 0
    assert len(read_particles(run / "analyze.2" / "gmm3" / "pre1.star")) == COUNT // 3
    assert dsdsh(["analyze", str(run), "2", "1", "2", "--skip-umap", "--kpc", "gmm3:1"]) == 0
    chosen = load_pickle(run / "analyze.filter.2" / "ind.filter.2.pkl")
    np.testing.assert_array_equal(chosen, np.flatnonzero(labels == 1))


@pytest.mark.parametrize(("zdim", "count"), [(1, 10), (2, 30), (12, 4)])
def test_few_particles_and_dimensions_without_umap(
    tmp_path: Path, zdim: int, count: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(latent_figures, "DPI", 30)
    root = fabricate(tmp_path / "run", count, zdim, affine=0)
    shutil.rmtree(root / "analyze.2")
    shutil.rmtree(root / "defanalyze.2")
    (root / "run.log").unlink()
    assert dsdsh(["analyze", str(root), "2", "3", "3", "--skip-umap"]) == 0
    told = capsys.readouterr().out
    assert "no UMAP figures" in told and "train_losses.png is not drawn" in told
    assert ("written instead of 3" in told) == (zdim < 3)
    assert len(list((root / "analyze.2").glob("pc*/z_pc.txt"))) == min(zdim, 3)
    assert load_pickle(root / "analyze.2" / "pc.pkl").shape == (count, zdim)
    assert not (root / "defanalyze.2").exists() and not list(root.rglob("umap*"))


def test_equal_latents_do_not_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_figures, "DPI", 30)
    root = fabricate(tmp_path / "run")
    write_latents(root / "z.2.pkl", np.full((COUNT, 3), 0.7), np.zeros((COUNT, 2)))
    assert dsdsh(["analyze", str(root), "2", "1", "4"]) == 0
    assert np.all(np.loadtxt(root / "analyze.2" / "explained_variance_ratio.txt") == 0)
    np.testing.assert_allclose(np.loadtxt(root / "analyze.2" / "pc1" / "z_pc.txt"), 0.7, rtol=1e-6)


def test_errors_of_analyze(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "available epochs are 2 " in mistake(capsys, "analyze", run, 3, 2, 3)
    assert "Request 1 to 60 clusters" in mistake(capsys, "analyze", run, 2, 2, 61)
    assert "2 with --kpc first" in mistake(capsys, "analyze", run, "filter.2", 2, 3)
    assert "does not exist" in mistake(capsys, "analyze", tmp_path / "none", 2, 2, 3)
    assert "kmeans9" in mistake(capsys, "analyze", run, 2, 2, 3, "--kpc", "9:1")
    dump_pickle(run / "analyze.2" / "umap.pkl", np.zeros((3, 2), dtype=np.float32))
    assert "not a UMAP embedding of 60" in mistake(capsys, "analyze", run, 2, 2, 3, "--skip-umap")
    write_latents(run / "z.2.pkl", np.zeros((COUNT, 2)))
    assert "--joint requires" in mistake(capsys, "analyze", run, 2, 2, 3, "--joint")
    write_latents(run / "z.2.pkl", np.zeros((COUNT - 1, 2)))
    assert "60 poses" in mistake(capsys, "analyze", run, 2, 2, 3)


def test_parse_pose_splits_and_joins_again(run: Path, star: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dsdsh(["parse_pose", str(star), str(BOX), str(APIX), str(run), "2", "3", "--relion31"]) == 0
    labels = load_pickle(run / "analyze.2" / "kmeans3" / "labels.pkl")
    whole = read_particles(star)
    for cluster in range(3):
        part = read_particles(run / "analyze.2" / "kmeans3" / f"pre{cluster}.star")
        expected = whole.particles[labels == cluster].to_numpy().tolist()
        assert part.particles.to_numpy().tolist() == expected
        assert list(part.particles.columns) == list(whole.particles.columns)
        assert list(part.blocks) == list(whole.blocks)


def test_parse_pose_puts_refined_poses_in(run: Path, star: Path) -> None:
    assert dsdsh(["parse_pose", str(star), str(BOX), str(APIX), str(run), "2", "3", "--refined"]) == 0
    labels, poses = load_pickle(run / "analyze.2" / "kmeans3" / "labels.pkl"), read_poses(run / "pose.2.pkl")
    part = read_particles(run / "analyze.2" / "kmeans3" / "pre1.star")
    np.testing.assert_allclose(part.eulers_deg(), poses.eulers_deg[labels == 1], atol=1e-5)
    np.testing.assert_allclose(part.origins_px(), poses.origins[labels == 1] * BOX, atol=1e-5)
    assert part.strings("myOwn") == [f"0{i}e" for i in np.flatnonzero(labels == 1)]


def test_an_odd_box_length_does_not_scale_refined_origins(run: Path, star: Path) -> None:
    """Scripts for the original may give the box plus or minus one."""
    config_of_box(run)
    assert dsdsh(["parse_pose", str(star), str(BOX - 1), str(APIX), str(run), "2", "3", "--refined"]) == 0
    labels, poses = load_pickle(run / "analyze.2" / "kmeans3" / "labels.pkl"), read_poses(run / "pose.2.pkl")
    part = read_particles(run / "analyze.2" / "kmeans3" / "pre1.star")
    np.testing.assert_allclose(part.origins_px(), poses.origins[labels == 1] * BOX, atol=1e-5)


def test_parse_pose_of_a_second_round(run: Path, star: Path) -> None:
    assert dsdsh(["analyze", str(run), "2", "1", "2", "--skip-umap", "--kpc", "3:1"]) == 0
    assert dsdsh(["parse_pose", str(star), str(BOX), str(APIX), str(run), "filter.2", "2"]) == 0
    folder = run / "analyze.filter.2" / "kmeans2"
    labels = load_pickle(folder / "labels.pkl")
    assert sorted(path.name for path in folder.glob("*.star")) == ["pre0.star", "pre1.star"]
    assert len(read_particles(folder / "pre1.star")) == int((labels == 1).sum())


def test_errors_of_parse_pose(run: Path, star: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = star.read_text().splitlines()
    shorter = star.with_name("shorter.star")
    shorter.write_text("\n".join(text[:-1]) + "\n")
    message = mistake(capsys, "parse_pose", shorter, BOX, APIX, run, 2, 3)
    assert f"has {COUNT - 1} particles" in message and f"labels.pkl has {COUNT}" in message
    assert "kmeans7" in mistake(capsys, "parse_pose", star, BOX, APIX, run, 2, 7)
    assert "must be positive" in mistake(capsys, "parse_pose", star, BOX, -1.0, run, 2, 3)
    config_of_box(run)
    assert f"the run was trained on subtomograms of {BOX} pixels, but the given box is {2 * BOX}" in mistake(
        capsys, "parse_pose", star, 2 * BOX, APIX, run, 2, 3, "--refined"
    )
    assert f"at {APIX:g} Å per pixel, but the given pixel size is {2 * APIX:g} Å" in mistake(
        capsys, "parse_pose", star, BOX, 2 * APIX, run, 2, 3, "--refined"
    )
    assert not list((run / "analyze.2" / "kmeans3").glob("pre*.star"))
    assert "none.star" in mistake(capsys, "parse_pose", star.with_name("none.star"), BOX, APIX, run, 2, 3)
    assert not list((run / "analyze.2").rglob("*.star"))


def test_eval_vol_hands_the_right_latents_over(run: Path, decoded: list[EvalRequest]) -> None:
    for words in (["kmeans", "3"], ["pc", "2"]):
        assert dsdsh(["eval_vol", str(run), "2", *words, "4.0", "--flip", "--full-box"]) == 0
    kmeans, pc = decoded
    assert kmeans.full_box and pc.full_box and pc.names is None
    sizes = np.bincount(load_pickle(run / "analyze.2" / "kmeans3" / "labels.pkl"))
    assert kmeans.names == tuple(f"cluster {i} ({sizes[i]} particles)" for i in range(3))
    folder = run / "analyze.2"
    centers = np.loadtxt(folder / "kmeans3" / "centers.txt", dtype=np.float32)
    np.testing.assert_array_equal(kmeans.latents, centers)
    np.testing.assert_array_equal(pc.latents, np.loadtxt(folder / "pc2" / "z_pc.txt", dtype=np.float32))
    for request in decoded:
        assert (request.apix, request.flip, request.prefix) == (4.0, True, "reference")
        assert (request.weights, request.config) == (run / "weights.2.pkl", run / "config.pkl")
    assert (folder / "kmeans3" / "reference2.mrc").is_file()
    assert (folder / "pc2" / "reference9.mrc").is_file()


def test_eval_vol_moves_bodies_for_dpc_and_joint(run: Path, decoded: list[EvalRequest]) -> None:
    assert dsdsh(["eval_vol", str(run), "2", "kmeans", "3", "4.0"]) == 0
    assert dsdsh(["eval_vol", str(run), "2", "dpc", "1", "4.0", "--kmeans", "3", "--dfk", "2"]) == 0
    assert dsdsh(["eval_vol", str(run), "2", "joint", "3", "4.0", "--num-bodies", "2", "--masks", "old.pkl"]) == 0
    assert [request.deform for request in decoded] == [False, True, False]
    centers = np.loadtxt(run / "analyze.2" / "kmeans3" / "centers.txt", dtype=np.float32)
    path = np.loadtxt(run / "defanalyze.2" / "pc1" / "z_pc.txt", dtype=np.float32)
    np.testing.assert_array_equal(decoded[1].latents, np.hstack([np.tile(centers[2], (10, 1)), path]))
    assert decoded[1].outdir == run / "defanalyze.2" / "pc1"
    joint = np.loadtxt(run / "analyze.2" / "kmeans3" / "centers_joint.txt", dtype=np.float32)
    np.testing.assert_array_equal(decoded[2].latents, joint)


def test_eval_vol_of_a_second_round_takes_the_epochs_weights(run: Path, decoded: list[EvalRequest]) -> None:
    assert dsdsh(["analyze", str(run), "2", "1", "2", "--skip-umap", "--kpc", "3:1"]) == 0
    assert dsdsh(["eval_vol", str(run), "filter.2", "kmeans", "2", "8"]) == 0
    assert decoded[0].weights == run / "weights.2.pkl"
    assert decoded[0].outdir == run / "analyze.filter.2" / "kmeans2"


def test_errors_of_eval_vol(run: Path, decoded: list[EvalRequest], capsys: pytest.CaptureFixture[str]) -> None:
    assert "positive" in mistake(capsys, "eval_vol", run, 2, "kmeans", 3, 0)
    assert "kmeans5" in mistake(capsys, "eval_vol", run, 2, "kmeans", 5, 4)
    (run / "weights.2.pkl").unlink()
    assert "no weights.N.pkl" in mistake(capsys, "eval_vol", run, 2, "kmeans", 3, 4)
    assert decoded == []


def test_dsd_analyze_decodes_centers_and_traversals(run: Path, decoded: list[EvalRequest], tmp_path: Path) -> None:
    out = tmp_path / "some where" / "out"
    out.mkdir(parents=True)
    shutil.copy(run / "analyze.2" / "umap.pkl", out)
    words = ["analyze", str(run), "2", "-o", str(out), "--pc", "2", "--ksample", "3", "--skip-umap"]
    assert opustomo.main.main([*words, "-d", "80", "--vanilla"]) == 0
    assert [request.outdir for request in decoded] == [out / "kmeans3", out / "pc1", out / "pc2"]
    assert [len(request.latents) for request in decoded] == [3, 10, 10]
    assert all(request.apix == pytest.approx(4.0) for request in decoded)
    assert (out / "kmeans3" / "labels.pkl").is_file() and not (out.parent / "defout").exists()
    decoded.clear()
    assert opustomo.main.main([*words, "--skip-vol", "--pose", str(run / "pose.2.pkl")]) == 0
    assert decoded == [] and (out.parent / "defout" / "kmeans3" / "labels.pkl").is_file()


def test_dsd_analyze_reports_missing_weights_before_work(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(run.rglob("*"))
    assert opustomo.main.main(["analyze", str(run), "2", "--ksample", "4"]) == 1
    assert "weights.2.pkl does not exist" in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before
