"""Whose a state folder is, and what it holds: nothing that somebody else has put there becomes the service's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from cffi import FFI

from iocpd.api.cli.statuses import Status, Stop
from iocpd.api.cli.winservice.binary import quoted
from iocpd.api.cli.winservice.plan import sid_of

_CDEF = """
typedef uint32_t DWORD; typedef int32_t BOOL; typedef const wchar_t *TEXT;

void *__stdcall CreateFileW(TEXT path, DWORD access, DWORD share, void *security, DWORD how, DWORD flags, void *like);
void *__stdcall GetCurrentProcess(void);
BOOL __stdcall CloseHandle(void *handle);
void *__stdcall LocalFree(void *memory);

DWORD __stdcall GetSecurityInfo(void *handle, int type, DWORD what, void **owner, void **group, void **dacl,
                                void **sacl, void **descriptor);
BOOL __stdcall OpenProcessToken(void *process, DWORD access, void **token);
BOOL __stdcall GetTokenInformation(void *token, int what, void *info, DWORD size, DWORD *needed);
BOOL __stdcall LookupAccountNameW(TEXT system, TEXT account, void *sid, DWORD *size, wchar_t *domain, DWORD *length,
                                  int *use);
BOOL __stdcall LookupAccountSidW(TEXT system, void *sid, wchar_t *name, DWORD *size, wchar_t *domain, DWORD *length,
                                 int *use);
BOOL __stdcall ConvertSidToStringSidW(void *sid, wchar_t **text);
BOOL __stdcall ConvertStringSidToSidW(TEXT text, void **sid);
"""

_READ_CONTROL, _SHARE_ALL, _OPEN_EXISTING = 0x20000, 0x7, 3
_FOLDERS_TOO, _THE_LINK_ITSELF = 0x02000000, 0x00200000
_A_FILE, _OWNER = 1, 1
_TOKEN_QUERY, _TOKEN_USER = 0x8, 1
_ROOM = 512  # for a SID, which has at most 68 bytes, a name or a domain

SYSTEM, ADMINISTRATORS = "S-1-5-18", "S-1-5-32-544"
SYSTEMS_OWN = frozenset({SYSTEM, ADMINISTRATORS, sid_of("TrustedInstaller")})
"""Whoever acts as one of these may do everything here anyway."""


class Owners(Protocol):
    """Accounts are security identifiers, as `S-1-5-18`."""

    def owner(self, path: Path) -> str:
        """Of the file or folder; of a link, its own. OSError."""

    def name(self, sid: str) -> str:
        """For people: DOMAIN\\NAME where the system knows one."""


def check_way(folder: Path, owners: Owners, trusted: frozenset[str]) -> None:
    """Stop if the folder, one that it is in, or a link on the way belongs to somebody who is not trusted.

    Who owns a folder may always change who else may do what in it, and put another in the place of one in it.
    """
    for way in (folder, folder.resolve()):
        for place in (way, *way.parents):
            if stranger := _stranger(place, owners, trusted):
                within = "" if place == folder else f", on the way to the state folder {folder},"
                raise _foreign(f"{place}{within} belongs to {stranger}", place)


def check_content(folder: Path, owners: Owners, trusted: frozenset[str]) -> None:
    """Stop if something in the folder belongs to somebody who is not trusted."""
    for place in _below(folder):
        if stranger := _stranger(place, owners, trusted):
            raise _foreign(f"{place} in the state folder belongs to {stranger}", folder, " /T")


def _stranger(place: Path, owners: Owners, trusted: frozenset[str]) -> str | None:
    try:
        whose = owners.owner(place)
    except PermissionError:
        return "somebody who keeps administrators out"
    return None if whose in trusted else owners.name(whose)


def _below(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=fail):
        for each in (*folders, *files):
            yield Path(place, each)


def _foreign(what: str, place: Path, below: str = "") -> Stop:
    text = "who could have put keys there that open the API: look at it, and remove it or give it to the administrators"
    way_out = f"`icacls {quoted(str(place))} /setowner *{ADMINISTRATORS}{below}`"
    return Stop(f"{what}, {text} by {way_out}; or take another folder with -- --state-dir", Status.REFUSED)


class NativeOwners:
    """For Windows alone."""

    def owner(self, path: Path) -> str:
        new, null = self._ffi.new, self._ffi.NULL
        flags = _FOLDERS_TOO | _THE_LINK_ITSELF
        handle = self._kernel.CreateFileW(str(path), _READ_CONTROL, _SHARE_ALL, null, _OPEN_EXISTING, flags, null)
        if handle == self._ffi.cast("void *", -1):
            raise self._error()
        owner, descriptor = new("void **"), new("void **")
        try:
            code = self._advapi.GetSecurityInfo(handle, _A_FILE, _OWNER, owner, null, null, null, descriptor)
        finally:
            self._kernel.CloseHandle(handle)
        if code:
            raise self._error(code)
        try:
            return self._text(owner[0])
        finally:
            self._kernel.LocalFree(descriptor[0])

    def this_account(self) -> str:
        """Whose process this is. OSError."""
        token, info, needed = self._ffi.new("void **"), self._ffi.new("void *[]", _ROOM), self._ffi.new("DWORD *")
        if not self._advapi.OpenProcessToken(self._kernel.GetCurrentProcess(), _TOKEN_QUERY, token):
            raise self._error()
        with contextlib.ExitStack() as held:
            held.callback(self._kernel.CloseHandle, token[0])
            if not self._advapi.GetTokenInformation(token[0], _TOKEN_USER, info, self._ffi.sizeof(info), needed):
                raise self._error()
        return self._text(info[0])

    def account(self, name: str) -> str | None:
        """Of this name, if there is one."""
        sid, domain, use = self._ffi.new("char[]", _ROOM), self._ffi.new("wchar_t[]", _ROOM), self._ffi.new("int *")
        size, length = self._ffi.new("DWORD *", _ROOM), self._ffi.new("DWORD *", _ROOM)
        null = self._ffi.NULL
        if not self._advapi.LookupAccountNameW(null, name.removeprefix(".\\"), sid, size, domain, length, use):
            return None
        return self._text(sid)

    def name(self, sid: str) -> str:
        name, domain = self._ffi.new("wchar_t[]", _ROOM), self._ffi.new("wchar_t[]", _ROOM)
        size, length = self._ffi.new("DWORD *", _ROOM), self._ffi.new("DWORD *", _ROOM)
        found, use, null = self._ffi.new("void **"), self._ffi.new("int *"), self._ffi.NULL
        if not self._advapi.ConvertStringSidToSidW(sid, found):
            return sid
        known = self._advapi.LookupAccountSidW(null, found[0], name, size, domain, length, use)
        self._kernel.LocalFree(found[0])
        return f"{self._ffi.string(domain)}\\{self._ffi.string(name)}" if known else sid

    @cached_property
    def _ffi(self) -> Any:
        ffi = FFI()
        ffi.cdef(_CDEF)
        return ffi

    @cached_property
    def _advapi(self) -> Any:
        return self._ffi.dlopen("advapi32.dll")

    @cached_property
    def _kernel(self) -> Any:
        return self._ffi.dlopen("kernel32.dll")

    def _text(self, sid: Any) -> str:
        text = self._ffi.new("wchar_t **")
        if not self._advapi.ConvertSidToStringSidW(sid, text):
            raise self._error()
        try:
            return str(self._ffi.string(text[0]))
        finally:
            self._kernel.LocalFree(text[0])

    def _error(self, code: int = -1) -> OSError:
        """Of the call just made."""
        number, text = self._ffi.getwinerror(code)
        return OSError(0, text.strip().rstrip("."), None, number)
