"""Time of the kernels of the decoder's last layer for different tile sizes and numbers of warps.

    python benchmarks/output_layer.py --templateres 128 --batch 8 32

Needs a GPU. Prints one JSON object per batch; the first entries are the tiles that training uses.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # also from a source tree that is not installed


def main() -> None:
    """Measure and print."""
    import torch
    import triton

    from opustomo.model.kernels import convolution

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--templateres", type=int, default=128)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32])
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("The kernels of the output layer need a GPU.")
        return
    n = args.templateres // 2
    for batch in args.batch:
        torch.manual_seed(0)
        x = torch.randn(batch, n, n, n, 16, device="cuda", dtype=torch.bfloat16)
        weight, bias = 0.1 * torch.randn(16, 4, 4, 4, device="cuda"), torch.zeros(1, device="cuda")
        grad = torch.randn(batch, 2 * n, 2 * n, 2 * n, device="cuda")
        out, to_x = torch.empty_like(grad), torch.empty_like(x)
        spread = convolution.neighbor_weights(weight).to(x.dtype).contiguous()
        taps = weight.flatten(1).t().to(x.dtype).contiguous()
        forward, backward = {}, {}
        for rows in (convolution.ROWS, 64, 256):
            for warps in (4, 8):
                grid = (triton.cdiv(n * n * ((n + 1) // 2), rows), batch)
                work = partial(
                    convolution._output_layer_kernel[grid], out, x, spread, bias, bias, n, rows, False, num_warps=warps
                )
                forward[f"rows {rows}, warps {warps}"] = round(1e3 * triton.testing.do_bench(work, 20, 100), 1)
        for rows in (convolution.ROWS, 64, 32):
            for warps in (4, 8):
                for chunks in (convolution.CHUNKS, 64, 256):
                    per_chunk = triton.cdiv(triton.cdiv(n**3, rows), chunks)
                    sums = torch.empty(batch * chunks, 16, 64, device="cuda")
                    kernel = convolution._output_layer_gradient_kernel[(chunks, batch)]
                    work = partial(kernel, to_x, sums, grad, x, taps, per_chunk, n, rows, chunks, num_warps=warps)
                    name = f"rows {rows}, warps {warps}, chunks {chunks}"
                    backward[name] = round(1e3 * triton.testing.do_bench(work, 20, 100), 1)
        print(json.dumps({"batch": batch, "templateres": args.templateres, "forward": forward, "backward": backward}))


if __name__ == "__main__":
    main()
