"""Time and bandwidth of the parts of the forward model, with kernels and in plain PyTorch.

    python benchmarks/physics_kernels.py                                # small sizes, CPU or GPU
    python benchmarks/physics_kernels.py --box 64 128 --batch 8 32 --tilts 41 --candidates 7

Prints one JSON object per box and batch. "kernel" is what a run uses (Triton where it can), "plain" the same in torch;
"gb_per_s" counts each input and output once, so that it can be compared with the memory bandwidth of the device.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # also from a source tree that is not installed


@contextmanager
def plain_torch() -> Iterator[None]:
    """Without kernels."""
    from opustomo.physics import kernels

    held = kernels.usable
    kernels.usable = lambda *tensors: False  # type: ignore[assignment]
    try:
        yield
    finally:
        kernels.usable = held


def parts(box: int, batch: int, args: argparse.Namespace) -> dict[str, tuple[Callable[[], Any], int]]:
    """Work of each part, and the bytes that it has to read and write."""
    import numpy as np
    import torch
    from scipy.spatial.transform import Rotation

    from opustomo.model import energy, loss, observation
    from opustomo.physics.ctf import FIELDS, TiltBatch, ctf_volume
    from opustomo.physics.fourier import irfft3, rfft3
    from opustomo.physics.sampling import cross_of_posed, rotate_about_z, sample_posed

    device = args.device
    torch.manual_seed(0)
    side, crop, count = args.templateres, 2 * int(0.425 * box), args.candidates
    values = dict.fromkeys(FIELDS, 0.0) | {
        "defocus_u_A": 25_000.0, "defocus_v_A": 25_000.0, "voltage_kv": 300.0, "cs_mm": 2.7,
        "amplitude_contrast": 0.07, "bfactor_A2": 20.0, "scale": 1.0,
    }  # fmt: skip
    fields = {name: torch.full((batch, args.tilts), value, device=device) for name, value in values.items()}
    fields["tilt_deg"] = torch.linspace(-60, 60, args.tilts, device=device).expand(batch, -1).contiguous()
    tilts = TiltBatch(**fields)
    matrices = Rotation.random(batch * count, random_state=0).as_matrix().reshape(batch, count, 3, 3)
    turns = torch.from_numpy(np.ascontiguousarray(matrices)).float().to(device)
    templates = torch.randn(batch, side, side, side, device=device)
    gradient = templates.clone().requires_grad_()
    data = torch.randn(batch, box, box, box, device=device)
    spectrum = rfft3(data)
    ctf = ctf_volume(tilts, box, 6.0)
    ones = torch.ones(batch, device=device)
    target, transfer = observation.target_and_transfer(spectrum, ctf, ones, ones, 0.0, ones)
    wanted = rfft3(target)
    filtered = irfft3(wanted * transfer)
    posed = sample_posed(templates, turns, crop, None, box)
    inside = (slice(side // 8, side - side // 8),) * 3
    one, half, many = 4 * batch * box**3, 8 * batch * box * box * (box // 2 + 1), 4 * batch * count * box**3
    cube = 4 * batch * side**3

    def backward() -> None:
        gradient.grad = None
        sample_posed(gradient, turns[:, :1], crop, None, box).square().sum().backward()

    return {
        "transform": (lambda: rfft3(data), one + half),
        "inverse_transform": (lambda: irfft3(spectrum), one + half),
        "ctf": (lambda: ctf_volume(tilts, box, 6.0), half // 2),
        "target_and_transfer": (
            lambda: observation.target_and_transfer(spectrum, ctf, ones, ones, 0.0, ones), half + half + one
        ),
        "sampling": (lambda: sample_posed(templates, turns, crop, None, box), cube + many),
        "sampling_and_gradient": (backward, 2 * (cube + one)),
        "rotation_about_z": (lambda: rotate_about_z(data, turns[:, 0, :2, :2]), 2 * one),
        "comparison": (lambda: energy.compare(posed[:, 0], transfer, wanted), 3 * one + 2 * half + half // 2),
        "cross_of_posed": (lambda: cross_of_posed(templates, turns, crop, None, (filtered, target)), cube + 2 * one),
        "smoothness": (lambda: loss.smoothness(templates, inside), cube),
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    import torch
    from stopwatch import best_of

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--box", type=int, nargs="+", default=[32])
    parser.add_argument("--batch", type=int, nargs="+", default=[4])
    parser.add_argument("--tilts", type=int, default=41)
    parser.add_argument("--candidates", type=int, default=7)
    parser.add_argument("--templateres", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    cuda = args.device.startswith("cuda")
    for box in args.box:
        for batch in args.batch:
            found: dict[str, dict[str, float]] = {}
            for name, (work, moved) in parts(box, batch, args).items():
                kernel = best_of(args.repeats, work, cuda)[1]
                with plain_torch():
                    plain = best_of(args.repeats, work, cuda)[1]
                found[name] = {
                    "kernel_ms": round(kernel, 4),
                    "plain_ms": round(plain, 4),
                    "gb_per_s": round(1e-6 * moved / kernel, 2),
                }
            device = torch.cuda.get_device_name() if cuda else "cpu"
            named = {"device": device, "box": box, "batch": batch}
            settings = {key: getattr(args, key) for key in ("tilts", "candidates", "templateres")}
            print(json.dumps({**named, **settings, "parts": found}), flush=True)


if __name__ == "__main__":
    main()
