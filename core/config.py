"""What an engine is started with. Values are checked when they are set, so a configuration that exists can be used."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from . import framing as framings
from .errors import ConfigurationError
from .framing import Framing

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

_LISTENER = re.compile(
    r"(\[(?P<ipv6>[^]]*)]|(?P<host>[^][:/]*)):(?P<port>[0-9]{1,5})(/(?P<service>[^/?]+))?(\?(?P<options>.*))?"
)
_PYTHON = re.compile(r"python:[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_.]*")
_NAME_MAX = 127
SERVICE_THREADS_MAX = 64
PROXY_NETWORKS_MAX = 64


def _check_int(field: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigurationError(field, value, f"must be a whole number from {least} to {most}")


def _networks(field: str, values: object) -> tuple[IPv4Network | IPv6Network, ...]:
    rule = "must be addresses or networks, such as 10.0.0.0/8 or 2001:db8::1"
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise ConfigurationError(field, values, f"{rule}: a list of them")
    if len(values) > PROXY_NETWORKS_MAX:
        raise ConfigurationError(field, len(values), f"must be {PROXY_NETWORKS_MAX} of them at most: join some of them")
    networks = []
    for value in values:
        if not isinstance(value, str | IPv4Network | IPv6Network) or "%" in str(value):  # a zone
            raise ConfigurationError(field, value, rule)
        try:
            networks.append(ipaddress.ip_network(str(value)))
        except ValueError as error:
            raise ConfigurationError(field, value, f"{rule} ({error})") from None
    return tuple(networks)


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
            connections of the listener), relay_group (to those of them that share a group with the sender), or a
            service in Python: a class that is derived from Service, or "python:package.module:Class".
        framing: How messages are cut: Raw, Lines, LengthPrefixed, Fixed or Delimited. None: as the class says for a
            service in Python, and Raw for the others. With a framing, echo and relay pass on whole messages as they
            came, and messages are counted.
        threads: Of a service in Python: each has an instance of it, and a part of the connections.
        inbox_bytes: Of each of these threads: messages that were received and are not handled yet. Above it, and above
            a sixteenth of it for one connection, clients that go on sending wait.
        proxy_protocol_from: Addresses and networks (CIDR) of balancers, 64 at most. Each of their connections must
            begin with a PROXY header (version 1 or 2), and counts as the client's that it names: for `peer`, bans,
            limits and filters. Connections from elsewhere are what they are: a header from there is data.
        backlog: Connections that the system holds until they are accepted; it may have a lower limit of its own.
        dual_stack: "::" takes IPv4 too. Without meaning for other addresses.

    Raises:
        ConfigurationError: For a value that can't be used.
    """

    host: str = "127.0.0.1"
    port: int = 12345
    service: str | type = "echo"
    backlog: int = 4096
    dual_stack: bool = True
    framing: Framing | None = None
    threads: int = 1
    inbox_bytes: int = 4 * 1024 * 1024
    proxy_protocol_from: Sequence[str | IPv4Network | IPv6Network] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.host, str) or not self.host or not self.host.isprintable() or " " in self.host:
            rule = "must be an address or a name, such as 127.0.0.1, ::1 or localhost"
            raise ConfigurationError("host", self.host, rule)
        _check_int("port", self.port, 0, 65535)
        if isinstance(self.service, str) and self.service not in SERVICES:
            if not _PYTHON.fullmatch(self.service) or len(self.service) > _NAME_MAX:
                rule = "must be one of " + ", ".join(SERVICES) + ", or python:package.module:Class"
                raise ConfigurationError("service", self.service, rule)
        elif not isinstance(self.service, str | type):
            raise ConfigurationError("service", self.service, "must be a name, or a class derived from Service")
        _check_int("backlog", self.backlog, 1, 65535)
        if self.framing is not None and not isinstance(self.framing, Framing):
            rule = "must be one of Raw(), Lines(), LengthPrefixed(), Fixed() and Delimited(), or None"
            raise ConfigurationError("framing", self.framing, rule)
        _check_int("threads", self.threads, 1, SERVICE_THREADS_MAX)
        _check_int("inbox_bytes", self.inbox_bytes, 4096, _GIB)
        if self.threads != 1 and not self.in_python:
            raise ConfigurationError("threads", self.threads, f"is for a service in Python, not for {self.service}")
        object.__setattr__(self, "proxy_protocol_from", self.balancers)  # a caller's list may change later

    @property
    def balancers(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """proxy_protocol_from, read."""
        return _networks("proxy_protocol_from", self.proxy_protocol_from)

    @property
    def in_python(self) -> bool:
        """The service is written in Python."""
        return self.service not in SERVICES

    @property
    def service_name(self) -> str:
        """As it is shown: echo, or python:package.module:Class, in letters that need no escape anywhere."""
        if isinstance(self.service, str):
            return self.service
        name = f"python:{self.service.__module__}:{self.service.__qualname__}"
        return re.sub(r"[^A-Za-z0-9_.:]", "_", name)[:_NAME_MAX]

    @classmethod
    def parse(cls, text: str) -> ListenerConfig:
        """A listener from "HOST:PORT", "HOST:PORT/SERVICE" or "HOST:PORT/SERVICE?OPTION=VALUE&OPTION=VALUE", such as
        "127.0.0.1:7000", "[::]:7000/relay?framing=lines&max_bytes=65536" or
        "0.0.0.0:7000/python:chat.rooms:Chat?threads=2".

        The options are threads, inbox_bytes, proxy_protocol_from (an address or a network; may be there several times),
        and those of a framing: framing=raw, lines (max_bytes, newline=lf or
        crlf), length (prefix_bytes, order=big or little, max_bytes), fixed (size) or delimited (delimiter, in which
        %00 stands for a byte, max_bytes).

        Raises:
            ConfigurationError: If it has another form or holds a value that can't be used.
        """
        match = _LISTENER.fullmatch(text)
        if match is None:
            rule = "must be HOST:PORT or HOST:PORT/SERVICE, such as 127.0.0.1:12345/echo; IPv6 in brackets: [::1]:12345"
            raise ConfigurationError("listener", text, rule)
        host = match["ipv6"] or match["host"] or ""
        options = _options(text, match["options"])
        return cls(host=host, port=int(match["port"]), service=match["service"] or "echo", **options)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        options = {} if self.framing is None else self.framing.options()
        if self.threads != 1:
            options["threads"] = str(self.threads)
        if self.inbox_bytes != ListenerConfig.__dataclass_fields__["inbox_bytes"].default:
            options["inbox_bytes"] = str(self.inbox_bytes)
        pairs = [*options.items(), *(("proxy_protocol_from", each) for each in self.proxy_protocol_from)]
        behind = "?" + "&".join(f"{name}={value}" for name, value in pairs) if pairs else ""
        return f"{host}:{self.port}/{self.service_name}{behind}"


def _options(text: str, options: str | None) -> dict[str, Any]:
    """ListenerConfig's arguments from what stands behind the question mark."""
    if options is None:
        return {}
    framing: dict[str, str] = {}
    out: dict[str, Any] = {}
    for option in options.split("&"):
        name, equals, value = option.partition("=")
        if not equals or not value:
            raise ConfigurationError(
                "listener", text, f"must have options as NAME=VALUE, with & between them, not {option!r}"
            )
        if name == "proxy_protocol_from":
            out.setdefault(name, []).append(value)
        elif name in out or name in framing:
            raise ConfigurationError(name, value, "is there twice")
        elif name in framings.OPTIONS:
            framing[name] = value
        elif name in ("threads", "inbox_bytes"):
            if not (value.isascii() and value.isdigit() and len(value) <= 10):
                raise ConfigurationError(name, value, "must be a whole number")
            out[name] = int(value)
        else:
            known = ", ".join(sorted(framings.OPTIONS | {"threads", "inbox_bytes", "proxy_protocol_from"}))
            raise ConfigurationError(name, value, f"is not an option of a listener; these are: {known}")
    if framing:
        out["framing"] = framings.from_options(framing)
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What the engine is started with.

    Attributes:
        listeners: One at least, 64 at most.
        backend: auto takes iocp on Windows, and io_uring, if it works, or epoll on Linux.
        workers: Threads, each with a completion port of its own; 0: one for each processor, 64 at most.
        busy_poll_us: Microseconds, 1000 at most, for which a worker goes on asking after something has come, before it
            sleeps; 0: it sleeps at once. It saves what a wake costs, and takes the processor for that long.
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
    busy_poll_us: int = 0
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
        _check_int("busy_poll_us", self.busy_poll_us, 0, 1000)
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
        self._check_relays()
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

    def _check_relays(self) -> None:
        """Nobody could be sent what is above send_hard_bytes: all would be ended as slow consumers."""
        for listener in self.listeners:
            if listener.service not in ("relay", "relay_group"):
                continue
            framing = listener.framing.largest if listener.framing else 0
            if framing + self.receive_buffer_bytes > self.send_hard_bytes:
                rule = (
                    f"must be at least {framing + self.receive_buffer_bytes} for {listener}, which sends on its largest"
                    " message together with what a receive brings: raise it, or lower the largest message"
                )
                raise ConfigurationError("send_hard_bytes", self.send_hard_bytes, rule)
