"""Peer for the isolation measurements: what one writes without iocpd.

An echo service, or one that answers lines in upper case, on asyncio or uvloop and a FastAPI management API, in one
process and on one loop.

echo_fastapi.py TCP_PORT HTTP_PORT, with LOOP=asyncio or LOOP=uvloop and SERVICE=echo or SERVICE=lines in the
environment. With MODEL=yes the listing declares its response model. Then FastAPI has pydantic write the JSON; without
one, it walks the answer in Python, many times slower.
"""

import asyncio
import importlib
import itertools
import os
import sys
import time
from typing import Any, cast

import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

connections: dict[int, "Echo"] = {}
ids = itertools.count(1)
app = FastAPI()


class Echo(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        self.id = next(ids)
        self.since = time.time()
        self.peer = transport.get_extra_info("peername")
        self.bytes_in = self.bytes_out = 0
        connections[self.id] = self

    def data_received(self, data: bytes) -> None:
        self.bytes_in += len(data)
        self.send(data)

    def send(self, data: bytes) -> None:
        self.bytes_out += len(data)
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        connections.pop(self.id, None)


class Upper(Echo):
    rest = b""

    def data_received(self, data: bytes) -> None:
        self.bytes_in += len(data)
        *lines, self.rest = (self.rest + data).split(b"\n")
        if lines:
            self.send(b"\n".join([self.on_message(line) for line in lines]) + b"\n")

    def on_message(self, line: bytes) -> bytes:
        return line.upper()


class Item(BaseModel):
    id: int
    ip: str
    port: int
    since: float
    bytes_in: int
    bytes_out: int


class Page(BaseModel):
    items: list[Item]
    total: int


@app.get("/v1/connections", response_model=Page if os.environ.get("MODEL") == "yes" else None)
async def list_connections(limit: int = 100) -> dict[str, Any]:
    items = [
        {
            "id": c.id,
            "ip": c.peer[0],
            "port": c.peer[1],
            "since": c.since,
            "bytes_in": c.bytes_in,
            "bytes_out": c.bytes_out,
        }
        for c in itertools.islice(connections.values(), limit)
    ]
    return {"items": items, "total": len(connections)}


@app.delete("/v1/connections/{connection_id}", status_code=204)
async def kick(connection_id: int) -> None:
    if (connection := connections.get(connection_id)) is None:
        raise HTTPException(404)
    connection.transport.abort()


async def main(tcp_port: int, http_port: int) -> None:
    service = {"echo": Echo, "lines": Upper}[os.environ.get("SERVICE", "echo")]
    await asyncio.get_running_loop().create_server(service, "127.0.0.1", tcp_port, backlog=4096)
    await uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=http_port, log_level="warning")).serve()


kind = os.environ.get("LOOP", "asyncio")
with asyncio.Runner(loop_factory=importlib.import_module(kind).new_event_loop) as runner:
    runner.run(main(int(sys.argv[1]), int(sys.argv[2])))
