"""The bans in memory: found by id, by network and by an address in it, in the order in which they were made."""

import bisect
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime

from iocpd.api.bans.model import Ban, Network, mapped

# Below so many entries, those that are no more may stand in the order as they like.
_SLACK = 1024


class BanTable:
    """Knows nothing of the file, the engine or the clock. Nothing here walks through all bans, but for a search in the
    order that passes over those that are no more.

    Bans whose time is over are in it until `drop_expired`, and are never shown. One thread changes it; `count` may be
    called from any.
    """

    def __init__(self) -> None:
        self._by_id: dict[str, Ban] = {}
        self._by_network: dict[Network, Ban] = {}
        self._by_serial: dict[int, Ban] = {}
        self._order: list[int] = []  # serials, ascending; also of bans that are no more
        self._ends: list[tuple[float, int]] = []  # when those that have an end are over, and their serials; ascending
        self._prefixes: Counter[tuple[int, int]] = Counter()  # how many networks have this version and length

    def __iter__(self) -> Iterator[Ban]:
        return iter(self._by_id.values())

    def count(self, now: datetime) -> int:
        """How many are in force."""
        return len(self._by_id) - bisect.bisect_right(self._ends, (now.timestamp(), math.inf))

    def find(self, id: str) -> Ban | None:
        """The ban with this id; it may have expired."""
        return self._by_id.get(id)

    def of_network(self, network: Network) -> Ban | None:
        """The ban of exactly this network; it may have expired."""
        return self._by_network.get(network)

    def containing(self, network: Network, now: datetime) -> list[Ban]:
        """Those in force that hold all of this network, the largest first.

        As in the engine, a block of IPv6 that holds the mapped address (::ffff:a.b.c.d) holds the IPv4 address too.
        """
        found = self._containing(mapped(network), now) if network.version == 4 else []
        return found + self._containing(network, now)

    def _containing(self, network: Network, now: datetime) -> list[Ban]:
        lengths = sorted(
            length for version, length in self._prefixes if version == network.version and length <= network.prefixlen
        )
        found = (self._by_network.get(network.supernet(new_prefix=length)) for length in lengths)
        return [ban for ban in found if ban is not None and not ban.expired(now)]

    def newest(self, limit: int, before: int | None, now: datetime) -> list[Ban]:
        """At most so many that are in force, the newest first; `before`: only those with a serial below it."""
        place = len(self._order) if before is None else bisect.bisect_left(self._order, before)
        found: list[Ban] = []
        while place > 0 and len(found) < limit:
            place -= 1
            ban = self._by_serial.get(self._order[place])
            if ban is not None and not ban.expired(now):
                found.append(ban)
        return found

    def put(self, bans: Iterable[Ban]) -> None:
        """Adds them. One whose network is there already takes the other's place; it must have its serial."""
        ends = []
        for ban in bans:
            former = self._by_network.get(ban.network)
            if former is None:
                self._order.append(ban.serial)
                self._prefixes[ban.network.version, ban.network.prefixlen] += 1
            else:
                del self._by_id[former.id]
                self._drop_end(former)
            self._by_id[ban.id] = self._by_network[ban.network] = self._by_serial[ban.serial] = ban
            if ban.expires_at is not None:
                ends.append((ban.expires_at.timestamp(), ban.serial))
        if ends:
            self._ends += ends
            self._ends.sort()

    def remove(self, ban: Ban) -> None:
        """Takes out one that is in it."""
        self._drop_end(ban)
        self._drop(ban)

    def drop_expired(self, now: datetime, limit: int) -> list[Ban]:
        """Takes out at most so many of those whose time is over, and gives them."""
        count = min(bisect.bisect_right(self._ends, (now.timestamp(), math.inf)), limit)
        over, self._ends = self._ends[:count], self._ends[count:]
        bans = [self._by_serial[serial] for _, serial in over]
        for ban in bans:
            self._drop(ban)
        return bans

    def _drop(self, ban: Ban) -> None:
        del self._by_id[ban.id], self._by_network[ban.network], self._by_serial[ban.serial]
        key = ban.network.version, ban.network.prefixlen
        self._prefixes[key] -= 1
        if not self._prefixes[key]:
            del self._prefixes[key]
        if len(self._order) > 2 * len(self._by_serial) + _SLACK:
            self._order = list(self._by_serial)
            self._order.sort()

    def _drop_end(self, ban: Ban) -> None:
        if ban.expires_at is not None:
            del self._ends[bisect.bisect_left(self._ends, (ban.expires_at.timestamp(), ban.serial))]
