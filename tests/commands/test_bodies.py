"""Training with bodies through the command line, what it leaves behind, and how it goes on."""

from __future__ import annotations

import contextlib
import io
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from analysis_scripts.main import main as dsdsh
from opustomo.analysis.volumes import decoding
from opustomo.analysis.volumes.decoding import VolumeDecoder
from opustomo.checkpoint.config import read_config
from opustomo.checkpoint.weights import read_separation, read_weights
from opustomo.io.body_files import load_bodies, write_bodies
from opustomo.io.latents import read_latents
from opustomo.io.mrc import read_volume
from opustomo.io.pickles import dump_torch, load_torch
from opustomo.main import main
from opustomo.model import autoencoder, separation
from opustomo.training.trainer import Trainer
from tests.commands.conftest import SMALL
from tests.commands.quick import use_tiny_networks
from tests.dynamics.analytic import sphere, write_definition
from tests.training.tiny_run import TinyDecoder


@pytest.fixture(scope="module")
def geometry(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write mask_params.pkl of two bodies in the box of the tiny set (24³, 12 Å), with poses."""
    folder = tmp_path_factory.mktemp("bodies") / "my bodies"
    masks = [sphere(24, np.array([-3.0, 1.0, 0.0]), 3.5), sphere(24, np.array([4.0, -1.0, 0.0]), 3.5)]
    star = write_definition(folder, masks, 12.0, [2, 1])
    out = folder / "mask_params"
    words = ["-D", "24", "--Apix", "12", "--masks", str(star), "-o", str(folder / "poses.pkl"), "--outmasks", str(out)]
    assert main(["parse_multi_pose_star", str(tiny_set / "particles.star"), *words]) == 0
    return folder / "mask_params.pkl"


def train(tiny_set: Path, outdir: Path, *words: str) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(["train_tomo", str(tiny_set / "particles.star"), "-o", str(outdir), *SMALL, *words])
    return code, said.getvalue()


@pytest.fixture(scope="module")
def run(tiny_set: Path, geometry: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch with bodies and the poses made with them, and a second one after a restart."""
    outdir = tmp_path_factory.mktemp("moving") / "a run"
    words = [
        "-r",
        str(tiny_set / "mask.mrc"),
        "--masks",
        str(geometry),
        "--poses",
        str(geometry.with_name("poses.pkl")),
    ]
    assert train(tiny_set, outdir, *words, "-n", "1")[0] == 0
    code, said = train(tiny_set, outdir, *words, "-n", "2", "--load", "latest")
    assert code == 0 and "resuming at epoch 1" in (outdir / "run.log").read_text(), said
    return outdir


def test_check_proposes_a_run_with_bodies(
    tiny_set: Path, geometry: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The command repeats --masks, and the run is long enough for the composition to reach full strength."""
    words = ["check", str(tiny_set / "particles.star"), "-r", str(tiny_set / "mask.mrc"), "--no-timing"]
    assert main([*words, "--masks", str(geometry)]) == 0
    said = capsys.readouterr().out
    command = shlex.split(next(line for line in said.splitlines() if line.startswith("dsd train_tomo ")))
    assert command[command.index("--masks") + 1] == str(geometry)
    epochs, batch = (int(command[command.index(option) + 1]) for option in ("-n", "-b"))
    assert epochs * -(-12 // batch) >= 2000  # at least 12 of 16 particles train
    assert "the composition reaches full strength only after 2,000 updates" in said
    assert main([*words, "--masks", str(tmp_path / "gone.pkl")]) == 1
    assert "gone.pkl" in capsys.readouterr().err


def test_a_run_that_ends_before_the_composition_comes_in_says_so(run: Path) -> None:
    log = (run / "run.log").read_text()
    assert "with bodies, the composition is off during the first 1,000 updates" in log
    assert "this run has 4 updates; give -n 1000" in log


def test_the_checkpoint_knows_the_bodies(run: Path, geometry: Path) -> None:
    bodies = load_bodies(geometry)
    sizes, boxes, _ = read_config(run / "config.pkl")
    assert sizes.bodies == bodies and sizes.estimate_pose
    for epoch in (0, 1):
        state = read_weights(run / f"weights.{epoch}.pkl")["decoder_state_dict"]
        np.testing.assert_allclose(state["com_bodies"], bodies.array("com_bodies"), rtol=1e-5)
        np.testing.assert_allclose(state["rotate_directions"] * boxes.box, bodies.array("rotate_directions"), rtol=1e-5)
        assert state["template.affine_out.2.weight"].shape[0] == 18
    assert load_torch(run / "z.1.pkl")["multi_mu"].shape == (16, 3)


def test_training_moves_the_bodies_rows(run: Path) -> None:
    first, second = (
        read_weights(run / f"weights.{epoch}.pkl")["decoder_state_dict"]["template.affine_out.2.weight"]
        for epoch in (0, 1)
    )
    moved = (first - second).abs().amax(1) > 0
    assert bool(moved[:-6].all()) and not bool(moved[-6:].any())  # the pose of the whole particle is inferred
    assert bool(torch.isfinite(second).all())


def test_early_checkpoints_decode_what_was_trained(run: Path) -> None:
    """The composition comes in after 500 updates: until then every composition decodes to the same volume."""
    content = read_weights(run / "weights.0.pkl")
    assert float(content["composition_scale"]) == 0.0
    decoder = VolumeDecoder(run / "weights.0.pkl", run / "config.pkl", "cpu")
    first, second = decoder.decode(np.random.default_rng(0).normal(size=(2, decoder.zdim)).astype(np.float32))
    assert torch.equal(first, second) and float(first.std()) > 0
    decoder.decoder.composition_scale.fill_(1.0)
    first, second = decoder.decode(np.random.default_rng(0).normal(size=(2, decoder.zdim)).astype(np.float32))
    assert not torch.equal(first, second)


def test_a_scale_that_was_reached_is_kept(tiny_set: Path, geometry: Path, run: Path, tmp_path: Path) -> None:
    """A run from weights with a composition keeps it, although updates are counted from zero."""
    content = load_torch(run / "weights.0.pkl")
    content["composition_scale"] = torch.tensor(0.75)
    dump_torch(tmp_path / "weights.0.pkl", content)
    words = ["-r", str(tiny_set / "mask.mrc"), "--masks", str(geometry), "-n", "2"]
    code, said = train(tiny_set, tmp_path / "next", *words, "--load", str(tmp_path / "weights.0.pkl"))
    assert code == 0, said
    assert float(read_weights(tmp_path / "next" / "weights.1.pkl")["composition_scale"]) == 0.75


def test_dpc_needs_no_masks(run: Path, tmp_path: Path) -> None:
    (run / "analyze.1/kmeans2").mkdir(parents=True)
    (run / "defanalyze.1/pc1").mkdir(parents=True)
    np.savetxt(run / "analyze.1/kmeans2/centers.txt", np.zeros((2, 2)))
    np.savetxt(run / "defanalyze.1/pc1/z_pc.txt", np.linspace([-400.0, 0, 0], [400.0, 0, 0], 3))
    assert dsdsh(["eval_vol", str(run), "1", "dpc", "1", "12", "--kmeans", "2"]) == 0
    volumes = [read_volume(run / f"defanalyze.1/pc1/reference{i}.mrc")[0] for i in range(3)]
    assert np.abs(volumes[2] - volumes[0]).max() > 1e-3 * np.abs(volumes[0]).max()


APART = "--zdim 1 --zaffinedim 1 -n 1".split()
PER_COLUMN = 4
"""So small that 16 particles are enough to find what the latents share."""


class TinyMovingDecoder(TinyDecoder):
    """With a head of two layers, as decoding expects it."""

    def __init__(self, zdim: int, templateres: int, zaffinedim: int = 0, poses: int = 0) -> None:
        super().__init__(zdim, templateres, zaffinedim, poses)
        head = nn.Sequential(nn.Linear(zaffinedim, 8), nn.Tanh(), nn.Linear(8, 6 * poses))
        self.template.affine_out = head  # type: ignore[assignment]


@pytest.fixture
def ways(tiny_set: Path, geometry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The same short training with separation, without, and as the original does; small networks."""
    use_tiny_networks(monkeypatch)
    monkeypatch.setattr(separation, "PER_COLUMN", PER_COLUMN)
    for module in (autoencoder, decoding):
        monkeypatch.setattr(module, "Decoder", TinyMovingDecoder)
    words = ["-r", str(tiny_set / "mask.mrc"), "--masks", str(geometry), *APART]
    runs = {name: tmp_path / f"run {name}" for name in ("apart", "plain", "original")}
    for name, more in (("apart", []), ("plain", ["--no-separate"]), ("original", ["--preset", "original"])):
        code, said = train(tiny_set, runs[name], *words, *more)
        assert code == 0, said
    return runs


def test_training_separates_composition_and_conformation(ways: dict[str, Path]) -> None:
    """Files contain mu' and f; decoders and volumes are those of a run without separation."""
    content = {name: read_weights(run / "weights.0.pkl") for name, run in ways.items()}
    assert "separation" in content["apart"]
    assert "separation" not in content["plain"] and "separation" not in content["original"]
    (apart, conformation), (mu, same) = (read_latents(ways[name] / "z.0.pkl") for name in ("apart", "plain"))
    assert conformation is not None and same is not None
    np.testing.assert_array_equal(conformation, same)
    separation = read_separation(content["apart"], ways["apart"] / "weights.0.pkl", 1, 1)
    assert separation is not None
    assert np.abs(apart - mu).max() > 100 * np.finfo(np.float32).eps * np.abs(mu).max()
    np.testing.assert_allclose(separation.together(apart, conformation), mu, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(apart.mean(0), mu.mean(0), rtol=1e-5, atol=1e-6)
    volumes = [
        VolumeDecoder(ways[name] / "weights.0.pkl", ways[name] / "config.pkl", "cpu").volumes(latents, 12.0)
        for name, latents in (("apart", np.c_[apart, conformation]), ("plain", np.c_[mu, conformation]))
    ]
    torch.testing.assert_close(volumes[0], volumes[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("named", [False, True])
def test_weights_of_a_separated_epoch_give_back_what_was_encoded(
    named: bool,
    ways: dict[str, Path],
    tiny_set: Path,
    geometry: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Latents are joined by the separation that divided them, whichever weights are loaded."""
    memories: list[np.ndarray] = []

    def noted(trainer: Trainer, stop: object) -> bool:
        memories.append(trainer.engine.latents.values.cpu().numpy().copy())
        return True

    monkeypatch.setattr(Trainer, "fit", noted)
    mu, conformation = read_latents(ways["plain"] / "z.0.pkl")
    assert conformation is not None
    words = ["-r", str(tiny_set / "mask.mrc"), "--masks", str(geometry), *APART]
    words += ["--load", str(ways["plain" if named else "apart"] / "weights.0.pkl")]
    words += ["--latents", str(ways["apart"] / "z.0.pkl")] if named else []
    (ways["apart"] / "state.pkl").unlink()
    (ways["plain"] / "state.pkl").unlink()
    code, said = train(tiny_set, tmp_path / "again", *words)
    assert code == 0, said
    np.testing.assert_allclose(memories[0], np.c_[mu, conformation], rtol=1e-6, atol=1e-7)


def test_errors(tiny_set: Path, geometry: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pkl"
    bodies = load_bodies(geometry)
    write_bodies(other, bodies, 48, 12.0)
    for words, message in (
        (["--masks", str(other)], "made for a box of 48 voxels, but the subtomograms have 24"),
        (["--masks", str(tmp_path / "none.pkl")], "does not exist"),
        (["--masks", str(geometry), "--zaffinedim", "0"], "zaffinedim must be at least 1"),
        (["--masks", str(geometry.with_name("mask0.mrc"))], "mask0.mrc"),
    ):
        code, said = train(tiny_set, tmp_path / "out", *words)
        assert code == 1 and message in said and said.count("\n") == 1, said
    assert not (tmp_path / "out").exists()
