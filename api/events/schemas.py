"""Shapes of /v1/events."""

from datetime import datetime
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from iocpd.api.connections.schemas import Endpoint
from iocpd.core import By, Phase, Reason

EventType = Literal["connected", "disconnected", "slow_consumer", "drain", "ban", "unban", "dominant_address"]
"""What an event may be: the values of the engine's EventKind. `missed` is none of them: nobody can leave it out."""

_TYPES: tuple[str, ...] = get_args(EventType)
_ANY = "|".join(_TYPES)


def _check_types(text: str) -> str:
    for name in text.split(","):
        if name not in _TYPES:
            raise ValueError(f"{name!r:.40} is no type of event: give some of {', '.join(_TYPES)}, with commas between")
    return text


class EventsQuery(BaseModel):
    """Query parameters of GET /v1/events."""

    model_config = ConfigDict(extra="forbid")

    types: (
        Annotated[
            str,
            AfterValidator(_check_types),
            WithJsonSchema(
                {"type": "string", "pattern": f"^({_ANY})(,({_ANY}))*$", "examples": ["connected,disconnected"]}
            ),
        ]
        | None
    ) = Field(default=None, description="only these, with commas between; without it, all")
    listener: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        default=None, description="only what happens to connections of this listener; `id` in GET /v1/listeners"
    )

    def wanted(self) -> frozenset[str]:
        """The types that are asked for."""
        return frozenset(_TYPES if self.types is None else self.types.split(","))


class EventView(BaseModel):
    """`data` of an event: the members that fit its type, and no others.

    connected: id, listener, worker, peer, via. disconnected: these and reason, by, text, bytes and messages.
    slow_consumer: those of connected and pending_bytes. drain: phase. ban and unban: address, text. dominant_address:
    address, connections. missed: missed alone.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "at": "2026-01-31T12:00:00.123456Z",
                    "id": "k3f9qz-1c00001",
                    "listener": 0,
                    "worker": 1,
                    "peer": {"ip": "192.0.2.7", "port": 40962},
                    "via": None,
                }
            ]
        }
    )

    at: datetime | None = Field(default=None, description="when it happened; every type but missed has it")
    id: str | None = Field(default=None, description="the connection's", examples=["k3f9qz-1c00001"])
    listener: int | None = None
    worker: int | None = None
    peer: Endpoint | None = None
    via: Endpoint | None = Field(default=None, description="the balancer whose PROXY header has named the peer")
    reason: Reason | None = Field(default=None, description="why the connection ended")
    by: By | None = Field(default=None, description="who began its end")
    text: str | None = Field(default=None, description="the operator's, from `reason` of a kick or a ban")
    bytes_in: int | None = None
    bytes_out: int | None = None
    messages_in: int | None = None
    messages_out: int | None = None
    pending_bytes: int | None = Field(default=None, description="queued for the slow consumer")
    phase: Phase | None = Field(default=None, description="that the drain has come to")
    address: str | None = Field(
        default=None,
        description="what was banned, or is no more; or who has come to hold most of the connections",
        examples=["192.0.2.0/24"],
    )
    connections: int | None = Field(default=None, description="so many of them that address holds")
    missed: int | None = Field(
        default=None, description="so many events of all types were lost here; null: nobody knows how many"
    )
