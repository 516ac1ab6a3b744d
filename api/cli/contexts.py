"""Servers by name: `iocpd context`, and which one a verb asks.

contexts.json in the user's configuration directory has each server's address and where its key is, and which of them is
in use. A key itself is never in it: a key file or a variable is named, or a key that was typed in is kept in a file of
its own beside it. All of it can be read by its owner alone.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iocpd.api.cli.options import Where, chosen
from iocpd.api.cli.statuses import Status, Stop
from iocpd.api.durable import replace_file

if TYPE_CHECKING:
    from iocpd.api.client import Client

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST = 1000


@dataclass(frozen=True)
class Server:
    """Where one API is, and where its key is; at most one of `key_file` and `key_env`."""

    url: str
    key_file: str | None = None
    key_env: str | None = None


@dataclass(frozen=True)
class Contexts:
    """What contexts.json has."""

    servers: Mapping[str, Server] = field(default_factory=dict)
    current: str | None = None

    def named(self, name: str) -> Server:
        """The server of this name; Stop if there is none."""
        if name not in self.servers:
            known = f"; there are {', '.join(self.servers)}" if self.servers else "; `iocpd context add` makes one"
            raise Stop(f"there is no context {name!r}{known}", Status.USAGE)
        return self.servers[name]


def folder() -> Path:
    """The user's configuration directory for iocpd; it need not exist."""
    if os.name == "nt":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData/Roaming") / "iocpd"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "iocpd"


def load() -> Contexts:
    """The contexts of this user; Stop if the file is broken."""
    path = folder() / "contexts.json"
    try:
        document = json.loads(path.read_bytes())
        servers = {name: Server(**server) for name, server in document["contexts"].items()}
        current = document.get("current")
        if current is not None and current not in servers:
            raise ValueError(f"current is {current!r}, which is not among the contexts")
    except FileNotFoundError:
        return Contexts()
    except OSError as error:
        raise Stop(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Stop(f"{path} is broken ({error}): mend it, or remove it and add the contexts again") from None
    return Contexts(servers, current)


def add(name: str, server: Server, *, key: str | None = None) -> Contexts:
    """Adds or replaces a context, with a key to be kept if there is one; the first one is in use at once."""
    if not _NAME.fullmatch(name):
        raise Stop(f"{name!r} is no name for a context: use up to 64 letters, digits, dots, dashes and _", Status.USAGE)
    contexts = load()
    if len(contexts.servers) >= _MOST:
        raise Stop(f"there are {_MOST} contexts already; `iocpd context remove` makes room")
    if key is not None:
        path = _key_path(name)
        _write(path, key + "\n")
        server = replace(server, key_file=str(path))
    return _save(Contexts({**contexts.servers, name: server}, contexts.current or name))


def use(name: str) -> None:
    """Makes a context the one that is used when none is named."""
    contexts = load()
    contexts.named(name)
    _save(replace(contexts, current=name))


def remove(name: str) -> None:
    """Forgets a context, and the key that was kept for it."""
    contexts = load()
    server = contexts.named(name)
    left = {each: other for each, other in contexts.servers.items() if each != name}
    _save(Contexts(left, None if contexts.current == name else contexts.current))
    if server.key_file == str(_key_path(name)):
        _key_path(name).unlink(missing_ok=True)


def connect(where: Where) -> Client:
    """A client for the service that was named.

    The first of --url, --context, IOCPD_URL, IOCPD_CONTEXT and the context in use says which; else it is the one of
    this machine. A context's key goes to that context's server alone, and its server gets no other but one that was
    asked for with --key-file or --ask-key.
    """
    import httpx

    from iocpd.api.client import Client, SetupError

    where = chosen(where)
    if where.url is not None and where.context is not None:
        raise Stop("give --url or --context, not both", Status.USAGE)
    if where.key_file is not None and where.ask_key:
        raise Stop("give --key-file or --ask-key, not both", Status.USAGE)
    server = _server(where)
    options: dict[str, Any] = {"timeout": where.patience}
    if where.key_file is not None:
        options["key_file"] = where.key_file
    elif where.ask_key:
        options["key"] = ask_key()
    elif server is not None:
        options |= _key_of(server)
    try:
        return Client(server.url if server else where.url, **options)
    except httpx.HTTPError as error:  # such as a broken bundle of certificates
        raise SetupError(str(error)) from None


def ask_key() -> str:
    """A key that is typed in and not shown."""
    import getpass

    if not sys.stdin.isatty():
        raise Stop("a key can be asked for on a terminal alone: name a file with --key-file", Status.USAGE)
    key = getpass.getpass("Key: ").strip()
    if not key:
        raise Stop("no key was given", Status.USAGE)
    return key


def _server(where: Where) -> Server | None:
    if where.context is not None:
        return load().named(where.context)
    if where.url is not None or os.environ.get("IOCPD_URL"):
        return None
    if name := os.environ.get("IOCPD_CONTEXT"):
        return load().named(name)
    contexts = load()
    return contexts.servers[contexts.current] if contexts.current else None


def _key_of(server: Server) -> dict[str, Any]:
    if server.key_file is not None:
        return {"key_file": Path(server.key_file).expanduser()}
    if server.key_env is not None:
        key = os.environ.get(server.key_env)
        if not key:
            raise Stop(f"the context's key is in {server.key_env}, and that is not set", Status.USAGE)
        return {"key": key}
    return {"key": ""}


def _key_path(name: str) -> Path:
    return folder() / "keys" / name


def _save(contexts: Contexts) -> Contexts:
    servers = {
        name: {member: value for member, value in asdict(server).items() if value is not None}
        for name, server in contexts.servers.items()
    }
    document = {"current": contexts.current, "contexts": servers}
    _write(folder() / "contexts.json", json.dumps(document, indent=2) + "\n")
    return contexts


def _write(path: Path, text: str) -> None:
    """Replaces a file by one that its owner alone can read; a reader sees the old one or the new one."""
    try:
        replace_file(path, [text.encode()])
    except OSError as error:
        raise Stop(f"cannot write {path}: {error.strerror}") from None
