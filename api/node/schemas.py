"""Shapes of /v1/node and /v1/listeners."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from iocpd.api.durations import Duration
from iocpd.api.payloads import Payload
from iocpd.api.whole_numbers import NoText
from iocpd.core import Phase

_DAY = 86400


class DrainOptions(BaseModel):
    """How to drain. What is left out is taken from the settings."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"deadline": "30s", "rate_per_s": 500}]})

    lb_delay: Annotated[Duration, Field(le=_DAY)] | None = Field(
        default=None, description="first be not ready for so long and still accept, so that load balancers notice"
    )
    grace: Annotated[Duration, Field(le=_DAY)] | None = Field(
        default=None, description="then accept nobody for so long, and leave clients the time to go by themselves"
    )
    rate_per_s: Annotated[int, Field(ge=0, le=1_000_000), NoText] | None = Field(
        default=None, description="then end so many connections a second; 0: all at once"
    )
    deadline: Annotated[Duration, Field(le=_DAY)] | None = Field(
        default=None, description="so long after the request, what is left is cut off"
    )
    farewell: Payload | None = Field(default=None, description="bytes that each connection is sent before its end")


class DrainBody(DrainOptions):
    """Body of PUT /v1/node/drain."""

    then: Literal["stay", "shutdown"] = Field(
        default="stay",
        description="what follows: stay drained until DELETE, or shut down, which needs node:shutdown too",
    )


class DrainView(BaseModel):
    """How far a drain has come."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "phase": "evict",
                    "then": "stay",
                    "initial": 5000,
                    "remaining": 4200,
                    "evicting": 12,
                    "cancelled": 0,
                    "rate_per_s": 100,
                    "started_at": "2025-01-31T12:00:00Z",
                    "eta": "2025-01-31T12:00:50Z",
                    "deadline": "2025-01-31T12:02:00Z",
                    "ended_at": None,
                    "exits_posted": 0,
                    "exits_taken": 0,
                }
            ]
        }
    )

    phase: Phase
    then: Literal["stay", "shutdown"] | None = Field(description="null: no drain is under way")
    initial: int = Field(description="connections when it began")
    remaining: int = Field(description="connections now")
    evicting: int = Field(description="of these, how many are on their way out")
    cancelled: int = Field(description="cut off by the deadline")
    rate_per_s: int
    started_at: datetime | None
    eta: datetime | None = Field(
        description="when the last one will have been told to go, at this rate; null: not known"
    )
    deadline: datetime | None = Field(description="when what is left is cut off")
    ended_at: datetime | None
    exits_posted: int = Field(description="exit completions posted, one for each worker")
    exits_taken: int


class SettingChange(BaseModel):
    """A setting that another value was found for; both as one writes them in the settings."""

    name: str = Field(description="of the setting; keys: how many there are", examples=["idle_timeout"])
    before: str = Field(description="in force until now", examples=["0s"])
    after: str = Field(description="what the settings say now", examples=["300s"])


class ReloadView(BaseModel):
    """What became of reading the settings again."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "changed": [{"name": "idle_timeout", "before": "0s", "after": "300s"}],
                    "needs_restart": [{"name": "workers", "before": "2", "after": "4"}],
                }
            ]
        }
    )

    changed: list[SettingChange] = Field(description="in force now")
    needs_restart: list[SettingChange] = Field(
        description="these can't change while the service runs: the former value stays in force until it starts again"
    )


class BackendView(BaseModel):
    """The completion port behind the workers."""

    name: str = Field(examples=["io_uring"])
    reason: str = Field(description="why this one")


class LimitsView(BaseModel):
    """Bounds that are in force. Durations in the form `90s`; `0s` is no limit."""

    max_connections: int
    first_byte_timeout: str
    idle_timeout: str
    send_soft_bytes: int
    send_soft_seconds: str
    send_hard_bytes: int
    max_message_bytes: int
    max_connections_per_address: int = Field(description="0: no limit; so with the three rates below")
    accepts_per_s: int
    accepts_per_s_per_address: int
    messages_per_s_per_connection: int
    max_bans: int
    closed_capacity: int = Field(description="ended connections that each worker remembers")
    event_capacity: int = Field(description="events that each worker remembers")
    http_connections: int


