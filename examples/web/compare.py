"""Fires requests at both applications, and says how fast they answer, and whether all is saved.

python compare.py
python compare.py --requests 20000 --connections 200
python compare.py --commit-ms 5     (as if the database was behind a network)
"""

import argparse
import asyncio
import json
import os
import re
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent

PATIENCE = 60.0
"""Seconds in which a program has to start, and to get done what it was given."""

UVICORN = "-m uvicorn --port 0 --no-access-log"
WORKER = "-m taskyard worker events:yard --concurrency 1"


class Failed(Exception):
    """The comparison could not be made."""


# The programs


class Program(NamedTuple):
    """A program that runs, and the file it logs into."""

    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def running(arguments: str, room: Path, **settings: str) -> Iterator[Program]:
    """Run `python ARGUMENTS` in a group of its own, and stop it in the end as Ctrl-C would."""
    log = room / f"{len(list(room.glob('*.log')))}.log"
    environment = {**os.environ, **settings_of(room), **settings}
    with log.open("w") as output:
        command = [sys.executable, *arguments.split()]
        process = subprocess.Popen(
            command, cwd=HERE, env=environment, stdout=output, stderr=output, process_group=0
        )
    try:
        yield Program(process, log)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)


def settings_of(room: Path) -> dict[str, str]:
    """Where the programs keep what they have, as environment variables."""
    return {
        "TASKYARD_BROKER": f"sqlite:///{room}/taskyard.db",
        "EVENTS_DATABASE": f"{room}/events.db",
    }


def port_of(uvicorn: Program) -> int:
    """The port it listens to, as soon as it does."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and uvicorn.process.poll() is None:
        if found := re.search(r"running on http://127\.0\.0\.1:(\d+) ", uvicorn.log.read_text()):
            return int(found[1])
        time.sleep(0.05)
    raise Failed(f"uvicorn did not start:\n{uvicorn.log.read_text()}")


# The requests


class Answer(NamedTuple):
    """What came back, and after how many seconds."""

    status: int
    body: bytes
    seconds: float


async def post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, event: object) -> Answer:
    """Post an event over an open connection."""
    body = json.dumps(event).encode()
    began = time.perf_counter()
    writer.write(
        b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    answer = await reader.readexactly(int(length[1]) if length else 0)
    return Answer(int(head.split(b" ", 2)[1]), answer, time.perf_counter() - began)


async def fire(port: int, requests: int, connections: int) -> list[Answer]:
    """Post so many events over so many connections, each of which waits for its answer."""
    numbers = iter(range(requests))
    answers: list[Answer] = []

    async def one_after_the_other() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with closing(writer):
            for number in numbers:
                event = {"number": number, "kind": "click", "path": f"/articles/{number % 97}"}
                answers.append(await post(reader, writer, event))

    await asyncio.gather(*(one_after_the_other() for _ in range(connections)))
    return answers


# The comparison


class Measured(NamedTuple):
    """How one application did.

    Attributes:
        name: what the table calls it.
        answers: what was accepted.
        seconds: until the last answer.
        rows: in the database in the end.
        saved: seconds until they were there.
    """

    name: str
    answers: list[Answer]
    seconds: float
    rows: int
    saved: float

    def cells(self) -> list[str]:
        cuts = statistics.quantiles((answer.seconds * 1000 for answer in self.answers), n=100)
        return [
            self.name,
            f"{len(self.answers) / self.seconds:,.0f}",
            f"{cuts[49]:.1f} ms",
            f"{cuts[98]:.1f} ms",
            f"{self.rows:,}",
            f"{self.saved:.2f} s",
        ]


HEADINGS = ["", "requests/s", "p50", "p99", "rows saved", "all saved after"]


def measure(name: str, programs: list[str], given: argparse.Namespace) -> Measured:
    with ExitStack() as stack:
        room = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="taskyard-web-")))
        settings = {"EVENTS_COMMIT_MS": str(given.commit_ms)}
        started = [stack.enter_context(running(program, room, **settings)) for program in programs]
        port = port_of(started[0])
        asyncio.run(fire(port, 200, given.connections))  # everything is loaded, and open
        wait_for_rows(room, 200)
        began = time.perf_counter()
        answers = asyncio.run(fire(port, given.requests, given.connections))
        seconds = time.perf_counter() - began
        refused = [answer for answer in answers if answer.status not in (201, 202)]
        if refused:
            raise Failed(f"{len(refused)} requests were refused: {refused[0].body.decode()}")
        rows = wait_for_rows(room, 200 + given.requests) - 200
        return Measured(name, answers, seconds, rows, time.perf_counter() - began)


def wait_for_rows(room: Path, wanted: int) -> int:
    """Wait until so many rows are saved, and say how many there are."""
    end = time.monotonic() + PATIENCE
    while (found := saved_rows(room)) < wanted and time.monotonic() < end:
        time.sleep(0.02)
    return found


def saved_rows(room: Path) -> int:
    with closing(sqlite3.connect(room / "events.db", timeout=60)) as db:
        try:
            return int(db.execute("SELECT count(*) FROM events").fetchone()[0])
        except sqlite3.OperationalError:  # nobody has made the table yet
            return 0


def table(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "   ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--commit-ms", type=float, default=0, help="make each commit take longer")
    return parser.parse_args()


def main() -> int:
    given = parsed()
    print(f"{given.requests:,} requests over {given.connections} connections to each")
    try:
        found = [
            measure("a commit per request", [f"{UVICORN} direct:app"], given),
            measure("in batches, by taskyard", [f"{UVICORN} app:app", WORKER], given),
        ]
    except Failed as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(table([HEADINGS, *(one.cells() for one in found)]))
    if any(one.rows != given.requests for one in found):
        print("FAILED: not every request is a row", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
