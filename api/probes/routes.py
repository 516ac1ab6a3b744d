"""/livez, /readyz, /startupz: without a key, because an orchestrator has none, and telling nothing that needs one."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from iocpd.api import problems
from iocpd.api.auth import public
from iocpd.api.context import EngineDep
from iocpd.api.node.service import unready_reason
from iocpd.api.problems import Problem

router = APIRouter(tags=["probes"], dependencies=[public()], responses=problems.responses(*problems.EVERYWHERE))


class ProbeView(BaseModel):
    """A probe that is content."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ready"}]})

    status: Literal["live", "ready", "started"]


@router.get("/livez", name="live")
async def live() -> ProbeView:
    """200 while the process answers at all, also during a drain: restarting it would not help."""
    return ProbeView(status="live")


@router.get("/readyz", name="ready", responses=problems.responses(problems.NOT_READY))
async def ready(engine: EngineDep) -> ProbeView:
    """200 while new connections are welcome; 503 from the first moment of a drain on, with its phase."""
    reason = unready_reason(engine)
    if reason is not None:
        raise Problem(problems.NOT_READY, reason)
    return ProbeView(status="ready")


@router.get("/startupz", name="started", responses=problems.responses(problems.NOT_READY))
async def started(engine: EngineDep) -> ProbeView:
    """200 once the engine runs."""
    if not engine.running:
        raise Problem(problems.NOT_READY, "the engine is not running")
    return ProbeView(status="started")
