"""The same without taskyard, to compare: every request waits for a commit of its own.

uvicorn direct:app
"""

import asyncio
import json
import uuid
from concurrent.futures import ThreadPoolExecutor

from database import count, insert
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

# SQLite takes one writer at a time: a thread of its own is faster than many that wait for a lock.
writer = ThreadPoolExecutor(1)


async def accept(request: Request) -> JSONResponse:
    try:
        event = await request.json()
    except ValueError as error:
        return JSONResponse({"error": str(error)}, 400)
    if not isinstance(event, dict):
        return JSONResponse({"error": "an event is a JSON object"}, 400)
    row = (uuid.uuid4().hex, json.dumps(event))
    await asyncio.get_running_loop().run_in_executor(writer, insert, [row])
    return JSONResponse({"id": row[0]}, 201)


async def saved(_: Request) -> JSONResponse:
    return JSONResponse({"saved": await asyncio.get_running_loop().run_in_executor(writer, count)})


app = Starlette(
    routes=[
        Route("/events", accept, methods=["POST"]),
        Route("/events", saved, methods=["GET"]),
    ],
)
