"""Volumes with moving bodies: dpc, joint and --deform use the conformation latent.

The network is replaced by one that draws two blobs; the head is a linear map, so that all motion is known.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from analysis_scripts.main import main as dsdsh
from opustomo.analysis.volumes import decoding
from opustomo.analysis.volumes.decoding import VolumeDecoder
from opustomo.checkpoint.weights import body_buffers, read_body_geometry, separation_state
from opustomo.errors import UserError
from opustomo.geometry.rigid_bodies import BodyGeometry
from opustomo.io.latents import write_latents
from opustomo.io.mrc import read_volume
from opustomo.io.pickles import dump_pickle, dump_pickles, dump_torch
from opustomo.main import main as dsd
from opustomo.model.separation import Separation, feature_count
from opustomo.physics.boxes import Boxes

BOXES = Boxes(box=48, apix=4.0, render=36, crop=30)
T, SIGMA_A = 48, 12.0
CENTERS_A = np.array([[-44.0, 6.0, 0.0], [40.0, -10.0, 14.0]])
COUNT, ZDIM, ZAFFINE = 12, 2, 3


def make_geometry() -> BodyGeometry:
    """Bodies with the axes of the box as frames."""
    centers = CENTERS_A / BOXES.apix
    return BodyGeometry(
        centers, centers[::-1], centers - centers[::-1], np.stack([np.eye(3)] * 2), np.full((2, 3), 2.2),
        np.stack([np.eye(3)] * 2), (1, 0),
    )  # fmt: skip


class Template(nn.Module):
    def __init__(self, zaffinedim: int, poses: int) -> None:
        super().__init__()
        self.affine_out = nn.Sequential(nn.Linear(zaffinedim, 2), nn.Identity(), nn.Linear(2, 6 * poses))

    def pose_rows(self, conformation: Tensor) -> Tensor:
        return self.affine_out(conformation).unflatten(-1, (-1, 6))


class Blobs(nn.Module):
    """Decoder of two blobs; the first composition coordinate is the height of the second one."""

    def __init__(self, zdim: int, templateres: int, zaffinedim: int = 0, poses: int = 0) -> None:
        super().__init__()
        self.size = templateres
        self.template = Template(zaffinedim, poses)
        self.register_buffer("composition_scale", torch.ones(()), persistent=False)
        self.register_buffer("consensus", torch.zeros(()), persistent=False)

    def forward(self, composition: Tensor) -> Tensor:
        at = (torch.linspace(0, BOXES.crop - 1, self.size) - BOXES.crop // 2) * BOXES.render_apix
        z, y, x = torch.meshgrid(at, at, at, indexing="ij")
        blobs = [
            torch.exp(-0.5 * ((x - c[0]) ** 2 + (y - c[1]) ** 2 + (z - c[2]) ** 2) / SIGMA_A**2) for c in CENTERS_A
        ]
        return torch.stack([blobs[0] + height * blobs[1] for height in composition[:, 0]])


def head_weights(number: int = 5) -> dict[str, Tensor]:
    """The first conformation number swings the second body about the first (t₃: about z of its frame)."""
    network = Template(ZAFFINE, 3)
    for parameter in network.parameters():
        parameter.data.zero_()
    network.affine_out[0].weight.data[0, 0] = 1.0
    network.affine_out[2].weight.data[6 + number, 0] = 1.0
    return {f"template.{name}": value for name, value in network.state_dict().items()}


def swing_rad(number: float) -> float:
    return 2.0 * np.arctan(number / 16.0)


def write_run(
    root: Path, own: bool = True, buffers: dict[str, Tensor] | None = None, separation: Separation | None = None
) -> Path:
    """config.pkl and weights.0.pkl of ours, or as the original writes them."""
    root.mkdir(parents=True, exist_ok=True)
    settings = {
        "model_args": {
            "zdim": ZDIM, "z_affine_dim": ZAFFINE, "templateres": T, "down_vol_size": 30, "Apix": BOXES.render_apix,
        },
        "lattice_args": {"D": 49},
        "dataset_args": {"downfrac": 0.75},
    }  # fmt: skip
    if own:
        boxes = {"box": 48, "apix": 4.0, "render": 36, "crop": 30}
        model = {"zdim": ZDIM, "zaffinedim": ZAFFINE, "templateres": T, "estimate_pose": True}
        settings["opustomo"] = {"model": model, "boxes": boxes}
    dump_pickles(root / "config.pkl", settings)
    geometry = body_buffers(make_geometry(), BOXES) if buffers is None else buffers
    content: dict[str, object] = {"decoder_state_dict": {**head_weights(), **geometry}}
    if separation is not None:
        content["separation"] = separation_state(separation)
    dump_torch(root / "weights.0.pkl", content)
    return root


@pytest.fixture(autouse=True)
def blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "Decoder", Blobs)


def center_of_half(volume: np.ndarray, apix: float, right: bool) -> np.ndarray:
    """Center x, y, z (Å) of the density at x > 0 or x < 0."""
    weight = np.maximum(volume, 0.0).astype(np.float64) ** 2
    axis = (np.arange(len(volume)) - len(volume) // 2) * apix
    weight = weight * ((axis > 0) == right)
    sums = [weight.sum(axis=other) @ axis for other in ((0, 1), (0, 2), (1, 2))]
    return np.array(sums) / weight.sum()


def test_geometry_survives_the_checkpoint() -> None:
    """Buffers have the original's names and units, and give the geometry back."""
    geometry = make_geometry()
    buffers = body_buffers(geometry, BOXES)
    assert set(buffers) == {"com_bodies", "rotate_directions", "radius", "orient_bodies", "principal_axes"}
    np.testing.assert_allclose(buffers["com_bodies"], CENTERS_A / 4.0, rtol=1e-6)
    np.testing.assert_allclose(buffers["rotate_directions"], np.array(geometry.rotate_directions) / 48, rtol=1e-6)
    np.testing.assert_allclose(buffers["radius"], 2.2 / 48, rtol=1e-6)
    back = read_body_geometry({f"some.{name}": value for name, value in buffers.items()}, BOXES, own=True)
    assert back is not None and back.parents == (1, 0)
    for name in ("com_bodies", "in_relatives", "rotate_directions", "radii_bodies"):
        np.testing.assert_allclose(back.array(name), geometry.array(name), atol=1e-5)
    assert read_body_geometry(head_weights(), BOXES, own=True) is None
    single = {name: value[:1] for name, value in buffers.items()}
    assert read_body_geometry(single, BOXES, own=False) is None


