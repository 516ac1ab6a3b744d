"""Bearer keys: scopes, roles, and the file that they are kept in. Knows nothing of HTTP.

A key is 256 random bits, so its plain SHA-256 can be neither guessed nor searched: a slow password hash would guard
against nothing here and would cost every request its time. The file holds hashes alone; a key is shown once, when it is
made.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_KEY_PREFIX = "iocpd_"


class KeyFileError(Exception):
    """The key file can't be read, written or changed as asked; the text says which and why."""


class KeyFileMissing(KeyFileError):
    """There is no such file."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking: the key's name, and what it may do."""

    name: str
    scopes: frozenset[str]


class KeyRecord(BaseModel):
    """One key as the file keeps it. A role is kept by name, so that it gains the scopes that a later version adds to
    it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=f"^{_NAME.pattern}$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    role: Role | None = None
    scopes: tuple[str, ...] = ()
    created_at: datetime

    def granted(self) -> frozenset[str]:
        """Every scope that this key has."""
        return frozenset(self.scopes) | (ROLES[self.role] if self.role else frozenset())


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    keys: Annotated[list[KeyRecord], Field(max_length=10_000)] = []


class KeyRing:
    """The keys that the API accepts."""

    def __init__(self, records: list[KeyRecord]) -> None:
        self._keys = [(bytes.fromhex(record.sha256), Caller(record.name, record.granted())) for record in records]

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, key: str) -> Caller | None:
        """Whose key it is. Compares with every key in constant time, so the time taken tells nothing about them."""
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


def add_key(path: Path, name: str, *, role: Role | None = None, scopes: tuple[str, ...] = ()) -> str:
    """Makes a key, stores its hash, and returns the key itself; nobody can read it again. KeyFileError."""
    if not _NAME.fullmatch(name):
        raise KeyFileError(f"{name!r} is not a name for a key: use up to 64 letters, digits, dots, dashes, @ and _")
    if unknown := sorted(set(scopes) - ALL_SCOPES):
        raise KeyFileError(f"there is no scope {unknown[0]!r}; scopes are {', '.join(SCOPES)}")
    try:
        records = read_keys(path)
    except KeyFileMissing:
        records = []
    if any(record.name == name for record in records):
        raise KeyFileError(f"there is a key named {name!r} already: choose another name, or revoke that one first")
    key = _KEY_PREFIX + secrets.token_urlsafe(32)
    digest = hashlib.sha256(key.encode()).hexdigest()
    now = datetime.now(UTC).replace(microsecond=0)
    _write(path, [*records, KeyRecord(name=name, sha256=digest, role=role, scopes=scopes, created_at=now)])
    return key


def revoke_key(path: Path, name: str) -> None:
    """Removes the key with this name; KeyFileError if there is none."""
    records = read_keys(path)
    left = [record for record in records if record.name != name]
    if len(left) == len(records):
        raise KeyFileError(f"there is no key named {name!r} in {path}")
    _write(path, left)


def _write(path: Path, records: list[KeyRecord]) -> None:
    content = _KeyFile(keys=records).model_dump(mode="json", exclude_defaults=True) | {"version": 1}
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A reader sees the old file or the new one, never a part; mkstemp makes it readable by its owner alone.
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise KeyFileError(f"cannot write the key file {path}: {error.strerror}") from error
