"""Which connections a call is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from iocpd.api.client.calls import Duration
from iocpd.api.client.models import State


class Filter(TypedDict, total=False):
    """Which connections: every field that is given must match.

    Attributes:
        ip: The peer's address, or the CIDR block that it is in, such as "192.0.2.0/24".
        listener: `id` of the listener.
        state: The state now.
        group: It is in this group.
        tag: It has all of these tags, each as "key:value".
        older_than: Connected for longer than this.
        idle_for: Nothing received or sent for longer than this.
        min_pending_bytes: At least so much is queued to be sent.
        min_bytes_in: At least so much has been received.
        min_bytes_out: At least so much has been sent.
    """

    ip: str | None
    listener: int | None
    state: State | None
    group: str | None
    tag: Sequence[str] | None
    older_than: Duration | None
    idle_for: Duration | None
    min_pending_bytes: int | None
    min_bytes_in: int | None
    min_bytes_out: int | None


class Target(Filter, total=False):
    """Which connections a call for many hits: the filter, and how many of those that match.

    Attributes:
        all: Needed when no filter is given, so that nobody is hit by accident.
        exclude: Ids of connections that are left alone; at most 1,000.
        limit: So many of those that match, at most.
        rate_per_s: So many a second, as a job; else as fast as it goes.
        dry_run: Only tell what would be hit.
    """

    all: bool
    exclude: Sequence[str]
    limit: int | None
    rate_per_s: int | None
    dry_run: bool