_WORKER: JsonDict = {
    "connections": 12,
    "adopted": 40,
    "bytes_in": 51200,
    "bytes_out": 51200,
    "messages_in": 400,
    "messages_out": 400,
    "discarded_bytes": 0,
    "pending_bytes": 0,
    "turns": 900,
    "events": 1000,
    "starved": 0,
    "overflows": 0,
    "inbox_busy": 0,
    "buffers": 256,
    "buffers_in_use": 12,
    "relay_waiting": 0,
    "closed": {"client_closed": 27, "kicked": 1},
}


class WorkerView(BaseModel):
    """Totals since the start, of one worker or of all."""

    connections: int = Field(description="now")
    adopted: int = Field(description="connections that it was given")
    bytes_in: int
    bytes_out: int
    messages_in: int
    messages_out: int
    discarded_bytes: int = Field(description="read away after the end of a drain's sending")
    pending_bytes: int = Field(description="queued now")
    turns: int
    events: int
    starved: int = Field(description="receives that had to wait for a buffer")
    overflows: int = Field(description="of the completion queue")
    inbox_busy: int = Field(description="commands refused because the inbox was full")
    buffers: int
    buffers_in_use: int
    relay_waiting: int
    closed: dict[str, int] = Field(description="ended connections by reason")


class DominantAddressView(BaseModel):
    """An address with most of the connections."""

    network: str = Field(description="the address, or for IPv6 its /64", examples=["172.17.0.1"])
    connections: int = Field(description="how many it held then")
    at: datetime = Field(description="when it had come to that")


class NodeView(BaseModel):
    """This process."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "instance": "k3f9qz",
                    "version": "0.1.0",
                    "pid": 4711,
                    "started_at": "2025-01-31T10:30:00Z",
                    "uptime": "5403s",
                    "backend": {"name": "io_uring", "reason": "a round trip through io_uring works"},
                    "workers": 1,
                    "busy_poll_us": 0,
                    "phase": "none",
                    "accepting": True,
                    "connections": 12,
                    "bans": 0,
                    "dominant_address": None,
                    "audit_trouble": None,
                    "limits": {
                        "max_connections": 65536,
                        "first_byte_timeout": "0s",
                        "idle_timeout": "300s",
                        "send_soft_bytes": 262144,
                        "send_soft_seconds": "10s",
                        "send_hard_bytes": 4194304,
                        "max_message_bytes": 1048576,
                        "max_connections_per_address": 0,
                        "accepts_per_s": 0,
                        "accepts_per_s_per_address": 0,
                        "messages_per_s_per_connection": 0,
                        "max_bans": 131072,
                        "closed_capacity": 4096,
                        "event_capacity": 4096,
                        "http_connections": 256,
                    },
                    "totals": _WORKER,
                    "per_worker": [_WORKER],
                }
            ]
        }
    )

    instance: str = Field(description="this run; ids of connections begin with it", examples=["k3f9qz"])
    version: str
    pid: int
    started_at: datetime
    uptime: str = Field(examples=["5403s"])
    backend: BackendView
    workers: int
    busy_poll_us: int = Field(description="microseconds for which a worker asks for more before it sleeps")
    phase: Phase = Field(description="none: it serves; otherwise how far a drain has come")
    accepting: bool = Field(description="every listener is open")
    connections: int
    bans: int = Field(description="in force")
    dominant_address: DominantAddressView | None = Field(
        description="the last address that had come to hold more than half of at least 100 connections, so that bans"
        " and limits by address hit all of them: is a balancer in front, without proxy_protocol_from?"
    )
    audit_trouble: str | None = Field(description="why the audit can't be written at the moment; null: it can")
    limits: LimitsView
    totals: WorkerView
    per_worker: list[WorkerView]


class ServiceThreadView(BaseModel):
    """A thread of a service in Python, with totals since the start."""

    connections: int = Field(description="that the service knows now")
    messages_in: int = Field(description="messages that it took")
    messages_out: int = Field(description="messages that it sent; a broadcast counts once")
    broadcasts_dropped: int = Field(description="broadcasts that nobody has got, for want of memory")
    batches: int = Field(description="how often it took messages, or news of connections")
    waiting_bytes: int = Field(description="its inbox: received and not handled yet, with what it takes to keep them")
    paused: int = Field(description="connections that wait now, because the service has not handled enough")
    pauses: int = Field(description="how often one had to")
    errors: int = Field(description="exceptions of handlers and timers")


class FramingView(BaseModel):
    """How a listener's streams are cut into messages."""

    kind: Literal["raw", "lines", "length", "fixed", "delimited"] = Field(
        description="raw: not at all; a message is what one receive brings"
    )
    max_bytes: int | None = Field(description="of a message; a longer one ends its connection. null: raw has no limit")
    options: str = Field(description="as one writes it behind a listener's `?`")


