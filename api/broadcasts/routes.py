"""/v1/broadcasts."""

from typing import Annotated

from fastapi import APIRouter, Request, Response

from iocpd.api import problems
from iocpd.api.actions import action
from iocpd.api.auth import needs
from iocpd.api.broadcasts.schemas import BroadcastBody, BroadcastReport
from iocpd.api.broadcasts.work import Broadcast, dry_run
from iocpd.api.context import Context, ContextDep
from iocpd.api.jobs.answer import answer_job, answer_now, cancel_job
from iocpd.api.jobs.prefer import RespondAsync
from iocpd.api.jobs.routes import BULK_PROBLEMS, JobId, accepted
from iocpd.api.jobs.targets import AT_ONCE, excluded_tokens, select
from iocpd.api.keys import Caller
from iocpd.api.payloads import checked
from iocpd.api.responses import json_response

router = APIRouter(
    prefix="/v1/broadcasts",
    tags=["broadcasts"],
    responses=problems.responses(*problems.AUTHORISED, *problems.EVERYWHERE),
)


@router.post(
    "",
    name="send",
    response_model=BroadcastReport,
    responses={
        **accepted(BroadcastReport, get="broadcasts-get", cancel="broadcasts-cancel"),
        **problems.responses(*BULK_PROBLEMS),
    },
)
async def send_broadcast(
    request: Request,
    body: BroadcastBody,
    context: ContextDep,
    caller: Annotated[Caller, needs("broadcasts:send")],
    respond_async: RespondAsync,
) -> Response:
    """Sends to every connection that the filter matches.

    Reports once nothing can change any more, or after `timeout` what is known by then. One connection that does not
    read delays nobody else, only the report. More than 1,000 connections, a rate or `Prefer: respond-async` make it a
    job.
    """
    with action(request, caller, "broadcast", body.describe()) as line:
        if not checked(body.payload.data, context.settings):
            raise problems.invalid("body", "payload", "empty", "there is nothing to send: give at least one byte")
        if body.dry_run:
            ids = await select(context, body)
            line.outcome = f"would be sent to {len(ids)}"
            return json_response(dry_run(context, body, ids))
        work = await _broadcast(context, body)
        if respond_async or body.rate_per_s or work.progress()[1] > AT_ONCE:
            return answer_job(request, context, caller, work, line, verb="broadcast", preferred=respond_async)
        return await answer_now(work, line)


async def _broadcast(context: Context, body: BroadcastBody) -> Broadcast:
    if body.limit is not None or body.rate_per_s is not None:
        ids = await select(context, body)
        return Broadcast(context, body, ids=ids, expected=len(ids))
    exclude = excluded_tokens(context, body)
    expected = context.engine.count(body.for_engine())
    return Broadcast(context, body, exclude=exclude, expected=max(expected - len(set(exclude)), 0))


@router.get(
    "/{job}",
    name="get",
    response_model=BroadcastReport,
    responses=problems.responses(problems.JOB_UNKNOWN, problems.VALIDATION_FAILED),
    dependencies=[needs("broadcasts:send")],
)
async def get_broadcast(job: JobId, context: ContextDep) -> Response:
    """How far a job is; it can be asked for until 15 minutes after its end."""
    return json_response(context.jobs.find(job, Broadcast).report())


@router.delete(
    "/{job}",
    name="cancel",
    status_code=204,
    response_class=Response,
    responses=problems.responses(problems.JOB_UNKNOWN, problems.VALIDATION_FAILED),
)
async def cancel_broadcast(
    request: Request, job: JobId, context: ContextDep, caller: Annotated[Caller, needs("broadcasts:send")]
) -> Response:
    """Stops a job: nobody else is sent to. What is queued already is not taken back, and still counted. A job that is
    over stays as it is.
    """
    with action(request, caller, "cancel broadcast job", job) as line:
        return cancel_job(context.jobs.find(job, Broadcast), line)
