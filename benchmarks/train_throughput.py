"""Training visits per second over whole epochs, including everything except checkpoints.

    python benchmarks/train_throughput.py --box 64 --batch 8 [--templateres 128 --tilts 41 --particles 1024 --epochs 4]

Trains on a set of noise made in a temporary folder, through the same trainer as ``dsd train_tomo --estpose``. Prints
one JSON object per combination of ``--box`` and ``--batch``: visits/s (median of the epochs after the first two), ms
per visit that the loop waited for data, peak memory, and ms that the parts of a step take on their own, one by one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # also from a source tree that is not installed


def make_trainer(star: Path, outdir: Path, args: argparse.Namespace, batch: int, bodies: Any = None) -> Any:
    """Return the trainer of ``dsd train_tomo``; with a geometry of bodies, that of ``--masks``."""
    import numpy as np
    import torch

    from opustomo.data.config import DataConfig
    from opustomo.data.particles import load_particles
    from opustomo.data.voxels import VoxelSource, pooled_std
    from opustomo.model.autoencoder import Autoencoder
    from opustomo.model.config import ModelConfig, PhysicsConfig
    from opustomo.model.device import prepare_convolutions
    from opustomo.physics.boxes import Boxes, mask_on_crop
    from opustomo.training.config import RunConfig, TrainingConfig
    from opustomo.training.processes import join, place_from_environment
    from opustomo.training.run_log import RunLog
    from opustomo.training.trainer import Trainer

    particles = load_particles(DataConfig(star))
    boxes = Boxes.from_window(particles.box, particles.apix)
    source = VoxelSource(particles.images, cache_bytes=args.cache_gb << 30)
    torch.manual_seed(0)
    prepare_convolutions(args.amp)
    model = Autoencoder(
        ModelConfig(12, templateres=args.templateres, encoderres=args.encoderres, estimate_pose=True, bodies=bodies),
        PhysicsConfig(ctf_normalized=True),
        boxes,
        mask_on_crop(None, boxes),
        amp=args.amp,
    ).to(args.device)
    outdir.mkdir(exist_ok=True)
    config = TrainingConfig(args.epochs, batch, lr=4.5e-5, valfrac=0.0)
    run = RunConfig(outdir, args.device, args.amp, checkpoint=10**6, log_interval=10**9, workers=args.workers)
    members = np.arange(len(particles)), np.arange(0)
    norm = (0.0, pooled_std(source, len(particles)))
    place = place_from_environment()
    leads = place is None or place.rank == 0
    log = RunLog(outdir / "run.log" if leads else None)
    ranks = join(place, torch.device(args.device))
    return Trainer(model, particles, source, norm, members, config, run, log, ranks=ranks)


def measure(trainer: Any, epochs: int) -> dict[str, float]:
    """Train, and return medians over the epochs after the first two."""
    import torch

    from opustomo.training.processes import StopRequest

    cuda = trainer.device.type == "cuda"
    count = len(trainer.particles)
    rates, waits = [], []
    for _ in range(epochs):
        trainer.progress.start_pass("training")
        waited, started = trainer.waited, time.perf_counter()
        trainer.pass_over(StopRequest())
        if cuda:
            torch.cuda.synchronize()
        rates.append(count / (time.perf_counter() - started))
        waits.append(1e3 * (trainer.waited - waited) / count)
        trainer.progress.epoch += 1
    steady = slice(2, None)
    return {
        "visits_per_second": round(statistics.median(rates[steady]), 2),
        "first_epoch_visits_per_second": round(rates[0], 2),
        "ms_waiting_for_data_per_visit": round(statistics.median(waits[steady]), 4),
        "peak_memory_gb": round(torch.cuda.max_memory_reserved() / 2**30, 2) if cuda else 0.0,
        "peak_allocated_gb": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else 0.0,
        "memory_at_the_end_gb": round(torch.cuda.memory_reserved() / 2**30, 2) if cuda else 0.0,
    }


def stages(trainer: Any, batch: int) -> dict[str, float]:
    """Return the milliseconds of the parts of a step that run one after another without a graph."""
    import numpy as np
    import torch
    from stopwatch import best_of

    engine, model = trainer.engine, trainer.model
    cuda = trainer.device.type == "cuda"
    indices = np.arange(batch)
    box = trainer.particles.box
    visit = trainer.make_visit(indices, torch.randn(batch, box, box, box, device=trainer.device))

    def time_of(work: Any) -> tuple[Any, float]:
        result, best = best_of(4 if cuda else 1, work, cuda)
        return result, round(best, 3)

    from opustomo.model.random_draws import StepRandom
    from opustomo.model.step_records import StepState

    def state() -> StepState:
        engine.seed((0,))
        random = StepRandom(engine.generator, batch)
        schedule = visit.schedule
        return StepState(schedule.bfactor_A2, schedule.beta, 0.5, 0.0, engine.snr, random)

    times: dict[str, float] = {}
    assembled, times["assemble"] = time_of(lambda: engine.assemble(visit))
    inferred, times["inference"] = time_of(lambda: model.inference(assembled, state()))
    generated, times["generative"] = time_of(lambda: model.generative(assembled, inferred, state()))
    terms, times["loss"] = time_of(lambda: model.loss(assembled, inferred, generated, None, state()))
    _, times["backward"] = time_of(lambda: terms.total.backward(retain_graph=True))
    _, times["update"] = time_of(lambda: engine.update(visit.schedule.learning_rate))
    engine.optimizer.clear_gradients()
    return times


def add_size_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of sets, networks and device, which other benchmarks of steps share."""
    import torch

    parser.add_argument("--box", type=int, nargs="+", default=[64])
    parser.add_argument("--batch", type=int, nargs="+", default=[8])
    parser.add_argument("--tilts", type=int, default=41)
    parser.add_argument("--templateres", type=int, default=128)
    parser.add_argument("--encoderres", type=int, default=12)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--amp", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())


