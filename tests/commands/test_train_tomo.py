"""`dsd train_tomo` on a tiny set: files, log, options and reproducibility."""

from __future__ import annotations

import datetime
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mrcfile
import numpy as np
import pytest
import torch

from opustomo.checkpoint.config import read_config
from opustomo.checkpoint.weights import read_weights
from opustomo.data.batches import read_split
from opustomo.io.latents import read_coordinates, read_latents
from opustomo.io.log_files import read_training_log
from opustomo.io.mrc import read_volume
from opustomo.io.pickles import SEAL_LENGTH
from opustomo.io.poses import read_poses
from opustomo.main import main
from opustomo.training import run_training
from opustomo.training.monitors.convergence_state import Statement
from tests.commands.conftest import SMALL

Train = Callable[..., str]
EPOCH = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d     # =====> Epoch: \d+ Average (training|validation) gen_loss = -?\d+\.\d+, "
    r"SNR2 = \d+\.\d+, total loss = -?\d+\.\d+; Finished in \d+:\d\d:\d\d\.\d"
)
ORIGINAL_KEYS = """
template.template1.0 template.template1.2 template.template2.0 template.template2.2 template.template3.0
template.template3.2 template.template4.0 template.template4.2 template.template4.4 template.conv_out
template.affine_out.0 template.affine_out.2
""".split()
ENCODER_KEYS = "down1.0 down1.2 down1.4 down2.0 down2.2 down2.4 down3.0 mu logstd".split()


def with_parts(names: list[str]) -> set[str]:
    return {f"{name}.{part}" for name in names for part in ("weight", "bias")}


def results_in(folder: Path) -> set[str]:
    """Names of all files but the reports (csv, png, json), which are not the subject here."""
    return {path.name for path in folder.iterdir() if path.suffix not in (".csv", ".png", ".json")}


def settings_of_train(monkeypatch: pytest.MonkeyPatch) -> list:
    """Replace the training by a function that appends its settings to the list that is returned."""
    seen: list = []
    monkeypatch.setattr(run_training, "train", lambda run, *others: seen.extend([*vars(run).values(), *others]))
    return seen


def test_the_files_of_a_run_are_there_and_no_others(trained_run: Path) -> None:
    epochs = {f"{kind}.{n}.pkl" for kind in ("weights", "z", "pose") for n in range(2)}
    epochs |= {f"coordinates.{n}.npy" for n in range(2)}
    assert results_in(trained_run) == epochs | {"config.pkl", "run.log", "split.pkl", "state.pkl", "tmp.mrc"}


def test_config_is_two_pickles_of_plain_values(trained_run: Path, tiny_set: Path) -> None:
    with (trained_run / "config.pkl").open("rb") as handle:
        settings, run = pickle.load(handle), pickle.load(handle)
        assert len(handle.read()) == SEAL_LENGTH
    assert set(settings) >= {"dataset_args", "lattice_args", "model_args", "seed"}
    assert settings["seed"] == 5 and settings["lattice_args"]["D"] == 25
    sizes = settings["model_args"]
    expected = {"zdim": 2, "z_affine_dim": 3, "encode_mode": "grad", "templateres": 32, "encoderres": 8}
    assert {key: sizes[key] for key in expected} == expected
    assert sizes["Apix"] == pytest.approx(12.0) and sizes["down_vol_size"] % 2 == 0
    shift, scale = settings["dataset_args"]["norm"]
    assert shift == 0 and isinstance(scale, np.floating) and scale > 0
    assert settings["dataset_args"]["downfrac"] == 1.0
    assert isinstance(run["time"], datetime.datetime) and isinstance(run["cmd"], list) and run["version"]
    model, boxes, _ = read_config(trained_run / "config.pkl")
    assert (model.estimate_pose, boxes.box, boxes.crop) == (True, 24, sizes["down_vol_size"])


