"""Time, bytes and FLOPs of every operation of a training step, compared with the limits of memory and compute units.

    python benchmarks/roofline.py --box 64 128 --batch 8 32 --out roofline.json

Runs single steps of the same trainer as ``dsd train_tomo --estpose``, without a CUDA graph, under PyTorch's profiler.
Bytes count each input once and each output once; FLOPs are those of matrix products and convolutions. The bound of an
operation is the larger of bytes over ``--bandwidth`` and FLOPs over ``--rate``; operations are sorted by the time they
lose against it. Kernels of Triton are counted by name, other kernels by the PyTorch operation that launches them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # also from a source tree that is not installed
PREFIX = "roofline:"
VIEWS = ("view", "expand", "permute", "transpose", "slice", "select", "detach", "as_strided", "unsqueeze", "squeeze")


@dataclass
class Cost:
    """Bytes and FLOPs of the calls of one operation, and the time of its kernels."""

    calls: int = 0
    bytes: float = 0.0
    flops: float = 0.0
    microseconds: float = 0.0


def _tensor_bytes(values: Any) -> int:
    """Return the bytes of all distinct tensors in nested lists; tensors with the same start count once."""
    import torch
    from torch.utils._pytree import tree_leaves

    found = {}
    for tensor in tree_leaves(values):
        if isinstance(tensor, torch.Tensor):
            elements = 1
            for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
                elements *= size if stride else 1
            found[tensor.data_ptr()] = elements * tensor.element_size()
    return sum(found.values())


def _shapes(values: Any) -> str:
    import torch
    from torch.utils._pytree import tree_leaves

    tensors = [t for t in tree_leaves(values) if isinstance(t, torch.Tensor) and t.dim()]
    largest = sorted(tensors, key=lambda t: -t.numel())[:2]
    return " ".join("x".join(map(str, t.shape)) for t in largest)


def _recorder(costs: dict[str, Cost]) -> Any:
    """Mode that counts every PyTorch operation and names it for the profiler."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            name = f"{func._overloadpacket.__name__} {_shapes((args, kwargs))}".strip()
            with torch.profiler.record_function(PREFIX + name):
                result = func(*args, **kwargs)
            if func._overloadpacket.__name__ in VIEWS:
                return result
            cost = costs[name]
            cost.calls += 1
            cost.bytes += _tensor_bytes((args, kwargs)) + _tensor_bytes(result)
            counter = flop_registry.get(func._overloadpacket)
            if counter is not None:
                cost.flops += counter(*args, **kwargs, out_val=result)
            return result

    return Recorder()


@contextmanager
def _count_triton(costs: dict[str, Cost]) -> Iterator[None]:
    """Count the bytes of the arguments of Triton kernels."""
    try:
        from triton.runtime.jit import JITFunction
    except ImportError:
        yield
        return
    run = JITFunction.run

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        name = self.fn.__name__
        cost = costs[name]
        cost.calls += 1
        cost.bytes += _tensor_bytes((args, {k: v for k, v in kwargs.items() if k not in ("grid", "warmup")}))
        return run(self, *args, **kwargs)

    JITFunction.run = counted
    try:
        yield
    finally:
        JITFunction.run = run


def profile_step(trainer: Any, batch: int, warm_up: int = 4, repeats: int = 3) -> dict[str, Cost]:
    """Return the costs of a training step by operation, averaged over ``repeats`` steps."""
    import numpy as np
    import torch
    from torch.profiler import ProfilerActivity, profile

    engine, box = trainer.engine, trainer.particles.box
    cuda = trainer.device.type == "cuda"
    visits = [
        trainer.make_visit(np.arange(batch) + batch * i, torch.randn(batch, box, box, box, device=trainer.device))
        for i in range(2)
    ]
    trainer.model.train()
    for i in range(warm_up):
        engine.seed((0, 0, i))
        engine.step(visits[i % 2], batch, True)
    costs: dict[str, Cost] = defaultdict(Cost)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if cuda else [])
    if cuda:
        torch.cuda.synchronize()
    with profile(activities=activities) as recorded, _count_triton(costs), _recorder(costs):
        for i in range(repeats):
            engine.seed((0, 1, i))
            engine.step(visits[i % 2], batch, True)
        if cuda:
            torch.cuda.synchronize()
    _add_times(recorded, costs, cuda, repeats)
    for cost in costs.values():
        cost.calls = round(cost.calls / repeats)
        cost.bytes, cost.flops = cost.bytes / repeats, cost.flops / repeats
        cost.microseconds /= repeats
    return dict(costs)