def main() -> None:
    """Make sets, and print the measured speeds."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_size_options(parser)
    parser.add_argument("--particles", type=int, default=1024)
    parser.add_argument("--gpus", type=int, default=1, help="processes, one per GPU; --batch is for each")
    parser.add_argument("--star", type=Path, help="use an existing set")
    parser.add_argument("--epochs", type=int, default=6, help="at least 5: the fourth updates the consensus volume")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--cache-gb", type=int, default=4, help="voxels kept in memory; 0 reads every visit from disk")
    parser.add_argument("--stages", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--profile", action="store_true", help="print the slowest kernels to stderr")
    args = parser.parse_args()
    if args.epochs < 5:
        parser.error(f"--epochs is {args.epochs}, but it must be at least 5: the fourth updates the consensus volume.")
    from noise_set import make_set

    from opustomo.training.processes import launch, place_from_environment

    place = place_from_environment()
    if args.gpus > 1 and place is None:
        for box in args.box:
            with tempfile.TemporaryDirectory(prefix="opustomo-throughput-") as name:
                star = make_set(Path(name), args.particles, args.tilts, box, 0)
                for batch in args.batch:
                    here = ["--box", str(box), "--batch", str(batch), "--star", str(star)]
                    launch(args.gpus, [sys.executable, __file__, *sys.argv[1:], *here])
        return
    if place is not None:
        args.stages = args.profile = False
        if args.device == "cuda":
            args.device = f"cuda:{place.local_rank}"
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else "cpu"
    for box in args.box:
        with tempfile.TemporaryDirectory(prefix="opustomo-throughput-") as name:
            folder = Path(name)
            star = args.star or make_set(folder, args.particles, args.tilts, box, 0)
            for batch in args.batch:
                if args.device.startswith("cuda"):
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                trainer = make_trainer(star, folder / f"run{batch}", args, batch)
                with redirect_stdout(sys.stderr):
                    found: dict[str, Any] = measure(trainer, args.epochs)
                    if args.profile:
                        print_profile(trainer)
                    if args.stages:
                        found["ms_per_stage"] = stages(trainer, batch)
                settings = {k: getattr(args, k) for k in ("tilts", "templateres", "encoderres", "amp")}
                named = {"box": box, "batch": batch, "gpus": args.gpus, "device": device}
                if place is None or place.rank == 0:
                    print(json.dumps({**named, **settings, **found}), flush=True)
                trainer.close()
                del trainer


def print_profile(trainer: Any) -> None:
    """Return the kernels of a pass, sorted by their time."""
    from torch.profiler import ProfilerActivity, profile

    from opustomo.training.processes import StopRequest

    trainer.progress.start_pass("training")
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        trainer.pass_over(StopRequest())
    events = [e for e in recorded.key_averages() if e.self_device_time_total]
    events.sort(key=lambda e: -e.self_device_time_total)
    count = len(trainer.particles)
    total = sum(e.self_device_time_total for e in events)
    print(f"device {1e-3 * total / count:.4f} ms per visit", file=sys.stderr)
    for e in events[:30]:
        print(f"  {1e-3 * e.self_device_time_total / count:8.4f} ms x{e.count:5d} {e.key[:120]}", file=sys.stderr)


if __name__ == "__main__":
    main()
