"""Who may do what, and who did: keys, audit."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from iocpd.api.cli.command import ACCESS, group, verb
from iocpd.api.cli.console import ask, plural
from iocpd.api.cli.contexts import connect
from iocpd.api.cli.listing import Column, as_json, show
from iocpd.api.cli.options import Listing, Output, Where, YesOption, chosen
from iocpd.api.cli.safe import safe, safe_json
from iocpd.api.cli.statuses import Status, Stop
from iocpd.api.cli.units import age, clock
from iocpd.api.cli.verbs.connections import LimitOption
from iocpd.api.cli.verbs.serve import ConfigOption, settings_of

if TYPE_CHECKING:
    from iocpd.api.client import AuditEntry, Key, Scope
    from iocpd.api.keys import KeyFileError

keys = group(
    "keys",
    panel=ACCESS,
    help="Make, list and revoke keys for the API: in the key file of this machine, or of a service that runs.\n\n"
    "It is the service's when one is named with --url, --context or --remote, else the file.",
)

KeysOption = Annotated[
    Path | None, typer.Option("--keys", metavar="FILE", help="the key file (keys.json in the state directory)")
]
RemoteOption = Annotated[
    bool, typer.Option("--remote", help="ask the service that IOCPD_URL or the context in use names")
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="who or what uses it; stands in log and audit")]

_WRONG = Status.USAGE


@verb(
    "add",
    of=keys,
    panel=ACCESS,
    examples=[
        "iocpd keys add alice --role operator",
        "iocpd keys add prometheus --scope metrics:read --expires-in 90d",
        "iocpd keys add bob --role viewer --context prod > bob.key",
    ],
    notes="The key is printed once, alone on stdout; only its hash is stored.",
)
def add(
    name: NameArgument,
    output: Output,
    where: Where,
    role: Annotated[
        str | None, typer.Option("--role", metavar="ROLE", help="viewer, operator or admin: a bundle of scopes")
    ] = None,
    scopes: Annotated[
        list[str] | None, typer.Option("--scope", metavar="SCOPE", help="such as connections:read; repeatable")
    ] = None,
    expires_in: Annotated[
        str | None, typer.Option("--expires-in", metavar="TIME", help="it works so long; else until it is revoked")
    ] = None,
    keys_file: KeysOption = None,
    config: ConfigOption = None,
    remote: RemoteOption = False,
) -> int:
    """Make a key and print it, once."""
    if (role is None) == (not scopes):
        raise Stop("what may it do? give --role, or --scope once or more", _WRONG)
    if role not in (None, "viewer", "operator", "admin"):
        raise Stop(f"--role is {role!r}: write viewer, operator or admin", _WRONG)
    known = cast('Literal["viewer", "operator", "admin"] | None', role)
    if _far(where, keys_file, config, remote=remote):
        with connect(where) as client:
            single = cast("list[Scope] | None", scopes or None)  # the service tells which there are
            made = client.add_key(name, role=known, scopes=single, expires_in=expires_in)
        print(as_json(made) if output.json else safe(made.key))
        _say(f"the service has the hash of {made.name!r}; the key itself is shown only now")
        return Status.DONE
    from iocpd.api.durations import parse_duration
    from iocpd.api.keys import KeyFileError, create_key

    path = _path(keys_file, config)
    if path is None:
        return _WRONG
    try:
        seconds = None if expires_in is None else parse_duration(expires_in)
        key, record = create_key(path, name, role=known, scopes=tuple(scopes or ()), expires_in=seconds)
    except ValueError as error:
        raise Stop(f"--expires-in is {expires_in!r}: {error}", _WRONG) from None
    except KeyFileError as error:
        raise _stop(error) from None
    if output.json:
        print(safe_json(record.model_dump(mode="json", exclude={"sha256"}) | {"key": key}))
    else:
        print(key)
    _say(f"the hash of {name!r} is in {path}; the key itself is shown only now")
    return Status.DONE


_COLUMNS: list[Column[Key]] = [
    Column("NAME", lambda key: key.name),
    Column("ROLE", lambda key: key.role or "-"),
    Column("AGE", lambda key: age(key.created_at), right=True, rank=2),
    Column("EXPIRES", lambda key: _expires(key), style=lambda key: "red" if _expires(key) == "expired" else ""),
    Column("SCOPES", lambda key: " ".join(key.scopes), rank=1),
]


def _expires(key: Key) -> str:
    if key.expires_at is None:
        return "never"
    return "expired" if key.expires_at <= datetime.now(UTC) else clock(key.expires_at)


@verb("list", of=keys, panel=ACCESS, examples=["iocpd keys list", "iocpd keys list --context prod --json"])
def list_keys(
    output: Listing,
    where: Where,
    keys_file: KeysOption = None,
    config: ConfigOption = None,
    remote: RemoteOption = False,
) -> int:
    """List names, roles and scopes."""
    from iocpd.api.client import Key

    if _far(where, keys_file, config, remote=remote):
        with connect(where) as client:
            _show_keys(lambda: client.list_keys().items, output)
        return Status.DONE
    from iocpd.api.keys import KeyFileError, KeyFileMissing, read_keys

    path = _path(keys_file, config)
    if path is None:
        return _WRONG

    def read() -> Iterable[Key]:
        try:
            records = read_keys(path)
        except KeyFileMissing:
            return []
        except KeyFileError as error:
            raise _stop(error) from None
        return [
            Key(
                name=each.name,
                role=each.role,
                scopes=tuple(sorted(each.caller().scopes)),
                created_at=each.created_at,
                expires_at=each.expires_at,
            )
            for each in records
        ]

    _show_keys(read, output)
    return Status.DONE


@verb("revoke", of=keys, panel=ACCESS, examples=["iocpd keys revoke alice", "iocpd keys revoke bob --remote --yes"])
def revoke(
    name: NameArgument,
    where: Where,
    yes: YesOption = False,
    keys_file: KeysOption = None,
    config: ConfigOption = None,
    remote: RemoteOption = False,
) -> int:
    """Remove a key, so that it opens nothing any more."""
    if _far(where, keys_file, config, remote=remote):
        with connect(where) as client:
            ask(f"Revoke the key {safe(name)!r} of {client.url}?", yes=yes)
            client.revoke_key(name)
    else:
        from iocpd.api.keys import KeyFileError, revoke_key

        path = _path(keys_file, config)
        if path is None:
            return _WRONG
        ask(f"Revoke the key {safe(name)!r} in {path}?", yes=yes)
        try:
            revoke_key(path, name)
        except KeyFileError as error:
            raise _stop(error) from None
    _say(f"{name!r} is revoked")
    return Status.DONE


def _show_keys(items: Callable[[], Iterable[Key]], output: Listing) -> None:
    from iocpd.api.client import Key

    show(
        items,
        _COLUMNS,
        model=Key,
        machine=("name", "role", "created_at", "expires_at"),
        output=output,
        none="no keys",
        foot=lambda found: plural(len(found), "key"),
    )


def _far(where: Where, keys_file: Path | None, config: Path | None, *, remote: bool) -> bool:
    """Whether the keys of a running service are meant, and not a file's."""
    named = chosen(where)
    far = remote or named.url is not None or named.context is not None
    if far and (keys_file is not None or config is not None):
        raise Stop("--keys and --config are about a file of this machine: leave them out, or the service", _WRONG)
    return far


