"""A steady rate, kept by a clock."""

import time
from collections.abc import Awaitable, Callable

TICK_SECONDS = 0.02
"""A wait is at least this long, so that a high rate costs fifty turns of the event loop a second and not thousands."""
BURST_SECONDS = 0.25
"""What a late turn of the event loop makes up for. What was held up for longer goes on at the rate, without a flood."""


class Pacer:
    """Lets so many through each second: after `t` seconds never more than 1 + rate_per_s * (t + BURST_SECONDS)."""

    def __init__(
        self,
        rate_per_s: int,
        pause: Callable[[float], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """pause: waits so many seconds, or for less time when there is nothing to wait for any more."""
        self._rate = rate_per_s
        self._pause = pause
        self._clock = clock
        self._due = clock()  # when the next one is

    async def take(self, most: int) -> int:
        """Waits until one is due, or the pause was cut short; how many are due then, from 1 to `most`."""
        now = self._clock()
        if now < self._due:
            await self._pause(max(self._due - now, TICK_SECONDS))
            now = max(self._clock(), self._due)
        self._due = max(self._due, now - BURST_SECONDS)
        count = min(most, 1 + int((now - self._due) * self._rate))
        self._due += count / self._rate
        return count
