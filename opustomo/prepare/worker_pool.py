"""Work on many tomograms at once, in processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def work_through(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[tuple[int, Result]]:
    """Do all jobs and hand out results as they come, with the job's index.

    Parameters
    ----------
    work
        A function of a module; it and the jobs travel to other processes.
    jobs
        What to do. No more than `workers` are under way, so that memory stays bounded.
    workers
        Processes; with one, or one job, all is done in this one.

    Raises
    ------
    Exception
        The first that a job raises; jobs not yet begun are dropped.
    """
    workers = min(workers, len(jobs))
    if workers <= 1:
        for index, job in enumerate(jobs):
            yield index, work(job)
        return
    # forking a process that runs torch's threads can hang
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
