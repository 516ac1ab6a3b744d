"""How often an address may do something that it should not do at all, such as asking with a wrong key."""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

# Behind one of these is a household or a machine, and it can take any of its addresses.
_IPV6_PREFIX = 64


class Attempts:
    """A bucket of attempts for each address: `burst` at once, then `per_s` a second.

    At most `addresses` are remembered; the one that has not tried for the longest time is forgotten first. For the
    event loop's thread alone.
    """

    def __init__(
        self, *, burst: int, per_s: float, addresses: int = 4096, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._per_s = per_s
        self._addresses = addresses
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._left)

    def take(self, address: str) -> int:
        """Notes one attempt: 0 if it is within the bound, otherwise the seconds to wait before the next one is."""
        group, now = _group(address), self._clock()
        left, since = self._left.pop(group, (float(self._burst), now))
        left = min(left + (now - since) * self._per_s, float(self._burst))
        wait = 0 if left >= 1 else max(math.ceil((1 - left) / self._per_s), 1)
        while len(self._left) >= self._addresses:
            self._left.popitem(last=False)
        self._left[group] = (left - 1 if not wait else left, now)
        return wait


def _group(address: str) -> str:
    """What counts as one address: an IPv6 /64, an IPv4 address also when it comes mapped into IPv6."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((int(ip), _IPV6_PREFIX), strict=False))
