"""The jobs of one run: those that run, and for a while those that have ended."""

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

from iocpd.api import problems
from iocpd.api.jobs.work import Work
from iocpd.api.problems import Problem

RUNNING_JOBS = 16
KEEP_JOBS = 256
"""Of all jobs; beyond it the one that ended first is forgotten early."""
KEEP_SECONDS = 900
"""So long a job can be asked for after its end."""

_ID_BYTES = 9

W = TypeVar("W", bound=Work)


class Jobs:
    """For the event loop's thread alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running: dict[str, tuple[Work, asyncio.Task[None]]] = {}
        self._ended: dict[str, tuple[Work, float]] = {}  # in the order of their ends, each with the time of it

    @property
    def running(self) -> int:
        """How many run. May be asked in any thread."""
        return len(self._running)

    def start(self, work: Work, run: Callable[[], Coroutine[Any, Any, None]]) -> str:
        """Runs `run`, which runs `work`, as a job; the job's id. Problem 429 when too many run already."""
        if len(self._running) >= RUNNING_JOBS:
            detail = f"{RUNNING_JOBS} jobs run at once, and no more: wait for one of them, or cancel one with DELETE"
            raise Problem(problems.TOO_MANY_JOBS, detail)
        id = work.job = secrets.token_urlsafe(_ID_BYTES)
        task = asyncio.get_running_loop().create_task(run(), name=f"job {id}")
        self._running[id] = work, task
        task.add_done_callback(lambda _: self._end(id))
        self._forget()
        return id

    def find(self, id: str, kind: type[W]) -> W:
        """The job of this kind with this id; Problem 404 when there is none, or no more."""
        self._forget()
        work = (self._running.get(id) or self._ended.get(id) or (None,))[0]
        if not isinstance(work, kind):
            detail = (
                f"there is no job {id!r:.80} here; it is forgotten {KEEP_SECONDS // 60} minutes after its end,"
                " sooner if many end, and by a restart"
            )
            raise Problem(problems.JOB_UNKNOWN, detail)
        return work

    def _end(self, id: str) -> None:
        work, task = self._running.pop(id)
        self._ended[id] = work, self._clock()
        if task.cancelled() and work.ended_at is None:  # before its first step: its event loop has ended
            work.cancel()
            work.ended_at = datetime.now(UTC)
        self._forget()

    def _forget(self) -> None:
        expired = self._clock() - KEEP_SECONDS
        while self._ended:
            id, (_, ended) = next(iter(self._ended.items()))
            if ended > expired and len(self._ended) + len(self._running) <= KEEP_JOBS:
                break
            del self._ended[id]
