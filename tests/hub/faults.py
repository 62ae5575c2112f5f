"""What can go wrong with a request, on demand."""

import asyncio
import re
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass
class Fault:
    """What befalls requests whose "METHOD path?query" the pattern `where` is found in, `times` times, the first `after`
    apart.

    status, headers   answered instead of what was asked for, which is not done; `body` with them
    delay             seconds before anything else
    taken             bytes of the request that are read before the connection is closed
    lost              it is done, and the connection closed without an answer
    cut               bytes of the answer's body that are sent before the connection is closed
    held              it is not done, or with `lost` it is done, and never answered: see `Hub.held`
    """

    where: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    delay: float = 0
    taken: int | None = None
    lost: bool = False
    cut: int | None = None
    held: bool = False
    times: int = 1_000_000
    after: int = 0


def due(faults: list[Fault], request: str) -> Fault | None:
    """The fault that befalls a request; it and those that were before their time are counted down."""
    for fault in faults:
        if not re.search(fault.where, request):
            continue
        if fault.after > 0:
            fault.after -= 1
        elif fault.times > 0:
            fault.times -= 1
            return fault
    return None


class Held:
    """Requests that wait until they are let go, which is without an answer."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self._free = asyncio.Event()

    def let_go(self) -> None:
        """Closes the connections of those that wait; others will wait for the next time."""
        self._free.set()
        self._free, self.requests = asyncio.Event(), []

    async def wait(self, request: str) -> None:
        self.requests.append(request)
        await self._free.wait()


async def suffer(
    fault: Fault, request: str, held: Held, app: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """What `app` makes of a request that the fault befalls."""
    await asyncio.sleep(fault.delay)
    line = _Line(send)
    if fault.held:
        if fault.lost:
            await app(scope, receive, _nowhere)
        await held.wait(request)
        await line.close()
    elif fault.status:
        await _drain(receive)
        body = fault.body.encode()
        headers = {"content-length": str(len(body)), **fault.headers}
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": fault.status, "headers": pairs})
        await send({"type": "http.response.body", "body": body})
    elif fault.lost:
        await app(scope, receive, _nowhere)
        await line.close()
    else:
        await app(scope, line.reading(receive, fault.taken), line.sending(fault.cut))


class _Line:
    """The connection that a request came on. ASGI has no word for closing it: `send` is a method of uvicorn's object
    that knows the transport."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._transport = send.__self__.transport  # type: ignore[attr-defined]

    async def close(self) -> None:
        self._transport.close()
        await asyncio.sleep(0)  # until uvicorn has heard of it

    def reading(self, receive: Receive, left: int | None) -> Receive:
        """`receive`, for a connection that breaks after so many bytes."""

        async def broken() -> Message:
            nonlocal left
            message = await receive()
            if left is None or message["type"] != "http.request":
                return message
            left -= len(message["body"])
            if left > 0 and message["more_body"]:
                return message
            await self.close()
            return {"type": "http.disconnect"}

        return broken

    def sending(self, left: int | None) -> Send:
        """`send`, for a connection that breaks after so many bytes of the body."""

        async def broken(message: Message) -> None:
            nonlocal left
            if left is None or message["type"] == "http.response.start":
                await self._send(message)
            elif left >= 0:
                body = message.get("body", b"")
                kept, left = body[:left], left - len(body)
                await self._send({"type": "http.response.body", "body": kept, "more_body": True})
                if left <= 0:
                    left = -1
                    await self.close()

        return broken


async def _drain(receive: Receive) -> None:
    while (await receive()).get("more_body"):
        pass


async def _nowhere(_: Message) -> None:
    pass
