"""Waiting for the engine's futures on the event loop."""

import asyncio
from concurrent.futures import Future
from typing import Any


async def finished(future: Future[Any], timeout: float) -> bool:
    """Whether `future` is done within `timeout` seconds.

    The future itself is never cancelled, as awaiting it with a time limit would do: the command is under way in the
    engine whether or not somebody still waits for it.
    """
    if future.done():
        return True
    waiter = asyncio.wrap_future(future)
    waiter.add_done_callback(lambda done: done.cancelled() or done.exception())
    done, _ = await asyncio.wait([waiter], timeout=timeout)
    return bool(done)
