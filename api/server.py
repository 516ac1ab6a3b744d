"""Runs the engine and the API in one process, and ends both.

The order of the end: a signal or POST /v1/node/shutdown begins a drain that stops the engine; when it has, and its
threads are joined, the HTTP server stops, so that progress can be read until then. A second signal ends the process at
once.
"""

import asyncio
import contextlib
import contextvars
import ctypes
import gc
import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import prometheus_client

from iocpd.api import logs
from iocpd.api.access.store import KeyStore
from iocpd.api.app import create_app
from iocpd.api.audit.entries import SYSTEM
from iocpd.api.audit.trail import AuditTrail
from iocpd.api.bans.file import BanFileError
from iocpd.api.context import Context
from iocpd.api.http_server import HttpServer, ListenFailure, listen
from iocpd.api.keys import KeyFileError
from iocpd.api.metrics.requests import RequestMetrics
from iocpd.api.node.reload import reload
from iocpd.api.node.service import describe_reload, drain
from iocpd.api.node.watch import watch
from iocpd.api.settings import HttpAddress, Settings, SettingsError, is_loopback, read_again, unknown_variables
from iocpd.api.state_lock import StateInUse, sole_user
from iocpd.api.supervisor import Supervisor
from iocpd.api.version import version
from iocpd.core import Engine, EngineError, EngineStopped, ServiceUnusable, lower_priority

# Descriptors for what is neither a client of the service nor one of the API: ports, listeners, files.
_SPARE_FILES = 128
# The engine itself cancels what is left at its deadline; if it is not done so much later, it never will be.
_JOIN_MARGIN_SECONDS = 15.0
_AUDIT_RETRY_SECONDS = 1.0
# Ctrl-C goes to every process of a terminal's foreground, and a program that wraps this one may pass it on as well:
# what comes together is one signal.
_SAME_SIGNAL_SECONDS = 0.3
# mallopt(3), malloc.h
_M_MMAP_THRESHOLD, _LARGE_BYTES = -3, 128 * 1024
# werapi.h
_WER_FAULT_REPORTING_NO_UI = 0x20

_log = logs.get_logger("iocpd.server")


class StartFailure(Exception):
    """The service can't start; the text is one line that says why, and what to do."""


def serve(settings: Settings) -> int:
    """Runs until a signal or the API ends it; the exit status. StartFailure; SettingsError for a listener's service."""
    logs.configure(settings.log_level, settings.log_format)
    for line in unknown_variables():
        _log.warning(line)
    _give_large_memory_back()
    _crash_without_a_window()
    # As many series again, and nobody reads them.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    with _sole_user(settings.state_dir):
        return _serve(settings)