def test_the_command_line_is_kept(trained_run: Path) -> None:
    with (trained_run / "config.pkl").open("rb") as handle:
        pickle.load(handle)
        assert "--lazy-single" in pickle.load(handle)["cmd"]
    assert "--lazy-single" in (trained_run / "run.log").read_text().splitlines()[0]


def test_networks_are_those_of_the_original(original_widths: None, tiny_set: Path, tmp_path: Path) -> None:
    """The weights of a run have its keys and widths, and eval_vol decodes them."""
    (tmp_path / "few.pkl").write_bytes(pickle.dumps(np.arange(4)))
    words = [*SMALL, "-r", str(tiny_set / "mask.mrc"), "--ind", str(tmp_path / "few.pkl"), "--estpose"]
    words += ["-n", "1", "-b", "4", "--valfrac", "0"]
    assert main(["train_tomo", str(tiny_set / "particles.star"), "-o", str(tmp_path / "run"), *words]) == 0
    content = torch.load(tmp_path / "run" / "weights.0.pkl", weights_only=True)
    assert content["epoch"] == 0
    assert set(content["decoder_state_dict"]) == with_parts(ORIGINAL_KEYS)
    assert set(content["encoder_state_dict"]) == with_parts(ENCODER_KEYS)
    assert tuple(content["decoder_state_dict"]["template.template1.0.weight"].shape) == (512, 2)
    assert tuple(content["decoder_state_dict"]["template.affine_out.2.weight"].shape) == (6, 512)
    assert tuple(content["encoder_state_dict"]["mu.weight"].shape) == (5, 512)
    volume = tmp_path / "volume"
    assert main(["eval_vol", "--load", str(tmp_path / "run" / "weights.0.pkl"), "-o", str(volume), "-z", "0", "0"]) == 0
    assert read_volume(volume / "reference0.mrc")[0].std() > 0
    shutil.rmtree(tmp_path / "run")


def test_latents_poses_and_split_are_of_all_particles(trained_run: Path, tiny_set: Path) -> None:
    for epoch in range(2):
        raw = torch.load(trained_run / f"z.{epoch}.pkl", weights_only=True)
        assert set(raw) == {"mu", "nn", "multi_mu"} and raw["nn"] is None
        assert raw["mu"].shape == (16, 2) and raw["multi_mu"].shape == (16, 3)
        assert raw["mu"].dtype == torch.float32
        coordinates = read_coordinates(trained_run / f"coordinates.{epoch}.npy", 16)
        assert coordinates is not None and coordinates.shape == (16, 2) and np.isfinite(coordinates).all()
        rot, trans, euler = pickle.loads((trained_run / f"pose.{epoch}.pkl").read_bytes())
        assert (rot.dtype, trans.dtype, euler.dtype) == (np.float32, np.float64, np.float64)
        assert (rot.shape, trans.shape, euler.shape) == ((16, 3, 3), (16, 3), (16, 3))
        np.testing.assert_allclose(rot, read_poses(trained_run / f"pose.{epoch}.pkl").rotations, atol=1e-6)
    start = np.load(tiny_set / "truth.npz")["eulers_used"]
    moved = np.abs(read_poses(trained_run / "pose.1.pkl").eulers_deg - start).max(1)
    assert (moved > 1e-4).all()  # --estpose corrects the held-out particles too
    assert sorted(read_split(trained_run / "split.pkl", 16)) == list(range(16))


def test_the_log_reports_each_epoch_and_the_loss_falls(trained_run: Path) -> None:
    lines = (trained_run / "run.log").read_text().splitlines()
    epochs = [line for line in lines if "=====>" in line]
    assert len(epochs) == 4 and all(EPOCH.fullmatch(line) for line in epochs)
    curves = read_training_log(trained_run / "run.log")
    for part in ("training", "validation"):
        np.testing.assert_array_equal(curves[part].epochs, [0, 1])
        assert np.isfinite(curves[part].total_loss).all()
    assert curves["training"].gen_loss[1] < curves["training"].gen_loss[0]
    steps = [line for line in lines if re.search(r"\[epoch \d+, \d+ particles\]", line)]
    assert len(steps) == 2  # 24 visits, a line every 10


