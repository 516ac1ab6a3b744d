"""The service control manager of Windows, over advapi32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from cffi import FFI

from iocpd.api.cli.winservice.plan import Plan
from iocpd.api.cli.winservice.scm import (
    AUTO_START,
    INVALID_LEVEL,
    NOT_IMPLEMENTED,
    Condition,
    Config,
    ScmError,
    State,
)

_CDEF = """
typedef uint32_t DWORD; typedef int32_t BOOL; typedef const wchar_t *TEXT;

typedef struct {
    DWORD type, state, accepted, error, status, checkpoint, wait_hint, pid, flags;
} SERVICE_STATUS_PROCESS;
typedef struct { DWORD type, state, accepted, error, status, checkpoint, wait_hint; } SERVICE_STATUS;
typedef struct {
    DWORD type, start, error_control;
    wchar_t *command, *group;
    DWORD tag;
    wchar_t *dependencies, *account, *shown;
} QUERY_SERVICE_CONFIGW;
typedef struct { wchar_t *text; } SERVICE_DESCRIPTIONW;
typedef struct { int type; DWORD delay; } SC_ACTION;
typedef struct {
    DWORD reset;
    wchar_t *message, *command;
    DWORD count;
    SC_ACTION *actions;
} SERVICE_FAILURE_ACTIONSW;

void *__stdcall OpenSCManagerW(TEXT machine, TEXT database, DWORD access);
void *__stdcall CreateServiceW(void *manager, TEXT name, TEXT shown, DWORD access, DWORD type, DWORD start,
                               DWORD error_control, TEXT command, TEXT group, DWORD *tag, TEXT dependencies,
                               TEXT account, TEXT password);
