"""TCP services in Python: derive from Service, name the class in a listener.

    class Upper(Service):
        framing = Lines(max_bytes=65536)

        def on_message(self, connection: ServiceConnection, message: bytes) -> None:
            connection.send(message.upper())

    with Engine(listeners=[ListenerConfig(port=7000, service=Upper)]):
        ...

The engine receives, cuts messages and sends in its own threads. What has become whole meanwhile is taken in batches, in
one call that does not hold Python's lock, and what the handlers send goes back in another one. A service that is slow
makes its clients wait: above `inbox_bytes` the engine stops to receive from those who go on sending, and loses nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from . import _rows, labels
from .errors import ConfigurationError, ConnectionEnded, EngineStopped
from .framing import Framing, Raw
from .model import Connection, Reason

if TYPE_CHECKING:
    from ._service_threads import ServiceThread
    from .engine import Engine

T = TypeVar("T", bound=Callable[[], Any])


class Timer:
    """What `Service.every` gives: calls until it is cancelled."""

    def __init__(self, seconds: float, function: Callable[[], Any]) -> None:
        self.seconds = seconds
        self.function = function
        self.cancelled = False

    def cancel(self) -> None:
        """No call will follow. From the service's own thread."""
        self.cancelled = True


class Service:
    """A TCP service. Every handler is optional, and may be `async def`. Names that begin with `on_` are for handlers: a
    method that has one and is none is refused at the start, as is a service with neither a handler nor a timer.

    Each thread of a listener has an instance of its own, made without arguments before the engine listens. All handlers
    of an instance run in that one thread, so they need no locks: a plain one keeps the thread's other connections
    waiting; `async def` ones of several connections run side by side on a loop in the thread, but those of one
    connection one after the other. An exception in a handler ends its connection with Reason.SERVICE_ERROR, is logged
    and counted, and harms nobody else.

    Attributes:
        framing: How messages are cut and framed, unless the listener says otherwise.
        engine: The engine that runs it. Not yet there in __init__.
        thread: Which of the listener's threads this is, from 0.
        connections: The thread's connections that are open, by id.
        on_messages: If it is defined, it gets all messages that wait for one connection in a list, and on_message is
            not called.
    """

    framing: ClassVar[Framing] = Raw()
    engine: Engine
    thread: int
    connections: dict[int, ServiceConnection]
    on_messages: ClassVar[Callable[..., Any] | None] = None
    _timers: list[Timer]
    _running: ServiceThread | None

    def __new__(cls, *_: Any, **__: Any) -> Service:
        self = super().__new__(cls)
        self._timers, self._running = [], None
        self.connections = {}
        return self

    def on_start(self) -> Any:
        """Before everything else in the service's thread."""

    def on_open(self, connection: ServiceConnection) -> Any:
        """A client has connected."""

    def on_message(self, connection: ServiceConnection, message: bytes) -> Any:
        """A whole message. Those of one connection come in their order."""

    def on_close(self, connection: ServiceConnection, reason: Reason) -> Any:
        """A connection has ended; comes exactly once, after its last message."""

    def on_stop(self) -> Any:
        """The engine has stopped; nothing comes after this."""

    def every(self, seconds: float, function: Callable[[], Any] | None = None) -> Any:
        """Calls a function in the service's thread again and again, from __init__ or a handler on.

        Args:
            seconds: From one call to the next. Calls that were missed are not made up for.
            function: What to call; without one, a decorator for it.

        Returns:
            A Timer, or the decorator.

        Raises:
            ConfigurationError: A time that is not from a millisecond to a million seconds, or an `async def` function
                in a service without any other.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0.001 <= seconds <= 1e6:
            raise ConfigurationError("seconds", seconds, "must be from 0.001 to 1000000")
        if function is None:

            def decorate(function: T) -> T:
                self.every(seconds, function)
                return function

            return decorate
        if inspect.iscoroutinefunction(function) and not is_async(type(self)):
            raise ConfigurationError("function", function, "must not be async in a service whose handlers are not")
        timer = Timer(seconds, function)
        if self._running is not None:
            self._running.add_timer(timer)
        else:
            self._timers.append(timer)
        return timer

    def broadcast(self, message: bytes, *, group: str | None = None, exclude: ServiceConnection | None = None) -> None:
        """Sends a message to all connections of this listener, in whichever thread, that are open now.

        It comes after what this thread has sent before. Who reads so slowly that it finds no room is ended as
        slow_consumer. Without memory for it nobody gets it, which Engine.service_stats counts.

        Args:
            message: One message, which is framed as every other.
            group: Only to those in this group.
            exclude: Not to this one.

        Raises:
            ValueError: It can't be a message of this framing, or that can't be a group.
            EngineStopped: The service does not run.
        """
        if self._running is None:
            raise EngineStopped
        self._running.broadcast(message, group, exclude)


HANDLERS = ("on_start", "on_open", "on_message", "on_messages", "on_close", "on_stop")


def is_async(service: type[Service]) -> bool:
    """Whether one of its handlers is `async def`."""
    return any(inspect.iscoroutinefunction(getattr(service, name, None)) for name in HANDLERS)


class ServiceConnection:
    """A connection as its service sees it. Its methods are for the handlers, in the service's own thread; from other
    threads use the engine's with `id`.

    Attributes:
        id: As in Engine.connections.
        peer: The client's address and port.
        local: This side's address and port.
        via: The address and port of the balancer whose PROXY header has named the client, or None.
        data: Yours: whatever belongs to this connection.
    """

    __slots__ = ("__weakref__", "_number", "_over", "_thread", "data", "id", "local", "peer", "via")

    def __init__(self, thread: ServiceThread, number: int, row: tuple[Any, ...]) -> None:
        token, peer_ip, local_ip, via_ip, peer_port, local_port, via_port = row
        self.id: int = token
        self.peer: tuple[str, int] = (_rows.address_text(peer_ip), peer_port)
        self.local: tuple[str, int] = (_rows.address_text(local_ip), local_port)
        self.via: tuple[str, int] | None = _rows.via(via_ip, via_port)
        self.data: Any = None
        self._thread = thread
        self._number = number
        self._over = False  # nothing that it sends would arrive, and no message comes any more

    def __repr__(self) -> str:
        return f"<ServiceConnection {self.id:x} of {self.peer[0]}:{self.peer[1]}{' ended' if self._over else ''}>"

    @property
    def open(self) -> bool:
        """False once it has ended, or the service has ended it."""
        return not self._over

    def send(self, message: bytes) -> None:
        """Sends one message, after all that were sent before. Does nothing once the connection has ended.

        A client that reads too slowly for what it asks is not read from until it does; answers that would bring its
        send queue above `send_hard_bytes` all the same end it as slow_consumer.

        Raises:
            ValueError: It can't be one message of this framing.
        """
        thread = self._thread
        if thread.to is not self:
            if self._over:
                return
            thread.turn(self)
        if message.__class__ is not bytes:
            message = memoryview(message).tobytes()
        if len(message) > thread.quick or 10 in message:  # a number is looked for far faster than b"\n" is
            thread.check(message)
        thread.messages.append(message)

    def send_all(self, messages: Iterable[bytes]) -> None:
        """`send` for each of them, at a lower price; what it raises, it raises before it sends any."""
        if not self._over:
            self._thread.send_all(self, list(messages))

    def close(self) -> None:
        """Ends it with Reason.SERVICE_CLOSED: what was sent goes out, then the end of the stream."""
        self._end("CLOSE")

    def kick(self, text: str = "", *, farewell: bytes | None = None, force: bool = False) -> None:
        """Ends it with Reason.KICKED.

        Args:
            text: For the record, why; cut to 199 bytes of UTF-8.
            farewell: A last message.
            force: Reset it at once: what is not sent yet is dropped.
        """
        if farewell is not None and not force:
            self.send(farewell)
        self._end("RESET" if force else "KICK", _rows.cut_text(text))

    def _end(self, op: str, data: bytes = b"") -> None:
        if not self._over:
            self._over = True
            self._thread.op(op, self._number, data)

    @property
    def counters(self) -> Connection:
        """Its row, as Engine.connection gives it; once it has ended, that of its record.

        Raises:
            ConnectionEnded: It has ended and is no longer remembered.
            EngineStopped: The service has ended.
        """
        try:
            return self._thread.running().connection(self.id)
        except ConnectionEnded as error:
            if error.closed is None:
                raise
            return error.closed.connection

    @property
    def tags(self) -> dict[str, str]:
        """The tags that it has now, by whomever they were given."""
        return self._labels()[0]

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that it is in now."""
        return self._labels()[1]

    def _labels(self) -> tuple[dict[str, str], tuple[str, ...]]:
        return labels.from_json(self._thread.running().labels_of(self.id))

    def label(self, *, tags: dict[str, str | None] | None = None, groups: Iterable[str] | None = None) -> None:
        """Changes its tags and groups as Engine.label does, and waits until it is done, which takes a worker's turn.
        Does nothing once the connection has ended.

        Raises:
            ConfigurationError: What can't be a tag or a group, or too many.
            EngineTimeout: Not within 5 seconds.
        """
        self._thread.label(self.id, tags, None if groups is None else list(groups))

    def join(self, group: str) -> None:
        """`label` with one group more."""
        self.label(groups=[*self.groups, group])

    def leave(self, group: str) -> None:
        """`label` without this group."""
        self.label(groups=[each for each in self.groups if each != group])
