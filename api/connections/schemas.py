"""Shapes of the connections' routes, and the filter that several routes share."""

import ipaddress
import re
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic.config import JsonDict

from iocpd.api.connections.sorting import Sort
from iocpd.api.durations import CommandTimeout, Duration
from iocpd.api.paging import DEFAULT_LIMIT, Count, CursorText, Limit, Snapshot
from iocpd.api.payloads import Payload
from iocpd.core import By, Filter, Reason, State

TEXT_BYTES = 199
"""How long the text of a kick may be: the engine keeps it in a fixed place beside each ended connection."""


def _parse_network(value: object) -> object:
    if not isinstance(value, str):
        # false would be 0.0.0.0 otherwise.
        raise ValueError("write an address or a CIDR block as text, such as 192.0.2.0/24")
    if "%" in value:
        raise ValueError(f"{value} has a zone, which is a name of one machine: leave out what begins with %")
    try:
        return ipaddress.ip_network(value)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError("write an address or a CIDR block, such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32") from None
    raise ValueError(f"{value} has bits set beyond its prefix; did you mean {meant}?")


Network = Annotated[
    ipaddress.IPv4Network | ipaddress.IPv6Network,
    BeforeValidator(_parse_network),
    WithJsonSchema(
        {"type": "string", "format": "ipvanynetwork", "examples": ["192.0.2.7", "192.0.2.0/24", "2001:db8::/32"]}
    ),
]


_LINE = "[^\\u0000-\\u001f\\u007f-\\u009f]"
"""What a pattern can say of printable text on one line."""


def _check_text(text: str) -> str:
    if len(text.encode("utf-8", "surrogatepass")) > TEXT_BYTES:
        raise ValueError(f"at most {TEXT_BYTES} bytes of UTF-8")
    if not text.isprintable():
        raise ValueError("printable characters only, on one line")
    return text


KickText = Annotated[
    str,
    AfterValidator(_check_text),
    WithJsonSchema({"type": "string", "maxLength": TEXT_BYTES, "pattern": f"^{_LINE}*$"}),
    Field(description=f"at most {TEXT_BYTES} bytes, on one line"),
]

LABELS = 16
"""A connection may have so many tags, and be in so many groups."""
VALUE_BYTES = 128
"""How long the value of a tag may be."""
_NAME = "[A-Za-z0-9._/-]{1,64}"

GroupName = Annotated[str, StringConstraints(pattern=f"^{_NAME}$")]


def _check_value(value: str) -> str:
    if len(value.encode("utf-8", "surrogatepass")) > VALUE_BYTES:
        raise ValueError(f"the value of a tag has at most {VALUE_BYTES} bytes of UTF-8")
    if not value.isprintable():
        raise ValueError("the value of a tag has printable characters only, on one line")
    return value


TagKey = Annotated[str, StringConstraints(pattern=f"^{_NAME}$")]
TagValue = Annotated[
    str,
    AfterValidator(_check_value),
    WithJsonSchema({"type": "string", "maxLength": VALUE_BYTES, "pattern": f"^{_LINE}*$"}),
    Field(description=f"at most {VALUE_BYTES} bytes, on one line"),
]


def _check_tag(text: str) -> str:
    key, colon, value = text.partition(":")
    if not colon:
        raise ValueError("write a tag as key:value, such as tier:gold")
    if not re.fullmatch(_NAME, key):
        raise ValueError("the key of a tag has 1 to 64 letters, digits, dots, dashes, slashes and underscores")
    _check_value(value)
    return text


Tag = Annotated[
    str,
    AfterValidator(_check_tag),
    WithJsonSchema({"type": "string", "pattern": f"^{_NAME}:{_LINE}{{0,{VALUE_BYTES}}}$", "examples": ["tier:gold"]}),
]


MOST_BYTES = (1 << 53) - 1
"""Larger numbers are not the same in every reader of JSON, and 9 PB are more than any counter here reaches."""

Least = Annotated[int, Field(ge=0, le=MOST_BYTES)] | None


