"""From what a listener says of its service to the threads that run it."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import _user_code
from ._service_threads import AsyncServiceThread, ServiceThread
from .config import ListenerConfig
from .errors import ServiceUnusable
from .framing import Framing
from .service import HANDLERS, Service, is_async

if TYPE_CHECKING:
    from ._run import Run
    from .engine import Engine

# What other frameworks call them.
_ELSEWHERE = {
    "connect": "on_open",
    "connected": "on_open",
    "connection": "on_open",
    "connectionmade": "on_open",
    "accept": "on_open",
    "data": "on_message",
    "datareceived": "on_message",
    "receive": "on_message",
    "line": "on_message",
    "disconnect": "on_close",
    "disconnected": "on_close",
    "connectionlost": "on_close",
    "shutdown": "on_stop",
}


class Plan:
    """The service of one listener, ready to run."""

    def __init__(self, listener: ListenerConfig) -> None:
        self.name = listener.service_name
        self.service = load_service(listener)
        self.framing = listener.framing or self.service.framing
        self.concurrent = is_async(self.service)
        self.instances = [self._make(number) for number in range(listener.threads)]

    def _make(self, number: int) -> Service:
        try:
            service = self.service()
        except (Exception, SystemExit) as error:
            why = _user_code.describe(error, self.service.__module__)
            raise ServiceUnusable(f"{self.name}: the service could not be made: {why}") from error
        _check_handlers(self.name, service)
        service.thread = number
        return service

    def start(self, engine: Engine, run: Run) -> None:
        """RuntimeError if there is no thread for it."""
        kind = AsyncServiceThread if self.concurrent else ServiceThread
        for service in self.instances:
            number = len(run.service_threads)
            run.service_threads.append(kind(engine, run, number, self.name, service, self.framing))


def service_plan(listener: ListenerConfig) -> Plan | None:
    """None for a service in C.

    Raises:
        ServiceUnusable: As `load_service`, and if it could not be made or does nothing.
    """
    return Plan(listener) if listener.in_python else None


def load_service(listener: ListenerConfig) -> type[Service]:
    """The class of a listener's service in Python, which is imported for it if that has not been done.

    Raises:
        ServiceUnusable: It can't be imported, is no service, or has a framing or a handler that there is not.
    """
    name, found = listener.service_name, _find(listener.service)
    if not (isinstance(found, type) and issubclass(found, Service)):
        raise ServiceUnusable(f"{name}: {found!r} is not a class that is derived from iocpd.core.Service")
    if not isinstance(found.framing, Framing):
        made = isinstance(found.framing, type) and issubclass(found.framing, Framing)
        rule = f"write {found.framing.__name__}()" if made else "it must be one of Raw(), Lines(), and so on"
        raise ServiceUnusable(f"{name}: framing is {found.framing!r}: {rule}")
    _check_names(name, found)
    if _has_no_handler(found) and found.__init__ is Service.__init__:  # so it can't make any either, or a timer
        raise _does_nothing(name, found)
    return found


def _find(service: str | type) -> Any:
    if isinstance(service, type):
        return service
    _, module_name, path = service.split(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as `python -m` would have it
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        why = _user_code.describe(error, module_name)
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            why += f"; it was looked for in {os.getcwd()}, in PYTHONPATH and where iocpd is installed"
        raise ServiceUnusable(f"{service}: the module {module_name} can't be imported: {why}") from error
    found: Any = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ServiceUnusable(f"{service}: {_missing(module, path)}") from None
    return found


def _missing(module: ModuleType, path: str) -> str:
    """A file with the name of a module of Python's own is a frequent reason, so it says which one was taken."""
    services = [name for name, each in vars(module).items() if isinstance(each, type) and issubclass(each, Service)]
    own = [name for name in services if getattr(module, name) is not Service]
    there = f"; its services are {', '.join(own)}" if own else ", nor any service"
    return f"there is no {path} in the module {module.__name__} ({getattr(module, '__file__', 'built in')}){there}"


def _check_names(name: str, service: type[Service]) -> None:
    """Names that look like a handler's are for handlers: nobody would call what is only similar to one."""
    for member in dir(service):
        if member in HANDLERS or member.startswith("_") or not _is_method(service, member):
            continue
        if re.match("on_|[oO]n[A-Z]", member) or _plain(member) in map(_plain, HANDLERS):
            own = (
                f"names like it are for handlers, which are {', '.join(HANDLERS)}: call a method of your own _{member}"
            )
            close = _closest(member)
            hint = f"did you mean {close}?" if close else own
            raise ServiceUnusable(f"{name}: {member} is not a handler, and nobody would call it: {hint}")


def _check_handlers(name: str, service: Service) -> None:
    """A service that would never do anything is a slip."""
    if not service._timers and _has_no_handler(type(service)) and vars(service).keys().isdisjoint(HANDLERS):
        raise _does_nothing(name, type(service))


def _has_no_handler(service: type[Service]) -> bool:
    return all(getattr(service, each) is getattr(Service, each) for each in HANDLERS)


def _does_nothing(name: str, service: type[Service]) -> ServiceUnusable:
    own = [each for each in dir(service) if not hasattr(Service, each) and _is_method(service, each)]
    slips = [f"; {each} is none: did you mean {close}?" for each in own if (close := _closest(each))]
    return ServiceUnusable(
        f"{name}: it has no handler and no timer, so it would never do anything: define on_message{''.join(slips)}"
    )


def _is_method(service: type[Service], name: str) -> bool:
    return inspect.isroutine(inspect.getattr_static(service, name))


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _closest(name: str) -> str | None:
    word = _plain(name).removeprefix("on")
    by_word = {_plain(handler).removeprefix("on"): handler for handler in HANDLERS} | _ELSEWHERE
    found = difflib.get_close_matches(word, by_word, n=1, cutoff=0.75)
    return by_word[found[0]] if found else None
