"""How a method is described once and works in both clients.

A method of `Operations` does no I/O: it returns the `Call` that has to be made. `operation` lets Client make it and
return the result, and AsyncClient return a coroutine that does. A method that takes several calls is a generator of
steps, which `stream` lets either of them run as an iterator.
"""

from __future__ import annotations

import base64
import random
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import update_wrapper
from types import MethodType, NoneType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from iocpd.api.client.errors import UnexpectedAnswer, Unreachable, problem_of, request_error_of

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Duration = float | str
"""Seconds, or a text such as `250ms`, `90s`, `5m`, `2h` or `1d`."""

Payload = bytes | str
"""What to send. A text is sent as UTF-8."""

# A service that asks for more patience than this is not waited for.
_MAX_RETRY_AFTER_SECONDS = 5.0
_FIRST_BACKOFF_SECONDS = 0.1
_MAX_BACKOFF_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T_co]):
    """One request, and what its answer is.

    Attributes:
        result: The model of a successful answer; str for its text, NoneType if it has no body.
        path: Parameters in `route`.
        query, headers, json: What is None, is left out. No json at all if nothing is left.
        waits: Seconds that the service may take by itself, because it was asked to wait for something.
        retry: False if not even an answer that asks to be tried again is.
    """

    method: str
    route: str
    result: type[T_co]
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str | None] = field(default_factory=dict)
    json: Mapping[str, object] = field(default_factory=dict)
    content: bytes | None = None
    waits: float = 0.0
    retry: bool = True

    def request(
        self, http: httpx.Client | httpx.AsyncClient, timeout: float, idempotency_key: str | None = None
    ) -> httpx.Request:
        """The request, which allows `timeout` seconds more than the service was asked to wait."""
        json = _given(self.json)
        headers: dict[str, str] = _given(self.headers)
        if self.content is not None:
            headers["content-type"] = "application/octet-stream"
        if idempotency_key is not None:
            headers["idempotency-key"] = f'"{idempotency_key}"'
        return http.build_request(
            self.method,
            self.route.format_map({name: _segment(value) for name, value in self.path.items()}),
            params={name: _query_texts(value) for name, value in _given(self.query).items()},
            json=json or None,
            content=self.content,
            headers=headers,
            timeout=httpx.Timeout(timeout, read=timeout + self.waits),
        )

    def read(self, response: httpx.Response) -> T_co:
        """The result in a successful answer; UnexpectedAnswer if it is not there."""
        result: type[Any] = self.result
        if result is NoneType:
            return cast("T_co", None)
        if result is str:
            return cast("T_co", response.text)
        assert issubclass(result, BaseModel)
        try:
            return cast("T_co", result.model_validate_json(response.content))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise UnexpectedAnswer(
                f"{self.method} {response.request.url.path} answered what is not a {result.__name__}:"
                f" {where + ': ' if where else ''}{first['msg']}"
            ) from None


class Attempts:
    """Says after each attempt at a call whether there is another one, and when.

    A request may be made again if that can't do anything twice: a GET always; a POST too, because each bears a key by
    which the service knows it again and answers what it answered before; any other if it was surely not carried out (no
    connection came about, or the service refused it with 503 and Retry-After).

    Attributes:
        idempotency_key: The key of a POST, the same for all attempts.
    """

    def __init__(self, call: Call[Any], retries: int, timeout: float) -> None:
        self._repeatable = call.method in ("GET", "POST")
        self._left = retries if call.retry else 0
        self._backoff = _FIRST_BACKOFF_SECONDS
        self._until = time.monotonic() + call.waits + timeout
        self.idempotency_key = str(uuid.uuid4()) if call.method == "POST" else None

    def after_error(self, error: httpx.RequestError) -> float:
        """Seconds to wait for the next attempt; the ClientError that says what happened if there is none."""
        failure = request_error_of(error)
        # A timeout has cost the caller his patience already, and is not tried again.
        again = isinstance(failure, Unreachable) and (self._repeatable or not failure.sent)
        if again and self._left:
            return self._pause()
        raise failure from error

    def after_refusal(self, response: httpx.Response) -> float:
        """Seconds to wait for the next attempt; ProblemError if there is none."""
        problem = problem_of(response)
        after = problem.retry_after
        if problem.status == 503 and after is not None and after <= _MAX_RETRY_AFTER_SECONDS and self._left:
            return max(self._pause(), after)
        # An attempt whose answer was lost is still being carried out.
        if problem.code == "idempotency_in_flight" and time.monotonic() < self._until:
            return self._pause(counts=False)
        raise problem

    def _pause(self, *, counts: bool = True) -> float:
        self._left -= counts
        # Clients that failed together shall not come back together.
        pause = self._backoff * random.uniform(0.5, 1.0)
        self._backoff = min(2 * self._backoff, _MAX_BACKOFF_SECONDS)
        return pause