def test_options_without_effect_and_rounding_are_reported_once(trained_run: Path) -> None:
    text = (trained_run / "run.log").read_text()
    for note in ("--group has no effect", "--lazy-single has no effect"):
        assert text.count(note) == 1
    assert text.count("has no effect") == 2
    assert text.count("--templateres 30 is rounded up to 32, a multiple of 16") == 1


def test_the_current_template_is_a_valid_volume(trained_run: Path) -> None:
    with mrcfile.open(trained_run / "tmp.mrc") as handle:
        assert handle.data.shape == (32, 32, 32) and np.isfinite(handle.data).all() and handle.data.std() > 0
        _, boxes, _ = read_config(trained_run / "config.pkl")
        # the template spans the crop from the center of its first voxel to that of its last
        assert float(handle.voxel_size.x) == pytest.approx((boxes.crop - 1) * 12.0 / 31, rel=1e-4)
    assert mrcfile.validate(trained_run / "tmp.mrc")


def test_the_same_seed_gives_the_same_numbers(trained_run: Path, tiny_set: Path, train: Train, tmp_path: Path) -> None:
    train("again", "-r", str(tiny_set / "mask.mrc"), "--estpose", "-n", "1")
    again = tmp_path / "again"
    losses = [re.sub(r"^.{19}|; Finished.*", "", line) for line in _epoch_lines(trained_run)[:2]]
    assert losses == [re.sub(r"^.{19}|; Finished.*", "", line) for line in _epoch_lines(again)]
    for one, two in zip(read_latents(trained_run / "z.0.pkl"), read_latents(again / "z.0.pkl"), strict=True):
        assert one is not None and two is not None
        np.testing.assert_array_equal(one, two)
    first, second = read_poses(trained_run / "pose.0.pkl"), read_poses(again / "pose.0.pkl")
    np.testing.assert_array_equal(first.eulers_deg, second.eulers_deg)
    np.testing.assert_array_equal(first.origins, second.origins)
    one, two = (read_weights(folder / "weights.0.pkl")["decoder_state_dict"] for folder in (trained_run, again))
    assert all(torch.equal(one[key], two[key]) for key in one)


def _epoch_lines(folder: Path) -> list[str]:
    return [line for line in (folder / "run.log").read_text().splitlines() if "=====>" in line]


def test_one_volume_for_all_without_mask_and_ctf(homogeneous_run: Path, tmp_path: Path, tiny_set: Path) -> None:
    epoch = {"weights.0.pkl", "z.0.pkl", "pose.0.pkl", "state.pkl"}
    assert results_in(homogeneous_run) == epoch | {"config.pkl", "run.log", "split.pkl", "now.mrc"}
    np.testing.assert_array_equal(read_split(homogeneous_run / "split.pkl", 16), np.arange(16)[::-1])
    model, boxes, _ = read_config(homogeneous_run / "config.pkl")
    assert (model.encode_mode, boxes.crop) == ("fixed", 20)  # 0.85 of the box
    weights = read_weights(homogeneous_run / "weights.0.pkl")
    assert "encoder_state_dict" not in weights and weights["fixed_latent"].shape == (5,)
    log = (homogeneous_run / "run.log").read_text()
    assert "no CTF is applied (--no-ctf); only the missing wedge of tilts up to ±60° is modeled" in log
    assert "Average validation" not in log
    before = np.load(tiny_set / "truth.npz")["eulers_used"]
    np.testing.assert_allclose(read_poses(homogeneous_run / "pose.0.pkl").eulers_deg, before, atol=1e-5)
    words = ["--load", str(homogeneous_run / "weights.0.pkl"), "-o", str(tmp_path / "v"), "-z", "0", "0"]
    assert main(["eval_vol", *words]) == 0


