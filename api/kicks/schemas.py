"""Shapes of /v1/kicks."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

from iocpd.api.connections.schemas import Endpoint, KickText
from iocpd.api.durations import CommandTimeout, Duration
from iocpd.api.jobs.targets import ALL_OR_FILTER, BulkTarget
from iocpd.api.jobs.work import JobState
from iocpd.api.payloads import Payload

OUTCOMES = 1000
"""A report tells of so many connections one by one; of the others it has counts."""


class KickOrder(BulkTarget):
    """Whom to kick: the filter of GET /v1/connections, so that one can look before one acts; and how."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"idle_for": "10m", "reason": "idle", "farewell": {"text": "bye\n"}},
                {"ip": "192.0.2.0/24", "ban_ttl": "1h", "force": True},
                {"all": True, "rate_per_s": 100},
                {"all": True, "dry_run": True},
            ],
            "allOf": [
                ALL_OR_FILTER,
                # What _check_force asks for.
                {
                    "anyOf": [
                        {"properties": {"force": {"const": False}}},
                        {"properties": {"farewell": {"type": "null"}}},
                    ]
                },
            ],
        },
    )

    reason: KickText = Field(default="", description="kept with each ended connection as its `text`")
    farewell: Payload | None = Field(default=None, description="bytes that each is sent before its end")
    force: StrictBool = Field(
        default=False, description="reset at once: nothing that is queued is sent, and no farewell"
    )
    timeout: CommandTimeout = Field(
        default="5s",
        validate_default=True,
        description="a connection that has not left so long after its turn is reset",
    )
    ban_ttl: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None,
        description="ban each one's address for so long before it is kicked, so that it stays away; needs bans:write",
    )

    @model_validator(mode="after")
    def _check_force(self) -> Self:
        if self.force and self.farewell is not None:
            raise ValueError("a reset sends no farewell: leave out `force` or `farewell`")
        return self


class KickOutcomeView(BaseModel):
    """What became of one connection."""

    id: str = Field(examples=["k3f9qz-1c00001"])
    peer: Endpoint | None = Field(description="null: it had ended, so long ago that its record is gone")
    outcome: Literal["kicked", "already_gone", "failed", "would_kick"] = Field(
        description="kicked: it has left the table; already_gone: it had ended by itself; failed: it is still on its"
        " way out, or its address could not be banned; would_kick: of a dry run"
    )


class KickReport(BaseModel):
    """What became of a kick of many. matched = kicked + already_gone + failed + waiting, but for a dry run."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "job": "Pm3n0v_xkQ2d",
                    "state": "running",
                    "dry_run": False,
                    "matched": 5000,
                    "kicked": 1,
                    "already_gone": 0,
                    "failed": 0,
                    "waiting": 4999,
                    "banned": 0,
                    "rate_per_s": 100,
                    "started_at": "2025-01-31T12:00:00Z",
                    "ended_at": None,
                    "eta": "2025-01-31T12:00:50Z",
                    "outcomes": [
                        {
                            "id": "k3f9qz-1c00001",
                            "peer": {"ip": "192.0.2.7", "port": 40962},
                            "outcome": "kicked",
                        }
                    ],
                    "outcomes_omitted": 0,
                }
            ]
        }
    )

    job: str | None = Field(description="for GET and DELETE; null: this is the whole answer")
    state: JobState
    dry_run: bool
    matched: int = Field(description="connections that it is for, as they were at its start")
    kicked: int = Field(description="have left the table")
    already_gone: int = Field(description="ended by themselves before their turn")
    failed: int
    waiting: int = Field(description="not settled yet; once it is cancelled, left alone")
    banned: int = Field(description="addresses that it banned")
    rate_per_s: int | None
    started_at: datetime
    ended_at: datetime | None = Field(description="when nothing was left under way; from then on nothing changes")
    eta: datetime | None = Field(description="null: not known, or it is over")
    outcomes: list[KickOutcomeView] = Field(description=f"of the first {OUTCOMES} connections")
    outcomes_omitted: int = Field(description="connections that are settled and not listed")
