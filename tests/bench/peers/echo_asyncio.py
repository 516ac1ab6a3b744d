"""Echo peer: asyncio's low-level Protocol.

echo_asyncio.py PORT, with LOOP=asyncio or LOOP=uvloop in the environment.
"""

import asyncio
import importlib
import os
import sys
from typing import cast


class Echo(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


kind = os.environ.get("LOOP", "asyncio")
with asyncio.Runner(loop_factory=importlib.import_module(kind).new_event_loop) as runner:
    runner.run(main(int(sys.argv[1])))
