"""Bearer keys: scopes, roles, expiry, and the file that they are kept in. Knows nothing of HTTP.

A key is 256 random bits, so its plain SHA-256 can be neither guessed nor searched: a slow password hash would guard
against nothing here and would cost every request its time. The file holds hashes alone; a key is shown once, when it is
made.

The file may be changed by a running service and by `iocpd keys` at the same time: each change reads, changes and
replaces it under a lock. A running service sees what others have changed (`iocpd.api.access.store`).
"""

import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from iocpd.api.durable import replace_file
from iocpd.api.file_lock import FileBusy, exclusively

SCOPES = {
    "connections:read": "list connections and those that ended",
    "connections:kick": "end connections",
    "connections:tag": "change a connection's tags and groups",
    "messages:send": "send to one connection",
    "broadcasts:send": "send to many connections",
    "bans:read": "list bans",
    "bans:write": "ban and unban addresses",
    "node:read": "see the node, its listeners and a drain's progress",
    "node:drain": "begin and cancel a drain",
    "node:shutdown": "shut the service down",
    "node:reload": "read the settings again",
    "metrics:read": "read the metrics",
    "audit:read": "see who did what",
    "keys:read": "list keys",
    "keys:write": "make and revoke keys",
}
ALL_SCOPES = frozenset(SCOPES)

_VIEWER = frozenset({"connections:read", "bans:read", "node:read", "metrics:read"})
ROLES = {
    "viewer": _VIEWER,
    "operator": _VIEWER
    | {"connections:kick", "connections:tag", "messages:send", "broadcasts:send", "bans:write", "node:drain"},
    "admin": ALL_SCOPES,
}
Role = Literal["viewer", "operator", "admin"]

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"
RESERVED_NAMES = frozenset({"anonymous", "local", "system"})
"""What the audit calls who has no key: nobody else may have these names."""
MAX_KEYS = 10_000

_KEY_PREFIX = "iocpd_"


class KeyFileError(Exception):
    """The key file can't be read, written or changed as asked; the text says which and why."""


class KeyFileMissing(KeyFileError):
    """There is no such file."""


class KeyInvalid(KeyFileError):
    """What was asked for can't be a key: its name, a scope or its time."""


class KeyExists(KeyFileError):
    """There is a key of that name already."""


class KeyUnknown(KeyFileError):
    """There is no key of that name."""


class LastKeeper(KeyFileError):
    """Without this key nobody could make or revoke keys through the API any more."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking: the key's name, what it may do, and until when."""

    name: str
    scopes: frozenset[str]
    expires_at: datetime | None = None

    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)


