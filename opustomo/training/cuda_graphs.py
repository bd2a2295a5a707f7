"""Steps as CUDA graphs: a step of many small kernels is recorded once and then replayed without Python."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from opustomo.model.random_draws import StepRandom
from opustomo.model.step_records import StepOutput, StepState
from opustomo.model.streams import POSES
from opustomo.training.training_step import Engine, Schedule, Visit

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

    def prepare(self, say: Callable[[str], None] | None) -> None:
        """Compile the kernels of a training step in parallel, if steps are recorded, and say so.

        The step is only rehearsed: weights and particles stay as they are.
        """
        if self._stream is None:
            return
        from opustomo.physics.kernels.launch import compile_only

        if say is not None:
            say(
                "# preparing the GPU: kernels are compiled now and a step is recorded in the first batches; "
                f"compiled kernels are kept in {os.environ.get('TRITON_CACHE_DIR', '~/.triton/cache')}"
            )
        engine, model = self.engine, self.engine.model
        count, box = engine.config.batch_size, model.boxes.box
        index = torch.arange(count, device=engine.device) % len(engine.table)
        ones = torch.ones(len(Schedule._fields), device=engine.device)
        visit = Visit(index, torch.zeros(count, box, box, box, device=engine.device), index, None, ones)
        random = StepRandom(engine.generator, count)
        state = StepState(ones[0], ones[0], 0.0, 0.0, engine.snr, random)
        with suppress(ImportError), torch.autograd.set_multithreading_enabled(False), compile_only():
            total = model(engine.assemble(visit), None, state).terms.total
            torch.autograd.grad(total, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
        model.streams.join(POSES)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()

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
        self.engine.optimizer.clear_gradients()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            output = self.engine.step(held, count, training)
        self._pool = graph.pool()
        return _Recorded(graph, held, output)
