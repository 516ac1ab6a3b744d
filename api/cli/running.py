"""An iocpd that runs already where `iocpd serve` would listen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iocpd.api.settings import HttpAddress

_PATIENCE_SECONDS = 2.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_PROBLEMS = "urn:iocpd:problem:"


@dataclass(frozen=True)
class Running:
    """What it tells to whoever has no key.

    Attributes:
        process: Its number; None if it keeps that for callers with a key, as it does `ports`.
        ports: Of its listeners.
    """

    process: int | None = None
    ports: frozenset[int] | None = None

    def __str__(self) -> str:
        return "the iocpd that runs here" + (f", process {self.process}" if self.process else "")


def find(http: HttpAddress) -> Running | None:
    """The iocpd whose API answers there; None if nobody or something else does. No key is sent: who knows to whom."""
    import httpx

    if http.port == 0:
        return None
    host = _EVERYWHERE.get(http.host, http.host)
    url = f"http://{type(http)(host, http.port)}"
    try:
        with httpx.Client(base_url=url, timeout=_PATIENCE_SECONDS, trust_env=False) as client:
            node, listeners = (_document(client.get(path)) for path in ("/v1/node", "/v1/listeners"))
    except (httpx.HTTPError, httpx.InvalidURL):
        return None
    if str(node.get("type")).startswith(_PROBLEMS):
        return Running()
    try:
        return Running(int(node["pid"]), frozenset(int(each["port"]) for each in listeners["items"]))
    except (KeyError, TypeError, ValueError):
        return None


def _document(answer: Any) -> dict[str, Any]:
    try:
        document = answer.json()
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
