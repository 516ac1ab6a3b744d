"""Peer of a service in Python: asyncio's low-level Protocol cuts lines, and calls a handler for each.

lines_asyncio.py PORT, with LOOP=asyncio or LOOP=uvloop in the environment.
"""

import asyncio
import importlib
import os
import sys
from typing import cast


class Upper(asyncio.Protocol):
    transport: asyncio.Transport
    rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        if lines:
            self.transport.write(b"\n".join([self.on_message(line) for line in lines]) + b"\n")

    def on_message(self, line: bytes) -> bytes:
        return line.upper()


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upper, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


kind = os.environ.get("LOOP", "asyncio")
with asyncio.Runner(loop_factory=importlib.import_module(kind).new_event_loop) as runner:
    runner.run(main(int(sys.argv[1])))