class ListenerView(BaseModel):
    """Where the service listens."""

    id: int = Field(description="`listener` of its connections")
    host: str
    port: int
    service: str = Field(examples=["echo"])
    framing: FramingView
    open: bool
    connections: int
    accepted: int
    refused_limit: int = Field(description="turned away because of max_connections")
    refused_memory: int = Field(description="turned away for want of memory")
    refused_gone: int = Field(description="had left before they were taken over")
    refused_banned: int = Field(description="turned away because of a ban; after a PROXY header, once accepted")
    refused_address_limit: int = Field(description="turned away because of max_connections_per_address")
    refused_address_rate: int = Field(description="turned away because of accepts_per_s_per_address")
    refused_rate: int = Field(description="turned away because of accepts_per_s")
    accept_errors: int = Field(description="no handle or no memory in the system; tried again")
    service_threads: list[ServiceThreadView] = Field(description="of a service in Python; empty for the others")


class ListenerList(BaseModel):
    """All listeners; there is no next page."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {
                            "id": 0,
                            "host": "127.0.0.1",
                            "port": 7000,
                            "service": "echo",
                            "framing": {"kind": "raw", "max_bytes": None, "options": "framing=raw"},
                            "open": True,
                            "connections": 12,
                            "accepted": 40,
                            "refused_limit": 0,
                            "refused_memory": 0,
                            "refused_gone": 0,
                            "refused_banned": 3,
                            "refused_address_limit": 0,
                            "refused_address_rate": 0,
                            "refused_rate": 0,
                            "accept_errors": 0,
                            "service_threads": [],
                        },
                        {
                            "id": 1,
                            "host": "127.0.0.1",
                            "port": 7001,
                            "service": "python:chat:Chat",
                            "framing": {"kind": "lines", "max_bytes": 1000, "options": "framing=lines&max_bytes=1000"},
                            "open": True,
                            "connections": 2,
                            "accepted": 2,
                            "refused_limit": 0,
                            "refused_memory": 0,
                            "refused_gone": 0,
                            "refused_banned": 0,
                            "refused_address_limit": 0,
                            "refused_address_rate": 0,
                            "refused_rate": 0,
                            "accept_errors": 0,
                            "service_threads": [
                                {
                                    "connections": 2,
                                    "messages_in": 40,
                                    "messages_out": 20,
                                    "broadcasts_dropped": 0,
                                    "batches": 31,
                                    "waiting_bytes": 0,
                                    "paused": 0,
                                    "pauses": 0,
                                    "errors": 0,
                                }
                            ],
                        },
                    ]
                }
            ]
        }
    )

    items: list[ListenerView]
