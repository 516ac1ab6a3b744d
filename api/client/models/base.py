"""What every answer is made of."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """A frozen value."""

    model_config = ConfigDict(frozen=True)


class Address(Model):
    """One end of a connection."""

    ip: str
    port: int


class Snapshot(Model):
    """What a listing shows: those that were there at `taken_at` and stay until they are shown.

    Attributes:
        expires_at: When its cursors stop working; None: they don't.
    """

    taken_at: datetime
    expires_at: datetime | None
