"""Parts of a step that run concurrently with the networks on a GPU.

Many kernels of the networks are too small to occupy a GPU. Independent computations therefore run at the same time, on
separate streams: the target and its filter while the networks generate the template, and the slopes of the poses and
all running averages during the backward pass. Recorded steps (:mod:`opustomo.training.cuda_graphs`) keep branches.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

TARGET, POSES = "target", "poses"
"""Branches of a step: the side of the data, and what only the next step needs."""


class SideStreams:
    """Streams of the branches of a step; on a CPU, or unless ``enabled``, everything runs in order.

    Memory belongs to the stream on which it is allocated. What a branch reads must therefore live until it is joined
    (:meth:`hold`). Who enables the branches joins them.
    """

    def __init__(self) -> None:
        self.enabled = False
        self._streams: dict[str, torch.cuda.Stream] = {}
        self._held: dict[str, list[object]] = {}

    def fork(self, name: str, device: torch.device) -> None:
        """Let the branch continue as soon as everything queued so far on the current stream is done."""
        if not self.enabled or device.type != "cuda":
            return
        if name not in self._streams:
            self._streams[name] = torch.cuda.Stream(device)
        self._streams[name].wait_stream(torch.cuda.current_stream(device))
        self._held.setdefault(name, [])

    def on(self, name: str) -> AbstractContextManager[object]:
        """Return the context in which work is queued on a branch; it is queued in order if there is no such branch."""
        return torch.cuda.stream(self._streams[name]) if name in self._held else nullcontext()

    def hold(self, name: str, *read: object) -> None:
        """Keep what the branch reads until it is joined."""
        if name in self._held:
            self._held[name] += read

    def join(self, name: str) -> None:
        """Let the current stream wait for the branch."""
        if name in self._held:
            stream = self._streams[name]
            torch.cuda.current_stream(stream.device).wait_stream(stream)
            del self._held[name]