def test_the_body_moves_as_the_head_says(tmp_path: Path) -> None:
    """A swing about z by α moves the second center by -(S - 1)·lever, and only that."""
    run = write_run(tmp_path / "my run")
    decoder = VolumeDecoder(run / "weights.0.pkl", run / "config.pkl", "cpu")
    numbers = np.array([0.0, -1.5, 1.5])
    latents = np.zeros((3, ZDIM + ZAFFINE), dtype=np.float32)
    latents[:, 0], latents[:, ZDIM] = 1.0, numbers
    volumes = decoder.volumes(latents, 4.0).numpy()
    lever = CENTERS_A[1] - CENTERS_A[0]
    for volume, number in zip(volumes, numbers, strict=True):
        angle = swing_rad(number)
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        np.testing.assert_allclose(center_of_half(volume, 4.0, False), CENTERS_A[0], atol=0.6)
        np.testing.assert_allclose(center_of_half(volume, 4.0, True), CENTERS_A[1] - (turn @ lever - lever), atol=0.6)
    still = decoder.volumes(latents[:, :ZDIM], 4.0).numpy()
    np.testing.assert_allclose(volumes[0], still[0], atol=1e-4)
    np.testing.assert_array_equal(still[0], still[1])


def test_reads_the_originals_results(tmp_path: Path) -> None:
    """The original's shift lacks the factor 2·Dr/(Dc - 1) and its bodies turn about (Dc - 1)/2."""
    run = write_run(tmp_path / "run", own=False)
    theirs = VolumeDecoder(run / "weights.0.pkl", run / "config.pkl", "cpu")
    ours = VolumeDecoder(write_run(tmp_path / "own") / "weights.0.pkl", tmp_path / "own" / "config.pkl", "cpu")
    conformation = np.array([[2.0, 0.0, 0.0]], dtype=np.float32)
    their_motion, our_motion = theirs.correction(conformation).motion, ours.correction(conformation).motion
    assert their_motion is not None and our_motion is not None
    np.testing.assert_allclose(their_motion.rotations, our_motion.rotations, atol=1e-6)
    np.testing.assert_allclose(their_motion.shifts * (2 * 36 / 29), our_motion.shifts, atol=1e-6)
    assert theirs.posing.bodies is not None and ours.posing.bodies is not None
    np.testing.assert_allclose(theirs.posing.bodies.centers + 1 / 29, ours.posing.bodies.centers, atol=1e-6)
    np.testing.assert_allclose(theirs.posing.bodies.radii, ours.posing.bodies.radii, atol=1e-6)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """An analyzed run: the conformation's first component is its first number."""
    root = write_run(tmp_path / "a run")
    rng = np.random.default_rng(0)
    conformation = rng.normal(scale=0.01, size=(COUNT, ZAFFINE))
    conformation[:, 0] = np.linspace(-2, 2, COUNT)
    write_latents(root / "z.0.pkl", rng.uniform(0.5, 1.5, (COUNT, ZDIM)), conformation)
    for folder, table in (
        ("analyze.0/kmeans2/centers.txt", [[1.0, 0.0], [0.2, 0.0]]),
        ("analyze.0/kmeans2/centers_joint.txt", [[1.0, 0.0, 2.0, 0, 0], [1.0, 0.0, -2.0, 0, 0]]),
        ("defanalyze.0/pc1/z_pc.txt", np.c_[np.linspace(-2, 2, 10), np.zeros((10, 2))]),
    ):
        (root / folder).parent.mkdir(parents=True, exist_ok=True)
        np.savetxt(root / folder, np.asarray(table))
    dump_pickle(root / "pose.0.pkl", (np.tile(np.eye(3), (COUNT, 1, 1)), np.zeros((COUNT, 3)), np.zeros((COUNT, 3))))
    return root