def _give_large_memory_back() -> None:
    """What answers took in large pieces goes back to the system with them. glibc raises its bound for that at the first
    such piece that is freed, after which clients that don't read their answers leave up to 90 MB behind."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # not glibc
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def _crash_without_a_window() -> None:
    """Nobody may be there who could close the window of Windows' report on a crash, and the process ends only then. The
    report itself is made as Windows is set to make it, with a dump or without."""
    if sys.platform == "win32":
        ctypes.WinDLL("kernel32").WerSetFlags(_WER_FAULT_REPORTING_NO_UI)


def _serve(settings: Settings) -> int:
    keys = _load_keys(settings)
    settings, limit_note = _within_file_limit(settings)
    try:
        listener = listen(settings.http)
    except ListenFailure as error:
        raise StartFailure(str(error)) from None
    with listener:
        host, port = listener.getsockname()[:2]
        if keys.current() is None and not is_loopback(host):
            raise StartFailure(
                f"--http {settings.http} can be reached from other machines, and there is no key file at"
                f" {settings.keys_path}: make a key with `iocpd keys add NAME --role admin --keys {settings.keys_path}`"
                ", or listen on 127.0.0.1"
            )
        service = _Service(settings, keys, HttpAddress(host, port), limit_note)
        # The same loop on every system. On Windows the default one loses its listener to a client that resets while it
        # is being accepted (python/cpython#93821).
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            return runner.run(service.run(listener))


class _Service:
    def __init__(self, settings: Settings, keys: KeyStore, http: HttpAddress, limit_note: str) -> None:
        self._keys = keys
        self._http = http
        self._limit_note = limit_note
        self._engine = Engine(settings.engine_config())
        self._audit = AuditTrail(settings.state_dir, max_bytes=settings.audit_max_bytes, files=settings.audit_files)
        self._stopping = asyncio.Event()
        self._signalled_at: float | None = None
        self._metrics = RequestMetrics()
        self._app = create_app(
            self._engine,
            settings,
            keys=keys,
            audit=self._audit,
            reread=lambda: _read_again(settings),
            on_shutdown=self._stopping.set,
            request_metrics=self._metrics,
        )
        self._context: Context = self._app.state.context
        self._supervisor = Supervisor()

    async def run(self, listener: socket.socket) -> int:
        self._take_signals(asyncio.get_running_loop())
        try:
            self._engine.start()
        except ServiceUnusable as error:
            raise SettingsError([" ".join(str(error).split())]) from None
        except EngineError as error:
            raise StartFailure(" ".join(str(error).split())) from None
        try:
            await self._context.bans.load()
        except (BanFileError, EngineError) as error:
            await asyncio.to_thread(self._engine.stop, deadline=0)
            raise StartFailure(" ".join(str(error).split())) from None
        # A client of the service must not wait for one of the API, even on one processor. A service in Python shares
        # Python's lock with this thread, though, and would wait as long as this thread does for a processor.
        if not any(listener.in_python for listener in self._engine.config.listeners):
            lower_priority()
        self._note("start", f"process {os.getpid()}", detail=f"iocpd {version()}, {self._engine.info().backend}")
        server = HttpServer(self._app, self._context.settings, self._metrics)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        watching = asyncio.create_task(watch(self._engine))
        following = asyncio.create_task(self._context.bans.follow_clock())
        retrying = asyncio.create_task(self._retry_audit())
        if await _happens(server.ready, unless=serving):
            # What exists now stays; without it, a collection while somebody lists connections has little to look
            # through. To look for the little that does not stay would take longer than it is worth.
            gc.freeze()
            gc.enable()
            self._announce()
            self._supervisor.ready()
        if not await _happens(self._stopping, unless=serving):
            _log.error("the HTTP server has ended by itself")
            self._begin_stop("no API")
        self._supervisor.stopping()
        watching.cancel()
        following.cancel()
        status = await self._join()
        server.should_exit = True
        await serving
        self._supervisor.end()
        retrying.cancel()
        await asyncio.to_thread(self._audit.close)
        return status

    async def _retry_audit(self) -> None:
        """What the disk did not take is tried again, whether or not anything happens that would be noted."""
        while True:
            await asyncio.sleep(_AUDIT_RETRY_SECONDS)
            self._audit.retry()

    def _note(self, action: str, target: str, *, outcome: str = "done", detail: str = "") -> None:
        """An entry in the audit for what no request asked for."""
        self._audit.record(actor=SYSTEM, action=f"node-{action}", target=target, outcome=outcome, detail=detail)

    def _announce(self) -> None:
        """What a person or a program that started this needs to know, a line for each."""
        info = self._engine.info()
        say(f"iocpd {version()}, process {os.getpid()}")
        say(f"backend {info.backend}, {info.workers} workers: {info.backend_reason}")
        for stats in self._engine.listener_stats():
            # Of services in Python always: who has forgotten it, or slipped, gets pieces of any size.
            shown = stats.service.startswith("python:") or stats.framing.limit is not None
            framing = f" {stats.framing}" if shown else ""
            say(f"tcp {HttpAddress(stats.host, stats.port)} {stats.service}{framing}")
        say(f"at most {self._context.settings.max_connections} TCP connections{self._limit_note}")
        say(f"http http://{self._http} {self._access()}")
        say("ready")

    def _access(self) -> str:
        if self._keys.current() is not None:
            return f"with keys from {self._keys.path} ({self._keys.count})"
        first = f"`iocpd keys add NAME --role admin --keys {self._keys.path}` makes the first"
        return f"without keys, for this machine alone ({first})"

    def _take_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        def take(number: int, frame: FrameType | None) -> None:
            name, now = signal.Signals(number).name, time.monotonic()
            if self._signalled_at is not None:
                if now - self._signalled_at > _SAME_SIGNAL_SECONDS:
                    os.write(2, f"iocpd: {name} again: ending at once\n".encode())
                    os._exit(128 + number)
                return
            self._signalled_at = now
            if loop.is_closed():
                return  # it is over already
            later(self._obey, name)

        def take_hangup(number: int, frame: FrameType | None) -> None:
            if not loop.is_closed():
                later(self._reload)

        def later(obey: Callable[..., None], *arguments: str) -> None:
            # In a context of its own: the signal may have come in the middle of a request, whose id is not its own.
            loop.call_soon_threadsafe(obey, *arguments, context=contextvars.Context())

        # On Windows a handler runs once the main thread is back from select(); uvicorn's tick brings it back each 0.1
        # s.
        for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), take)
        if sys.platform != "win32":
            signal.signal(signal.SIGHUP, take_hangup)

        def take_event() -> None:
            if not loop.is_closed():
                later(self._obey, "IOCPD_STOP_EVENT")

        try:
            self._supervisor.on_stop(take_event)
        except RuntimeError as error:
            raise StartFailure(str(error)) from None

    def _obey(self, name: str) -> None:
        self._note("signal", name)
        self._begin_stop(name)

    def _begin_stop(self, why: str) -> None:
        connections = self._engine.info().connections
        settings = self._context.settings
        _log.info(f"{why}: draining {connections} connections, at most {settings.drain_deadline:g} s")
        with contextlib.suppress(EngineStopped):  # it is over already
            drain(self._engine, settings, stop=True)
        self._stopping.set()

    def _reload(self) -> None:
        try:
            view = reload(self._context)
        except SettingsError as error:
            for line in error.lines:
                _log.error("SIGHUP: the settings can't be used, and nothing has changed", reason=line)
            self._note("reload", "SIGHUP", outcome="settings_refused", detail=error.lines[0])
        except EngineStopped:
            _log.info("SIGHUP: nothing is read again, as the service is ending")
        else:
            what = describe_reload(view).removeprefix("done, ")
            _log.info(f"SIGHUP: {what}")
            self._note("reload", "SIGHUP", detail=what)

    async def _join(self) -> int:
        """Waits for the engine's threads; the exit status."""
        deadline, gives_up = None, math.inf
        while not await asyncio.to_thread(self._engine.join, 0.5):
            progress = self._engine.drain_progress()
            if progress.deadline_at != deadline and progress.started_at and progress.deadline_at:
                # Both are of the engine's own clock. The system's may have been set since, and says nothing here.
                deadline, lasts = progress.deadline_at, progress.deadline_at - progress.started_at
                gives_up = time.monotonic() + lasts.total_seconds() + _JOIN_MARGIN_SECONDS
            if time.monotonic() > gives_up:
                _log.error(f"the engine has not stopped {_JOIN_MARGIN_SECONDS:g} s after its deadline; giving up")
                self._note("stop", f"process {os.getpid()}", outcome="engine_stuck")
                self._audit.close()
                logging.shutdown()
                os._exit(1)
        progress = self._engine.drain_progress()
        left = f"{progress.initial - progress.cancelled} connections drained, {progress.cancelled} cut off"
        _log.info(f"stopped: {left}")
        self._note("stop", f"process {os.getpid()}", detail=left)
        return 0


