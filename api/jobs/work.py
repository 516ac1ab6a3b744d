"""Something that is done to many connections and takes its time."""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from iocpd.core import EngineStopped


class JobState(StrEnum):
    """How far something is that is done to many connections."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    """It was told to stop, or the engine stopped: what had been done by then is counted."""


class Work(ABC):
    """Done either while its request waits, or as a job that other requests watch and cancel. For one event loop.

    Attributes:
        job: The job's id; None while nobody but its own request knows it.
        state: Cancelled as soon as it is told to stop, though what is under way then may still be counted.
        started_at: When it was asked for.
        ended_at: When nothing was left under way; None before.
    """

    def __init__(self, rate_per_s: int | None = None) -> None:
        self.job: str | None = None
        self.rate_per_s = rate_per_s
        self.state = JobState.RUNNING
        self.started_at = datetime.now(UTC)
        self.ended_at: datetime | None = None
        self._stop = asyncio.Event()

    @abstractmethod
    async def _do(self) -> None:
        """Everything; returns soon after `stopped` has become true."""

    @abstractmethod
    def _let_go(self) -> None:
        """Frees what is needed only until the end; the report is kept for longer."""

    @abstractmethod
    def progress(self) -> tuple[int, int]:
        """How many are settled, and of how many."""

    @abstractmethod
    def report(self) -> dict[str, Any]:
        """How far it is, as plain values for JSON."""

    @abstractmethod
    def summary(self) -> str:
        """The counts in a few words, for the log."""

    async def run(self) -> None:
        """Does it, once. What the engine's end cuts short is cancelled; other errors are raised, and end it too."""
        try:
            await self._do()
        except EngineStopped:
            self.cancel()
        except BaseException:
            self.cancel()
            raise
        finally:
            if self.state is JobState.RUNNING:
                self.state = JobState.DONE
            self.ended_at = datetime.now(UTC)
            self._let_go()

    def cancel(self) -> None:
        """Nothing more is begun; what is under way is not taken back. Without effect once it is over."""
        if self.state is JobState.RUNNING:
            self.state = JobState.CANCELLED
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """It was told to stop."""
        return self._stop.is_set()

    async def pause(self, seconds: float) -> None:
        """Waits so long, or until it is told to stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    def frame(self) -> dict[str, Any]:
        """The members that every report has."""
        return {
            "job": self.job,
            "state": self.state,
            "rate_per_s": self.rate_per_s,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "eta": self.eta(),
        }

    def eta(self) -> datetime | None:
        """When it will be over at its rate, or else as fast as it went until now; None if that can't be told."""
        if self.state is not JobState.RUNNING:
            return None
        settled, total = self.progress()
        if settled >= total:  # what is left is up to the clients
            return None
        now = datetime.now(UTC)
        if self.rate_per_s:
            seconds = (total - settled) / self.rate_per_s
        elif settled:
            seconds = (now - self.started_at).total_seconds() * (total - settled) / settled
        else:
            return None
        return now + timedelta(seconds=seconds)
