"""Parallel processing of tomograms in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[tuple[int, Result]]:
    """Process all jobs and yield the index and the result of each job as soon as it is finished.

    Parameters
    ----------
    work
        Module-level function, which is pickled together with the jobs.
    jobs
        Arguments of `work`. No more than `workers` jobs are submitted at a time, which limits the memory.
    workers
        Number of processes; with one worker or one job, this process does the work.

    Raises
    ------
    Exception
        The first exception of a job; jobs that have not started are canceled.
    """
    workers = min(workers, len(jobs))
    if workers <= 1:
        for index, job in enumerate(jobs):
            yield index, work(job)
        return
    # Forking a process with threads of PyTorch can deadlock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        running: dict[Future[Result], int] = {}
        waiting = iter(enumerate(jobs))
        try:
            while True:
                while len(running) < workers and (following := next(waiting, None)) is not None:
                    running[pool.submit(work, following[1])] = following[0]
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future), future.result()
        finally:
            for future in running:
                future.cancel()
