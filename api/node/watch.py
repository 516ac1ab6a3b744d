"""Tells the log what an operator should know of the engine: that one address has come to hold most of the connections,
and that clients can't be accepted."""

import asyncio
import time

from iocpd.api import logs
from iocpd.core import DominantAddress, Engine

_LOOK_SECONDS = 2.0
_COMPLAINT_SECONDS = 60.0
_ADVICE = (
    "limits by address and bans hit all of them together: is a balancer or Docker Desktop in front? Then let it speak"
    " the PROXY protocol, and give its address to the listener as proxy_protocol_from"
)

_log = logs.get_logger("iocpd.node")


async def watch(engine: Engine) -> None:
    """A warning each time that an address dominates, and an error when accepts of a listener fail, once a minute at
    most; until it is cancelled. The engine has been started."""
    addresses, accepts = _Addresses(), _Accepts()
    while True:
        addresses.look(engine)
        accepts.look(engine)
        await asyncio.sleep(_LOOK_SECONDS)


class _Addresses:
    def __init__(self) -> None:
        self._told: DominantAddress | None = None

    def look(self, engine: Engine) -> None:
        dominant = engine.info().dominant_address
        if dominant is not None and dominant != self._told:
            self._told = dominant
            held = f"{dominant.network} holds {dominant.connections} connections, more than half"
            _log.warning(f"{held}: {_ADVICE}")


class _Accepts:
    def __init__(self) -> None:
        self._told: dict[int, int] = {}  # of each listener, how many had failed
        self._next: dict[int, float] = {}

    def look(self, engine: Engine) -> None:
        now = time.monotonic()
        for listener, stats in enumerate(engine.listener_stats()):
            failed = stats.accept_errors - self._told.get(listener, 0)
            if failed and now >= self._next.get(listener, 0.0):
                self._told[listener] = stats.accept_errors
                self._next[listener] = now + _COMPLAINT_SECONDS
                _log.error(
                    "clients may have to wait: accepts fail, as they do for want of handles or memory",
                    listener=f"{stats.host}:{stats.port}",
                    failed=failed,
                )
