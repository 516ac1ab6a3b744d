"""The two clients: all that does I/O, and where address and key come from."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from iocpd.api.client.calls import Asynchronous, Attempts, Blocking, Call, Chunk, Item, Open, Pause, Step, Steps
from iocpd.api.client.errors import ClientError, SetupError, problem_of, request_error_of
from iocpd.api.client.operations import Operations
from iocpd.api.version import version

T = TypeVar("T")

_GoOn = Callable[[], Step[T]]

DEFAULT_URL = "http://127.0.0.1:8080"
"""Where `iocpd serve` has its API by itself."""


class _Base(Operations):
    """What both constructors do."""

    def __init__(
        self,
        url: str | None,
        key: str | None,
        key_file: str | os.PathLike[str] | None,
        timeout: float,
        retries: int,
    ) -> None:
        self._timeout = timeout
        self._retries = retries
        self._url = _find_url(url)
        headers = {"user-agent": f"iocpd/{version()}"}
        if found := _find_key(key, key_file):
            headers["authorization"] = f"Bearer {found}"
        # Proxies and .netrc from the environment stay out of it: a key goes to the service and nowhere else.
        self._options: dict[str, Any] = {"base_url": self._url, "headers": headers, "trust_env": False}

    @property
    def url(self) -> str:
        """Where the API is."""
        return self._url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"


class Client(_Base, Blocking):
    """The management API, blocking. Threads may share one. It keeps connections open until `close`, or as a context.

    Args:
        url: Where the API is; else what IOCPD_URL says, else DEFAULT_URL.
        key: The bearer key; else the first line of `key_file`, else IOCPD_KEY, else the first line of the file that
            IOCPD_KEY_FILE names, else none. An empty `key` is none, whatever the environment says.
        timeout: Seconds to connect, and then seconds of silence, after which a request is given up. What a method was
            asked to wait by its own `timeout` comes on top.
        retries: How often a request that failed is made again at most, with growing pauses between: a GET if the
            service can't be reached or goes away, and a POST, which bears an Idempotency-Key, so that nothing is done
            twice; any other if no connection came about; each of them if the service says 503 and asks for it; nothing
            that timed out.
        verify: How the certificate of an https address is checked.
        transport: In place of the network, for tests and proxies.

    Raises:
        SetupError: The address or the key is no good, or the key file can't be read.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        key_file: str | os.PathLike[str] | None = None,
        timeout: float = 10.0,
        retries: int = 2,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(url, key, key_file, timeout, retries)
        self._http = httpx.Client(**self._options, verify=verify, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; the client can't be used any more."""
        self._http.close()

    def exchange(self, call: Call[T]) -> T:
        """The result of any call; ClientError."""
        attempts = Attempts(call, self._retries, self._timeout)
        while True:
            try:
                response = self._http.send(call.request(self._http, self._timeout, attempts.idempotency_key))
            except httpx.RequestError as error:
                pause = attempts.after_error(error)
            else:
                if response.is_success:
                    return call.read(response)
                pause = attempts.after_refusal(response)
            time.sleep(pause)

    def follow(self, steps: Steps[T]) -> Generator[T, None, None]:
        """The items of any stream; ClientError."""
        go_on: _GoOn[T] = partial(next, steps)
        opened: _Opened | None = None
        try:
            while True:
                try:
                    step = go_on()
                except StopIteration:
                    return
                go_on = partial(next, steps)
                if isinstance(step, Item):
                    yield step.value
                elif isinstance(step, Pause):
                    time.sleep(step.seconds)
                else:
                    try:
                        if isinstance(step, Open):
                            if opened is not None:
                                opened.close()
                            opened = _Opened(self._http, step.call.request(self._http, self._timeout))
                        elif isinstance(step, Chunk):
                            assert opened is not None
                            go_on = partial(steps.send, opened.read())
                        else:
                            go_on = partial(steps.send, self.exchange(step))
                    except ClientError as error:
                        go_on = partial(steps.throw, error)
        finally:
            if opened is not None:
                opened.close()


class _Opened:
    """An answer that is read as it comes."""

    def __init__(self, http: httpx.Client, request: httpx.Request) -> None:
        """ClientError if it is not a success."""
        try:
            self._response = http.send(request, stream=True)
            if not self._response.is_success:
                self._response.read()
                raise problem_of(self._response)
        except httpx.RequestError as error:
            raise request_error_of(error) from error
        self._chunks = self._response.iter_bytes()

    def read(self) -> bytes | None:
        """The next bytes; None at the end; ClientError."""
        try:
            return next(self._chunks, None)
        except httpx.RequestError as error:
            raise request_error_of(error) from error

    def close(self) -> None:
        self._response.close()


class AsyncClient(_Base, Asynchronous):
    """The management API on an asyncio event loop: what Client has, awaited. Tasks may share one.

    Its arguments are those of Client.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        key_file: str | os.PathLike[str] | None = None,
        timeout: float = 10.0,
        retries: int = 2,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, key, key_file, timeout, retries)
        self._http = httpx.AsyncClient(**self._options, verify=verify, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections; the client can't be used any more."""
        await self._http.aclose()

    async def exchange(self, call: Call[T]) -> T:
        """The result of any call; ClientError."""
        attempts = Attempts(call, self._retries, self._timeout)
        while True:
            try:
                response = await self._http.send(call.request(self._http, self._timeout, attempts.idempotency_key))
            except httpx.RequestError as error:
                pause = attempts.after_error(error)
            else:
                if response.is_success:
                    return call.read(response)
                pause = attempts.after_refusal(response)
            await asyncio.sleep(pause)

    async def follow(self, steps: Steps[T]) -> AsyncGenerator[T, None]:
        """The items of any stream; ClientError."""
        go_on: _GoOn[T] = partial(next, steps)
        opened: _AsyncOpened | None = None
        try:
            while True:
                try:
                    step = go_on()
                except StopIteration:
                    return
                go_on = partial(next, steps)
                if isinstance(step, Item):
                    yield step.value
                elif isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                else:
                    try:
                        if isinstance(step, Open):
                            if opened is not None:
                                await opened.close()
                            opened = await _AsyncOpened.begin(self._http, step.call.request(self._http, self._timeout))
                        elif isinstance(step, Chunk):
                            assert opened is not None
                            go_on = partial(steps.send, await opened.read())
                        else:
                            go_on = partial(steps.send, await self.exchange(step))
                    except ClientError as error:
                        go_on = partial(steps.throw, error)
        finally:
            if opened is not None:
                await opened.close()


class _AsyncOpened:
    """An answer that is read as it comes."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._chunks = response.aiter_bytes()

    @classmethod
    async def begin(cls, http: httpx.AsyncClient, request: httpx.Request) -> Self:
        """ClientError if the answer is not a success."""
        try:
            response = await http.send(request, stream=True)
            if not response.is_success:
                await response.aread()
                raise problem_of(response)
        except httpx.RequestError as error:
            raise request_error_of(error) from error
        return cls(response)

    async def read(self) -> bytes | None:
        """The next bytes; None at the end; ClientError."""
        try:
            return await anext(self._chunks, None)
        except httpx.RequestError as error:
            raise request_error_of(error) from error

    async def close(self) -> None:
        await self._response.aclose()


def _find_url(given: str | None) -> str:
    origin, text = ("url", given) if given is not None else ("IOCPD_URL", os.environ.get("IOCPD_URL") or DEFAULT_URL)
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise SetupError(f"{origin} is no address of an API ({error}); write it as {DEFAULT_URL}") from None
    # What it has before an @ may be a secret, so it is not repeated here.
    if url.scheme not in ("http", "https") or not url.host:
        raise SetupError(f"{origin} must begin with http:// or https:// and a host; write it as {DEFAULT_URL}")
    if url.userinfo or url.query or url.fragment:
        raise SetupError(f"{origin} must have no user, query or fragment; a key goes into IOCPD_KEY or a key file")
    return text


def _find_key(given: str | None, given_file: str | os.PathLike[str] | None) -> str:
    if given is not None and given_file is not None:
        raise SetupError("give a key or a key file, not both")
    if given is not None:
        return _checked(given, "key")
    if given_file is not None:
        return _read_key(Path(given_file))
    if key := os.environ.get("IOCPD_KEY"):
        return _checked(key, "IOCPD_KEY")
    if path := os.environ.get("IOCPD_KEY_FILE"):
        return _read_key(Path(path))
    return ""


def _read_key(path: Path) -> str:
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise SetupError(f"cannot read the key file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SetupError(f"the key file {path} is not UTF-8 text") from None
    if not lines or not lines[0].strip():
        raise SetupError(f"the first line of the key file {path} is empty; it must be a key")
    return _checked(lines[0], f"the first line of the key file {path}")


def _checked(key: str, origin: str) -> str:
    key = key.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        # Without the key itself: texts of exceptions end up in logs.
        raise SetupError(f"{origin} is not a key: a key has letters, digits, - and _ alone")
    return key