void *__stdcall OpenServiceW(void *manager, TEXT name, DWORD access);
BOOL __stdcall CloseServiceHandle(void *handle);
BOOL __stdcall StartServiceW(void *service, DWORD count, TEXT *arguments);
BOOL __stdcall ControlService(void *service, DWORD control, SERVICE_STATUS *status);
BOOL __stdcall DeleteService(void *service);
BOOL __stdcall QueryServiceStatusEx(void *service, int level, void *buffer, DWORD size, DWORD *needed);
BOOL __stdcall QueryServiceConfigW(void *service, void *buffer, DWORD size, DWORD *needed);
BOOL __stdcall QueryServiceConfig2W(void *service, DWORD level, void *buffer, DWORD size, DWORD *needed);
BOOL __stdcall ChangeServiceConfig2W(void *service, DWORD level, void *info);
"""

# Rights: of the manager, then of a service.
_CONNECT, _CREATE = 0x1, 0x2
_QUERY, _CHANGE, _START, _STOP, _DELETE = 0x1 | 0x4, 0x2, 0x10, 0x20, 0x10000

_OWN_PROCESS, _ERROR_NORMAL = 0x10, 1
_CONTROL_STOP = 1
_CONFIG_BYTES = 8192  # never more
_RESTART = 1

_DESCRIPTION, _FAILURE_ACTIONS, _DELAYED, _FAILURE_FLAG, _SID, _PRESHUTDOWN = 1, 2, 3, 4, 5, 7
_SID_UNRESTRICTED = 1

SHOWN = "iocpd TCP service ({name})"
ABOUT = "A TCP service on a completion port, and an HTTP API to steer it while it runs."
RESTARTS_MS = (5_000, 30_000, 120_000)
RESET_S = 86_400


class NativeManager:
    """For Windows alone. A handle is held no longer than a call, so that nothing keeps a deleted service alive."""

    def create(self, plan: Plan) -> None:
        doing = f"install the service {plan.name}"
        with self._manager(_CONNECT | _CREATE, plan.name, doing) as manager:
            service = self._advapi.CreateServiceW(
                manager, plan.name, SHOWN.format(name=plan.name), _QUERY, _OWN_PROCESS, AUTO_START, _ERROR_NORMAL,
                plan.command, self._ffi.NULL, self._ffi.NULL, self._ffi.NULL, plan.account,
                plan.password or self._ffi.NULL,
            )  # fmt: skip
            if not service:
                raise self._error(plan.name, doing)
            self._advapi.CloseServiceHandle(service)

    def configure(self, plan: Plan) -> list[str]:
        new = self._ffi.new
        text = new("wchar_t[]", ABOUT)
        actions = new("SC_ACTION[]", [(_RESTART, delay) for delay in RESTARTS_MS])
        none = self._ffi.NULL
        settings: list[tuple[int, Any, str]] = [
            (_DESCRIPTION, new("SERVICE_DESCRIPTIONW *", (text,)), "the description"),
            (
                _FAILURE_ACTIONS,
                new("SERVICE_FAILURE_ACTIONSW *", (RESET_S, none, none, len(RESTARTS_MS), actions)),
                "recovery actions",
            ),
            (_FAILURE_FLAG, new("BOOL *", 1), "recovery after a failure that is no crash"),
            (_SID, new("DWORD *", _SID_UNRESTRICTED), "the service's own identifier"),
            (_PRESHUTDOWN, new("DWORD *", plan.preshutdown_ms), "the time to drain when the system shuts down"),
        ]
        if plan.delayed:
            settings.append((_DELAYED, new("BOOL *", 1), "a delayed start"))
        doing, unknown = f"set up the service {plan.name}", []
        # To have it restarted needs the right to start it.
        with self._service(plan.name, _CHANGE | _START, doing) as service:
            for level, info, what in settings:
                if self._advapi.ChangeServiceConfig2W(service, level, info):
                    continue
                error = self._error(plan.name, f"{doing}: {what}")
                if error.code not in (INVALID_LEVEL, NOT_IMPLEMENTED):
                    raise error
                unknown.append(what)
        return unknown

    def delete(self, name: str) -> None:
        doing = f"remove the service {name}"
        with self._service(name, _DELETE, doing) as service:
            if not self._advapi.DeleteService(service):
                raise self._error(name, doing)

    def start(self, name: str) -> None:
        doing = f"start the service {name}"
        with self._service(name, _START, doing) as service:
            if not self._advapi.StartServiceW(service, 0, self._ffi.NULL):
                raise self._error(name, doing, starting=True)

    def stop(self, name: str) -> None:
        doing = f"stop the service {name}"
        with self._service(name, _STOP, doing) as service:
            if not self._advapi.ControlService(service, _CONTROL_STOP, self._ffi.new("SERVICE_STATUS *")):
                raise self._error(name, doing)

    def condition(self, name: str) -> Condition:
        doing = f"look at the service {name}"
        found: Any = self._ffi.new("SERVICE_STATUS_PROCESS *")
        needed = self._ffi.new("DWORD *")
        with self._service(name, _QUERY, doing) as service:
            if not self._advapi.QueryServiceStatusEx(service, 0, found, self._ffi.sizeof(found[0]), needed):
                raise self._error(name, doing)
        return Condition(State(found.state), found.pid, found.error, found.status, found.checkpoint, found.wait_hint)

    def config(self, name: str) -> Config:
        doing = f"look at the service {name}"
        buffer, needed = self._ffi.new("uint64_t[]", _CONFIG_BYTES // 8), self._ffi.new("DWORD *")
        delayed = self._ffi.new("BOOL *")
        with self._service(name, _QUERY, doing) as service:
            if not self._advapi.QueryServiceConfigW(service, buffer, _CONFIG_BYTES, needed):
                raise self._error(name, doing)
            told = self._advapi.QueryServiceConfig2W(service, _DELAYED, delayed, 4, needed)
        found: Any = self._ffi.cast("QUERY_SERVICE_CONFIGW *", buffer)
        return Config(
            command=self._text(found.command),
            account=self._text(found.account),
            start=found.start,
            delayed=bool(delayed[0]) if told else None,
        )

    @cached_property
    def _ffi(self) -> Any:
        ffi = FFI()
        ffi.cdef(_CDEF)
        return ffi

    @cached_property
    def _advapi(self) -> Any:
        return self._ffi.dlopen("advapi32.dll")

    def _text(self, text: Any) -> str:
        return str(self._ffi.string(text)) if text else ""

    def _error(self, name: str, doing: str, *, starting: bool = False) -> ScmError:
        """Of the call just made."""
        code, text = self._ffi.getwinerror()
        return ScmError(code, name, doing, text, starting=starting)

    @contextlib.contextmanager
    def _manager(self, access: int, name: str, doing: str) -> Iterator[Any]:
        manager = self._advapi.OpenSCManagerW(self._ffi.NULL, self._ffi.NULL, access)
        if not manager:
            raise self._error(name, doing)
        try:
            yield manager
        finally:
            self._advapi.CloseServiceHandle(manager)

    @contextlib.contextmanager
    def _service(self, name: str, access: int, doing: str) -> Iterator[Any]:
        with self._manager(_CONNECT, name, doing) as manager:
            service = self._advapi.OpenServiceW(manager, name, access)
            if not service:
                raise self._error(name, doing)
            try:
                yield service
            finally:
                self._advapi.CloseServiceHandle(service)
