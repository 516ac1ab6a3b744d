"""What became of messages and of kicks of many."""

from datetime import datetime
from typing import Literal

from iocpd.api.client.models.base import Address, Model

JobState = Literal["running", "done", "cancelled"]


class Report(Model):
    """What became of a message; matched = queued + skipped_slow + failed.

    Attributes:
        matched: Connections that it was for.
        queued: Put into a connection's send queue.
        written: The send completed; that the peer's program has read it, it does not mean.
        skipped_slow: Left out, because too much unread was queued for the connection.
        closed_before_write: Queued, but the connection ended first.
        failed: There was no memory for it.
        done: False if the time was up before all of it was written; nothing is cancelled then.
    """

    matched: int
    queued: int
    written: int
    skipped_slow: int
    closed_before_write: int
    failed: int
    done: bool


class KickOutcome(Model):
    """What became of one connection of a kick of many.

    Attributes:
        peer: None: it had ended so long ago that its record is gone.
        outcome: "kicked": it has left the table; "already_gone": it had ended by itself; "failed": it is still on its
            way out, or its address could not be banned; "would_kick": of a dry run.
    """

    id: str
    peer: Address | None
    outcome: Literal["kicked", "already_gone", "failed", "would_kick"] | str


class KickReport(Model):
    """What became of a kick of many; but for a dry run, matched = kicked + already_gone + failed + waiting.

    Attributes:
        job: For `watch_kicks` and `cancel_kicks`; None: this is the whole answer.
        waiting: Not settled yet; once it is cancelled, left alone.
        banned: Addresses that it banned.
        eta: When it will be over; None: not known, or it is over.
        outcomes: Of the first connections.
        outcomes_omitted: Settled, but not among `outcomes`.
    """

    job: str | None
    state: JobState | str
    dry_run: bool
    matched: int
    kicked: int
    already_gone: int
    failed: int
    waiting: int
    banned: int
    rate_per_s: int | None
    started_at: datetime
    ended_at: datetime | None
    eta: datetime | None
    outcomes: tuple[KickOutcome, ...]
    outcomes_omitted: int


class BroadcastReport(Model):
    """What became of a message to many.

    Attributes:
        job: For `watch_broadcast` and `cancel_broadcast`; None: this is the whole answer.
        matched: Connections that it is for.
        queued: Put into a connection's send queue.
        written: The send completed; that the peer's program has read it, it does not mean.
        skipped_slow: Left out, because too much unread was queued for the connection.
        closed_before_write: Queued, but the connection ended first.
        expired: Queued, but its time was over before it began to be sent.
        failed: There was no memory for it.
        done: Nothing is on its way any more.
        eta: When it will be over; None: not known, or it is over.
    """

    job: str | None
    state: JobState | str
    dry_run: bool
    matched: int
    queued: int
    written: int
    skipped_slow: int
    closed_before_write: int
    expired: int
    failed: int
    done: bool
    rate_per_s: int | None
    started_at: datetime
    ended_at: datetime | None
    eta: datetime | None
