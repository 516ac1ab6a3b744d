"""How many messages one connection may be sent in a second, from all callers together."""

import time
from collections import OrderedDict
from collections.abc import Callable

CONNECTIONS = 65_536
"""So many connections are remembered at most. Each is forgotten a second after its last message."""


class MessageRate:
    """A bucket for each connection that was sent something within the last second: it holds a second's worth, and is
    full to begin with. For the event loop's thread alone.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # When the bucket would be full again, for each connection; that of the last message comes last. No entry is
        # more than a second ahead, so what is at the front for longer than that is full.
        self._full_at: OrderedDict[int, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def admit(self, connection: int, per_s: int) -> bool:
        """Takes one message out of the connection's bucket; False: it is empty. per_s 0: there is no limit."""
        if not per_s:
            return True
        now = self._clock()
        full_at = max(self._full_at.get(connection, now), now) + 1 / per_s
        if full_at > now + 1 + 1e-9:  # so many additions are not exact
            return False
        self._full_at[connection] = full_at
        self._full_at.move_to_end(connection)
        self._forget(now)
        return True

    def _forget(self, now: float) -> None:
        while self._full_at:
            oldest = next(iter(self._full_at))
            if self._full_at[oldest] > now and len(self._full_at) <= CONNECTIONS:
                return
            del self._full_at[oldest]
