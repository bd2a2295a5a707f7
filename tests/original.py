"""Result folder in the format of OPUS-TOMO, built from its layer table with plain PyTorch layers.

Nothing here is taken from `opustomo`: what it reads must not come from what it writes.
"""

from __future__ import annotations

import datetime
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.nn.functional import interpolate

LOG_LINE = (
    "2023-05-01 12:{:02d}:00     # =====> Epoch: {} Average {} gen_loss = {:.6f}, SNR2 = 0.012345, "
    "total loss = -0.123456; Finished in 0:12:34.567890"
)


HIDDEN = 512
DECODER_CHANNELS = (2048, 1024, 512, 256, 128, 64, 32, 16)
ENCODER_CHANNELS = (32, 64, 128, 256, 512, 512)


def layers(kind: Callable[[int, int], nn.Module], channels: Sequence[int]) -> nn.Sequential:
    """Return layers with activations from each number of channels to the next."""
    return nn.Sequential(*(part for pair in pairwise(channels) for part in (kind(*pair), nn.LeakyReLU(0.2))))


class Encoder(nn.Module):
    """Encoder: convolutions, resizing, convolutions, max pooling and heads."""

    def __init__(self, latents: int) -> None:
        super().__init__()

        def down(channels: int, out: int) -> nn.Module:
            return nn.Conv3d(channels, out, 4, 2, 1)

        self.down1 = layers(down, (1, *ENCODER_CHANNELS[:3]))
        self.down2 = layers(down, ENCODER_CHANNELS[2:])
        width = ENCODER_CHANNELS[-1]
        self.down3 = layers(nn.Linear, (width, width))
        self.mu, self.logstd = nn.Linear(width, latents), nn.Linear(width, latents)
        self.register_buffer("grid", torch.rand(1, 4, 4, 4, 3))


