"""Shapes of /v1/node and /v1/listeners."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from iocpd.api.durations import Duration
from iocpd.api.payloads import Payload
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
    rate_per_s: Annotated[StrictInt, Field(ge=0, le=1_000_000)] | None = Field(
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


class NodeView(BaseModel):
    """This process."""

    instance: str = Field(description="this run; ids of connections begin with it", examples=["k3f9qz"])
    version: str
    pid: int
    started_at: datetime
    uptime: str = Field(examples=["5403s"])
    backend: BackendView
    workers: int
    phase: Phase = Field(description="none: it serves; otherwise how far a drain has come")
    accepting: bool = Field(description="every listener is open")
    connections: int
    bans: int = Field(description="in force")
    audit_trouble: str | None = Field(description="why the audit can't be written at the moment; null: it can")
    limits: LimitsView
    totals: WorkerView
    per_worker: list[WorkerView]


class ListenerView(BaseModel):
    """Where the service listens."""

    id: int = Field(description="`listener` of its connections")
    host: str
    port: int
    service: str = Field(examples=["echo"])
    open: bool
    connections: int
    accepted: int
    refused_limit: int = Field(description="turned away because of max_connections")
    refused_memory: int = Field(description="turned away for want of memory")
    refused_gone: int = Field(description="had left before they were taken over")
    refused_banned: int = Field(description="turned away because of a ban")
    refused_address_limit: int = Field(description="turned away because of max_connections_per_address")
    refused_address_rate: int = Field(description="turned away because of accepts_per_s_per_address")
    refused_rate: int = Field(description="turned away because of accepts_per_s")
    accept_errors: int = Field(description="no handle or no memory in the system; tried again")


class ListenerList(BaseModel):
    """All listeners; there is no next page."""

    items: list[ListenerView]
