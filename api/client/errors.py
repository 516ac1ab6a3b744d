"""What a client raises. None of the texts has a key in it, or a message's bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import httpx

from iocpd.api.client.models import ClosedConnection

# A proxy's page of HTML is cut here.
_TEXT_CHARACTERS = 200

_STANDARD = {"type", "title", "status", "detail", "code", "request_id", "errors"}


class ClientError(Exception):
    """Whatever went wrong: the base of all exceptions here."""


class SetupError(ClientError):
    """The client can't be made: its address or its key is no good; the text says which and why."""


class Unreachable(ClientError):
    """The service can't be reached, or went away in the middle of an answer.

    Attributes:
        sent: False if the request surely was not carried out: no connection came about.
    """

    def __init__(self, text: str, *, sent: bool) -> None:
        super().__init__(text)
        self.sent = sent


class TimedOut(ClientError):
    """The service took the connection and did not answer in time. Whether the request was carried out is not known."""


class UnexpectedAnswer(ClientError):
    """What answered does not speak this API, or a version of it that is too different."""


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing that is wrong with a request.

    Attributes:
        location: Where it is: "query", "path" or "body".
        field: Its name, with dots between the parts.
        code: What is wrong, for a program.
        detail: What is wrong, for a person.
    """

    location: str
    field: str
    code: str
    detail: str


class ProblemError(ClientError):
    """The service refused or failed, and said why. The subclasses are for single statuses.

    Attributes:
        status: The HTTP status.
        code: The kind of problem, for a program, such as "send_queue_full"; "http_502" and the like if what answered
            was not iocpd.
        type: A URI that names the kind of problem.
        title: The kind of problem, for a person.
        detail: What happened, and the way out.
        request_id: The same as in the service's log.
        errors: What is wrong with the request, one by one.
        extra: What this kind of problem tells besides, such as `closed`.
        retry_after: Seconds after which the service asks to be tried again, if it does.
    """

    def __init__(
        self,
        *,
        status: int,
        code: str,
        type: str = "about:blank",
        title: str = "",
        detail: str = "",
        request_id: str = "",
        errors: tuple[FieldProblem, ...] = (),
        extra: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{title}: {detail}" if title and detail else title or detail or code)
        self.status = status
        self.code = code
        self.type = type
        self.title = title
        self.detail = detail
        self.request_id = request_id
        self.errors = errors
        self.extra = dict(extra or {})
        self.retry_after = retry_after


class Unauthorized(ProblemError):
    """401: there is no key, or not one that the service knows."""


class Forbidden(ProblemError):
    """403: the key has no scope for this, or the service has no keys and does not serve whoever asks."""


class NotFound(ProblemError):
    """404: there never was, or is no longer, what was named; or there is no such route."""


class Conflict(ProblemError):
    """409: it does not fit what is: the connection is closing, the ban or key is there already, a drain is on."""


class Gone(ProblemError):
    """410: the connection has ended or belongs to another run, or the cursor has expired."""

    @property
    def closed(self) -> ClosedConnection | None:
        """How the connection ended, if the service still knows."""
        record = self.extra.get("closed")
        return None if record is None else ClosedConnection.model_validate(record)


class Invalid(ProblemError):
    """422: a parameter has a value that the service does not take; `errors` has each of them."""


_BY_STATUS: dict[int, type[ProblemError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
}


def problem_of(response: httpx.Response) -> ProblemError:
    """The exception for an answer that is not a success."""
    kind = _BY_STATUS.get(response.status_code, ProblemError)
    retry_after = _retry_after(response)
    document = _document_of(response)
    if document is None:
        phrase = response.reason_phrase
        return kind(
            status=response.status_code,
            code=f"http_{response.status_code}",
            title=f"HTTP {response.status_code} {phrase}".rstrip(),
            detail=response.text.strip()[:_TEXT_CHARACTERS],
            request_id=response.headers.get("x-request-id", ""),
            retry_after=retry_after,
        )
    return kind(
        status=response.status_code,
        code=document["code"],
        type=str(document.get("type", "about:blank")),
        title=str(document.get("title", "")),
        detail=str(document.get("detail", "")),
        request_id=str(document.get("request_id", "")),
        errors=tuple(map(_field_problem, document.get("errors") or ())),
        extra={name: value for name, value in document.items() if name not in _STANDARD},
        retry_after=retry_after,
    )


def request_error_of(error: httpx.RequestError) -> ClientError:
    """The exception for a request that got no answer."""
    url = error.request.url
    where = f"{url.scheme}://{url.netloc.decode('ascii', 'replace').rpartition('@')[2]}"
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        why = "no connection in time" if isinstance(error, httpx.ConnectTimeout) else str(error)
        return Unreachable(f"cannot reach {where}: {why}", sent=False)
    if isinstance(error, httpx.PoolTimeout):
        return TimedOut(f"every connection to {where} was in use, and none came free in time")
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(f"{where} did not answer in time: {error.request.method} {url.path}")
    if not isinstance(error, httpx.TransportError):
        return UnexpectedAnswer(f"{where} answered what can't be read: {error}")
    return Unreachable(f"{where} went away before it had answered: {error or type(error).__name__}", sent=True)


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() else None


def _document_of(response: httpx.Response) -> dict[str, Any] | None:
    if response.headers.get("content-type", "").partition(";")[0] != "application/problem+json":
        return None
    try:
        document = response.json()
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or not isinstance(document.get("code"), str):
        return None
    errors = document.get("errors") or []
    return document if isinstance(errors, list) and all(isinstance(item, dict) for item in errors) else None


def _field_problem(item: Mapping[str, Any]) -> FieldProblem:
    return FieldProblem(**{field.name: str(item.get(field.name, "")) for field in fields(FieldProblem)})
