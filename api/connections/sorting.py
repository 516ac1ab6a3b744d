"""Sorted listings between two pages of them.

A sorted listing is taken once and kept for a while, because a counter that it is sorted by changes all the time: pages
of a list that is sorted anew for each would miss some and double others. What is kept has a bound; the oldest goes.
"""

import itertools
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from iocpd.api import problems
from iocpd.api.problems import Problem
from iocpd.core import SortedListing, SortKey

KEEP_SECONDS = 30
KEEP_LISTINGS = 32

Sort = Literal[
    "connected_at",
    "-connected_at",
    "last_activity_at",
    "-last_activity_at",
    "bytes_in",
    "-bytes_in",
    "bytes_out",
    "-bytes_out",
    "messages_in",
    "-messages_in",
    "messages_out",
    "-messages_out",
    "pending_bytes",
    "-pending_bytes",
]
"""A member to sort by; with a minus the largest, or the latest, comes first."""


def sort_key(sort: Sort) -> tuple[SortKey, bool]:
    """The engine's key, and whether it is descending."""
    return SortKey(sort.removeprefix("-")), sort.startswith("-")


@dataclass(frozen=True, slots=True)
class Kept:
    """A sorted listing, when it was taken and until when it is kept."""

    number: int
    listing: SortedListing
    taken_at: datetime
    expires_at: datetime
    until: float


class SortedListings:
    """Those of one run that somebody may still want a page of. For the event loop's thread alone."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, Kept] = OrderedDict()
        self._numbers = itertools.count(1)

    def keep(self, listing: SortedListing) -> Kept:
        """Keeps it for KEEP_SECONDS."""
        now, clock = datetime.now(UTC), time.monotonic()
        kept = Kept(next(self._numbers), listing, now, now + timedelta(seconds=KEEP_SECONDS), clock + KEEP_SECONDS)
        self._drop(clock)
        while len(self._kept) >= KEEP_LISTINGS:
            self._kept.popitem(last=False)
        self._kept[kept.number] = kept
        return kept

    def find(self, number: int) -> Kept:
        """The one with this number; Problem 410 when it is no longer kept."""
        self._drop(time.monotonic())
        if (kept := self._kept.get(number)) is None:
            raise Problem(problems.SNAPSHOT_EXPIRED)
        return kept

    def _drop(self, clock: float) -> None:
        while self._kept and next(iter(self._kept.values())).until <= clock:
            self._kept.popitem(last=False)
