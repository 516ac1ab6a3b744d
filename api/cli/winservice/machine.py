"""What an installation changes beside the service itself: the event log's sources, rights on a folder, the firewall."""

from __future__ import annotations

import importlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from iocpd.api.cli.statuses import Status, Stop
from iocpd.api.cli.winservice.owners import (
    ADMINISTRATORS,
    SYSTEM,
    SYSTEMS_OWN,
    NativeOwners,
    check_content,
    check_way,
)

_SOURCES = r"SYSTEM\CurrentControlSet\Services\EventLog\Application"
_PARAMETERS = r"SYSTEM\CurrentControlSet\Services\{name}\Parameters"
_FIREWALL_RULE = "FirewallRule"
# It is a part of Windows, and each of its messages is the text itself.
MESSAGES = r"%SystemRoot%\System32\EventCreate.exe"
_TYPES = 7  # errors, warnings, information

_PATIENCE_S = 60.0


class Machine(Protocol):
    """Whatever is refused is a Stop."""

    def add_event_source(self, name: str) -> None:
        """Has the event log show the service's entries as they are."""

    def remove_event_source(self, name: str) -> None:
        """If it is ours."""

    def give_folder(self, folder: Path, sid: str, account: str) -> None:
        """Makes the folder, if it is not there, the system's, administrators' and the service's alone. Refused if it,
        or something in it, is somebody else's."""

    def open_firewall(self, name: str, ports: Sequence[int]) -> None:
        """Lets others reach these TCP ports, and keeps in mind that this was done."""

    def close_firewall(self, name: str) -> None:
        """Undoes it, if it was done."""


def rights(folder: Path, sid: str) -> list[str]:
    """The arguments of icacls with which the folder is the system's, administrators' and the service's: nothing comes
    from the folder that it is in."""
    others = [f"*{each}:(OI)(CI)F" for each in (SYSTEM, ADMINISTRATORS)]
    return [str(folder), "/inheritance:r", "/grant:r", *others, f"*{sid}:(OI)(CI)M"]


def rule_name(name: str) -> str:
    """Of the firewall rule."""
    return f"iocpd-service-{name}"


def new_rule(name: str, ports: Sequence[int]) -> list[str]:
    """The arguments of netsh that add the rule."""
    listed = ",".join(map(str, ports))
    how = ["dir=in", "action=allow", "protocol=TCP", f"localport={listed}"]
    return ["advfirewall", "firewall", "add", "rule", f"name={rule_name(name)}", *how]


class NativeMachine:
    """For Windows alone."""

    def add_event_source(self, name: str) -> None:
        path = rf"{_SOURCES}\{name}"
        known = _read(path, "EventMessageFile")
        if known not in (None, MESSAGES):
            raise Stop(f"{name} is a source of the event log that belongs to another program", Status.REFUSED)
        winreg = _winreg()
        _write(path, "EventMessageFile", winreg.REG_EXPAND_SZ, MESSAGES)
        _write(path, "TypesSupported", winreg.REG_DWORD, _TYPES)

    def remove_event_source(self, name: str) -> None:
        path = rf"{_SOURCES}\{name}"
        if _read(path, "EventMessageFile") == MESSAGES:
            winreg = _winreg()
            try:
                winreg.DeleteKey(winreg.HKEY_LOCAL_MACHINE, path)
            except OSError as error:
                raise _refused(f"remove the event log's source {name}", error) from None

    def give_folder(self, folder: Path, sid: str, account: str) -> None:
        owners = NativeOwners()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            trusted = SYSTEMS_OWN | {sid, owners.this_account(), owners.account(account) or sid}
            check_way(folder, owners, trusted)
            # First, so that nothing can be put there any more once it has been looked through.
            _run("icacls.exe", rights(folder, sid), f"give the service rights on {folder}")
            check_content(folder, owners, trusted)
        except OSError as error:
            raise _refused(f"make the folder {folder} the service's", error) from None

    def open_firewall(self, name: str, ports: Sequence[int]) -> None:
        _run("netsh.exe", new_rule(name, ports), f"add the firewall rule {rule_name(name)}")
        _write(_PARAMETERS.format(name=name), _FIREWALL_RULE, _winreg().REG_SZ, rule_name(name))

    def close_firewall(self, name: str) -> None:
        if rule := _read(_PARAMETERS.format(name=name), _FIREWALL_RULE):
            firewall, named = ["advfirewall", "firewall"], f"name={rule}"
            try:
                _run("netsh.exe", [*firewall, "show", "rule", named], "look for it")
            except Stop:
                return  # somebody has removed it
            _run("netsh.exe", [*firewall, "delete", "rule", named], f"remove the firewall rule {rule}")


def _winreg() -> Any:
    return importlib.import_module("winreg")  # it is there on Windows alone


def _read(path: str, value: str) -> object:
    winreg = _winreg()
    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path) as key:
            return winreg.QueryValueEx(key, value)[0]
    except OSError:
        return None


def _write(path: str, value: str, kind: int, data: object) -> None:
    winreg = _winreg()
    try:
        with winreg.CreateKey(winreg.HKEY_LOCAL_MACHINE, path) as key:
            winreg.SetValueEx(key, value, 0, kind, data)
    except OSError as error:
        raise _refused(rf"write HKLM\{path}", error) from None


def _run(program: str, arguments: Sequence[str], doing: str) -> None:
    """One of the system's own programs, and not one of the same name on the path."""
    path = Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", program)
    try:
        done = subprocess.run(
            [path, *arguments], timeout=_PATIENCE_S, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Stop(f"cannot {doing}: {program} has not ended in {_PATIENCE_S:g} s", Status.TIMED_OUT) from None
    except OSError as error:
        raise _refused(doing, error) from None
    if done.returncode:
        said = " ".join(done.stdout.split()) or f"status {done.returncode}"
        raise Stop(f"cannot {doing}: {program}: {said}")


def _refused(doing: str, error: OSError) -> Stop:
    if isinstance(error, PermissionError):
        text = "access denied: this needs a prompt of an administrator ('Run as administrator')"
        return Stop(f"cannot {doing}: {text}", Status.REFUSED)
    return Stop(f"cannot {doing}: {error.strerror or error}")
