"""Puts load on the web application of examples/web, and writes a report of what came of it.

python examples/stress.py
python examples/stress.py --rate 800 --seconds 30 --save stress.html --save stress.xlsx
python examples/stress.py --until 2000            (the rate rises to that: where does it bend?)

The application and its worker are started for it, in a folder of their own. Requests begin when
they are due, whether or not earlier ones were answered: so the report shows what users would see.
"""

import argparse
import itertools
import json
import sys
import tempfile
import threading
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "web"))

from compare import UVICORN, WORKER, port_of, running, wait_for_rows

import taskyard
from taskyard.dispatch.calls import Call
from taskyard.dispatch.result import Run
from taskyard.report import make_report


class Refused(Exception):
    """The application did not accept an event."""


class Client:
    """Posts events, each thread over a connection of its own."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.local = threading.local()

    def post(self, number: int, call: Call) -> str:
        """Post an event, and return the id that it got."""
        event = {"number": number, "kind": "click", "path": f"/articles/{number % 97}"}
        connection = self._connection()
        call.metadata["connection"] = "new" if connection.sock is None else "kept"
        try:
            connection.request("POST", "/events", json.dumps(event))
            response = connection.getresponse()
            answer = json.loads(response.read())
        except OSError:
            connection.close()  # the next request of this thread opens another one
            raise
        if response.status != 202:
            raise Refused(f"HTTP {response.status}: {answer['error']}")
        return str(answer["id"])

    def _connection(self) -> HTTPConnection:
        if not hasattr(self.local, "connection"):
            self.local.connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        found: HTTPConnection = self.local.connection
        return found


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=400, help="requests per second (400)")
    parser.add_argument("--until", type=float, help="a rate that it rises to")
    parser.add_argument("--seconds", type=float, default=20, help="for so long (20)")
    parser.add_argument("--workers", type=int, default=100, help="requests under way at most (100)")
    parser.add_argument(
        "--save", type=Path, action="append", help="files for the report: .html, .xlsx, .png…"
    )
    return parser.parse_args()


def load(port: int, given: argparse.Namespace) -> Run:
    """Let the requests begin when they are due, until time is over."""
    ramp = (given.rate, given.until, given.seconds) if given.until else None
    return taskyard.run(
        Client(port).post,
        itertools.count(),
        workers=given.workers,
        rate=None if ramp else given.rate,
        ramp=ramp,
        runtime=given.seconds,
        context=True,
        progress=sys.stderr.isatty(),
    )


def main() -> int:
    given = parsed()
    with ExitStack() as stack:
        room = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="taskyard-stress-")))
        application = stack.enter_context(running(f"{UVICORN} app:app", room))
        stack.enter_context(running(WORKER, room))
        run = load(port_of(application), given)
        rows = wait_for_rows(room, run.counts.completed)
    samples = run.samples()
    samples.conditions.title = "POST /events"
    report = make_report(samples)
    print(report.text())
    for path in given.save or [Path("stress.html")]:
        report.save(path, samples)
        print(f"The report is in {path}")
    print(f"{run.counts.completed:,} events were accepted, and {rows:,} are saved.")
    return 0 if rows >= run.counts.completed else 1


if __name__ == "__main__":
    sys.exit(main())
