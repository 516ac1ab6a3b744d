"""/v1/broadcasts."""

from typing import Annotated

from fastapi import APIRouter, Request

from iocpd.api import problems
from iocpd.api.actions import action
from iocpd.api.auth import needs
from iocpd.api.broadcasts.schemas import BroadcastBody
from iocpd.api.context import ContextDep
from iocpd.api.futures import finished
from iocpd.api.keys import Caller
from iocpd.api.messages.schemas import ReportView
from iocpd.api.payloads import checked

router = APIRouter(
    prefix="/v1/broadcasts",
    tags=["broadcasts"],
    responses=problems.responses(*problems.AUTHORISED, *problems.EVERYWHERE),
)


@router.post(
    "",
    name="send",
    response_model=ReportView,
    responses=problems.responses(
        problems.MESSAGE_TOO_LARGE,
        *problems.WITH_BODY,
        problems.VALIDATION_FAILED,
        problems.ENGINE_BUSY,
        problems.ENGINE_STOPPED,
    ),
)
async def send_broadcast(
    request: Request, body: BroadcastBody, context: ContextDep, caller: Annotated[Caller, needs("broadcasts:send")]
) -> ReportView:
    """Sends to every connection that the filter matches.

    Reports once nothing can change any more, or after `timeout` what is known by then. One connection that does not
    read delays nobody else, only the report.
    """
    with action(request, caller, "broadcast", body.canonical() or "all") as sending:
        data = checked(body.payload.data, context.settings)
        if not data:
            raise problems.invalid("body", "payload", "empty", "there is nothing to send: give at least one byte")
        broadcast = context.engine.submit_broadcast(data, body.for_engine())
        report = broadcast.future.result() if await finished(broadcast.future, body.timeout) else broadcast.report()
        sending.outcome = f"{len(data)} bytes to {report.matched}, {report.written} written"
    return ReportView.of(report)
