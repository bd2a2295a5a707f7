"""config.pkl and weights.N.pkl: round trips, and files of OPUS-TOMO."""

from __future__ import annotations

import pickle
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from opustomo.checkpoint.config import dataset_settings, read_config, run_settings, write_config
from opustomo.checkpoint.epoch_files import write_epoch
from opustomo.checkpoint.weights import read_separation, read_weights, separation_state, write_weights
from opustomo.errors import UserError
from opustomo.geometry.rigid_bodies import BodyGeometry
from opustomo.io.latents import read_latents
from opustomo.io.pickles import SEAL_LENGTH, load_pickles
from opustomo.io.poses import Poses, read_poses
from opustomo.model import networks
from opustomo.model.autoencoder import Autoencoder
from opustomo.model.config import ModelConfig, PhysicsConfig
from opustomo.model.separation import Separation, feature_count
from opustomo.physics.boxes import Boxes

BOXES = Boxes(24, 6.0, 20, 16)


def make_model(mode: str = "grad", seed: int = 0) -> Autoencoder:
    torch.manual_seed(seed)
    mask = torch.rand(16, 16, 16)
    sizes = ModelConfig(3, 2, 32, 8, encode_mode=mode, estimate_pose=True)
    return Autoencoder(sizes, PhysicsConfig(ctf_alpha=0.5, ctf_normalized=True), BOXES, mask)


def settings_of(model: Autoencoder, dataset: dict[str, Any]) -> dict[str, Any]:
    return run_settings(model.config, model.physics, model.boxes, dataset, 7)