class ConvTemplate(nn.Module):
    """Decoder from compositions (B, zdim) to volumes (B, T, T, T), with the head of the conformation."""

    def __init__(self, zdim: int, size: int, zaffinedim: int, head_rows: int) -> None:
        super().__init__()

        def up(channels: int, out: int) -> nn.Module:
            return nn.ConvTranspose3d(channels, out, 4, 2, 1)

        def block(channels: int, out: int) -> nn.Module:
            return nn.ConvTranspose3d(channels, out, 2, 2)

        self.size = size
        self.template1 = layers(nn.Linear, (zdim, HIDDEN, DECODER_CHANNELS[0]))
        self.template2 = layers(block, DECODER_CHANNELS[:3])
        self.template3 = layers(up, DECODER_CHANNELS[2:5])
        self.template4 = layers(up, DECODER_CHANNELS[4:])
        self.conv_out = up(DECODER_CHANNELS[-1], 1)
        if head_rows:
            self.affine_out = nn.Sequential(*layers(nn.Linear, (zaffinedim, HIDDEN)), nn.Linear(HIDDEN, 6 * head_rows))

    def forward(self, z: Tensor) -> Tensor:
        x = self.template2(self.template1(z)[:, :, None, None, None])
        x = interpolate(self.template3(x), size=(self.size // 16,) * 3, mode="trilinear", align_corners=True)
        return self.conv_out(self.template4(x))[:, 0]


class Decoder(nn.Module):
    """Template and the buffers that OPUS-TOMO stores with it, including the solvent mask ``ref_mask``."""

    def __init__(self, template: nn.Module, crop: int, masked: bool) -> None:
        super().__init__()
        self.template = template
        if masked:
            self.register_buffer("ref_mask", soft_ball(crop)[None, None])
        for name, shape in {"grid": (1, crop, crop, crop, 3), "mask": (crop,) * 3, "com_bodies": (2, 3)}.items():
            self.register_buffer(name, torch.rand(shape))


def soft_ball(size: int) -> Tensor:
    """Return an off-center ball with a soft edge in a cube (size, size, size), with values between 0 and 1."""
    at = torch.linspace(-1.0, 1.0, size)
    z, y, x = torch.meshgrid(at, at, at, indexing="ij")
    return ((0.75 - ((x - 0.1) ** 2 + (y + 0.05) ** 2 + z**2).sqrt()) / 0.15).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Look:
    """How a folder of the original may look.

    Attributes
    ----------
    parallel
        Trained with ``DataParallel``, which changes parameter names.
    double
        Parameters in float64.
    legacy
        torch's file format before 1.6.
    protocol
        Of the pickles.
    zaffinedim, head_rows
        Size of the conformation latent, None: older than it; rows of the head (bodies + 1, 0: none).
    fixed
        Homogeneous: no encoder.
    masked
        With the solvent mask in the decoder.
    bodies
        Centers (x, y, z) in voxels of two bodies that the conformation moves; takes ``head_rows`` 3.
    whole
        The weights hold ``model_state_dict`` instead of one entry for the encoder and one for the decoder.
    extra
        More entries in the weights.
    """

    parallel: bool = False
    double: bool = False
    legacy: bool = False
    protocol: int = 4
    zaffinedim: int | None = 4
    head_rows: int = 1
    fixed: bool = False
    encoder: bool = True
    masked: bool = True
    bodies: Sequence[np.ndarray] | None = None
    whole: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


class OriginalRun:
    """Result folder of OPUS-TOMO, with the expected output of its decoder."""

    zdim, templateres, apix = 12, 32, 12.0

    def __init__(self, root: Path, count: int, box: int, crop: int, epoch: int, look: Look | None = None) -> None:
        look = look or Look()
        self.root, self.count, self.box, self.crop, self.epoch = root, count, box, crop, epoch
        torch.manual_seed(3)
        template = ConvTemplate(self.zdim, self.templateres, look.zaffinedim or 1, look.head_rows)
        self.decoder = Decoder(template, crop, look.masked)
        if look.bodies is not None:
            self._add_bodies(np.stack(look.bodies))
        self.encoder = Encoder(self.zdim + (look.zaffinedim or 0)) if look.encoder and not look.fixed else None
        rng = np.random.default_rng(4)
        self.mu = rng.normal(size=(count, self.zdim)).astype(np.float32)
        if look.fixed:
            self.mu[:] = self.mu[0]
        self.multi_mu = rng.normal(size=(count, look.zaffinedim)).astype(np.float32) if look.zaffinedim else None
        self.eulers = rng.uniform((-180, 0, -180), (180, 180, 180), (count, 3))
        self.trans = rng.normal(scale=0.02, size=(count, 3))
        root.mkdir(parents=True)
        self._write_config(look)
        self._write_weights(look)
        self._write_epoch(look)

    def _add_bodies(self, centers: np.ndarray) -> None:
        """Add the geometry of bodies; lengths are fractions of the box except centers, which are in voxels."""
        axes = torch.eye(3).repeat(len(centers), 1, 1)
        levers = torch.tensor((centers - centers[::-1]) / self.box, dtype=torch.float32)
        self.decoder.register_buffer("com_bodies", torch.tensor(centers, dtype=torch.float32))
        self.decoder.register_buffer("rotate_directions", levers)
        self.decoder.register_buffer("radius", torch.full((len(centers), 3), 3.5 / self.box))
        self.decoder.register_buffer("orient_bodies", axes)
        self.decoder.register_buffer("principal_axes", axes.clone())

    def template(self, z: np.ndarray) -> np.ndarray:
        """Return volumes (K, T, T, T) of the plain network."""
        with torch.no_grad():
            return self.decoder.template.float()(torch.from_numpy(np.asarray(z, np.float32))).numpy()

    def volume(self, z: np.ndarray, apix: float, masked: bool = True) -> np.ndarray:
        """Return volumes within the crop, with voxel n/2 at its voxel Dc/2, times the solvent mask, by SciPy."""
        size = 2 * round(self.crop * self.apix / apix / 2)
        last = self.templateres - 1
        at = ((np.arange(size) - size // 2) * apix / self.apix + self.crop / 2) * last / (self.crop - 1)
        at = np.where(np.abs(at - last) < 1e-6, last, at)
        grid = np.stack(np.meshgrid(at, at, at, indexing="ij"))
        volumes = np.stack([map_coordinates(one, grid, order=1, mode="constant") for one in self.template(z)])
        if not masked or not hasattr(self.decoder, "ref_mask"):
            return volumes
        mask = self.decoder.ref_mask[0, 0].numpy()  # it spans the same cube with Dc voxels
        return volumes * map_coordinates(mask, grid * (self.crop - 1) / last, order=1, mode="constant")

    def _write_config(self, look: Look) -> None:
        model = {
            "zdim": self.zdim, "encode_mode": "fixed" if look.fixed else "grad", "templateres": self.templateres,
            "encoderres": 8, "down_vol_size": self.crop, "Apix": self.apix, "players": 8, "pe_type": "vanilla",
            "domain": "fourier", "activation": "relu", "ctf_grid": None,
        }  # fmt: skip
        if look.zaffinedim is not None:
            model["z_affine_dim"] = look.zaffinedim
        settings = {
            "dataset_args": {
                "particles": "/data/run1/all.star", "norm": [0, np.float32(2.5)], "invert_data": True, "ind": None,
                "keepreal": False, "window": True, "datadir": "/data/run1", "ctf": None, "poses": "p.pkl",
                "downfrac": 1.0, "valfrac": np.float64(0.2), "split": "s.pkl",
            },
            "lattice_args": {"D": self.box + 1, "extent": 0.5, "ignore_DC": True},
            "model_args": model,
            "seed": 1234,
        }  # fmt: skip
        history = {"time": datetime.datetime(2023, 5, 1, 11), "cmd": ["/opt/train_tomo.py", "x"], "version": "0.3.2b"}
        with (self.root / "config.pkl").open("wb") as handle:
            pickle.dump(settings, handle, look.protocol)
            pickle.dump(history, handle, look.protocol)

    def _write_weights(self, look: Look) -> None:
        def named(module: nn.Module | None) -> Any:
            if module is None:
                return None
            state = (nn.DataParallel(module) if look.parallel else module).state_dict()  # with its _metadata
            for name in list(state) if look.double else []:
                state[name] = state[name].double()
            return state

        content = {
            "norm": [0, np.float32(2.5)],
            "epoch": self.epoch,
            **self._networks(named, look.whole),
            "optimizer_state_dict": {
                "state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}},
                "param_groups": [{"lr": 4e-5, "betas": (0.9, 0.999), "eps": 1e-8, "foreach": None, "params": [0]}],
            },
            **look.extra,
        }
        path = self.root / f"weights.{self.epoch}.pkl"
        torch.save(content, path, _use_new_zipfile_serialization=not look.legacy)

    def _networks(self, named: Callable[[nn.Module | None], Any], whole: bool) -> dict[str, Any]:
        if not whole:
            return {"encoder_state_dict": named(self.encoder), "decoder_state_dict": named(self.decoder)}
        parts = {"encoder": self.encoder, "decoder": self.decoder}
        state = {f"{part}.{name}": value for part, net in parts.items() for name, value in (named(net) or {}).items()}
        return {"model_state_dict": state}

    def _write_epoch(self, look: Look) -> None:
        latents = {"mu": torch.from_numpy(self.mu), "nn": None}
        if self.multi_mu is not None:
            latents["multi_mu"] = torch.from_numpy(self.multi_mu)
        path = self.root / f"z.{self.epoch}.pkl"
        torch.save(latents, path, _use_new_zipfile_serialization=not look.legacy)
        stale = Rotation.random(self.count, random_state=0).as_matrix().astype(np.float32)
        pose = (stale, self.trans, self.eulers)
        (self.root / f"pose.{self.epoch}.pkl").write_bytes(pickle.dumps(pose, look.protocol))
        lines = ["2023-05-01 11:59:00     /opt/opus/train_tomo.py x", "2023-05-01 11:59:01     Namespace(zdim=12)"]
        for epoch in range(1, self.epoch + 2):
            lines += [LOG_LINE.format(epoch, epoch, kind, -0.1 / epoch) for kind in ("training", "validation")]
        (self.root / "run.log").write_text("\n".join(lines) + "\n")
        torch.save(torch.randperm(self.count), self.root / "split.pkl")
        analysis = self.root / f"analyze.{self.epoch}"
        analysis.mkdir()
        umap = np.random.default_rng(5).normal(size=(self.count, 2)).astype(np.float32)
        (analysis / "umap.pkl").write_bytes(pickle.dumps(umap, look.protocol))
