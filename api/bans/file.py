"""bans.json in the state directory: one JSON object, with a line for each ban.

    {"version": 1, "bans": [
    {"id": "...", "address": "192.0.2.7", "reason": "", "created_at": "...Z", "expires_at": null, "created_by": "a"},
    ...
    ]}

Both ways go line by line: a hundred thousand bans in one call of a JSON library would hold Python's lock, and with it
the event loop, for a quarter of a second.
"""

import ipaddress
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from iocpd.api.bans.model import ID, Ban, canonical
from iocpd.api.durable import replace_file

_LINES = 512  # to one write
_HEAD = re.compile(r'\s*\{\s*"version"\s*:\s*(?P<version>[^,\s]+)\s*,\s*"bans"\s*:\s*\[\s*')
_BETWEEN = re.compile(r"\s*(,|\])\s*")
_TAIL = re.compile(r"\s*\}\s*")
_MEMBERS = {"id", "address", "reason", "created_at", "expires_at", "created_by"}


class BanFileError(Exception):
    """The file of bans can't be read, or isn't one; the text says which file, why, and what to do."""


def read_bans(path: Path) -> list[Ban]:
    """The bans of a file, in its order, also those that have expired; none if there is no file. BanFileError."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BanFileError(f"cannot read the bans in {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise _broken(path, "it is not UTF-8 text") from None
    try:
        bans = [_ban(row, serial) for serial, row in enumerate(_rows(text), 1)]
    except json.JSONDecodeError as error:
        raise _broken(path, f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except ValueError as error:
        raise _broken(path, str(error)) from None
    except RecursionError:
        raise _broken(path, "it is nested too deeply") from None
    for what, names in (("id", {ban.id for ban in bans}), ("address", {ban.network for ban in bans})):
        if len(names) < len(bans):
            raise _broken(path, f"two bans have the same {what}")
    return bans


def write_bans(path: Path, bans: Iterable[Ban]) -> None:
    """Puts these into the file, as `durable.replace_file` does. OSError: it is as it was."""
    replace_file(path, _pieces(iter(bans)))


def _pieces(bans: Iterator[Ban]) -> Iterator[bytes]:
    yield b'{"version": 1, "bans": ['
    separator = b"\n"
    while lines := [ban.line for ban in itertools.islice(bans, _LINES)]:
        yield separator + b",\n".join(lines)
        separator = b",\n"
    yield b"\n]}\n"


def _rows(text: str) -> Iterator[Any]:
    """The members of "bans", one by one; ValueError."""
    head = _HEAD.match(text)
    if head is None:
        raise ValueError('it does not begin with {"version": 1, "bans": [')
    if head["version"] != "1":
        raise ValueError(f"its version is {head['version']:.20}, and this iocpd reads version 1")
    decode, place = json.JSONDecoder().raw_decode, head.end()
    closed = text.startswith("]", place)
    place += closed
    while not closed:
        row, place = decode(text, place)
        yield row
        between = _BETWEEN.match(text, place)
        if between is None:
            raise json.JSONDecodeError("Expecting ',' or ']'", text, place)
        closed, place = between[1] == "]", between.end()
    if _TAIL.fullmatch(text, place) is None:
        raise json.JSONDecodeError("Expecting '}' and the end", text, place)


def _ban(row: Any, serial: int) -> Ban:
    """A ban of a row; ValueError tells which, and what is wrong."""
    try:
        if not isinstance(row, dict) or set(row) != _MEMBERS:
            raise ValueError("its members must be " + ", ".join(sorted(_MEMBERS)))
        if not re.fullmatch(ID, row["id"]):
            raise ValueError("its id is none")
        if "%" in row["address"]:
            raise ValueError("its address has a zone")
        return Ban(
            id=row["id"],
            network=canonical(ipaddress.ip_network(row["address"])),
            reason=_text(row["reason"]),
            created_at=_moment(row["created_at"]),
            expires_at=None if row["expires_at"] is None else _moment(row["expires_at"]),
            created_by=_text(row["created_by"]),
            serial=serial,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"ban {serial}: {error}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 1000 or not value.isprintable():
        raise ValueError(f"{value!r:.80} is not a text on one line")
    return value


def _moment(value: Any) -> datetime:
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError(f"the time {value} has no zone")
    return moment


def _broken(path: Path, why: str) -> BanFileError:
    return BanFileError(f"{path} is not a file of bans: {why}; mend it, or move it away to start without bans")
