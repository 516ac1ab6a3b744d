"""What `iocpd doctor` looks at."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iocpd.api.version import version

if TYPE_CHECKING:
    from iocpd.api.cli.running import Running
    from iocpd.api.settings import Settings

# What the service needs beside its connections: ports, listeners, files, as server.py keeps free.
_SPARE_FILES = 128
RUNS = "running"
"""The check that is there only where the service runs already."""

_LIBRARIES = ("fastapi", "uvicorn", "httptools", "pydantic", "httpx", "typer", "rich")


class Verdict(Enum):
    """How a check went; STOP keeps `iocpd serve` from starting."""

    OK = "ok"
    NOTE = "note"
    WARN = "warn"
    STOP = "stop"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    text: str


def examine(flags: Mapping[str, Any], config: Path | None) -> Iterator[Check]:
    """Every check, in an order in which each may build on those before."""
    yield from _versions()
    try:
        from iocpd.api.settings import SettingsError, load_settings, unknown_variables
    except ImportError as error:
        yield Check("engine", Verdict.STOP, f"the C engine can't be loaded: {error}; install iocpd again")
        return
    try:
        settings = load_settings(flags, config)
    except SettingsError as error:
        for line in error.lines:
            yield Check("settings", Verdict.STOP, line)
        return
    for line in unknown_variables():
        yield Check("settings", Verdict.WARN, line)
    yield from _backends(settings)
    yield _files(settings)
    yield from _services(settings)
    yield from _ports(settings)
    yield from _rights(settings)
    if sys.platform == "win32":
        yield _user32()


def _versions() -> Iterator[Check]:
    system = f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} processors"
    yield Check("system", Verdict.OK, system)
    python = f"{platform.python_implementation()} {platform.python_version()}"
    yield Check("versions", Verdict.OK, f"iocpd {version()}, {python}")
    found, missing = [], []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    yield Check("libraries", Verdict.OK, ", ".join(found))
    if missing:
        yield Check("libraries", Verdict.STOP, f"{', '.join(missing)} not installed: install iocpd again")


def _backends(settings: Settings) -> Iterator[Check]:
    from iocpd.core import BackendUnavailable, probe

    names = ("iocp",) if sys.platform == "win32" else ("io_uring", "epoll")
    works = []
    for name in names:
        wanted = settings.backend in ("auto", name)
        try:
            probe(name)
        except BackendUnavailable as error:
            verdict = Verdict.STOP if settings.backend == name else Verdict.WARN if wanted else Verdict.NOTE
            yield Check(name, verdict, error.reason)
        else:
            works.append(name)
            yield Check(name, Verdict.OK, f"a round trip through {name} works")
    if settings.backend == "auto":
        if works:
            yield Check("backend", Verdict.OK, f"auto takes {works[0]}")
        else:
            yield Check("backend", Verdict.STOP, "none works here")
    elif settings.backend not in names:
        yield Check("backend", Verdict.STOP, f"{settings.backend} is not of this system, which has {', '.join(names)}")
    else:
        yield Check("backend", Verdict.OK, f"{settings.backend}, as the settings say")


def _files(settings: Settings) -> Check:
    if sys.platform == "win32":
        return Check("handles", Verdict.OK, "Windows has no limit that connections come near")
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + settings.http_connections + _SPARE_FILES
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        text = "no limit" if hard == resource.RLIM_INFINITY else f"{hard:,} files may be open"
        return Check("files", Verdict.OK, f"{text}, enough for {settings.max_connections:,} connections")
    room = hard - settings.http_connections - _SPARE_FILES
    if room < 1:
        return Check("files", Verdict.STOP, f"{hard:,} files may be open, which is too few: raise `ulimit -Hn`")
    text = (
        f"{hard:,} files may be open: {room:,} connections and not {settings.max_connections:,}; `ulimit -Hn` raises it"
    )
    return Check("files", Verdict.WARN, text)


def _services(settings: Settings) -> Iterator[Check]:
    from iocpd.core import ServiceUnusable, load_service

    for listener in settings.engine_config().listeners:
        if not listener.in_python:
            continue
        try:
            with contextlib.redirect_stdout(sys.stderr):  # what the module prints is none of the findings
                service = load_service(listener)
        except ServiceUnusable as error:
            yield Check("service", Verdict.STOP, " ".join(str(error).split()))
        else:
            framing = listener.framing or service.framing
            yield Check("service", Verdict.OK, f"{listener.service_name} can be imported; {framing}")


def _ports(settings: Settings) -> Iterator[Check]:
    from iocpd.api.cli.running import find

    running = find(settings.http)
    for listener in settings.engine_config().listeners:
        what = f"tcp {_address(listener.host, listener.port)} {listener.service_name}"
        ours = running is not None and (running.ports is None or listener.port in running.ports)
        yield _port(what, listener.host, listener.port, running if ours else None)
    yield _port(f"http {settings.http}", settings.http.host, settings.http.port, running)
    if running is not None:
        yield Check(RUNS, Verdict.NOTE, f"{running}, answers on {settings.http}")


def _port(what: str, host: str, port: int, running: Running | None) -> Check:
    from iocpd.core import ListenError

    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as listener:
            if sys.platform == "win32":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            else:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(1)
    except OSError as error:
        if running is not None:
            sure = "" if running.ports is not None else ", it seems (without a key it does not tell)"
            return Check("port", Verdict.NOTE, f"{what}: in use by {running}{sure}")
        why = str(error.strerror) if isinstance(error, socket.gaierror) else ""
        return Check("port", Verdict.STOP, f"{what}: {ListenError(host, port, error.errno or 0, why).strerror}")
    return Check("port", Verdict.OK, f"{what}: free")


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _rights(settings: Settings) -> Iterator[Check]:
    from iocpd.api.keys import KeyFileError, KeyFileMissing, check_rights, read_keys
    from iocpd.api.settings import is_loopback

    yield _state_folder(settings.state_dir)
    path = settings.keys_path
    try:
        keys = read_keys(path)
        check_rights(path)
    except KeyFileMissing as error:
        host = settings.http.host
        try:
            open_to_others = not is_loopback(socket.gethostbyname(host) if host == "localhost" else host)
        except ValueError:
            open_to_others = True
        if settings.keys_file is not None:
            yield Check("keys", Verdict.STOP, f"{error}; `iocpd keys add NAME --role admin --keys {path}` makes it")
        elif open_to_others:
            text = f"{settings.http} can be reached from other machines and there is no key file: `iocpd keys add`"
            yield Check("keys", Verdict.STOP, text)
        else:
            yield Check("keys", Verdict.NOTE, f"no key file {path}: whoever is on this machine may do everything")
    except KeyFileError as error:
        yield Check("keys", Verdict.STOP, str(error))
    else:
        yield _owner_alone(path, f"{len(keys)} in {path}")


def _state_folder(folder: Path) -> Check:
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if there.exists() and not there.is_dir():
        return Check("state", Verdict.STOP, f"{there} is a file, and the state folder {folder} can't be made below it")
    if not os.access(there, os.W_OK | os.X_OK):
        return Check("state", Verdict.STOP, f"{there} can't be written to: keys, bans and the audit have no place")
    if there != folder:
        return Check("state", Verdict.OK, f"{folder} will be made")
    return _owner_alone(folder, str(folder), stat.S_IWGRP | stat.S_IWOTH, "others may write to it")


def _owner_alone(
    path: Path, text: str, forbidden: int = stat.S_IRWXG | stat.S_IRWXO, complaint: str = "others may read it"
) -> Check:
    name = "state" if path.is_dir() else "keys"
    if os.name != "nt" and path.stat().st_mode & forbidden:
        way = "700" if path.is_dir() else "600"
        return Check(name, Verdict.WARN, f"{text}: {complaint}: chmod {way} {path}")
    return Check(name, Verdict.OK, text)


def _user32() -> Check:
    """A process that has loaded user32 gets no CTRL_SHUTDOWN_EVENT, so it does not drain when Windows shuts down."""
    from iocpd.api.cli.windows import modules_of_serve

    loaded = sorted(modules_of_serve() & {"user32.dll", "gdi32.dll"})
    if loaded:
        libraries = ", ".join(loaded)
        text = f"`iocpd serve` loads {libraries}, so Windows does not tell it of a shutdown: start it by the launcher"
        return Check("user32", Verdict.WARN, text)
    return Check("user32", Verdict.OK, "not loaded: the service is told when Windows shuts down")
