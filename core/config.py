"""What an engine is started with. Values are checked when they are set, so a configuration that exists can be used."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import ConfigurationError

SERVICES = ("echo", "discard", "relay", "relay_group")
BACKENDS = ("auto", "iocp", "io_uring", "epoll")
WORKERS_MAX = 64
LISTENERS_MAX = 64
_GIB = 1024**3
CHANGEABLE = frozenset(
    {
        "max_connections",
        "first_byte_timeout",
        "idle_timeout",
        "send_soft_bytes",
        "send_soft_seconds",
        "send_hard_bytes",
        "max_connections_per_address",
        "accepts_per_s",
        "accepts_per_s_per_address",
    }
)
"""What of an EngineConfig can be changed while the engine runs."""

_LISTENER = re.compile(r"(\[(?P<ipv6>[^]]*)]|(?P<host>[^][:/]*)):(?P<port>[0-9]{1,5})(/(?P<service>[^/]+))?")


def _check_int(field: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigurationError(field, value, f"must be a whole number from {least} to {most}")


def _check_choice(field: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigurationError(field, value, "must be one of " + ", ".join(choices))


def milliseconds(field: str, seconds: float, *, least: float = 0.0) -> int:
    """The engine's form of a time in seconds: rounded up, so that a short time does not become none.

    Raises:
        ConfigurationError: If it is not a number of seconds from `least` to a million.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not least <= seconds <= 1e6:
        raise ConfigurationError(field, seconds, f"must be from {least:g} to 1000000 seconds")
    return math.ceil(seconds * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerConfig:
    """Where to listen, and what is done with the connections.

    Attributes:
        host: A numeric address, or a name, whose first address is taken when the engine starts.
        port: 0: the system chooses; `Engine.listener_stats` tells which.
        service: echo (all bytes go back), discard (they are read and dropped), relay (each message goes to all other
            connections of the listener) or relay_group (to those of them that share a group with the sender).
        backlog: Connections that the system holds until they are accepted; it may have a lower limit of its own.
        dual_stack: "::" takes IPv4 too. Without meaning for other addresses.

    Raises:
        ConfigurationError: For a value that can't be used.
    """

    host: str = "127.0.0.1"
    port: int = 12345
    service: str = "echo"
    backlog: int = 4096
    dual_stack: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.host, str) or not self.host or not self.host.isprintable() or " " in self.host:
            rule = "must be an address or a name, such as 127.0.0.1, ::1 or localhost"
            raise ConfigurationError("host", self.host, rule)
        _check_int("port", self.port, 0, 65535)
        _check_choice("service", self.service, SERVICES)
        _check_int("backlog", self.backlog, 1, 65535)

    @classmethod
    def parse(cls, text: str) -> ListenerConfig:
        """A listener from "HOST:PORT" or "HOST:PORT/SERVICE", such as "127.0.0.1:7000" or "[::]:7000/relay".

        Raises:
            ConfigurationError: If it has another form or holds a value that can't be used.
        """
        match = _LISTENER.fullmatch(text)
        if match is None:
            rule = "must be HOST:PORT or HOST:PORT/SERVICE, such as 127.0.0.1:12345/echo; IPv6 in brackets: [::1]:12345"
            raise ConfigurationError("listener", text, rule)
        host = match["ipv6"] or match["host"] or ""
        return cls(host=host, port=int(match["port"]), service=match["service"] or "echo")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}/{self.service}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What the engine is started with.

    Attributes:
        listeners: One at least, 64 at most.
        backend: auto takes iocp on Windows, and io_uring, if it works, or epoll on Linux.
        workers: Threads, each with a completion port of its own; 0: one for each processor, 64 at most.
        max_connections: Of all listeners together; what comes above it is refused.
        first_byte_timeout: Seconds that a client has for its first byte; 0: no limit.
        idle_timeout: Seconds without a byte in either direction after which a connection ends; 0: no limit.
        send_soft_bytes: A connection whose send queue stays above this for `send_soft_seconds` ends as slow_consumer.
        send_soft_seconds: See send_soft_bytes.
        send_hard_bytes: What would bring a send queue above this is refused.
        receive_buffer_bytes: The size of a receive buffer.
        receive_buffers: Of each worker, at most; they are allocated as they are needed. An idle connection has none.
        closed_capacity: Ended connections that each worker remembers.
        inbox_capacity: Commands that may wait for one worker.
        relay_capacity: Relayed messages that may wait for one worker.
        event_capacity: Events that each worker remembers, for `Engine.events`.
        max_bans: Bans at most.
        max_connections_per_address: 0: no limit. An address is one IPv4 address or one IPv6 /64.
        accepts_per_s: Connections that are let in each second, of all addresses together; so many may come at once. 0:
            no limit.
        accepts_per_s_per_address: The same for one address.

    Raises:
        ConfigurationError: For a value that can't be used.
    """

    listeners: Sequence[ListenerConfig] = (ListenerConfig(),)
    backend: str = "auto"
    workers: int = 0
    max_connections: int = 65536
    first_byte_timeout: float = 0.0
    idle_timeout: float = 0.0
    send_soft_bytes: int = 256 * 1024
    send_soft_seconds: float = 10.0
    send_hard_bytes: int = 4 * 1024 * 1024
    receive_buffer_bytes: int = 4096
    receive_buffers: int = 16384
    closed_capacity: int = 4096
    inbox_capacity: int = 4096
    relay_capacity: int = 1024
    event_capacity: int = 4096
    max_bans: int = 131072
    max_connections_per_address: int = 0
    accepts_per_s: int = 0
    accepts_per_s_per_address: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "listeners", tuple(self.listeners))  # a caller's list may change later
        self._check_listeners()
        _check_choice("backend", self.backend, BACKENDS)
        _check_int("workers", self.workers, 0, WORKERS_MAX)
        _check_int("max_connections", self.max_connections, 1, 1024 * 1024)
        milliseconds("first_byte_timeout", self.first_byte_timeout)
        milliseconds("idle_timeout", self.idle_timeout)
        _check_int("send_soft_bytes", self.send_soft_bytes, 1, _GIB)
        milliseconds("send_soft_seconds", self.send_soft_seconds, least=0.001)
        _check_int("send_hard_bytes", self.send_hard_bytes, 1, _GIB)
        if self.send_soft_bytes > self.send_hard_bytes:
            rule = f"must not be above send_hard_bytes ({self.send_hard_bytes}): lower it, or raise send_hard_bytes"
            raise ConfigurationError("send_soft_bytes", self.send_soft_bytes, rule)
        _check_int("receive_buffer_bytes", self.receive_buffer_bytes, 256, 1024 * 1024)
        _check_int("receive_buffers", self.receive_buffers, 1, 32768)
        _check_int("closed_capacity", self.closed_capacity, 1, 1024 * 1024)
        _check_int("inbox_capacity", self.inbox_capacity, 1, 1024 * 1024)
        _check_int("relay_capacity", self.relay_capacity, 1, 1024 * 1024)
        _check_int("event_capacity", self.event_capacity, 1, 1024 * 1024)
        _check_int("max_bans", self.max_bans, 1, 4 * 1024 * 1024)
        _check_int("max_connections_per_address", self.max_connections_per_address, 0, 1024 * 1024)
        _check_int("accepts_per_s", self.accepts_per_s, 0, 1_000_000)
        _check_int("accepts_per_s_per_address", self.accepts_per_s_per_address, 0, 1_000_000)

    def _check_listeners(self) -> None:
        if not 1 <= len(self.listeners) <= LISTENERS_MAX:
            raise ConfigurationError("listeners", len(self.listeners), f"must be from 1 to {LISTENERS_MAX} of them")
        seen = set()
        for listener in self.listeners:
            place = (listener.host, listener.port)
            if listener.port and place in seen:
                raise ConfigurationError("listeners", str(listener), "is there twice: give one of them another port")
            seen.add(place)
