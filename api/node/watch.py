"""Tells the log when one address has come to hold most of the connections."""

import asyncio

from iocpd.api import logs
from iocpd.core import Engine

_LOOK_SECONDS = 2.0
_ADVICE = (
    "limits by address and bans hit all of them together: is a balancer or Docker Desktop in front? Then let it speak"
    " the PROXY protocol, and give its address to the listener as proxy_protocol_from"
)

_log = logs.get_logger("iocpd.node")


async def watch_addresses(engine: Engine) -> None:
    """A warning for each time, until it is cancelled. The engine has been started."""
    told = None
    while True:
        dominant = engine.info().dominant_address
        if dominant is not None and dominant != told:
            told = dominant
            held = f"{dominant.network} holds {dominant.connections} connections, more than half"
            _log.warning(f"{held}: {_ADVICE}")
        await asyncio.sleep(_LOOK_SECONDS)
