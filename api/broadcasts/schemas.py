"""Shapes of /v1/broadcasts."""

from typing import Self

from pydantic import ConfigDict, Field, StrictBool, model_validator

from iocpd.api.connections.schemas import ConnectionFilter
from iocpd.api.durations import CommandTimeout
from iocpd.api.payloads import Payload


class BroadcastBody(ConnectionFilter):
    """The filter of GET /v1/connections, so that one can look before one acts, and what to send."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"all": True, "payload": {"text": "maintenance at 12:00\n"}},
                {"ip": "192.0.2.0/24", "idle_for": "5m", "payload": {"base64": "AAEC"}},
            ]
        },
    )

    all: StrictBool = Field(
        default=False, description="needed when no filter is given, so that nobody is sent to by accident"
    )
    payload: Payload
    timeout: CommandTimeout = Field(
        default="5s", validate_default=True, description="how long to wait for the report to be final"
    )

    @model_validator(mode="after")
    def _check_all(self) -> Self:
        filtered = bool(self.canonical())
        if not filtered and not self.all:
            raise ValueError('no filter is given: add "all": true to send to every connection')
        if filtered and self.all:
            raise ValueError('"all": true and a filter contradict each other: leave out one of the two')
        return self
