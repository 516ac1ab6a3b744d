"""/v1/audit."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from iocpd.api import problems
from iocpd.api.audit.reader import AuditFilter, AuditSlice, read_slice
from iocpd.api.audit.schemas import AuditPage, AuditQuery
from iocpd.api.auth import needs
from iocpd.api.context import Context, ContextDep
from iocpd.api.paging import NEXT_PAGE, link_next
from iocpd.api.problems import Problem
from iocpd.api.responses import json_response

router = APIRouter(
    prefix="/v1/audit", tags=["audit"], responses=problems.responses(*problems.AUTHORISED, *problems.EVERYWHERE)
)


@router.get(
    "",
    name="list",
    response_model=AuditPage,
    responses={
        200: NEXT_PAGE,
        **problems.responses(
            problems.CURSOR_MALFORMED,
            problems.CURSOR_MISMATCH,
            problems.CURSOR_EXPIRED,
            problems.VALIDATION_FAILED,
            problems.AUDIT_UNAVAILABLE,
        ),
    },
    dependencies=[needs("audit:read")],
)
async def list_audit(request: Request, context: ContextDep, query: Annotated[AuditQuery, Query()]) -> Response:
    """Who did what, the newest first; refused requests too, as far as they would have changed something.

    What happens while pages are read moves nothing: later pages only go further back.
    """
    listing, taken_at, before = "audit?" + query.canonical(), datetime.now(UTC), None
    if query.cursor is not None:
        (before, _, _), taken_at = context.cursors.read(listing, query.cursor)
    found = await _read(context, query, before)
    cursor = None
    if found.next_before is not None:
        cursor = context.cursors.make(listing, (found.next_before, 0, 0), taken_at)
    page = {
        "items": [entry.model_dump() for entry in found.items],
        "next_cursor": cursor,
        "snapshot": {"taken_at": taken_at, "expires_at": None},
        "total": None,
    }
    return json_response(page, headers=link_next(request.scope["path"], request.query_params.multi_items(), cursor))


async def _read(context: Context, query: AuditQuery, before: int | None) -> AuditSlice:
    folder = context.audit.folder
    if folder is None:
        return AuditSlice()
    context.audit.retry()
    wanted = AuditFilter(query.actor, query.action, query.since)
    try:
        return await asyncio.to_thread(read_slice, folder, wanted, before=before, limit=query.limit)
    except OSError as error:
        detail = f"cannot read the audit in {folder}: {error.strerror or error}"
        raise Problem(problems.AUDIT_UNAVAILABLE, detail) from error