class ConnectionFilter(BaseModel):
    """Which connections. Every field that is given must match; none given: all of them."""

    model_config = ConfigDict(extra="forbid")

    ip: Network | None = Field(
        default=None,
        description="the peer's address, or the CIDR block that it is in; not a balancer's before the peer",
    )
    listener: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        default=None, description="`id` in GET /v1/listeners"
    )
    state: State | None = None
    older_than: Duration | None = Field(default=None, description="connected for longer than this")
    idle_for: Duration | None = Field(default=None, description="nothing received or sent for longer than this")
    min_pending_bytes: Least = Field(default=None, description="at least so much is queued to be sent")
    min_bytes_in: Least = None
    min_bytes_out: Least = None
    group: GroupName | None = Field(default=None, description="it is in this group")
    tag: Annotated[list[Tag], Field(max_length=LABELS)] = Field(
        default=[], description="it has this tag, written as key:value; if there are several, all of them"
    )

    @model_validator(mode="after")
    def _check_tags(self) -> Self:
        keys = [text.partition(":")[0] for text in self.tag]
        if len(set(keys)) < len(keys):
            raise ValueError("a key is given twice in tag, and a connection has one value for each: leave out one")
        return self

    def for_engine(self) -> Filter:
        """The same for the engine."""
        return Filter(
            ip=self.ip,
            listener=self.listener,
            state=self.state,
            older_than=self.older_than,
            idle_for=self.idle_for,
            min_pending_bytes=self.min_pending_bytes,
            min_bytes_in=self.min_bytes_in,
            min_bytes_out=self.min_bytes_out,
            group=self.group,
            tags={key: value for key, _, value in (text.partition(":") for text in self.tag)},
        )

    def canonical(self) -> str:
        """A text that is equal for filters that are equal."""
        given = ((name, getattr(self, name)) for name in ConnectionFilter.model_fields if name != "tag")
        parts = [f"{name}={value}" for name, value in given if value is not None]
        return "&".join(parts + [f"tag={text}" for text in sorted(self.tag)])


def _check_fields(text: str) -> str:
    for name in text.split(","):
        if name not in ConnectionView.model_fields:
            raise ValueError(
                f"{name!r:.40} is no member of a connection: give some of {', '.join(ConnectionView.model_fields)},"
                " with commas between"
            )
    return text


def _fields_schema(schema: dict[str, Any]) -> None:
    name = "|".join(ConnectionView.model_fields)
    for choice in schema["anyOf"]:
        if choice["type"] == "string":
            choice["pattern"] = f"^({name})(,({name}))*$"


class ListQuery(ConnectionFilter):
    """Query parameters of GET /v1/connections."""

    limit: Limit = DEFAULT_LIMIT
    cursor: CursorText = None
    count: Count = Field(default="none", description="exact: `total` says how many match in all")
    sort: Sort | None = Field(
        default=None,
        description="the order at the moment of the first page, which is kept for 30 s; -bytes_in: the largest first",
        examples=["-bytes_in"],
    )
    fields: Annotated[str, AfterValidator(_check_fields)] | None = Field(
        default=None,
        description="only these members of each connection, with commas between; id always is among them",
        examples=["id,peer,bytes_in"],
        json_schema_extra=_fields_schema,
    )

    def members(self) -> frozenset[str] | None:
        """The members that are asked for; None: all."""
        return None if self.fields is None else frozenset(self.fields.split(",")) | {"id"}


class KickQuery(BaseModel):
    """Query parameters of DELETE /v1/connections/{id}."""

    model_config = ConfigDict(extra="forbid")

    reason: KickText = Field(
        default="", description="kept with the ended connection as its `text`", examples=["maintenance"]
    )
    force: bool = Field(default=False, description="reset at once: nothing that is queued is sent, and no farewell")
    timeout: CommandTimeout = Field(
        default="5s", validate_default=True, description="what has not left by then is reset"
    )
    farewell: str | None = Field(default=None, description="text to send before the end; or give it in the body")


class KickBody(BaseModel):
    """Optional body of DELETE /v1/connections/{id}."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"farewell": {"text": "bye\n"}}]})

    farewell: Payload | None = Field(default=None, description="bytes to send before the end")


def _keys_schema(schema: dict[str, Any]) -> None:
    """What a dictionary whose keys have a pattern means here: no other keys."""
    for choice in schema["anyOf"]:
        if choice["type"] == "object":
            choice["additionalProperties"] = next(iter(choice.pop("patternProperties").values()))
            choice["propertyNames"] = {"pattern": f"^{_NAME}$"}


class LabelBody(BaseModel):
    """Body of PATCH /v1/connections/{id}: tags, groups, or both."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"tags": {"tier": "gold", "trial": None}}, {"groups": ["eu", "eu/beta"]}],
            "anyOf": [
                {"required": ["tags"], "properties": {"tags": {"type": "object"}}},
                {"required": ["groups"], "properties": {"groups": {"type": "array"}}},
            ],
        },
    )

    tags: Annotated[dict[TagKey, TagValue | None], Field(max_length=2 * LABELS)] | None = Field(
        default=None,
        description=f"set these, and take away those with null; the others stay, {LABELS} in all",
        json_schema_extra=_keys_schema,
    )
    groups: Annotated[list[GroupName], Field(max_length=LABELS)] | None = Field(
        default=None, description="it is in these from now on, and in no others"
    )

    @model_validator(mode="after")
    def _check_any(self) -> Self:
        if self.tags is None and self.groups is None:
            raise ValueError("give tags, groups, or both")
        return self


