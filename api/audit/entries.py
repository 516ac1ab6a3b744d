"""One line of the audit, and what may stand in it."""

from datetime import datetime

from pydantic import BaseModel, Field, ValidationError

from iocpd.api.logs import printable

SYSTEM = "system"
"""The actor of what no request asked for: start, stop, signals."""
ANONYMOUS = "anonymous"
"""The actor of a request without a key that is accepted."""

LINE_BYTES = 32 * 1024
"""More than the longest line can be."""

_TEXT = 200
_LONG_TEXT = 500


class AuditEntry(BaseModel):
    """What somebody did, or tried to do."""

    at: datetime = Field(description="when it was over")
    id: str = Field(description="later entries have greater ids", examples=["00062a9c5f3be8d1"])
    actor: str = Field(
        description="the key's name; local without keys, anonymous without an accepted key, system for the node itself",
        examples=["alice"],
    )
    action: str = Field(
        description="the operation's id; node-start, node-stop, node-signal for the node itself",
        examples=["connections-kick"],
    )
    target: str = Field(
        description="the connection, address, name or filter that it was for", examples=["k3f9qz-1c00001"]
    )
    outcome: str = Field(description="done, or the code of the problem", examples=["done"])
    status: int | None = Field(
        description="of the HTTP answer; null: there was none, or it was no request", examples=[204]
    )
    detail: str = Field(description="more on the outcome; never a payload", examples=["reason 'maintenance'"])
    request_id: str | None = Field(description="the same as in the X-Request-ID header and in the log")
    client: str | None = Field(description="the address that the request came from", examples=["192.0.2.7"])


def make_entry(
    at: datetime,
    id: str,
    *,
    actor: str,
    action: str,
    target: str,
    outcome: str,
    status: int | None,
    detail: str,
    request_id: str | None,
    client: str | None,
) -> AuditEntry:
    """An entry whose texts have a bound and are visible characters alone, whatever clients put into them."""
    return AuditEntry.model_construct(
        at=at,
        id=id,
        actor=printable(actor, _TEXT),
        action=printable(action, _TEXT),
        target=printable(target, _LONG_TEXT),
        outcome=printable(outcome, _TEXT),
        status=status,
        detail=printable(detail, _LONG_TEXT),
        request_id=request_id and printable(request_id, _TEXT),
        client=client and printable(client, _TEXT),
    )


def id_of(number: int) -> str:
    """An entry's id: it sorts as its number does."""
    return f"{number:016x}"


def read_line(line: bytes) -> tuple[int, AuditEntry] | None:
    """An entry and its number; None for a line that is not an entry, such as one that a crash cut off."""
    try:
        entry = AuditEntry.model_validate_json(line)
        return int(entry.id, 16), entry
    except (ValidationError, ValueError):
        return None