async def _happens(event: asyncio.Event, *, unless: asyncio.Task[None]) -> bool:
    """Waits for the event; False if the task ended without it."""
    waiter = asyncio.create_task(event.wait())
    await asyncio.wait({waiter, unless}, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    return event.is_set()


def say(line: str) -> None:
    """A line on stdout, there at once even if it is a pipe; nobody may be reading it any more."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


@contextlib.contextmanager
def _sole_user(state: Path) -> Iterator[None]:
    """Keeps other services out of the state directory. StartFailure."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(sole_user(state))
        except StateInUse as error:
            raise StartFailure(str(error)) from None
        except OSError as error:  # then nothing can be written there either; each attempt will say so
            _log.warning(f"the state directory {state} can't be locked against other services", reason=error.strerror)
        yield


def _load_keys(settings: Settings) -> KeyStore:
    path = settings.keys_path
    try:
        keys = KeyStore(path)
    except KeyFileError as error:
        raise StartFailure(str(error)) from None
    # A file that was named must be there: a slip in its name would open the API to everybody on this machine.
    if keys.current() is None and settings.keys_file is not None:
        advice = f"make it with `iocpd keys add NAME --role admin --keys {path}`"
        raise StartFailure(f"there is no key file {path}; {advice}")
    return keys


def _read_again(settings: Settings) -> Settings:
    """What the sources say now, within this process's limits. SettingsError."""
    try:
        return _within_file_limit(read_again(settings))[0]
    except StartFailure as error:
        raise SettingsError([str(error)]) from None


def _within_file_limit(settings: Settings) -> tuple[Settings, str]:
    """Raises the limit on open files as far as it goes, and keeps max_connections below it; a note if that was needed.

    Without room beside the connections, a flood of clients would leave no descriptor for the API that could end it.
    """
    if sys.platform == "win32":
        return settings, ""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return settings, ""
    room = hard - settings.http_connections - _SPARE_FILES
    if room < 1:
        raise StartFailure(f"this process may open {hard} files, which is too few; raise `ulimit -Hn`")
    if room >= settings.max_connections:
        return settings, ""
    note = f" and not {settings.max_connections}, because this process may open {hard} files (`ulimit -Hn`)"
    return settings.model_copy(update={"max_connections": room}), note
