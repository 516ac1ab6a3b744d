"""Who may do what: bearer keys on requests, and the scope that each route asks for.

Without a key file everybody who reaches the API may do everything, which is why it then listens on loopback alone. A
web page that is open in a browser on this machine reaches loopback too, so requests that a browser made for a page are
refused there.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Any, get_type_hints

from fastapi import APIRouter, Depends, Request, Security
from fastapi.params import Depends as DependsParameter
from fastapi.params import Security as SecurityParameter
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from starlette.datastructures import Headers
from starlette.types import Scope

from iocpd.api import problems
from iocpd.api.access.attempts import Attempts
from iocpd.api.access.store import KeyStore
from iocpd.api.keys import ALL_SCOPES, Caller, KeyRing
from iocpd.api.logs import get_logger
from iocpd.api.problems import Problem
from iocpd.api.settings import is_loopback

LOCAL = Caller("local", ALL_SCOPES)
"""Who asks when there are no keys."""

WRONG_KEYS_BURST = 20
WRONG_KEYS_PER_S = 1 / 6
"""An address may send so many wrong keys at once, and then so many a second."""

_LOOPBACK_HOST = re.compile(r"(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]+)?", re.IGNORECASE)

_bearer = HTTPBearer(auto_error=False, scheme_name="key", description="A key that `iocpd keys add` made.")
_CHALLENGE = 'Bearer realm="iocpd"'
_INVALID = {"www-authenticate": f'{_CHALLENGE}, error="invalid_token"'}

_log = get_logger("iocpd.access")


class Gate:
    """Lets requests in, or not. For the event loop's thread alone.

    Wrong keys are limited for each client address. A right key is taken at any time: many clients may share an address,
    and one that tries an old key again and again must not lock out the operator who is to stop it. The limit bounds
    what wrong keys cost and how much they write; what keeps them from being guessed is their length.
    """

    def __init__(self, keys: KeyStore) -> None:
        self.keys = keys
        self.wrong_keys = {"refused": 0, "limited": 0}
        """Requests with a wrong key since the start: those that were told so, and those beyond the limit."""
        self._attempts = Attempts(burst=WRONG_KEYS_BURST, per_s=WRONG_KEYS_PER_S)

    def authenticate(self, scope: Scope) -> Caller:
        """The caller of a request; Problem 401, 403 or 429."""
        headers = Headers(scope=scope)
        keys = self.keys.current()
        if keys is None:
            return _authenticate_local(scope, headers)
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            detail = (
                "this API needs a key: send Authorization: Bearer iocpd_...;"
                " `iocpd keys add NAME --role ROLE` makes one"
            )
            raise Problem(problems.KEY_MISSING, detail, headers={"www-authenticate": _CHALLENGE})
        return self._admit(keys, key.strip(), scope["client"][0])

    def _admit(self, keys: KeyRing, key: str, client: str) -> Caller:
        caller = keys.find(key)
        if caller is None and (newest := self.keys.current(at_once=True)) is not None and newest is not keys:
            caller = newest.find(key)  # it was made a moment ago
        if caller is None:
            if wait := self._attempts.take(client):
                self.wrong_keys["limited"] += 1
                detail = (
                    f"{client} has sent too many keys that are not accepted; a right one is taken at any time,"
                    f" the next wrong one in {wait} s"
                )
                raise Problem(problems.TOO_MANY_WRONG_KEYS, detail, headers={"retry-after": str(wait)})
            self.wrong_keys["refused"] += 1
            _log.warning("wrong key", client=client)
            raise Problem(problems.KEY_UNKNOWN, headers=_INVALID)
        if caller.expired():
            assert caller.expires_at is not None
            detail = f"the key {caller.name!r} expired at {caller.expires_at.isoformat()}; ask for another one"
            raise Problem(problems.KEY_EXPIRED, detail, headers=_INVALID)
        return caller


def _authenticate_local(scope: Scope, headers: Headers) -> Caller:
    if not is_loopback(scope["client"][0]):
        raise Problem(
            problems.ORIGIN_REFUSED, "without keys only this machine is served; make one with `iocpd keys add`"
        )
    host = headers.get("host", "")
    if not _LOOPBACK_HOST.fullmatch(host):
        # A name that somebody else's DNS points here: the page behind it would be of the same origin as this API.
        detail = f"Host is {host!r:.80}, and without keys only loopback is served; make one with `iocpd keys add`"
        raise Problem(problems.ORIGIN_REFUSED, detail)
    if "origin" in headers or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        detail = "a web page made this request, and without keys those are refused; make one with `iocpd keys add`"
        raise Problem(problems.ORIGIN_REFUSED, detail)
    return LOCAL


async def _authorise(
    request: Request,
    required: SecurityScopes,
    _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Caller:
    caller: Caller = request.state.caller
    for scope in required.scopes:
        require(caller, scope, f"{request.method} {request.scope['path']}")
    return caller


def require(caller: Caller, scope: str, what: str) -> None:
    """Problem 403 if the caller may not do `what`, which needs this scope."""
    if scope not in caller.scopes:
        detail = f"the key {caller.name!r} has no scope {scope}, which {what} needs"
        challenge = f'Bearer realm="iocpd", error="insufficient_scope", scope="{scope}"'
        raise Problem(problems.SCOPE_MISSING, detail, headers={"www-authenticate": challenge})


async def _public() -> None:
    """Marks a route that needs no key."""


def needs(scope: str) -> Any:
    """The dependency of a route that only a caller with this scope may use; gives the Caller."""
    if scope not in ALL_SCOPES:
        raise ValueError(f"there is no scope {scope!r}")
    return Security(_authorise, scopes=[scope])


def public() -> Any:
    """The dependency of a route that needs no key."""
    return Depends(_public)


def check_scopes(routers: Iterable[APIRouter]) -> None:
    """RuntimeError if a route declares neither a scope nor that it is public: such a route must not be served."""
    for router in routers:
        for route in router.routes:
            if not isinstance(route, APIRoute) or not _declares_access(router, route):
                raise RuntimeError(
                    f"the route {getattr(route, 'path', route)} declares no scope: give it needs(...) or public()"
                )


def _declares_access(router: APIRouter, route: APIRoute) -> bool:
    hints = get_type_hints(route.endpoint, include_extras=True)
    declared = [*route.dependencies, *router.dependencies]
    for hint in hints.values():
        declared += [item for item in getattr(hint, "__metadata__", ()) if isinstance(item, DependsParameter)]
    return any(
        item.dependency is _public
        or (isinstance(item, SecurityParameter) and item.dependency is _authorise and item.scopes)
        for item in declared
    )
