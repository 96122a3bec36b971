"""The addresses: GET / is the page, GET /api/run what the run is, POST /api/predict an answer; nothing is on disk.

POST /api/generate is text that follows, a line of JSON for each token.
"""

import asyncio
import json
from collections.abc import Collection, Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from moejax.errors import UserError, abridged
from moejax.serve.guard import HEADERS, refusal
from moejax.serve.page import page
from moejax.serve.question import question, to_go_on
from moejax.serve.service import Service

MOST_BYTES = 2**20  # of a body
_PATIENCE = 10.0  # seconds until a body is there


def application(service: Service, names: Collection[str]) -> Starlette:
    """The service on the web, for requests to hosts of these names."""
    drawn = page(service.name, service.about()["num_experts"])

    async def show(request: Request) -> Response:
        return HTMLResponse(drawn.html, headers={**HEADERS, "Content-Security-Policy": drawn.policy})

    async def about(request: Request) -> Response:
        return JSONResponse(service.about(), headers=HEADERS)

    async def predict(request: Request) -> Response:
        body = await _body(request)
        return JSONResponse(await run_in_threadpool(_answer, service, body), headers=HEADERS)

    async def generate(request: Request) -> Response:
        body = await _body(request)
        lines = await run_in_threadpool(_lines, service, body)
        return StreamingResponse(lines, media_type="application/x-ndjson", headers=HEADERS)

    app = Starlette(
        routes=[
            Route("/", show),
            Route("/api/run", about),
            Route("/api/predict", predict, methods=["POST"]),
            Route("/api/generate", generate, methods=["POST"]),
        ],
        middleware=[Middleware(_Guard, names=names)],
        exception_handlers={
            UserError: _refused,
            HTTPException: _not_there,
            ClientDisconnect: _gone,
            Exception: _failed,
        },
    )
    app.router.redirect_slashes = False
    return app


def _answer(service: Service, body: bytes) -> dict:
    return service.answer(question(body, service.reads, service.variants.own))


def _lines(service: Service, body: bytes) -> Iterator[str]:
    steps = service.go_on(to_go_on(body, service.variants.own))
    return (json.dumps(step) + "\n" for step in steps)


async def _body(request: Request) -> bytes:
    """What was sent, if it is JSON and not too long."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # which no other site's form can send
        raise HTTPException(415, f"Content-Type is {abridged(repr(kind))}; send application/json.")
    parts, size = [], 0
    try:
        async with asyncio.timeout(_PATIENCE):
            async for part in request.stream():
                size += len(part)
                if size <= MOST_BYTES:
                    parts.append(part)
                elif size > 16 * MOST_BYTES:  # up to here it is read and thrown away, so that the sentence is heard
                    break
    except TimeoutError:
        raise HTTPException(408, f"The body did not arrive within {_PATIENCE:.0f} seconds; send it again.") from None
    if size > MOST_BYTES:
        raise HTTPException(413, f"The body has more than {MOST_BYTES:,} bytes; send a smaller picture or text.")
    return b"".join(parts)


class _Guard:
    """Takes no request that another site could have sent."""

    def __init__(self, app: ASGIApp, names: Collection[str]):
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Request(scope).headers
            if sentence := refusal(headers.get("host"), headers.get("origin"), self.names):
                await _sentence(403, sentence)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _sentence(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": sentence}, status, {**HEADERS, **(headers or {})})


def _refused(request: Request, error: Exception) -> Response:
    return _sentence(400, str(error).replace("\n", " "))


def _not_there(request: Request, error: Any) -> Response:
    path, method = abridged(repr(request.url.path)), request.method
    sentence = {404: f"There is nothing at {path}; {_ALL}", 405: f"{path} does not take {method}; {_ALL}"}
    return _sentence(error.status_code, sentence.get(error.status_code, error.detail), error.headers)


_ALL = "there are GET /, GET /api/run, POST /api/predict and POST /api/generate."


def _gone(request: Request, error: Exception) -> Response:
    return _sentence(400, "The body ended before it was whole; send it again.")


def _failed(request: Request, error: Exception) -> Response:
    return _sentence(500, "Something failed here that should not; the server's terminal says what.")
