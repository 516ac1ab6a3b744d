"""Keys, looks at the service and the screen together."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live

from iocpd.api.cli.safe import safe
from iocpd.api.cli.top.keyboard import keyboard
from iocpd.api.cli.top.sample import Sample, look
from iocpd.api.cli.top.screen import draw
from iocpd.api.cli.top.state import State

if TYPE_CHECKING:
    from iocpd.api.client import Client

# How long a key, a new size of the terminal or an answer may stay unnoticed.
_TICK_SECONDS = 0.1


def run(client: Client, state: State, screen: Console, rows: int, first: Sample) -> None:
    """Shows the table until somebody quits."""
    state.take(first)
    asking = _Background()
    due = time.monotonic() + min(state.interval, 1.0)  # the rates soon
    with keyboard() as keys, Live(console=screen, screen=True, auto_refresh=False, transient=True) as live:
        shown: Any = None
        while not state.over:
            if (now := (screen.size, state.paused)) != shown:
                shown = now
                _show(live, state, client, screen)
            try:
                key = keys.read(_TICK_SECONDS)
            except EOFError:
                return
            if key is not None:
                state.press(key)
            for id in state.wishes:
                asking.begin(partial(client.kick, id, reason="iocpd top"), partial(_tell_kicked, state, id))
                due = time.monotonic()
            state.wishes.clear()
            answered = asking.take(state)
            if (state.stale or (time.monotonic() >= due and not state.paused)) and asking.idle:
                due, state.stale = time.monotonic() + state.interval, False
                asking.begin(lambda: look(client, state.column.server, rows, state.sample), state.take)
            if key is not None or answered:
                _show(live, state, client, screen)


def _show(live: Live, state: State, client: Client, screen: Console) -> None:
    live.update(draw(state, client.url, screen.width, screen.height), refresh=True)


def _tell_kicked(state: State, id: str, _: None) -> None:
    state.message = f"kicked {safe(id)}"


class _Background:
    """Asks the service one thing after another in a thread, so that keys work while it takes its time."""

    def __init__(self) -> None:
        self._wishes: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]]] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Callable[[Any], None], Any]] = queue.SimpleQueue()
        self._open = 0
        # Whoever quits does not wait for a service that hangs.
        threading.Thread(target=self._work, daemon=True).start()

    @property
    def idle(self) -> bool:
        return self._open == 0

    def begin(self, ask: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Asks in the thread; what comes of it is given to `then` by `take`."""
        self._open += 1
        self._wishes.put((ask, then))

    def take(self, state: State) -> bool:
        """Takes the answers that have come; an error becomes the message. Whether there was one."""
        from iocpd.api.client import ClientError

        any_came = False
        while not self._answers.empty():
            then, answer = self._answers.get()
            self._open -= 1
            any_came = True
            if isinstance(answer, ClientError):
                state.message = safe(str(answer))
            elif isinstance(answer, BaseException):
                raise answer
            else:
                then(answer)
        return any_came

    def _work(self) -> None:
        while True:
            ask, then = self._wishes.get()
            try:
                answer: Any = ask()
            except Exception as error:
                answer = error
            self._answers.put((then, answer))
