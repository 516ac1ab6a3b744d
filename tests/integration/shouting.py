"""A service in Python, for test_python_services.py: its server imports it by this name."""

from __future__ import annotations

import json

from iocpd.core import Lines, Service, ServiceConnection


class Shout(Service):
    framing = Lines(max_bytes=1000)

    def on_message(self, connection: ServiceConnection, message: bytes) -> None:
        if message == b"fail":
            raise RuntimeError("as it was asked to")
        if message.startswith((b"kick ", b"fail ")):
            text = json.loads(message[5:])
            if message.startswith(b"fail"):
                raise RuntimeError(text)
            connection.kick(text)
            return
        connection.send(message.upper())


class Broken(Service):
    def __init__(self) -> None:
        raise RuntimeError("there is no database")