@pytest.fixture(scope="module")
def model() -> Autoencoder:
    return make_model()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a space in its name."""
    path = tmp_path / "a run"
    path.mkdir()
    return path


def test_config_round_trip(model: Autoencoder, folder: Path) -> None:
    data = dataset_settings({"star": Path("/data/set one/particles.star"), "relion31": True}, (0.0, 2.5))
    write_config(folder / "config.pkl", settings_of(model, data), ("dsd", "train_tomo", "a b.star"))
    sizes, boxes, settings = read_config(folder / "config.pkl")
    assert sizes == model.config
    assert boxes == BOXES
    assert settings["dataset_args"]["star"] == "/data/set one/particles.star"
    assert settings["dataset_args"]["norm"] == [0.0, np.float32(2.5)]
    assert PhysicsConfig(**settings["opustomo"]["physics"]) == model.physics
    assert settings["seed"] == 7


def test_config_has_the_originals_entries(model: Autoencoder, folder: Path) -> None:
    """Two pickles in a row and a checksum; a plain unpickler, as the original uses, reads them."""
    write_config(folder / "config.pkl", settings_of(model, dataset_settings({}, (0.0, 2.5))), ("dsd", "train_tomo"))
    with (folder / "config.pkl").open("rb") as file:
        settings, history = pickle.load(file), pickle.load(file)
        assert len(file.read()) == SEAL_LENGTH
    assert settings["model_args"] == {
        "zdim": 3, "z_affine_dim": 2, "encode_mode": "grad", "templateres": 32, "encoderres": 8, "down_vol_size": 16,
        "Apix": pytest.approx(7.2),
    }  # fmt: skip
    assert settings["lattice_args"]["D"] == 25
    assert settings["dataset_args"]["downfrac"] == pytest.approx(20 / 24)
    assert isinstance(settings["dataset_args"]["norm"][1], np.generic)
    assert isinstance(history["time"], datetime)
    assert history["cmd"] == ["dsd", "train_tomo"]
    assert history["version"]


def original_config(**changes: Any) -> dict[str, Any]:
    """Content of a checkpoint of OPUS-TOMO for a run at box 160 and half its resolution."""
    sizes = {
        "zdim": 12, "z_affine_dim": 4, "encode_mode": "grad", "templateres": 160, "encoderres": 12,
        "down_vol_size": 68, "Apix": 6.8,
    }  # fmt: skip
    return {
        "dataset_args": {"particles": "p.star", "norm": [0, np.float32(3.2)], "downfrac": 0.5},
        "lattice_args": {"D": 161},
        "model_args": sizes | changes,
        "seed": 1,
    }


def write_pickles(path: Path, *objects: Any) -> None:
    with path.open("wb") as file:
        for one in objects:
            pickle.dump(one, file)


def test_reads_the_originals_config(folder: Path) -> None:
    history = {"time": datetime(2024, 5, 1), "cmd": ["dsd"], "version": "0.3"}
    write_pickles(folder / "config.pkl", original_config(), history)
    sizes, boxes, settings = read_config(folder / "config.pkl")
    assert sizes == ModelConfig(12, 4, 160, 12)
    assert (boxes.box, boxes.render, boxes.crop) == (160, 80, 68)
    assert boxes.apix == pytest.approx(3.4)
    assert boxes.render_apix == pytest.approx(6.8)
    assert settings["dataset_args"]["norm"][1] == np.float32(3.2)


def test_the_originals_grid_is_one_more_or_less_than_the_box(folder: Path) -> None:
    """config.pkl contains 159 or 161 for subtomograms of 160 voxels; the subtomograms decide."""
    config = original_config()
    for grid in (159, 161):
        config["lattice_args"]["D"] = grid
        write_pickles(folder / "config.pkl", config)
        _, boxes, _ = read_config(folder / "config.pkl", 160)
        assert (boxes.box, boxes.render, boxes.crop) == (160, 80, 68)
        assert boxes.apix == pytest.approx(3.4)
    assert read_config(folder / "config.pkl", 128)[1].box == 160  # of another set: as without it
    assert read_config(folder / "config.pkl")[1].box == 160


def test_reads_a_config_without_the_later_entries(folder: Path) -> None:
    """Older runs of OPUS-TOMO have no conformation latent."""
    config = original_config(z_affine_dim=None, encode_mode=None)
    del config["model_args"]["encoderres"]
    config["dataset_args"]["downfrac"] = None
    config["model_args"]["Apix"] = 3.4
    config["model_args"]["down_vol_size"] = 136
    write_pickles(folder / "config.pkl", config)
    sizes, boxes, _ = read_config(folder / "config.pkl")
    assert (sizes.zaffinedim, sizes.encoderres, sizes.encode_mode) == (0, 12, "grad")
    assert (boxes.render, boxes.crop, boxes.apix) == (160, 136, 3.4)


@pytest.mark.parametrize(
    "broken",
    [
        {"something": "else"},
        ["a", "list"],
        original_config(zdim=0),
        original_config(down_vol_size=None),
        original_config(templateres="many"),
        {k: v for k, v in original_config().items() if k != "lattice_args"},
        {"opustomo": {"model": {"zdim": 2, "unknown": 3}, "boxes": {}}},
    ],
)
def test_other_pickles_are_refused_in_one_sentence(broken: Any, folder: Path) -> None:
    write_pickles(folder / "config.pkl", broken)
    with pytest.raises(UserError, match=r"config\.pkl"):
        read_config(folder / "config.pkl")


def test_missing_config_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="nothing here"):
        read_config(folder / "nothing here.pkl")


@pytest.mark.parametrize("mode", ["grad", "fixed"])
def test_weights_round_trip(mode: str, folder: Path) -> None:
    model, other = make_model(mode), make_model(mode, seed=1)
    write_weights(folder / "weights.3.pkl", model, 3)
    content = read_weights(folder / "weights.3.pkl")
    assert content["epoch"] == 3
    other.decoder.load_state_dict(content["decoder_state_dict"])
    z = torch.randn(1, 3)
    with torch.no_grad():
        assert torch.equal(other.decoder(z), model.decoder(z))
        assert torch.equal(other.decoder.template.pose_rows(z[:, :2]), model.decoder.template.pose_rows(z[:, :2]))
    assert torch.allclose(content["mask"].float(), model.mask, atol=1e-3)
    if model.encoder is None:
        assert torch.equal(content["fixed_latent"], model.fixed_latent)
        assert "encoder_state_dict" not in content
        return
    assert other.encoder is not None
    other.encoder.load_state_dict(content["encoder_state_dict"])
    volumes = torch.randn(1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(other.encoder(volumes)[0], model.encoder(volumes)[0])


def test_bodies_are_in_config_and_weights(folder: Path) -> None:
    """Evaluation requires no --masks, because both files contain the bodies."""
    eyes = np.stack([np.eye(3)] * 2)
    centers = np.array([[-6.0, 0.0, 1.0], [5.0, 2.0, 0.0]])
    geometry = BodyGeometry(centers, centers[::-1], centers - centers[::-1], eyes, np.full((2, 3), 2.0), eyes, (1, 0))
    sizes = ModelConfig(3, 2, 32, 8, estimate_pose=True, bodies=geometry)
    model = Autoencoder(sizes, PhysicsConfig(), BOXES, torch.ones(16, 16, 16))
    write_config(folder / "config.pkl", settings_of(model, dataset_settings({}, (0.0, 2.5))), ("dsd", "train_tomo"))
    assert read_config(folder / "config.pkl")[0] == sizes
    write_weights(folder / "weights.0.pkl", model, 0)
    state = read_weights(folder / "weights.0.pkl")["decoder_state_dict"]
    assert tuple(state["template.affine_out.2.weight"].shape) == (18, networks.HIDDEN)
    np.testing.assert_allclose(state["com_bodies"], centers, rtol=1e-6)
    np.testing.assert_allclose(state["rotate_directions"], (centers - centers[::-1]) / 24, rtol=1e-6)
    np.testing.assert_allclose(state["radius"], 2.0 / 24, rtol=1e-6)
    assert state["orient_bodies"].shape == state["principal_axes"].shape == (2, 3, 3)


def make_separation(zdim: int = 3, zaffinedim: int = 2) -> Separation:
    """Mean 1 and spread 2 of the conformation; any slope."""
    rng = np.random.default_rng(8)
    count = feature_count(zaffinedim)
    one = np.ones(zaffinedim)
    return Separation(one, 2.0 * one, rng.normal(size=count), rng.normal(size=(count, zdim)))


def test_separation_round_trip(model: Autoencoder, folder: Path) -> None:
    """z.N.pkl contains compositions without the part that the weights predict from conformations."""
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(6, 5)).astype(np.float32)
    separation, path = make_separation(), folder / "weights.4.pkl"
    write_epoch(folder, 4, model, latents, Poses(np.zeros((6, 3)), np.zeros((6, 3))), separation)
    found = read_separation(read_weights(path), path, 3, 2)
    assert found is not None
    for name in ("mean", "std", "centre", "slope"):
        assert np.array_equal(getattr(found, name), getattr(separation, name)), name
    mu, multi = read_latents(folder / "z.4.pkl")
    assert multi is not None and np.array_equal(multi, latents[:, 3:])
    assert np.abs(mu - latents[:, :3]).max() > 0.1
    np.testing.assert_allclose(mu, latents[:, :3] - separation.shared(latents[:, 3:]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.together(mu, multi), latents[:, :3], atol=1e-5)


def test_weights_without_separation_have_none(model: Autoencoder, folder: Path) -> None:
    write_weights(folder / "weights.0.pkl", model, 0)
    content = read_weights(folder / "weights.0.pkl")
    assert "separation" not in content
    assert read_separation(content, folder / "weights.0.pkl", 3, 2) is None


@pytest.mark.parametrize(
    "broken",
    [
        [1, 2],
        "text",
        torch.zeros(3),
        {},
        {"slope": torch.zeros(4, 3)},
        {"slope": "steep"},
        {"std": torch.zeros(2)},
        {"mean": torch.tensor([0.0, torch.nan])},
        {"mean": torch.zeros(())},
        {"slope": torch.zeros(5)},
    ],
)
def test_a_damaged_separation_is_refused_in_one_sentence(broken: Any, folder: Path) -> None:
    whole = separation_state(make_separation())
    content = {"separation": whole | broken if isinstance(broken, dict) and broken else broken}
    with pytest.raises(UserError, match=r"The separation .*weights\.1\.pkl is damaged .*\. Use another epoch\.$"):
        read_separation(content, folder / "weights.1.pkl", 3, 2)


def test_a_separation_of_other_latents_is_refused(folder: Path) -> None:
    content = {"separation": separation_state(make_separation(4, 2))}
    with pytest.raises(UserError, match=r"dimensions are \(4, 2\), but those of the latents are \(3, 2\)"):
        read_separation(content, folder / "weights.1.pkl", 3, 2)


def test_weights_are_in_pytorchs_layout(original_widths: None, folder: Path) -> None:
    """Files have the shapes of OPUS-TOMO, independent of the layout inside the layers."""
    write_weights(folder / "weights.0.pkl", make_model(), 0)
    state = read_weights(folder / "weights.0.pkl")["decoder_state_dict"]
    assert {name for name in state if name.endswith("weight")} == {
        f"template.{layer}.weight"
        for layer in (
            "template1.0", "template1.2", "template2.0", "template2.2", "template3.0", "template3.2", "template4.0",
            "template4.2", "template4.4", "conv_out", "affine_out.0", "affine_out.2",
        )
    }  # fmt: skip
    assert tuple(state["template.template3.0.weight"].shape) == (512, 256, 4, 4, 4)
    assert tuple(state["template.conv_out.weight"].shape) == (16, 1, 4, 4, 4)


def test_weights_hold_no_more_than_the_networks(original_widths: None, folder: Path) -> None:
    model = make_model()
    write_weights(folder / "weights.0.pkl", model, 0)
    parameters = sum(value.numel() for value in model.state_dict().values()) * 4
    assert (folder / "weights.0.pkl").stat().st_size < 1.01 * parameters + 16**3 * 2


@pytest.mark.parametrize("content", [{"epoch": 1}, [1, 2]])
def test_files_without_decoder_are_refused(content: Any, folder: Path) -> None:
    torch.save(content, folder / "weights.0.pkl")
    with pytest.raises(UserError, match=r"weights\.0\.pkl contains no decoder"):
        read_weights(folder / "weights.0.pkl")


def test_epoch_files(model: Autoencoder, folder: Path) -> None:
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(6, 5)).astype(np.float32)
    poses = Poses(rng.uniform(0, 90, (6, 3)), rng.uniform(-0.1, 0.1, (6, 3)))
    write_epoch(folder, 4, model, latents, poses)
    assert {path.name for path in folder.iterdir()} == {"weights.4.pkl", "z.4.pkl", "pose.4.pkl"}
    mu, multi = read_latents(folder / "z.4.pkl")
    assert np.array_equal(mu, latents[:, :3])
    assert multi is not None and np.array_equal(multi, latents[:, 3:])
    assert np.allclose(read_poses(folder / "pose.4.pkl").eulers_deg, poses.eulers_deg)
    assert len(load_pickles(folder / "pose.4.pkl")) == 1
