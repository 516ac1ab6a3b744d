"""Keys as the API shows and changes them. What is written is in force when these return."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from iocpd.api import keys, problems
from iocpd.api.access.schemas import KeyBody, KeyCreated, KeyView
from iocpd.api.access.store import KeyStore
from iocpd.api.auth import require
from iocpd.api.keys import Caller, KeyExists, KeyFileError, KeyFileMissing, KeyRecord, KeyUnknown, LastKeeper
from iocpd.api.problems import Problem


async def list_keys(store: KeyStore) -> list[KeyView]:
    """What the file says of each key. Problem 503."""
    if store.path is None:
        return []
    try:
        records = await asyncio.to_thread(keys.read_keys, store.path)
    except KeyFileMissing:
        return []
    except KeyFileError as error:
        raise Problem(problems.KEYS_UNAVAILABLE, str(error)) from error
    return [KeyView(**_members(record)) for record in records]


async def create_key(store: KeyStore, caller: Caller, body: KeyBody) -> KeyCreated:
    """Makes a key for somebody. Problem 403, 409, 422, 503."""
    granted = keys.ROLES[body.role] if body.role else frozenset(body.scopes or ())
    for scope in sorted(granted):
        require(caller, scope, f"giving it to {body.name!r}")
    _check_time(caller, body)
    path = _path(store)
    try:
        key, record = await asyncio.to_thread(
            keys.create_key,
            path,
            body.name,
            role=body.role,
            scopes=tuple(dict.fromkeys(body.scopes or ())),
            expires_in=body.expires_in,
        )
        store.renew()
    except KeyExists as error:
        raise Problem(problems.KEY_EXISTS, str(error)) from error
    except KeyFileError as error:
        raise Problem(problems.KEYS_UNAVAILABLE, str(error)) from error
    return KeyCreated(**_members(record), key=key)


async def revoke_key(store: KeyStore, name: str) -> None:
    """Removes a key. Problem 404, 409, 503."""
    path = _path(store)
    try:
        await asyncio.to_thread(keys.revoke_key, path, name, keep_keeper=True)
        store.renew()
    except KeyUnknown as error:
        detail = f"there is no key named {name!r:.80}; GET /v1/keys lists them"
        raise Problem(problems.KEY_NAME_UNKNOWN, detail) from error
    except LastKeeper as error:
        raise Problem(problems.LAST_KEY_WRITER, str(error)) from error
    except KeyFileError as error:
        raise Problem(problems.KEYS_UNAVAILABLE, str(error)) from error


def _check_time(caller: Caller, body: KeyBody) -> None:
    """A key that expires would otherwise live on in those that it makes."""
    if caller.expires_at is None:
        return
    left = (caller.expires_at - datetime.now(UTC)).total_seconds()
    if body.expires_in is None or body.expires_in > left:
        detail = (
            f"the key {caller.name!r} expires in {left:.0f} s, and none that it makes may last longer:"
            f" give expires_in of at most {int(left)}s"
        )
        raise Problem(problems.SCOPE_MISSING, detail)


def _path(store: KeyStore) -> Path:
    if store.path is None:
        raise Problem(problems.KEYS_UNAVAILABLE, "this service was started without a place for keys")
    return store.path


def _members(record: KeyRecord) -> dict[str, object]:
    return {
        "name": record.name,
        "role": record.role,
        "scopes": sorted(record.scopes),
        "created_at": record.created_at,
        "expires_at": record.expires_at,
    }
