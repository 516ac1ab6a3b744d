"""Shapes of /v1/keys."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic.config import JsonDict

from iocpd.api.durations import Duration
from iocpd.api.keys import NAME_PATTERN, RESERVED_NAMES, SCOPES, Role

Scope = Annotated[str, Field(json_schema_extra={"enum": sorted(SCOPES)}, examples=["connections:read"])]

_RESERVED: list[JsonValue] = [*sorted(RESERVED_NAMES)]


_KEY: JsonDict = {
    "name": "alice",
    "role": "operator",
    "scopes": [],
    "created_at": "2025-01-31T12:00:00Z",
    "expires_at": "2025-05-01T12:00:00Z",
}


class KeyView(BaseModel):
    """A key, without the key itself: nobody can read that again."""

    model_config = ConfigDict(json_schema_extra={"examples": [_KEY]})

    name: str = Field(examples=["alice"])
    role: Role | None = Field(description="null: it has single scopes")
    scopes: list[str] = Field(description="those that it was given one by one; empty if it has a role")
    created_at: datetime
    expires_at: datetime | None = Field(description="from then on it is refused; null: never")


class KeyList(BaseModel):
    """All keys, also those that have expired; there is no next page."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [_KEY]}]})

    items: list[KeyView]


class KeyCreated(KeyView):
    """A key that has just been made."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**_KEY, "key": "iocpd_3vJ9..."}]})

    key: str = Field(description="the key itself, shown only here", examples=["iocpd_3vJ9..."])


class KeyBody(BaseModel):
    """Body of POST /v1/keys."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"name": "alice", "role": "operator", "expires_in": "90d"},
                {"name": "prometheus", "scopes": ["metrics:read"]},
            ],
            # What _check_grant asks for.
            "oneOf": [
                {"required": ["role"], "properties": {"role": {"type": "string"}}},
                {"required": ["scopes"], "properties": {"scopes": {"type": "array"}}},
            ],
        },
    )

    name: str = Field(
        pattern=f"^{NAME_PATTERN}$",
        description="who or what will use it; stands in log and audit",
        json_schema_extra={"not": {"enum": _RESERVED}},
    )
    role: Role | None = Field(default=None, description="a bundle of scopes; this or `scopes`")
    scopes: list[Scope] | None = Field(
        default=None, min_length=1, max_length=len(SCOPES), description="single scopes; this or `role`"
    )
    expires_in: Annotated[Duration, Field(ge=1)] | None = Field(
        default=None, description="how long it is good for; without it, until it is revoked"
    )

    @model_validator(mode="after")
    def _check_grant(self) -> Self:
        if (self.role is None) == (self.scopes is None):
            raise ValueError("give either role or scopes")
        if self.scopes is not None and (unknown := sorted(set(self.scopes) - SCOPES.keys())):
            raise ValueError(f"there is no scope {unknown[0]!r:.80}; scopes are {', '.join(SCOPES)}")
        if self.name in RESERVED_NAMES:
            raise ValueError(f"{self.name!r} is what the audit calls somebody without a key: choose another name")
        return self
