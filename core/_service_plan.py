"""From what a listener says of its service to the threads that run it."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from ._service_threads import AsyncServiceThread, ServiceThread
from .config import ListenerConfig
from .errors import StartError
from .framing import Framing
from .service import Service, is_async

if TYPE_CHECKING:
    from ._run import Run
    from .engine import Engine


class Plan:
    """The service of one listener, ready to run."""

    def __init__(self, listener: ListenerConfig) -> None:
        self.name = listener.service_name
        self.service = _load(listener.service)
        self.framing = listener.framing or self.service.framing
        self.concurrent = is_async(self.service)
        if not isinstance(self.framing, Framing):
            raise StartError(f"{self.name}: framing is {self.framing!r}: it must be one of Raw, Lines, and so on")
        self.instances = [self._make(number) for number in range(listener.threads)]

    def _make(self, number: int) -> Service:
        try:
            service = self.service()
        except Exception as error:
            raise StartError(f"{self.name}: the service could not be made: {type(error).__name__}: {error}") from error
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
        StartError: The service can't be imported, is none, or could not be made.
    """
    return Plan(listener) if listener.in_python else None


def _load(service: str | type) -> type[Service]:
    found: Any = service
    if isinstance(service, str):
        _, module_name, path = service.split(":")
        if "" not in sys.path and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # as `python -m` would have it
        try:
            found = importlib.import_module(module_name)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise StartError(f"{service}: the module {module_name} can't be imported: {why}") from error
        for name in path.split("."):
            try:
                found = getattr(found, name)
            except AttributeError:
                raise StartError(f"{service}: there is no {path} in the module {module_name}") from None
    if not (isinstance(found, type) and issubclass(found, Service)):
        raise StartError(f"{service}: {found!r} is not a class that is derived from iocpd.core.Service")
    return found
