"""Accepts JSON objects, and leaves it to a worker to save them.

uvicorn app:app
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from database import count
from events import save, yard
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from taskyard.errors import BrokerUnavailable, PayloadError, QueueDraining


async def accept(request: Request) -> JSONResponse:
    """Answer 202 when the event is on the disk: from then on it is the worker's, and not lost."""
    try:
        result = await save.aenqueue(await request.json())
    except (ValueError, PayloadError) as error:  # no JSON, no object, or too large
        return JSONResponse({"error": str(error)}, 400)
    except (BrokerUnavailable, QueueDraining) as error:  # not accepted: come again
        return JSONResponse({"error": str(error)}, 503, {"Retry-After": "5"})
    return JSONResponse({"id": result.id}, 202)


async def saved(_: Request) -> JSONResponse:
    return JSONResponse({"saved": await run_in_threadpool(count)})


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    yield
    await yard.aclose()  # requests under way have been answered by now


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/events", accept, methods=["POST"]),
        Route("/events", saved, methods=["GET"]),
    ],
)
