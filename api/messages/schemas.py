"""Shapes of what is sent, and of the report on it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from iocpd.api.durations import MAX_TIMEOUT_SECONDS, Duration
from iocpd.core import Report


class SendQuery(BaseModel):
    """Query parameters of POST /v1/connections/{id}/messages."""

    model_config = ConfigDict(extra="forbid")

    # A worker says within microseconds whether it queues a message; an answer before that could only guess.
    timeout: Annotated[Duration, Field(ge=0.1, le=MAX_TIMEOUT_SECONDS)] = Field(
        default="5s",
        validate_default=True,
        description="how long to wait for the report to be final, at least 100ms",
    )


class ReportView(BaseModel):
    """What became of a message. matched = queued + skipped_slow + failed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "matched": 1,
                    "queued": 1,
                    "written": 1,
                    "skipped_slow": 0,
                    "closed_before_write": 0,
                    "failed": 0,
                    "done": True,
                }
            ]
        }
    )

    matched: int = Field(description="connections that it was for")
    queued: int = Field(description="put into a connection's send queue")
    written: int = Field(description="the send completed; not that the peer's program has read it")
    skipped_slow: int = Field(description="left out, because too much unread was queued for the connection")
    closed_before_write: int = Field(description="queued, but the connection ended first")
    failed: int = Field(description="no memory for it")
    done: bool = Field(description="false: the time was up before all of it was written; nothing is cancelled")

    @classmethod
    def of(cls, report: Report) -> "ReportView":
        """The engine's report."""
        return cls(
            matched=report.matched,
            queued=report.queued,
            written=report.written,
            skipped_slow=report.skipped_slow,
            closed_before_write=report.closed_before_write,
            failed=report.failed,
            done=report.done,
        )
