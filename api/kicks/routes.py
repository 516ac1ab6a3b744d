"""/v1/kicks."""

from typing import Annotated

from fastapi import APIRouter, Request, Response

from iocpd.api import problems
from iocpd.api.actions import action
from iocpd.api.auth import needs, require
from iocpd.api.context import ContextDep
from iocpd.api.jobs.answer import answer_job, answer_now, cancel_job
from iocpd.api.jobs.prefer import RespondAsync
from iocpd.api.jobs.routes import BULK_PROBLEMS, JobId, accepted
from iocpd.api.jobs.targets import AT_ONCE, select
from iocpd.api.keys import Caller
from iocpd.api.kicks.schemas import KickOrder, KickReport
from iocpd.api.kicks.work import Kicks, dry_run
from iocpd.api.payloads import checked
from iocpd.api.responses import json_response

router = APIRouter(
    prefix="/v1/kicks",
    tags=["kicks"],
    responses=problems.responses(*problems.AUTHORISED, *problems.EVERYWHERE),
)


@router.post(
    "",
    name="start",
    response_model=KickReport,
    responses={
        **accepted(KickReport, get="kicks-get", cancel="kicks-cancel"),
        **problems.responses(*BULK_PROBLEMS, problems.BANS_FULL, problems.BANS_NOT_SAVED),
    },
)
async def start_kicks(
    request: Request,
    order: KickOrder,
    context: ContextDep,
    caller: Annotated[Caller, needs("connections:kick")],
    respond_async: RespondAsync,
) -> Response:
    """Ends every connection that matches: what is queued is sent, then the farewell, then end of file.

    Whom it hits is settled once, at the start: who connects later is left alone. Up to 1,000 connections without a rate
    are answered with the final report, once each has left the table; more, a rate or `Prefer: respond-async` make it a
    job. `ban_ttl` needs the scope bans:write too.
    """
    with action(request, caller, "kick many", order.describe()) as line:
        if order.ban_ttl is not None:
            require(caller, "bans:write", "a kick with ban_ttl")
        if order.farewell is not None:
            checked(order.farewell.data, context.settings, "farewell")
        ids = await select(context, order)
        if order.dry_run:
            line.outcome = f"{len(ids)} would be kicked"
            return json_response(dry_run(context, order, ids))
        work = Kicks(context, order, ids, by=caller.name)
        if respond_async or order.rate_per_s or len(ids) > AT_ONCE:
            return answer_job(request, context, caller, work, line, verb="kick many", preferred=respond_async)
        answer = await answer_now(work, line)
        if work.ban_problem is not None and not work.done_to_any():
            raise work.ban_problem
        return answer


@router.get(
    "/{job}",
    name="get",
    response_model=KickReport,
    responses=problems.responses(problems.JOB_UNKNOWN, problems.VALIDATION_FAILED),
    dependencies=[needs("connections:kick")],
)
async def get_kicks(job: JobId, context: ContextDep) -> Response:
    """How far a job is; it can be asked for until 15 minutes after its end."""
    return json_response(context.jobs.find(job, Kicks).report())


@router.delete(
    "/{job}",
    name="cancel",
    status_code=204,
    response_class=Response,
    responses=problems.responses(problems.JOB_UNKNOWN, problems.VALIDATION_FAILED),
)
async def cancel_kicks(
    request: Request, job: JobId, context: ContextDep, caller: Annotated[Caller, needs("connections:kick")]
) -> Response:
    """Stops a job: nobody else is kicked. Connections that are on their way out go on leaving, and are still counted. A
    job that is over stays as it is.
    """
    with action(request, caller, "cancel kick job", job) as line:
        return cancel_job(context.jobs.find(job, Kicks), line)