class KeyRecord(BaseModel):
    """One key as the file keeps it. A role is kept by name, so that it gains the scopes that a later version adds to
    it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=f"^{NAME_PATTERN}$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    role: Role | None = None
    scopes: tuple[str, ...] = ()
    created_at: datetime
    expires_at: AwareDatetime | None = None

    def caller(self) -> Caller:
        """Who asks with this key; with every scope that it has."""
        scopes = frozenset(self.scopes) | (ROLES[self.role] if self.role else frozenset())
        return Caller(self.name, scopes, self.expires_at)


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    keys: Annotated[list[KeyRecord], Field(max_length=MAX_KEYS)] = []


class KeyRing:
    """The keys that the API accepts."""

    def __init__(self, records: list[KeyRecord]) -> None:
        self._keys = [(bytes.fromhex(record.sha256), record.caller()) for record in records]

    def __len__(self) -> int:
        return len(self._keys)

    def same(self, other: "KeyRing") -> bool:
        """Whether both have the same keys, for the same."""
        return self._keys == other._keys

    def find(self, key: str) -> Caller | None:
        """Whose key it is, also when it has expired. Compares with every key in constant time, so the time taken tells
        nothing about them.
        """
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = None
        for known, caller in self._keys:
            if hmac.compare_digest(known, digest):
                found = caller
        return found


def read_keys(path: Path) -> list[KeyRecord]:
    """The records of a key file; KeyFileMissing if there is none, KeyFileError if it can't be read or isn't one."""
    try:
        return _KeyFile.model_validate_json(path.read_bytes()).keys
    except FileNotFoundError:
        raise KeyFileMissing(f"there is no key file {path}") from None
    except OSError as error:
        raise KeyFileError(f"cannot read the key file {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise KeyFileError(f"{path} is not a key file: {where + ': ' if where else ''}{first['msg']}") from None


def check_rights(path: Path) -> None:
    """KeyFileError if somebody beside the file's owner may write to it, who could then give himself every right.

    On Windows the file is as its folder is: `iocpd service install` makes the state folder the system's,
    administrators' and the service's alone, and takes none in which somebody else has put anything.
    """
    if os.name == "nt":
        return
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        raise KeyFileMissing(f"there is no key file {path}") from None
    except OSError as error:
        raise KeyFileError(f"cannot read the key file {path}: {error.strerror}") from error
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise KeyFileError(
            f"others than its owner may write to the key file {path} (its mode is {mode:04o}), and whoever can could"
            f" make keys for everything: chmod go-w {path}"
        )


def add_key(
    path: Path,
    name: str,
    *,
    role: Role | None = None,
    scopes: tuple[str, ...] = (),
    expires_in: float | None = None,
) -> str:
    """Makes a key, stores its hash, and returns the key itself; nobody can read it again.

    expires_in: seconds until it is refused; None: it never is. KeyFileError; KeyInvalid, KeyExists.
    """
    return create_key(path, name, role=role, scopes=scopes, expires_in=expires_in)[0]


def create_key(
    path: Path,
    name: str,
    *,
    role: Role | None = None,
    scopes: tuple[str, ...] = (),
    expires_in: float | None = None,
) -> tuple[str, KeyRecord]:
    """As add_key, with what the file says of the key beside it."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise KeyInvalid(f"{name!r} is not a name for a key: use up to 64 letters, digits, dots, dashes, @ and _")
    if name in RESERVED_NAMES:
        raise KeyInvalid(f"{name!r} is what the audit calls somebody without a key: choose another name")
    if unknown := sorted(set(scopes) - ALL_SCOPES):
        raise KeyInvalid(f"there is no scope {unknown[0]!r}; scopes are {', '.join(SCOPES)}")
    key = _KEY_PREFIX + secrets.token_urlsafe(32)
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        expires_at = None if expires_in is None else now + timedelta(seconds=expires_in)
    except OverflowError:
        raise KeyInvalid(f"a key can't expire in {expires_in:g} seconds: that is beyond the calendar") from None
    record = KeyRecord(
        name=name,
        sha256=hashlib.sha256(key.encode()).hexdigest(),
        role=role,
        scopes=scopes,
        created_at=now,
        expires_at=expires_at,
    )

    def change(records: list[KeyRecord]) -> list[KeyRecord]:
        if any(each.name == name for each in records):
            raise KeyExists(f"there is a key named {name!r} already: choose another name, or revoke that one first")
        if len(records) >= MAX_KEYS:
            raise KeyFileError(f"there are {MAX_KEYS} keys, and no more are allowed: revoke some first")
        return [*records, record]

    _change(path, change)
    return key, record


def revoke_key(path: Path, name: str, *, keep_keeper: bool = False) -> None:
    """Removes the key with this name. KeyFileError; KeyUnknown.

    keep_keeper: LastKeeper if no key that can make keys would be left; that one can then only be removed by somebody
    who can change the file.
    """

    def change(records: list[KeyRecord]) -> list[KeyRecord]:
        left = [record for record in records if record.name != name]
        if len(left) == len(records):
            raise KeyUnknown(f"there is no key named {name!r} in {path}")
        if keep_keeper and _keepers(records) and not _keepers(left):
            raise LastKeeper(
                f"{name!r} is the last key with keys:write: make another one first, or use `iocpd keys revoke`"
            )
        return left

    _change(path, change)


def _keepers(records: list[KeyRecord]) -> bool:
    callers = [record.caller() for record in records]
    return any("keys:write" in caller.scopes and not caller.expired() for caller in callers)


def _change(path: Path, change: Callable[[list[KeyRecord]], list[KeyRecord]]) -> None:
    path = path.resolve()  # a link stays one
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusively(path):
            try:
                records = read_keys(path)
            except KeyFileMissing:
                records = []
            content = _KeyFile(keys=change(records)).model_dump(mode="json", exclude_defaults=True) | {"version": 1}
            replace_file(path, [json.dumps(content, indent=2).encode(), b"\n"])
    except FileBusy as error:
        raise KeyFileError(str(error)) from error
    except OSError as error:
        raise KeyFileError(f"cannot write the key file {path}: {error.strerror or error}") from error
