"""Steps as CUDA graphs: a step of many small kernels is recorded once and then replayed without Python."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from opustomo.model.step import StepOutput
from opustomo.training.engine import Engine, Visit

WARM_UP, WARM_UP_PARALLEL = 3, 11
"""Number of eager steps before one is recorded: libraries select algorithms and allocate memory in them, and
DistributedDataParallel needs ten to build its buckets."""


@dataclass
class _Recorded:
    graph: torch.cuda.CUDAGraph
    visit: Visit
    output: StepOutput


class Steps:
    """Steps of an engine, as graphs on a GPU if the shapes of batches repeat.

    Parameters
    ----------
    engine
        Engine that performs the steps.
    record
        Whether to record graphs; otherwise every step is eager.
    """

    def __init__(self, engine: Engine, record: bool) -> None:
        self.engine = engine
        self._record = record and engine.config.accum_step == 1
        self._recorded: dict[tuple[object, ...], _Recorded] = {}
        self._warmed: dict[tuple[object, ...], int] = {}
        self._pool: Any = None
        self._stream = torch.cuda.Stream() if self._record else None
        parallel = engine.ranks.size > 1
        self._warm_up = WARM_UP_PARALLEL if parallel else WARM_UP
        self._usual_count = engine.config.batch_size * engine.ranks.size
        with torch.cuda.stream(self._stream) if self._stream is not None else nullcontext():
            engine.parallelize()

    def __call__(
        self, visit: Visit, count: int, key: tuple[int, ...], training: bool, first: bool = True, last: bool = True
    ) -> StepOutput:
        """Perform a step with the random draws of ``key``; see :meth:`Engine.step`."""
        engine = self.engine
        engine.seed(key)
        if self._stream is None or visit.pool_count is None:
            return engine.step(visit, count, training, first, last)
        kind = (training, count, tuple(visit.volumes.shape))
        recorded = self._recorded.get(kind)
        if recorded is None:
            done = self._warmed.get(kind, 0)
            self._warmed[kind] = done + 1
            # the smaller batch at the end of a pass is not recorded
            if done < self._warm_up or count != self._usual_count:
                return self._apart(visit, count, training)
            recorded = self._recorded[kind] = self._capture(visit, count, training)
            engine.seed(key)
        for name in self._tensors(visit):
            getattr(recorded.visit, name).copy_(getattr(visit, name), non_blocking=True)
        recorded.graph.replay()
        return recorded.output

    @property
    def preparation(self) -> str | None:
        """What happens before the first steps run at full speed, for the log; None if nothing does."""
        if not self._record:
            return None
        return (
            "preparing the GPU: kernels are compiled, convolutions are tuned and a step is recorded in the first "
            f"batches; compiled kernels are kept in {os.environ.get('TRITON_CACHE_DIR', '~/.triton/cache')}"
        )

    def close(self) -> None:
        """Release the graphs; NCCL cannot terminate while they exist."""
        if self._recorded:
            torch.cuda.synchronize()
            self._recorded.clear()

    @staticmethod
    def _tensors(visit: Visit) -> list[str]:
        return [field.name for field in fields(Visit) if isinstance(getattr(visit, field.name), Tensor)]

    def _apart(self, visit: Visit, count: int, training: bool) -> StepOutput:
        """Perform an eager step on the stream on which graphs are recorded."""
        assert self._stream is not None
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            output = self.engine.step(visit, count, training)
        torch.cuda.current_stream().wait_stream(self._stream)
        return output

    def _capture(self, visit: Visit, count: int, training: bool) -> _Recorded:
        held = replace(visit, **{name: getattr(visit, name).clone() for name in self._tensors(visit)})
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.engine.generator)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        self.engine.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            output = self.engine.step(held, count, training)
        self._pool = graph.pool()
        return _Recorded(graph, held, output)
