"""What the routes of all kinds of jobs have in common."""

from typing import Annotated, Any

from fastapi import Path

from iocpd.api import problems
from iocpd.api.jobs.prefer import PREFERENCE
from iocpd.api.responses import links, location

JobId = Annotated[str, Path(max_length=100, description="`job` of a report", examples=["Pm3n0v_xkQ2d"])]

BULK_PROBLEMS = (
    problems.VALIDATION_FAILED,
    problems.MESSAGE_TOO_LARGE,
    *problems.WITH_BODY,
    problems.TOO_MANY_JOBS,
    problems.ENGINE_BUSY,
    problems.ENGINE_STOPPED,
    problems.COMMAND_TIMEOUT,
)


def accepted(model: type[Any], *, get: str, cancel: str) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses=` for a 202 with a job, which these operations show and cancel."""
    applied = {
        "description": "`Prefer: respond-async` was asked for",
        "schema": {"type": "string", "enum": [PREFERENCE]},
    }
    return {
        202: {
            "model": model,
            "description": "a job: watch it at `Location`, cancel it with DELETE there",
            "headers": {**location("the job")["headers"], "Preference-Applied": applied},
            **links({"job": "$response.body#/job"}, watch=get, cancel=cancel),
        }
    }
