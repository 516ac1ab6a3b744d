"""Services in Python that several test modules use."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

from iocpd.core import Engine, Lines, ListenerConfig, Service, ServiceConnection


def python(service: type[Service], **options: Any) -> ListenerConfig:
    return ListenerConfig(port=0, service=service, **options)


def stats(engine: Engine) -> Any:
    (row,) = engine.service_stats()
    return row


class Upper(Service):
    framing = Lines(max_bytes=65536)

    def on_message(self, connection: ServiceConnection, message: bytes) -> None:
        connection.send(message.upper())


class Gate(Service):
    """Handles nothing until it is let."""

    framing = Lines()
    open: ClassVar[threading.Event]

    def on_message(self, connection: ServiceConnection, message: bytes) -> None:
        self.open.wait(60)
        connection.send(message)