def _add_times(recorded: Any, costs: dict[str, Cost], cuda: bool, repeats: int) -> None:
    """Add the time of kernels, or of the host without a GPU, to the operations that launched them."""
    triton_names = {name for name in costs if name.startswith("_") and name.endswith("_kernel")}
    for event in recorded.events():
        owner = event
        while owner is not None and not owner.name.startswith(PREFIX):
            owner = owner.cpu_parent
        if not cuda:
            if owner is not None:
                costs[owner.name[len(PREFIX) :]].microseconds += event.self_cpu_time_total
            continue
        for kernel in event.kernels:
            if kernel.name not in triton_names:  # those are counted below, also where no operation encloses them
                name = owner.name[len(PREFIX) :] if owner is not None else f"({kernel.name[:60]})"
                costs[name].microseconds += kernel.duration
    if not cuda:
        return
    total = 0.0
    for average in recorded.key_averages():
        annotation = average.key.startswith((PREFIX, "Optimizer.")) or getattr(average, "is_user_annotation", False)
        if annotation or average.device_type.name != "CUDA":
            continue
        total += average.self_device_time_total
        if average.key in triton_names:
            costs[average.key].microseconds += average.self_device_time_total
        KERNELS[average.key] = round(average.self_device_time_total / repeats, 2), average.count / repeats
    costs["(all kernels)"] = Cost(repeats, 0.0, 0.0, total)


KERNELS: dict[str, tuple[float, float]] = {}
"""Return the microseconds and launches per step of each kernel of the last profile by its name."""


def table(costs: dict[str, Cost], bandwidth: float, rate: float) -> list[dict[str, Any]]:
    """Return rows sorted by the time in excess of the bound."""
    rows = []
    for name, cost in costs.items():
        if name == "(all kernels)" or cost.microseconds == 0.0:
            continue
        bound = 1e6 * max(cost.bytes / bandwidth, cost.flops / rate)
        seconds = 1e-6 * cost.microseconds
        rows.append(
            {
                "operation": name,
                "calls": cost.calls,
                "us": round(cost.microseconds, 1),
                "mb": round(1e-6 * cost.bytes, 1),
                "gflop": round(1e-9 * cost.flops, 2),
                "share_of_bandwidth": round(cost.bytes / seconds / bandwidth, 3),
                "share_of_rate": round(cost.flops / seconds / rate, 3),
                "lost_us": round(cost.microseconds - bound, 1),
            }
        )
    return sorted(rows, key=lambda row: -row["lost_us"])


def main() -> None:
    """Make sets, and print the profiles."""
    from train_throughput import add_size_options, make_trainer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_size_options(parser)
    parser.add_argument("--bandwidth", type=float, default=4.3e12, help="bytes per second of the memory")
    parser.add_argument("--rate", type=float, default=790e12, help="FLOPs per second of the matrix units")
    parser.add_argument("--rows", type=int, default=25, help="rows printed for each box and batch")
    parser.add_argument("--out", type=Path, help="write all rows here (JSON)")
    args = parser.parse_args()
    args.cache_gb, args.epochs, args.workers = 1, 1, 0
    from noise_set import make_set

    from opustomo.model.device import keep_freed_memory

    if args.device == "cpu":
        keep_freed_memory()
    found = []
    for box in args.box:
        with tempfile.TemporaryDirectory(prefix="opustomo-roofline-") as name:
            folder = Path(name)
            star = make_set(folder, 2 * max(args.batch), args.tilts, box, 0)
            for batch in args.batch:
                trainer = make_trainer(star, folder / f"run{batch}", args, batch)
                costs = profile_step(trainer, batch)
                rows = table(costs, args.bandwidth, args.rate)
                total = costs["(all kernels)"].microseconds if "(all kernels)" in costs else 0.0
                summary = {
                    "box": box,
                    "batch": batch,
                    "ms": round(1e-3 * total, 3),
                    "ms_attributed": round(1e-3 * sum(row["us"] for row in rows), 3),
                    "ms_bound": round(1e-3 * sum(row["us"] - row["lost_us"] for row in rows), 3),
                    "gb": round(1e-3 * sum(row["mb"] for row in rows), 3),
                    "tflop": round(1e-3 * sum(row["gflop"] for row in rows), 4),
                }
                found.append(summary | {"rows": rows, "kernels": dict(sorted(KERNELS.items(), key=lambda k: -k[1][0]))})
                KERNELS.clear()
                print(json.dumps(summary))
                for row in rows[: args.rows]:
                    print(
                        f"  {row['us']:9.1f} us x{row['calls']:4d} {row['mb']:9.1f} MB {row['gflop']:9.2f} GFLOP "
                        f"{row['share_of_bandwidth']:6.3f} {row['share_of_rate']:6.3f} lost {row['lost_us']:9.1f}  "
                        f"{row['operation'][:90]}"
                    )
                trainer.close()
                del trainer
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