def _stop(error: KeyFileError) -> Stop:
    """With the status that the same has over the API."""
    from iocpd.api.keys import KeyExists, KeyInvalid, KeyUnknown

    if isinstance(error, KeyInvalid):
        return Stop(str(error), _WRONG)
    if isinstance(error, KeyUnknown):
        return Stop(str(error), Status.NOT_FOUND)
    refused = isinstance(error, KeyExists) or isinstance(error.__cause__, PermissionError)
    return Stop(str(error), Status.REFUSED if refused else Status.FAILED)


def _path(keys_file: Path | None, config: Path | None) -> Path | None:
    settings = settings_of({} if keys_file is None else {"keys_file": str(keys_file)}, config)
    return None if settings is None else settings.keys_path


def _say(line: str) -> None:
    print(f"iocpd: {line}", file=sys.stderr)


_AUDIT: list[Column[AuditEntry]] = [
    Column("WHEN", lambda each: clock(each.at)),
    Column("WHO", lambda each: each.actor),
    Column("DID", lambda each: each.action),
    Column("TO", lambda each: each.target),
    Column("OUTCOME", lambda each: each.outcome, style=lambda each: "" if each.outcome == "done" else "red"),
    Column("FROM", lambda each: each.client or "", rank=2),
    Column("DETAIL", lambda each: each.detail, rank=1),
    Column("REQUEST", lambda each: each.request_id or "", rank=3),
]


@verb(
    "audit",
    panel=ACCESS,
    examples=[
        "iocpd audit --limit 20",
        "iocpd audit --actor alice --since 24h",
        "iocpd audit --action connections-kick --json",
    ],
)
def audit(
    output: Listing,
    where: Where,
    actor: Annotated[str | None, typer.Option("--actor", metavar="NAME", help="only what this key did")] = None,
    action: Annotated[str | None, typer.Option("--action", metavar="ACTION", help="only this action")] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="a span such as 24h, or 2025-01-31T12:00:00Z")
    ] = None,
    limit: LimitOption = None,
) -> None:
    """List who did what when, newest first."""
    from iocpd.api.client import AuditEntry

    begin = _moment(since) if since else None
    with connect(where) as client:
        show(
            lambda: itertools.islice(
                client.audit(actor=actor, action=action, since=begin, page_size=min(limit or 1000, 1000)), limit
            ),
            _AUDIT,
            model=AuditEntry,
            machine=("at", "actor", "action", "target", "outcome", "status", "client", "request_id", "detail"),
            output=output,
            none="nothing was done",
        )


def _moment(text: str) -> datetime:
    from iocpd.api.durations import parse_duration

    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.astimezone()
    except (ValueError, OverflowError):  # the latter at the ends of the calendar
        raise Stop(f"--since is {safe(text)!r}: write a span such as 24h, or 2025-01-31T12:00:00Z", _WRONG) from None
