"""Shapes of /v1/audit."""

import re
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from iocpd.api.audit.entries import AuditEntry
from iocpd.api.paging import DEFAULT_LIMIT, CursorText, Limit, Snapshot

_Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]


def _check_time(value: object) -> object:
    """Refuses what pydantic would take for seconds since 1970."""
    if isinstance(value, str) and not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]", value):
        raise ValueError("write a time as 2025-01-31T12:00:00Z")
    return value


class AuditQuery(BaseModel):
    """Query parameters of GET /v1/audit."""

    model_config = ConfigDict(extra="forbid")

    actor: _Name | None = Field(default=None, description="only what this one did", examples=["alice"])
    action: _Name | None = Field(default=None, description="only this operation", examples=["connections-kick"])
    since: Annotated[AwareDatetime, BeforeValidator(_check_time)] | None = Field(
        default=None, description="only from this time on", examples=["2025-01-31T12:00:00Z"]
    )
    limit: Limit = DEFAULT_LIMIT
    cursor: CursorText = None

    def canonical(self) -> str:
        """The filters as a text that is the same for the same filters; a cursor belongs to it."""
        return self.model_dump_json(include={"actor", "action", "since"}, exclude_none=True)


class AuditPage(BaseModel):
    """A page of what was done, the newest first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {
                            "at": "2025-01-31T12:00:00Z",
                            "id": "00062a9c5f3be8d1",
                            "actor": "alice",
                            "action": "connections-kick",
                            "target": "k3f9qz-1c00001",
                            "outcome": "done",
                            "status": 204,
                            "detail": "reason 'maintenance'",
                            "request_id": "5f2c7d1e9a",
                            "client": "192.0.2.1",
                        }
                    ],
                    "next_cursor": None,
                    "snapshot": {"taken_at": "2025-01-31T12:30:00Z", "expires_at": None},
                    "total": None,
                }
            ]
        }
    )

    items: list[AuditEntry]
    next_cursor: str | None = Field(
        description="for the next page; null on the last one. A page may be short and yet not be the last one, when a "
        "filter matches little"
    )
    snapshot: Snapshot
    total: int | None = Field(description="null: they are not counted")