@dataclass(frozen=True, slots=True)
class Pause:
    """A step: wait for so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Item(Generic[T]):
    """A step: give this to whoever iterates."""

    value: T


@dataclass(frozen=True, slots=True)
class Open:
    """A step: make this call and keep its answer open; `Chunk` reads from it. Whatever was open before is closed."""

    call: Call[None]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A step, answered with the next bytes of what is open; None at its end."""


Step = Call[Any] | Pause | Item[T] | Open | Chunk
Steps = Generator[Step[T], Any, None]
"""What a stream does. A Call is answered with its result, or its error is raised where it was yielded."""


def ask(call: Call[T]) -> Generator[Call[T], T, T]:
    """`yield from ask(call)` in a stream is the call's result."""
    return (yield call)


class Blocking(ABC):
    """Makes calls and returns when they are done."""

    @abstractmethod
    def exchange(self, call: Call[T]) -> T:
        """The call's result; ClientError."""

    @abstractmethod
    def follow(self, steps: Steps[T]) -> Generator[T, None, None]:
        """The items of a stream; ClientError."""


class Asynchronous(ABC):
    """Makes calls on an event loop."""

    @abstractmethod
    def exchange(self, call: Call[T]) -> Coroutine[Any, Any, T]:
        """The call's result; ClientError."""

    @abstractmethod
    def follow(self, steps: Steps[T]) -> AsyncGenerator[T, None]:
        """The items of a stream; ClientError."""


class operation(Generic[P, T]):  # noqa: N801
    """A method that is one call. On Client it returns T, on AsyncClient a coroutine with T."""

    def __init__(self, describe: Callable[Concatenate[Any, P], Call[T]]) -> None:
        self._describe = describe
        update_wrapper(cast("Callable[..., Any]", self), describe)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        """The call, not made."""
        return self._describe(None, *args, **kwargs)

    def __call__(self, client: Blocking | Asynchronous, *args: P.args, **kwargs: P.kwargs) -> Any:
        """`Client.method(client, ...)`; it is also what lets help() show the parameters."""
        return client.exchange(self.call(*args, **kwargs))

    @overload
    def __get__(self, client: None, owner: type) -> operation[P, T]: ...
    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: Asynchronous, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: Blocking | Asynchronous | None, owner: type) -> Any:
        if client is None:
            return self
        return MethodType(self, client)


class stream(Generic[P, T]):  # noqa: N801
    """A method that is several calls. On Client it returns an iterator, on AsyncClient an asynchronous one.

    Both are generators: who leaves one before its end may close it, so that what it has open is closed at once.
    """

    def __init__(self, describe: Callable[Concatenate[Any, P], Steps[T]]) -> None:
        self._describe = describe
        update_wrapper(cast("Callable[..., Any]", self), describe)

    def steps(self, *args: P.args, **kwargs: P.kwargs) -> Steps[T]:
        """The steps, not taken."""
        return self._describe(None, *args, **kwargs)

    def __call__(self, client: Blocking | Asynchronous, *args: P.args, **kwargs: P.kwargs) -> Any:
        """As that of `operation`."""
        return client.follow(self.steps(*args, **kwargs))

    @overload
    def __get__(self, client: None, owner: type) -> stream[P, T]: ...
    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[P, Generator[T, None, None]]: ...
    @overload
    def __get__(self, client: Asynchronous, owner: type) -> Callable[P, AsyncGenerator[T, None]]: ...
    def __get__(self, client: Blocking | Asynchronous | None, owner: type) -> Any:
        if client is None:
            return self
        return MethodType(self, client)


def payload_json(payload: Payload | None) -> dict[str, str] | None:
    """A payload as a member of a JSON body."""
    if payload is None:
        return None
    if isinstance(payload, str):
        return {"text": payload}
    return {"base64": base64.b64encode(payload).decode()}


def comma(names: Sequence[str] | None) -> str | None:
    """Names as one parameter; none at all are no parameter."""
    return ",".join(names) if names else None


def _given(values: Mapping[str, object]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _segment(value: str) -> str:
    # Dots too: `..` is a step up in a URL. A server decodes a slash before it looks for the route, so that is encoded
    # twice: no id has one, and what is none must not reach another route.
    return quote(value.replace("/", "%2F"), safe="").replace(".", "%2E")


def _query_texts(value: object) -> list[str]:
    if isinstance(value, (list, tuple)):  # a parameter that may be repeated
        return [_query_text(each) for each in value]
    return [_query_text(value)]


def _query_text(value: object) -> str:
    if isinstance(value, datetime):
        # Without a zone it is this machine's time; the service takes none without.
        return (value if value.tzinfo else value.astimezone()).isoformat()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6f}"  # the API takes no exponents, and no more digits
    return str(value)
