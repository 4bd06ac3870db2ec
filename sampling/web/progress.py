"""Answers that report their steps: a line of JSON for each, then the answer as the last line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from sampling.denoise.sampler import OnStep

LINES = "application/x-ndjson"
_Step = tuple[int, int] | None  # steps done and all steps; None at the end
AsyncWork = Callable[[OnStep | None], Awaitable[JSONResponse]]


async def answered(request: Request, work: AsyncWork) -> Response:
    """The answer of `work`, with its steps before it if the request accepts lines.

    What ends before its first step, such as a refusal, is answered as it is, with its own status.

    Args:
        request: request to answer.
        work: function of `on_step(done, total)`, which may call it from any thread.
    """
    if LINES not in request.headers.get("accept", ""):
        return await work(None)
    loop, steps = asyncio.get_running_loop(), asyncio.Queue[_Step]()

    def on_step(done: int, total: int) -> None:
        loop.call_soon_threadsafe(steps.put_nowait, (done, total))

    async def run() -> JSONResponse:
        return await work(on_step)

    task = loop.create_task(run())
    task.add_done_callback(lambda _: steps.put_nowait(None))
    first = await steps.get()
    if first is None:
        return await task
    return StreamingResponse(_lines(first, steps, task), media_type=LINES)


async def _lines(
    step: _Step, steps: asyncio.Queue[_Step], task: asyncio.Task[JSONResponse]
) -> AsyncIterator[bytes]:
    while step is not None:
        yield json.dumps({"step": step[0], "steps": step[1]}).encode() + b"\n"
        step = await steps.get()
    yield bytes((await task).body) + b"\n"
