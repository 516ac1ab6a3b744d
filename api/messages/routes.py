"""/v1/connections/{id}/messages."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from iocpd.api import problems
from iocpd.api.actions import action
from iocpd.api.auth import needs
from iocpd.api.connections.routes import ConnectionId
from iocpd.api.connections.service import token_of
from iocpd.api.context import ContextDep
from iocpd.api.futures import finished
from iocpd.api.keys import Caller
from iocpd.api.messages.schemas import ReportView, SendQuery
from iocpd.api.payloads import PAYLOAD_REQUEST_BODY, read_payload
from iocpd.api.problems import Problem
from iocpd.core import Report

router = APIRouter(
    prefix="/v1/connections",
    tags=["messages"],
    responses=problems.responses(*problems.AUTHORISED, *problems.EVERYWHERE),
)

# Not refused within the shortest timeout, so it is queued.
_UNDER_WAY = Report(matched=1, queued=1, written=0, skipped_slow=0, closed_before_write=0, failed=0, done=False)


@router.post(
    "/{id}/messages",
    name="send",
    response_model=ReportView,
    openapi_extra=PAYLOAD_REQUEST_BODY,
    responses=problems.responses(
        problems.CONNECTION_UNKNOWN,
        problems.CONNECTION_CLOSING,
        problems.CONNECTION_ENDED,
        problems.CONNECTION_OF_ANOTHER_RUN,
        problems.MESSAGE_TOO_LARGE,
        *problems.WITH_BODY,
        problems.VALIDATION_FAILED,
        problems.SEND_QUEUE_FULL,
        problems.MESSAGE_RATE,
        problems.ENGINE_BUSY,
        problems.ENGINE_STOPPED,
    ),
)
async def send_message(
    request: Request,
    id: ConnectionId,
    context: ContextDep,
    caller: Annotated[Caller, needs("messages:send")],
    query: Annotated[SendQuery, Query()],
) -> ReportView:
    """Sends to one connection and reports once the system has taken every byte, or when `timeout` is over."""
    with action(request, caller, "send", id) as sending:
        data = await read_payload(request, context.settings)
        token, per_s = token_of(context, id), context.settings.messages_per_s_per_connection
        if not context.message_rate.admit(token, per_s):
            detail = f"{id} gets at most {per_s} messages a second (messages_per_s_per_connection): wait"
            raise Problem(problems.MESSAGE_RATE, detail)
        future = context.engine.submit_send(token, data)
        report = future.result() if await finished(future, query.timeout) else _UNDER_WAY
        sending.outcome = f"{len(data)} bytes " + (
            "written" if report.written else "queued" if not report.done else "not written"
        )
    return ReportView.of(report)
