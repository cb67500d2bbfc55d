"""A web server to put load on, in a process of its own: `python target.py OPTIONS`.

It serves one request after the other, in the order in which they came, so that what a load should
see can be worked out (`queueing.py`). It tells its port on stdout and writes down what it does:
`GET /log` answers with it.

Options (JSON): `service`: seconds that each request takes; `stall`: seconds for which the whole
process stands still, with every `every`-th request, or every `period` seconds from the first
request on (the first time after half of that); `refuse`: every so-manieth request is answered with
503.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

BACKLOG = 4096


class Target:
    """What it is asked to do, and what it did."""

    def __init__(
        self,
        service: float = 0.0,
        stall: float = 0.0,
        every: int = 0,
        period: float = 0.0,
        refuse: int = 0,
    ) -> None:
        self.service, self.refuse = service, refuse
        self.stall, self.every, self.period = stall, every, period
        self.first_seen = asyncio.Event()
        self.served: list[tuple[int, float, float, int]] = []
        self.stalls: list[tuple[float, float]] = []
        self.turn = asyncio.Lock()  # is fair

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await self._head(reader):
                status, body = await self._answer(head.split(b" ", 2)[1].decode())
                writer.write(
                    b"HTTP/1.1 %d -\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
                )
                await writer.drain()
        except ConnectionError:
            pass  # who asked has gone
        finally:
            writer.close()

    @staticmethod
    async def _head(reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""

    async def _answer(self, path: str) -> tuple[int, bytes]:
        url = urlsplit(path)
        if url.path == "/log":
            log: dict[str, Any] = {"served": self.served, "stalls": self.stalls}
            return 200, json.dumps(log).encode()
        self.first_seen.set()
        async with self.turn:
            began, number = time.time(), len(self.served) + 1
            if self.service:
                await asyncio.sleep(self.service)
            if self.every and number % self.every == 0:
                self._stand_still()
            status = 503 if self.refuse and number % self.refuse == 0 else 200
            call = int(parse_qs(url.query).get("id", ["0"])[0])
            self.served.append((call, began, time.time(), status))
        return status, b"ok"

    def _stand_still(self) -> None:
        began = time.time()
        time.sleep(self.stall)  # nothing else runs: as a garbage collector does it
        self.stalls.append((began, time.time()))

    async def stand_still_now_and_then(self) -> None:
        await self.first_seen.wait()
        due = time.monotonic() + self.period / 2
        while True:
            await asyncio.sleep(due - time.monotonic())
            self._stand_still()
            due += self.period


async def main(options: dict[str, Any]) -> None:
    target = Target(**options)
    server = await asyncio.start_server(target.connected, "127.0.0.1", 0, backlog=BACKLOG)
    stalling = asyncio.create_task(target.stand_still_now_and_then()) if target.period else None
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until we are let go
    del stalling


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