class Endpoint(BaseModel):
    """One end of a connection."""

    ip: str = Field(examples=["127.0.0.1"])
    port: int = Field(examples=[40962])


_ROW: JsonDict = {
    "id": "k3f9qz-1c00001",
    "listener": 0,
    "service": "echo",
    "state": "open",
    "reason": None,
    "peer": {"ip": "192.0.2.7", "port": 40962},
    "via": None,
    "local": {"ip": "192.0.2.1", "port": 7000},
    "connected_at": "2025-01-31T11:42:00Z",
    "last_activity_at": "2025-01-31T11:59:58.25Z",
    "bytes_in": 5120,
    "bytes_out": 5120,
    "messages_in": 40,
    "messages_out": 40,
    "pending_bytes": 0,
    "tags": {"tier": "gold"},
    "groups": ["eu"],
    "worker": 1,
}
_CLOSED_ROW: JsonDict = {
    **{name: value for name, value in _ROW.items() if name not in ("state", "reason", "pending_bytes")},
    "closed_at": "2025-01-31T12:00:00Z",
    "reason": "kicked",
    "by": "operator",
    "text": "maintenance",
    "os_error": None,
}
_SNAPSHOT: JsonDict = {"taken_at": "2025-01-31T12:00:00Z", "expires_at": None}


class ConnectionView(BaseModel):
    """A connection as it is now."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ROW]})

    id: str = Field(description="opaque and never used again, not even by another run", examples=["k3f9qz-1c00001"])
    listener: int = Field(description="`id` in GET /v1/listeners", examples=[0])
    service: str = Field(examples=["echo"])
    state: State
    reason: Reason | None = Field(description="why it is on its way out; null while it is open")
    peer: Endpoint = Field(description="the client; while the connection is arriving, the balancer")
    via: Endpoint | None = Field(
        description="the balancer whose PROXY header has named the peer; null: the peer has connected itself"
    )
    local: Endpoint
    connected_at: datetime
    last_activity_at: datetime = Field(description="when something was last received or sent")
    bytes_in: int
    bytes_out: int = Field(description="the system has taken them")
    messages_in: int
    messages_out: int
    pending_bytes: int = Field(description="queued, and not yet taken by the system")
    tags: dict[str, str] = Field(examples=[{"tier": "gold"}])
    groups: list[str] = Field(examples=[["eu"]])
    worker: int


class ConnectionDetail(ConnectionView):
    """A connection as it is now, with what takes a question to the system."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**_ROW, "rtt_ms": 0.084}]})

    rtt_ms: float | None = Field(
        description="smoothed round trip time to the peer; null where the system does not tell, or not in time",
        examples=[0.084],
    )


def _only_id_is_required(schema: dict[str, Any]) -> None:
    schema["required"] = ["id"]


class ConnectionRow(ConnectionView):
    """A connection in a listing: with `fields`, those members and `id`; otherwise all."""

    model_config = ConfigDict(json_schema_extra=_only_id_is_required)


class ClosedConnectionView(BaseModel):
    """A connection that has ended."""

    model_config = ConfigDict(json_schema_extra={"examples": [_CLOSED_ROW]})

    id: str = Field(examples=["k3f9qz-1c00001"])
    listener: int
    service: str
    peer: Endpoint
    via: Endpoint | None = Field(
        description="the balancer whose PROXY header has named the peer; null: the peer has connected itself"
    )
    local: Endpoint
    connected_at: datetime
    last_activity_at: datetime
    bytes_in: int
    bytes_out: int
    messages_in: int
    messages_out: int
    tags: dict[str, str]
    groups: list[str]
    worker: int
    closed_at: datetime
    reason: Reason
    by: By = Field(description="who began it")
    text: str = Field(description="the operator's, from `reason` of the kick")
    os_error: int | None = Field(description="the system's error number, if one ended it")


class ConnectionPage(BaseModel):
    """A page of connections, in the order asked for with `sort`, or of their places in the engine, which they keep."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"items": [_ROW], "next_cursor": None, "snapshot": _SNAPSHOT, "total": 1}]}
    )

    items: list[ConnectionRow]
    next_cursor: str | None = Field(description="give it as `cursor` for the next page; null: this was the last")
    snapshot: Snapshot
    total: int | None = Field(description="how many match, with count=exact; otherwise null")


class ClosedPage(BaseModel):
    """A page of ended connections, newest first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"items": [_CLOSED_ROW], "next_cursor": None, "snapshot": _SNAPSHOT, "total": None}]
        }
    )

    items: list[ClosedConnectionView]
    next_cursor: str | None
    snapshot: Snapshot
    total: None = Field(description="always null: older ones fall out of memory all the time")
