"""Shapes of /v1/bans."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator
from pydantic.config import JsonDict

from iocpd.api.connections.schemas import KickText, Network
from iocpd.api.durations import Duration
from iocpd.api.paging import DEFAULT_LIMIT, CursorText, Limit, Snapshot
from iocpd.api.payloads import Payload


class BanBody(BaseModel):
    """Whom to keep away, and for how long."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"address": "192.0.2.7", "ttl": "1h", "reason": "too many connections"},
                {"address": "2001:db8::/32", "kick": False},
            ],
            # What _check_farewell asks for.
            "anyOf": [{"properties": {"kick": {"const": True}}}, {"properties": {"farewell": {"type": "null"}}}],
        },
    )

    address: Network = Field(description="an address or a CIDR block")
    ttl: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None, description="how long it lasts; null: until it is lifted"
    )
    reason: KickText = Field(default="", description="why; also the `text` of the connections that it ends")
    kick: StrictBool = Field(default=True, description="end the connections that are there from this address too")
    farewell: Payload | None = Field(default=None, description="bytes to send to those before their end")

    @model_validator(mode="after")
    def _check_farewell(self) -> Self:
        if self.farewell is not None and not self.kick:
            raise ValueError('a farewell goes to those who are kicked: leave it out, or leave out "kick": false')
        return self


class BanQuery(BaseModel):
    """Query parameters of GET /v1/bans."""

    model_config = ConfigDict(extra="forbid")

    limit: Limit = DEFAULT_LIMIT
    cursor: CursorText = None
    address: Network | None = Field(default=None, description="only bans that hold this address, or all of this block")


_BAN: JsonDict = {
    "id": "k3f9qzw7hx",
    "address": "192.0.2.0/24",
    "reason": "too many connections",
    "created_at": "2025-01-31T12:00:00Z",
    "expires_at": "2025-01-31T13:00:00Z",
    "created_by": "alice",
    "kicked": None,
}


class BanView(BaseModel):
    """A ban that is in force."""

    model_config = ConfigDict(json_schema_extra={"examples": [_BAN]})

    id: str = Field(description="opaque; the same after a restart of the service", examples=["k3f9qzw7hx"])
    address: str = Field(description="an address or a CIDR block", examples=["192.0.2.0/24"])
    reason: str = Field(examples=["too many connections"])
    created_at: datetime
    expires_at: datetime | None = Field(description="null: it stays until it is lifted")
    created_by: str = Field(description="the name of the key", examples=["alice"])
    kicked: int | None = Field(
        description="in the answer of POST with `kick`: connections that had left the table by then; otherwise null"
    )


class BanPage(BaseModel):
    """A page of bans, the newest first; with `address`, those of the largest block first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [_BAN],
                    "next_cursor": None,
                    "snapshot": {"taken_at": "2025-01-31T12:30:00Z", "expires_at": None},
                    "total": 1,
                }
            ]
        }
    )

    items: list[BanView]
    next_cursor: str | None = Field(description="give it as `cursor` for the next page; null: this was the last")
    snapshot: Snapshot
    total: int = Field(description="how many there are in all")
