"""What is to be installed, checked before anything is."""

from __future__ import annotations

import hashlib
import math
import re
import struct
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from iocpd.api.cli.statuses import Status, Stop
from iocpd.api.cli.winservice.binary import command_line

if TYPE_CHECKING:
    from iocpd.api.settings import Settings

LAUNCHER = "iocpd-launcher.exe"
THREADS_JOIN_S = 15  # what the service takes after drain_deadline before it gives up on its threads
SPARE_S = 15
MOST_GRACE_S = 86400  # the launcher's

# The name is also a key in the registry and a part of the virtual account's and of the firewall rule's.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_NO_PASSWORD = ("localsystem", "localservice", "networkservice")


@dataclass(frozen=True)
class Plan:
    """A service to make."""

    name: str
    command: str
    account: str
    grace: int
    programs: tuple[Path, ...]  # that the account must be able to read
    state_dir: Path
    keys: Path
    log: Path
    delayed: bool = False
    ports: tuple[int, ...] = ()  # to open in the firewall
    password: str | None = field(default=None, repr=False)

    @property
    def preshutdown_ms(self) -> int:
        """How long the system waits for it when it shuts down: longer than the launcher."""
        return (self.grace + SPARE_S) * 1000


def check_name(name: str) -> str:
    """The name, if it can be one."""
    if not _NAME.fullmatch(name):
        raise Stop(f"--name is {name!r}: up to 80 letters, digits, dots, dashes and underscores", Status.USAGE)
    return name


def make_plan(
    name: str,
    settings: Settings,
    arguments: Sequence[str],
    *,
    launcher: Path | None,
    grace: int | None,
    log: Path | None,
    account: str | None,
    delayed: bool,
    firewall: bool,
) -> Plan:
    """The service that these options and serve's settings make. Stop says what is in its way."""
    launcher = _launcher(launcher)
    for path, what in ((settings.state_dir, "the state folder"), (settings.keys_file, "the key file"), (log, "--log")):
        if path is not None and not path.is_absolute():
            raise Stop(f"{what} is {path}: a service starts in the system's folder, so write the whole path", _WRONG)
    least = math.ceil(settings.drain_deadline) + THREADS_JOIN_S
    if grace is None:
        grace = min(least + SPARE_S, MOST_GRACE_S)
    if not least < grace <= MOST_GRACE_S:
        text = f"with drain_deadline {settings.drain_deadline:g}s it must be above {least} and at most {MOST_GRACE_S:,}"
        raise Stop(f"--grace is {grace}: {text}", _WRONG)
    log = log or settings.state_dir / "service.log"
    return Plan(
        name=name,
        command=command_line(str(launcher), sys.executable, name, grace, str(log), arguments),
        account=account or virtual_account(name),
        grace=grace,
        programs=tuple(dict.fromkeys((launcher, Path(sys.executable), Path(sys.prefix), Path(sys.base_prefix)))),
        state_dir=settings.state_dir,
        keys=settings.keys_path,
        log=log,
        delayed=delayed,
        ports=_ports(settings) if firewall else (),
    )


def virtual_account(name: str) -> str:
    """The account that Windows makes for the service alone; it has no password."""
    return f"NT SERVICE\\{name}"


def needs_password(account: str) -> bool:
    """Not the system's own accounts, not virtual ones, and not managed ones, whose names end with a dollar."""
    domain, _, user = account.lower().rpartition("\\")
    return not (domain == "nt service" or user.endswith("$") or user.replace(" ", "") in _NO_PASSWORD)


def sid_of(name: str) -> str:
    """The security identifier that Windows gives the service: it is made from the name alone."""
    digest = hashlib.sha1(name.upper().encode("utf-16-le"), usedforsecurity=False).digest()
    return "S-1-5-80-" + "-".join(map(str, struct.unpack("<5I", digest)))


_WRONG = Status.USAGE


def _launcher(given: Path | None) -> Path:
    folders = dict.fromkeys((Path(sysconfig.get_path("scripts")), Path(sys.executable).parent))
    places = [given.absolute()] if given else [folder / LAUNCHER for folder in folders]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        where = " or ".join(map(str, places))
        raise Stop(f"there is no {where}: the wheel for Windows has it, or name it with --launcher", Status.NOT_FOUND)
    return found


def _ports(settings: Settings) -> tuple[int, ...]:
    """Of the TCP listeners that other machines can reach; the API's is not among them."""
    from iocpd.api.settings import is_loopback

    def closed(host: str) -> bool:
        try:
            return host == "localhost" or is_loopback(host)
        except ValueError:  # a name
            return False

    ports = {each.port for each in settings.engine_config().listeners if not closed(each.host)}
    if not ports:
        raise Stop("--firewall: no TCP listener can be reached from other machines; give one with -- --tcp", _WRONG)
    if 0 in ports:
        raise Stop("--firewall: port 0 lets the system choose, and a rule needs a number", _WRONG)
    return tuple(sorted(ports))
