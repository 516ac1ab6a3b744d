"""Shapes of /v1/broadcasts."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from iocpd.api.durations import CommandTimeout
from iocpd.api.jobs.targets import ALL_OR_FILTER, BulkTarget
from iocpd.api.jobs.work import JobState
from iocpd.api.payloads import NOT_EMPTY, Payload
from iocpd.api.whole_numbers import NoText


class BroadcastBody(BulkTarget):
    """Whom to send to: the filter of GET /v1/connections, so that one can look before one acts; and what to send."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"all": True, "payload": {"text": "maintenance at 12:00\n"}},
                {"ip": "192.0.2.0/24", "idle_for": "5m", "payload": {"base64": "AAEC"}},
                {"all": True, "payload": {"text": "now\n"}, "ttl_ms": 2000, "on_slow": "disconnect"},
            ],
            "allOf": [ALL_OR_FILTER],
        },
    )

    payload: Payload = Field(json_schema_extra=NOT_EMPTY)
    on_slow: Literal["skip", "disconnect"] = Field(
        default="skip", description="what becomes of a connection whose send queue has no room: left out, or ended"
    )
    ttl_ms: Annotated[int, Field(ge=1, le=3_600_000), NoText] | None = Field(
        default=None, description="what has not begun to be sent so long after it was queued is dropped; null: never"
    )
    timeout: CommandTimeout = Field(
        default="5s",
        validate_default=True,
        description="how long to wait for the report to be final, after the last connection had its turn",
    )


class BroadcastReport(BaseModel):
    """What became of a broadcast. Once it is done and was not cancelled, matched = written + skipped_slow +
    closed_before_write + expired + failed.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "job": None,
                    "state": "done",
                    "dry_run": False,
                    "matched": 3,
                    "queued": 2,
                    "written": 2,
                    "skipped_slow": 1,
                    "closed_before_write": 0,
                    "expired": 0,
                    "failed": 0,
                    "done": True,
                    "rate_per_s": None,
                    "started_at": "2025-01-31T12:00:00Z",
                    "ended_at": "2025-01-31T12:00:00.004Z",
                    "eta": None,
                }
            ]
        }
    )

    job: str | None = Field(description="for GET and DELETE; null: this is the whole answer")
    state: JobState = Field(description="done: it was waited for, as long as `timeout` allows")
    dry_run: bool
    matched: int = Field(description="connections that it is for")
    queued: int = Field(description="put into a connection's send queue")
    written: int = Field(description="the send completed; not that the peer's program has read it")
    skipped_slow: int = Field(description="left out or ended, because too much unread was queued for the connection")
    closed_before_write: int = Field(description="the connection ended first")
    expired: int = Field(description="dropped, because `ttl_ms` was over when its turn came")
    failed: int = Field(description="no memory for it, or no room in the engine for the command")
    done: bool = Field(description="nothing changes any more; false at the end: some is still queued, and stays so")
    rate_per_s: int | None
    started_at: datetime
    ended_at: datetime | None = Field(description="when nobody waited for it any longer")
    eta: datetime | None = Field(description="null: not known, or it is over")
