"""`Prefer: respond-async` (RFC 7240): the client wants a job even where the answer would not take long."""

import re
from collections.abc import Iterable
from typing import Annotated

from fastapi import Depends, Header, Request

PREFERENCE = "respond-async"
APPLIED = {"preference-applied": PREFERENCE}
"""Headers of an answer that did as was preferred."""

# A quoted value may hold commas and semicolons.
_PART = re.compile(r'(?:"(?:[^"\\]|\\.)*(?:"|$)|[^,"])+')


def prefers_async(values: Iterable[str]) -> bool:
    """Whether `respond-async` is among the preferences in these Prefer headers. What is not understood is ignored."""
    return any(
        re.split(r"[\s;=]", part.strip(), maxsplit=1)[0].lower() == PREFERENCE
        for value in values
        for part in _PART.findall(value)
    )


async def _respond_async(
    request: Request,
    prefer: Annotated[
        str,
        Header(
            alias="Prefer",
            description="`respond-async`: answer 202 with a job at once, however few it is for (RFC 7240)",
            examples=[PREFERENCE],
        ),
    ] = "",
) -> bool:
    return prefers_async(request.headers.getlist("prefer"))  # a header may come on several lines


RespondAsync = Annotated[bool, Depends(_respond_async)]
