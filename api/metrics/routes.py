"""/metrics."""

import asyncio

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from iocpd.api import problems
from iocpd.api.auth import needs
from iocpd.api.context import ContextDep

router = APIRouter(tags=["metrics"], responses=problems.responses(*problems.AUTHORISED, *problems.EVERYWHERE))


@router.get(
    "/metrics",
    name="get",
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus text format, or OpenMetrics where Accept asks for it",
            "content": {"text/plain": {"schema": {"type": "string"}, "example": "iocpd_connections_limit 65536.0\n"}},
        },
        **problems.responses(problems.ENGINE_STOPPED),
    },
    dependencies=[needs("metrics:read")],
)
async def get_metrics(request: Request, context: ContextDep) -> Response:
    """The engine's and the API's counters."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    # In a thread: the process's own metrics count its open files, one by one, and each connection is one.
    text = await asyncio.to_thread(encode, context.request_metrics.registry)
    return Response(text, headers={"content-type": content_type})
