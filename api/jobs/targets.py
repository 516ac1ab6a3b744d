"""Whom a bulk route hits: the filter of GET /v1/connections, with what bulk adds."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, StrictBool, WithJsonSchema, model_validator
from pydantic.config import JsonDict

from iocpd.api import problems
from iocpd.api.connections.schemas import MOST_BYTES, ConnectionFilter
from iocpd.api.context import Context
from iocpd.api.futures import finished
from iocpd.api.identity import ID_PATTERN, ForeignId
from iocpd.api.problems import Problem
from iocpd.api.whole_numbers import NoText

AT_ONCE = 1000
"""Up to so many targets, and without a rate, are done while the request waits."""
MAX_EXCLUDED = 1000
_MAX_LIMIT = 1_000_000
# More connections than an engine can have.
_ALL = 1 << 20
_BARRIER_SECONDS = 10.0


_Excluded = Annotated[str, Field(max_length=100), WithJsonSchema({"type": "string", "pattern": f"^{ID_PATTERN}$"})]
_Least = Annotated[int, Field(ge=0, le=MOST_BYTES), NoText] | None

# What BulkTarget._check_all asks for.
_NO_FILTER: JsonDict = {
    name: {"maxItems": 0} if name == "tag" else {"type": "null"} for name in ConnectionFilter.model_fields
}
ALL_OR_FILTER: JsonDict = {
    "oneOf": [
        {"required": ["all"], "properties": {"all": {"const": True}, **_NO_FILTER}},
        {"properties": {"all": {"const": False}}, "not": {"properties": _NO_FILTER}},
    ]
}
"""For the schema of a body that names a BulkTarget."""


class BulkTarget(ConnectionFilter):
    """The filter of GET /v1/connections, so that one can look before one acts, and how many of those it matches."""

    model_config = ConfigDict(extra="forbid")

    # Again, as a query has numbers as text and a body has not.
    listener: Annotated[int, Field(ge=0, le=65535), NoText] | None = Field(
        default=None, description="`id` in GET /v1/listeners"
    )
    min_pending_bytes: _Least = Field(default=None, description="at least so much is queued to be sent")
    min_bytes_in: _Least = None
    min_bytes_out: _Least = None
    all: StrictBool = Field(
        default=False, description="needed when no filter is given, so that nobody is hit by accident"
    )
    exclude: list[_Excluded] = Field(
        default=[], max_length=MAX_EXCLUDED, description="ids of connections that are left alone"
    )
    limit: Annotated[int, Field(ge=1, le=_MAX_LIMIT), NoText] | None = Field(
        default=None, description="so many of those that match, at most; null: all of them"
    )
    rate_per_s: Annotated[int, Field(ge=1, le=100_000), NoText] | None = Field(
        default=None, description="so many a second, as a job; null: as fast as it goes"
    )
    dry_run: StrictBool = Field(default=False, description="only tell what would be hit: nothing is done")

    @model_validator(mode="after")
    def _check_all(self) -> Self:
        filtered = bool(self.canonical())
        if not filtered and not self.all:
            raise ValueError('no filter is given: add "all": true to take every connection')
        if filtered and self.all:
            raise ValueError('"all": true and a filter contradict each other: leave out one of the two')
        return self

    def describe(self) -> str:
        """The target on one line, for the log."""
        parts = [self.canonical() or "all"]
        if self.exclude:
            parts.append(f"without {len(self.exclude)}")
        if self.limit is not None:
            parts.append(f"at most {self.limit}")
        if self.rate_per_s is not None:
            parts.append(f"{self.rate_per_s} a second")
        if self.dry_run:
            parts.append("dry run")
        return ", ".join(parts)


def excluded_tokens(context: Context, target: BulkTarget) -> list[int]:
    """The engine's ids of those that are left alone; Problem 422 for what is no id of this run.

    A connection that somebody means to spare and that this run does not know is more likely a mistake than a wish.
    """
    tokens = []
    for position, text in enumerate(target.exclude):
        field = f"exclude.{position}"
        try:
            token = context.instance.decode(text)
        except ForeignId:
            rule = f"{text} was given out by another run of the service: look again, and leave it out"
            raise problems.invalid("body", field, "another_run", rule) from None
        if token is None:
            raise problems.invalid("body", field, "no_id", f"{text!r} is no id of a connection")
        tokens.append(token)
    return tokens


async def select(context: Context, target: BulkTarget) -> list[int]:
    """The engine's ids of the connections that are hit: accepted before the call, and not ended before its return."""
    exclude = excluded_tokens(context, target)
    await settle_inboxes(context)
    return context.engine.matching(target.for_engine(), limit=min(target.limit or _ALL, _ALL), exclude=exclude)


async def settle_inboxes(context: Context) -> None:
    """Returns when every worker has worked off what was in its inbox at the call; Problem 504.

    A connection that was accepted is on its way to its worker for a moment, and in no table yet.
    """
    if not await finished(context.engine.submit_barrier().future, _BARRIER_SECONDS):
        detail = f"a worker has not answered for {_BARRIER_SECONDS:g} s, and nothing was done: try again"
        raise Problem(problems.COMMAND_TIMEOUT, detail)