def test_all_particles_of_a_homogeneous_run_have_the_shared_latent(homogeneous_run: Path) -> None:
    shared = read_weights(homogeneous_run / "weights.0.pkl")["fixed_latent"].numpy()
    mu, multi = read_latents(homogeneous_run / "z.0.pkl")
    assert multi is None  # without --estpose no decoder reads conformations
    np.testing.assert_allclose(mu, np.tile(shared[:2], (16, 1)), atol=1e-6)


def test_warp_tables_smaller_box_and_inert_option_before_the_table(
    tiny_set: Path, tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--warp --downfrac 0.75 --angpix 12 --relion31 --float16 --tilt-limit 50 --accum-step 2 -n 1 --beta 0.5"
    train("warp", *words.split(), "-r", str(tiny_set / "mask.mrc"), "--norm", "0", "0.02", "--zaffinedim", "0")
    _, boxes, settings = read_config(tmp_path / "warp" / "config.pkl")
    assert (boxes.box, boxes.render, boxes.render_apix) == (24, 18, pytest.approx(16.0))
    assert settings["dataset_args"]["norm"][1] == pytest.approx(0.02)
    assert read_latents(tmp_path / "warp" / "z.0.pkl")[1] is None
    assert "has no effect" not in (tmp_path / "warp" / "run.log").read_text()
    # flags of the original take no value: the table may follow them
    capsys.readouterr()
    flags = "--uninvert-data --no-window --preprocessed --do-pose-sgd --pose-only --use-real --optimize-b --lazy-single"
    for flag in flags.split():
        assert main(["train_tomo", flag, str(tmp_path / "absent.star"), "-o", str(tmp_path / "none")]) == 1
        assert "absent.star" in capsys.readouterr().err


INERT = (
    "--ctf x --group 1 --group-stat x --uninvert-data --no-window --window-r 0.8 --lazy-single --preprocessed "
    "--max-threads 4 --readctf -e 3 --do-pose-sgd --pretrain 1 --emb-type quat --pose-lr 1e-4 --pose-enc --pose-only "
    "--enc-layers 3 --enc-dim 256 --enc-mask 5 --use-real --optimize-b --dec-layers 3 --dec-dim 256 --pe-type vanilla "
    "--template-type conv --warp-type blurmix --num-struct 1 --deform-size 64 --pe-dim 4 --domain fourier "
    "--activation relu"
).split()


def test_every_inert_option_is_accepted_and_named(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opustomo.training.config import RunConfig

    seen = settings_of_train(monkeypatch)
    assert main(["train_tomo", str(tiny_set / "particles.star"), *INERT, "-o", str(tmp_path / "o")]) == 0
    (run,) = (part for part in seen if isinstance(part, RunConfig))
    named = [note.removesuffix(" has no effect") for note in run.notes]
    assert sorted(named) == sorted({word if word.startswith("--") else "-e" for word in INERT if word[0] == "-"})


def test_defaults_are_the_originals(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from opustomo.data import particles

    seen = settings_of_train(monkeypatch)
    assert main(["train_tomo", str(tiny_set / "particles.star"), "-o", str(tmp_path / "o")]) == 0
    data, model, physics, downfrac, config, run = seen[:6]
    assert (model.zdim, model.zaffinedim, model.templateres, model.encoderres) == (12, 4, 160, 12)
    assert (physics.ctf_alpha, physics.ctf_beta, physics.bfactor_A2, physics.ctf_normalized) == (0.0, 1.0, 4.0, False)
    assert (config.epochs, config.batch_size, config.lr, config.accum_step) == (20, 20, 4e-5, 1)
    assert (config.beta, config.beta_control, config.lamb, config.valfrac) == ("cos", 0.5, 0.0, 0.2)
    assert (run.checkpoint, run.log_interval, run.workers, run.tmp_prefix) == (1, 1000, 16, "tmp")
    assert (data.tilt_range_deg, data.tilt_step_deg, data.tilt_limit_deg) == (None, None, None)  # not asked for:
    assert (particles.DEFAULT_RANGE_DEG, particles.DEFAULT_STEP_DEG) == (50.0, 2.0)
    assert (downfrac, data.warp_bfactor_scale, data.norm) == (1.0, 0.25, None)
    assert run.notes == ()


EVERY = """
-r m.mrc --zdim 7 --zaffinedim 3 --poses p.pkl --angpix 3.1 --load w.pkl --latents z.pkl --split s.pkl --valfrac 0.3
--checkpoint 2 --log-interval 50 -v --seed 9 --ind i.pkl --datadir d --relion31 --warp --float16 --tilt-step 3
--tilt-range 60 --tilt-limit 55 --ctfalpha 0.5 --ctfbeta 0.9 --normalizectf -n 4 -b 6 --wd 0.01 --lr 1e-4
--accum-step 3 --lamb 0.7 --downfrac 0.5 --templateres 64 --encoderres 10 --bfactor 3 --beta a --beta-control 0.8
--norm 1 2 --tmp-prefix t --amp --multigpu --num-gpus 1 --num-workers 5 --write-ctf --plot --estpose
--encode-mode fixed --warp-bfactor-scale 0.5 --keep 3 --device cpu
--no-separate
""".split()


def test_every_option_arrives(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All options of OPUS-TOMO with permitted values."""
    from opustomo.data.config import DataConfig
    from opustomo.model.config import ModelConfig, PhysicsConfig
    from opustomo.training.config import RunConfig, TrainingConfig

    seen = settings_of_train(monkeypatch)
    star = tiny_set / "particles.star"
    assert main(["train_tomo", str(star), *EVERY, "-o", str(tmp_path / "o")]) == 0
    data, model, physics, downfrac, config, run = seen[:6]
    paths = {"mask": "m.mrc", "poses": "p.pkl", "ind": "i.pkl", "datadir": "d"}
    assert data == DataConfig(
        star, apix=3.1, warp=True, warp_bfactor_scale=0.5, tilt_step_deg=3, tilt_range_deg=60, tilt_limit_deg=55,
        norm=(1.0, 2.0), **{name: Path(value) for name, value in paths.items()},
    )  # fmt: skip
    assert model == ModelConfig(7, 3, 64, 10, "fixed", True)
    assert physics == PhysicsConfig(ctf_alpha=0.5, ctf_beta=0.9, ctf_normalized=True, bfactor_A2=3.0)
    assert downfrac == 0.5
    expected_training = TrainingConfig(
        4,
        6,
        3,
        1e-4,
        0.01,
        "a",
        0.8,
        0.7,
        separate=False,
        valfrac=0.3,
        split=Path("s.pkl"),
        seed=9,
    )
    assert config == expected_training
    expected = RunConfig(
        tmp_path / "o", "cpu", True, checkpoint=2, keep=3, log_interval=50, workers=5, tmp_prefix="t", plot=True,
        write_ctf=True, load="w.pkl", latents=Path("z.pkl"), command=run.command, notes=run.notes,
        options=run.options,
    )  # fmt: skip
    assert run == expected
    assert "zdim = 7" in run.notes and "tilt_limit = 55.0" in run.notes  # -v


@pytest.mark.parametrize(("words", "original"), [([], False), (["--preset", "original"], True)])
def test_presets(
    words: list[str], original: bool, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opustomo.model.config import ORIGINAL_PHYSICS, PhysicsConfig

    seen = settings_of_train(monkeypatch)
    assert main(["train_tomo", str(tiny_set / "particles.star"), "-o", str(tmp_path / "o"), *words]) == 0
    physics, config = seen[2], seen[4]
    assert physics == PhysicsConfig(**(ORIGINAL_PHYSICS if original else {}))
    assert physics.original is original and config.separate is not original
    assert physics.divide is (False if original else None)


@pytest.mark.parametrize("option", ["--anchor", "--refine", "--settle"])
def test_options_of_earlier_versions_are_accepted_and_said(
    option: str, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = settings_of_train(monkeypatch)
    words = [str(tiny_set / "particles.star"), "-o", str(tmp_path / "o"), option, "0.5"]
    assert main(["train_tomo", *words]) == 0
    assert f"{option} has no effect" in seen[5].notes


@pytest.mark.parametrize("plain", [True, False])
def test_the_data_tell_whether_they_are_divided(
    plain: bool, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --normalizectf, only back-projections are divided; config.pkl records it."""
    from opustomo.quality.evidence.trained_model import physics_of_run
    from opustomo.simulate.acquisition import regular_scheme
    from opustomo.simulate.dataset import SimulationConfig, simulate_dataset
    from opustomo.simulate.volumes import gather_volumes
    from opustomo.training import inputs
    from opustomo.training.resume import Start

    folder = tiny_set
    if plain:
        volumes, apix = gather_volumes([], ["50S"], None, 24)
        scheme = regular_scheme(-60.0, 60.0, 6.0, 3.0)
        simulate_dataset(volumes, SimulationConfig(8, apix=apix, scheme=scheme, normalize=False), tmp_path / "plain")
        folder = tmp_path / "plain"
    out = tmp_path / "run"
    words = [word for word in SMALL if word != "--normalizectf"]
    assert main(["train_tomo", str(folder / "particles.star"), "-o", str(out), *words, "-n", "1"]) == 0
    said = (out / "run.log").read_text()
    assert ("they are divided by w and compared as with --normalizectf" in said) is plain
    assert ("Train with --normalizectf instead" in said) is not plain
    assert said.count("the power of the data scales with the number of slices") == 1
    assert physics_of_run(read_config(out / "config.pkl")[2]).divide is plain
    # a run goes on as it began, whatever its data would say now
    monkeypatch.setattr(inputs, "examine_reconstruction", lambda *given: SimpleNamespace(plain=not plain))
    again = ["train_tomo", str(folder / "particles.star"), "-o", str(out), *words, "-n", "2", "--load", "latest"]
    assert main(again) == 0
    assert (out / "weights.1.pkl").exists()
    assert physics_of_run(read_config(out / "config.pkl")[2]).divide is plain
    assert Start(state={"norm": [0.0, 1.0]}).divide is False and Start().divide is None
    shutil.rmtree(out)


@pytest.mark.parametrize(("word", "wanted"), [("--divide", True), ("--no-divide", False)])
@pytest.mark.parametrize("preset", ["opustomo", "original"])
def test_dividing_is_one_option_away(
    preset: str, word: str, wanted: bool, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = settings_of_train(monkeypatch)
    words = ["train_tomo", str(tiny_set / "particles.star"), "-o", str(tmp_path / "o"), "--preset", preset, word]
    assert main(words) == 0
    assert seen[2].divide is wanted


def test_what_is_divided_already_is_not_divided_again(
    tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train_tomo", str(tiny_set / "particles.star"), "-o", str(tmp_path / "o"), "--normalizectf", "--divide"]
    assert main(words) == 1
    assert "--divide" in capsys.readouterr().err and not (tmp_path / "o").exists()


def test_the_next_command_names_the_epoch_to_use_if_the_run_overfits(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["-n", "2", "-b", "8"]
    said = train("short", *words)
    assert re.search(r"evaluate them with: dsdsh results \S+/short\n", said)
    assert re.search(
        r"not converged: too early .* type: dsd train_tomo --load latest -n 4 --lr \S+ -o \S+/short\n", said
    )
    overfits = Statement("overfitting", 1, "overfitting since epoch 1", (0,))
    monkeypatch.setattr("opustomo.training.monitors.convergence_state.convergence_statement", lambda history: overfits)
    assert re.search(r"evaluate them with: dsdsh results \S+/overfitting 0\n", train("overfitting", *words))
