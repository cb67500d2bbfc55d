"""Calls an outside API for several customers, as fast as it allows for each, and books the answers.

python examples/api_pipeline.py
python examples/api_pipeline.py --no-limit     what the API says to callers that do not wait

The API is a small server within this program. It takes 10 calls in any second from a customer and
answers 429 to more; every fifth order it is out of order first (503). Two worker processes call it.
`fetch` is limited to 4 messages a second per customer over both of them, so no 429 ever comes. What
waits holds no worker: the customers do not slow each other down. `fetch` enqueues the second step.
"""

import argparse
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from taskyard import RateLimit, Retry, Yard, fail, retry

API = os.environ.get("API", "127.0.0.1:8001")
LEDGER = os.environ.get("LEDGER", "ledger.db")

yard = Yard(os.environ.get("TASKYARD_BROKER", "sqlite:///taskyard.db"))


# The pipeline


class ApiError(Exception):
    """The API is out of order; it may pass."""


# Less than half of what the API takes: network and machine may delay calls, so that they come
# closer together than they were handed out. A retry counts too.
@yard.task(
    queue="api",
    shard="customer",
    shard_rate=RateLimit(4, per=1),
    retry=Retry(5, backoff="exponential", delay=0.2, longest=30),
)
def fetch(customer: str, number: int) -> str:
    """Ask for an order, and have it booked; returns the id of the message that books it."""
    order = get(f"/customers/{customer}/orders/{number}")
    return book.enqueue(customer, number, order["cents"]).id


@yard.task(queue="books", shard="customer", ordered=True)
def book(customer: str, number: int, cents: int) -> int:
    """Book an order; returns how many of the customer are booked by now."""
    with closing(sqlite3.connect(LEDGER, timeout=60)) as db, db:
        # `fetch` may run twice, and so have it booked twice: the second time changes nothing.
        db.execute(
            "INSERT INTO ledger VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (customer, number, cents)
        )
        query = "SELECT count(*) FROM ledger WHERE customer = ?"
        return int(db.execute(query, (customer,)).fetchone()[0])


def get(path: str) -> Any:
    """Call the API."""
    with closing(HTTPConnection(API, timeout=10)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
    if answer.status == 429:
        retry(float(answer.headers["Retry-After"]))  # when it says; not bounded by the policy
    if answer.status >= 500:
        raise ApiError(f"{answer.status}: {body}")  # the policy of `fetch` says when
    if answer.status != 200:
        fail(f"{answer.status}: {body}")  # a dead letter at once: another attempt gets the same
    return json.loads(body)


# The outside API


class FakeApi(ThreadingHTTPServer):
    """Takes so many calls in any second from a customer, and counts what it answers."""

    allowed = 10

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.answered: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self._calls: defaultdict[str, deque[float]] = defaultdict(deque)
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def answer(self, path: str) -> tuple[int, str]:
        """The status and the text for a call."""
        _, _, customer, _, number = path.split("/")
        with self._lock:
            status = self._status(path, customer, int(number))
            self.answered[customer][status] += 1
        texts = {200: json.dumps({"cents": 100 + int(number)}), 429: "too fast", 503: "broken"}
        return status, texts[status]

    def _status(self, path: str, customer: str, number: int) -> int:
        now, calls = time.monotonic(), self._calls[customer]
        while calls and calls[0] <= now - 1:
            calls.popleft()
        if len(calls) >= self.allowed:
            return 429
        calls.append(now)
        if number % 5 == 0 and path not in self._seen:
            self._seen.add(path)
            return 503
        return 200


class Answers(BaseHTTPRequestHandler):
    """What the server makes of a call."""

    server: FakeApi

    def do_GET(self) -> None:
        status, text = self.server.answer(self.path)
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


# The run


@contextmanager
def api() -> Iterator[FakeApi]:
    with FakeApi() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def workers(number: int, broker: str, **settings: str) -> Iterator[None]:
    command = ["worker", f"{__file__}:yard", "--broker", broker, "--log-level", "warning"]
    process = subprocess.Popen(
        [sys.executable, "-m", "taskyard", *command, "--processes", str(number)],
        env={**os.environ, **settings},
        process_group=0,  # Ctrl-C is for this program, which then stops them
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def make_ledger(path: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE ledger (customer, number, cents, PRIMARY KEY (customer, number))")


def totals(path: str) -> list[tuple[str, int, int]]:
    query = "SELECT customer, count(*), sum(cents) FROM ledger GROUP BY customer ORDER BY customer"
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def run(folder: Path, orders: int, *, limited: bool) -> None:
    broker, ledger = f"sqlite:///{folder}/taskyard.db", f"{folder}/ledger.db"
    make_ledger(ledger)
    calls = [(name, n) for n in range(orders) for name in ("ada", "bob", "eve")]
    with api() as server, yard.using(broker), workers(2, broker, API=server.address, LEDGER=ledger):
        if not limited:
            yard.rate(fetch, None, shards=True)
        began = time.monotonic()
        for first in fetch.enqueue_many(calls):
            book.result(first.get(timeout=60)).get(timeout=60)
        seconds = time.monotonic() - began
    print("customer  orders   cents   calls  of these 429   503")
    for customer, number, cents in totals(ledger):
        got = server.answered[customer]
        print(f"{customer:8}{number:8}{cents:8}{got.total():8}{got[429]:14}{got[503]:6}")
    print(f"in {seconds:.1f} s")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--orders", type=int, default=20, help="of each customer")
    parser.add_argument("--no-limit", action="store_true", help="call as fast as possible")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="taskyard-api-") as folder:
        try:
            run(Path(folder), given.orders, limited=not given.no_limit)
        except KeyboardInterrupt:
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
