"""A ban, and what it is called."""

import ipaddress
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

from pydantic_core import to_json

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

ID = "[bcdfghjkmnpqrstvwxz2-9]{10}"
"""What an id looks like: no vowels, so no words; no l, o, 0, 1, so it can be read aloud."""

_ALPHABET = "bcdfghjkmnpqrstvwxz23456789"
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


@dataclass(frozen=True, slots=True)
class Ban:
    """An address or a block of them that may not connect.

    Attributes:
        id: Random, so the same for ever: it outlives the run.
        network: As `canonical` gives it.
        reason: The operator's text, or "".
        created_at: When.
        expires_at: From then on it is no more; None: it stays until it is lifted.
        created_by: The name of the key.
        serial: Its place in the order in which this run came to know of them.
        line: The ban as the file holds it; kept, so that writing 100,000 of them again takes no time.
    """

    id: str
    network: Network
    reason: str
    created_at: datetime
    expires_at: datetime | None
    created_by: str
    serial: int = field(compare=False)
    line: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "line", to_json(row_of(self)))

    def expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= now

    def seconds_left(self, now: datetime) -> float:
        """For the engine: how long it has to live, 0 for ever."""
        if self.expires_at is None:
            return 0.0
        return max((self.expires_at - now).total_seconds(), 0.001)


def row_of(ban: Ban) -> dict[str, Any]:
    """A ban with the members that the file and the API have in common."""
    return {
        "id": ban.id,
        "address": text_of(ban.network),
        "reason": ban.reason,
        "created_at": ban.created_at,
        "expires_at": ban.expires_at,
        "created_by": ban.created_by,
    }


def new_id() -> str:
    """An id that no ban ever had: there are 2e14."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(10))


def now() -> datetime:
    """The moment, in UTC."""
    return datetime.now(UTC)


def text_of(network: Network) -> str:
    """`192.0.2.7` for a single address, `192.0.2.0/24` for a block."""
    return str(network.network_address if network.prefixlen == network.max_prefixlen else network)


def mapped(network: Network) -> ipaddress.IPv6Network:
    """IPv4 in IPv6's clothes."""
    return ipaddress.IPv6Network((0xFFFF << 32 | int(network.network_address), network.prefixlen + 96))


def canonical(network: Network) -> Network:
    """The same addresses under one name: IPv4 in IPv6's clothes (::ffff:192.0.2.7) is IPv4."""
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        return ipaddress.IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network