def angles_of(paths: list[Path]) -> np.ndarray:
    """Direction of the second blob seen from the first, degrees about z."""
    angles = []
    for path in paths:
        volume, apix = read_volume(path)
        arm = center_of_half(volume, float(apix or 0), True) - center_of_half(volume, float(apix or 0), False)
        angles.append(np.degrees(np.arctan2(arm[1], arm[0])))
    return np.array(angles)


def test_dpc_follows_the_conformation(run: Path) -> None:
    assert dsdsh(["eval_vol", str(run), "0", "dpc", "1", "4.0", "--kmeans", "2", "--dfk", "0"]) == 0
    angles = angles_of([run / "defanalyze.0" / "pc1" / f"reference{i}.mrc" for i in range(10)])
    assert np.all(np.diff(angles) < -0.5), angles
    np.testing.assert_allclose(np.ptp(angles), np.degrees(swing_rad(2.0) - swing_rad(-2.0)), rtol=0.1)


def test_dpc_takes_the_composition_of_the_center(run: Path) -> None:
    heights = []
    for center in (0, 1):
        assert dsdsh(["eval_vol", str(run), "0", "dpc", "1", "4.0", "--kmeans", "2", "--dfk", str(center)]) == 0
        volume, _ = read_volume(run / "defanalyze.0" / "pc1" / "reference4.mrc")
        heights.append(volume[:, :, 30:].max())
    assert heights[1] == pytest.approx(0.2 * heights[0], rel=0.02)


def test_joint_follows_the_conformation(run: Path) -> None:
    assert dsdsh(["eval_vol", str(run), "0", "joint", "2", "4.0"]) == 0
    angles = angles_of([run / "analyze.0" / "kmeans2" / f"reference{i}.mrc" for i in range(2)])
    np.testing.assert_allclose(angles[1] - angles[0], np.degrees(swing_rad(2.0) - swing_rad(-2.0)), rtol=0.1)


def test_eval_vol_deform_as_the_original_types_it(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["eval_vol", "--load", str(run / "weights.0.pkl"), "-o", str(out), "--deform", "--device", "cpu"]
    words += [
        "--zfile",
        str(run / "defanalyze.0/pc1/z_pc.txt"),
        "--template-z",
        str(run / "analyze.0/kmeans2/centers.txt"),
    ]
    assert dsd([*words, "--template-z-ind", "0", "--Apix", "4.0", "--masks", "mask_params.pkl"]) == 0
    assert np.all(np.diff(angles_of([out / f"reference{i}.mrc" for i in range(10)])) < -0.5)
    assert dsd([*words, "--template-z-ind", "2"]) == 1


def test_a_run_without_bodies_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(run, buffers={})
    assert dsdsh(["eval_vol", str(run), "0", "dpc", "1", "4.0"]) == 1
    assert "has no bodies that the conformation could move" in capsys.readouterr().err
    assert not list(run.rglob("reference*.mrc"))


def test_a_damaged_geometry_is_refused(run: Path) -> None:
    buffers = body_buffers(make_geometry(), BOXES)
    buffers["radius"] = buffers["radius"][:1]
    write_run(run, buffers=buffers)
    with pytest.raises(UserError, match=r"geometry of the bodies in .* is damaged"):
        VolumeDecoder(run / "weights.0.pkl", run / "config.pkl", "cpu")


def make_separation() -> Separation:
    """The height of the second blob falls with its swing, and a little with its square."""
    slope = np.zeros((feature_count(ZAFFINE), ZDIM))
    slope[0, 0], slope[ZAFFINE, 0], slope[1, 1] = -0.5, -0.1, 2.0
    center = np.zeros(len(slope))
    center[ZAFFINE] = 1.0
    return Separation(np.zeros(ZAFFINE), np.array([1.5, 1.0, 1.0]), center, slope)


def test_the_decoder_is_given_what_it_was_trained_with(tmp_path: Path) -> None:
    """Volumes at (mu', c) are those at (mu, c) before the separation; compositions alone are taken as they are."""
    separation, rng = make_separation(), np.random.default_rng(2)
    conformation = rng.normal(size=(5, ZAFFINE)).astype(np.float32)
    mu = rng.uniform(0.5, 1.5, (5, ZDIM)).astype(np.float32)
    apart = separation.apart(mu, conformation)
    assert np.abs(apart[:, 0] - mu[:, 0]).max() > 0.1
    before = write_run(tmp_path / "before")
    after = write_run(tmp_path / "after", separation=separation)
    one, other = (VolumeDecoder(root / "weights.0.pkl", root / "config.pkl", "cpu") for root in (before, after))
    assert one.separation is None and other.separation is not None
    raw, separated = np.c_[mu, conformation], np.c_[apart, conformation]
    torch.testing.assert_close(other.decode(separated), one.decode(raw), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other.volumes(separated, 4.0), one.volumes(raw, 4.0), rtol=1e-5, atol=1e-5)
    assert (other.decode(separated) - one.decode(separated)).abs().max() > 0.1
    assert torch.equal(other.decode(apart), one.decode(apart))
    assert torch.equal(other.volumes(apart, 4.0), one.volumes(apart, 4.0))


def test_dpc_draws_what_the_composition_shared_with_the_motion(run: Path) -> None:
    """One composition, conformations along a component: the decoder sees the composition of each of them."""
    separation = make_separation()
    write_run(run, separation=separation)
    assert dsdsh(["eval_vol", str(run), "0", "dpc", "1", "4.0", "--kmeans", "2", "--dfk", "0"]) == 0
    folder = run / "defanalyze.0" / "pc1"
    heights = np.array([read_volume(folder / f"reference{i}.mrc")[0][:, :, 30:].max() for i in range(10)])
    shared = separation.shared(np.loadtxt(folder / "z_pc.txt"))[:, 0]
    np.testing.assert_allclose(heights / heights[0], (1.0 + shared) / (1.0 + shared[0]), rtol=0.05)
    assert dsdsh(["eval_vol", str(run), "0", "joint", "2", "4.0"]) == 0
    folder = run / "analyze.0" / "kmeans2"
    heights = np.array([read_volume(folder / f"reference{i}.mrc")[0][:, :, 30:].max() for i in range(2)])
    shared = separation.shared(np.array([[2.0, 0, 0], [-2.0, 0, 0]]))[:, 0]
    assert heights[0] / heights[1] == pytest.approx((1.0 + shared[0]) / (1.0 + shared[1]), rel=0.05)
    assert dsdsh(["eval_vol", str(run), "0", "kmeans", "2", "4.0"]) == 0
    heights = np.array([read_volume(folder / f"reference{i}.mrc")[0][:, :, 30:].max() for i in range(2)])
    assert heights[1] == pytest.approx(0.2 * heights[0], rel=0.02)


def test_a_damaged_separation_is_refused(run: Path) -> None:
    found = make_separation()
    other = Separation(found.mean, found.std, found.centre, np.zeros((len(found.centre), ZDIM + 1)))
    write_run(run, separation=other)
    with pytest.raises(UserError, match=r"The separation of composition and conformation in .* is damaged"):
        VolumeDecoder(run / "weights.0.pkl", run / "config.pkl", "cpu")
    write_run(run, buffers={}, separation=other)  # without bodies nothing is taken from it
    assert VolumeDecoder(run / "weights.0.pkl", run / "config.pkl", "cpu").separation is None
