"""Ship Python's standard library, line by line, through a queue, and kill a worker meanwhile.

Every line of every .py file is a message, and every file an ordered shard. Worker processes (see
tasks.py) get the lines in batches and write them to a SQLite database. In the middle, one of them
is killed with kill -9. In the end every file is rebuilt from the database, from its lines in the
order in which they arrived, and compared byte for byte with the original.
"""

import argparse
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil  # it knows the worker processes; `make demo` installs it
from progress import Progress, Sample
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from taskyard import TaskyardError

if TYPE_CHECKING:
    from tasks import Line

PATIENCE = 60.0
"""Seconds without any progress after which something is wrong."""

FOREIGN = {"site-packages", "dist-packages"}
"""Folders of installed packages, which live inside the standard library's."""

console = Console(highlight=False)


class Failed(Exception):
    """The demonstration did not show what it should."""


# What is shipped


class Source(NamedTuple):
    """A folder of Python files."""

    folder: Path
    files: list[str]

    @classmethod
    def of(cls, folder: Path, limit: int | None) -> "Source":
        found = []
        for parent, folders, names in os.walk(folder):
            folders[:] = sorted(set(folders) - FOREIGN)
            paths = [Path(parent, name) for name in sorted(names) if name.endswith(".py")]
            found += [path.relative_to(folder).as_posix() for path in paths]
        if not found:
            raise Failed(f"there are no .py files in {folder}")
        return cls(folder, found[:limit])

    def read(self, file: str) -> list[bytes]:
        """The lines of a file with their endings, and an empty one for its end."""
        return [*(self.folder / file).read_bytes().splitlines(keepends=True), b""]

    def lines(self) -> "Iterator[Line]":
        from tasks import Line

        for file in self.files:
            for number, text in enumerate(self.read(file), 1):
                yield Line(file, number, text)

    def sizes(self) -> Counter[str]:
        found = Counter(files=len(self.files))
        for file in self.files:
            lines = self.read(file)
            text = b"".join(lines)
            found.update(
                lines=len(lines) - 1,
                bytes=len(text),
                empty=not text,
                crlf=b"\r" in text,
                binary=not _is_utf8(text),
            )
        return found


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


# Where it arrives


class Store:
    """The database that the workers write to, as seen from here."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        self.db.executescript("""
            PRAGMA journal_mode = WAL;
            CREATE TABLE IF NOT EXISTS lines (
                file TEXT, number INTEGER, text BLOB, PRIMARY KEY (file, number)
            );
            CREATE TABLE IF NOT EXISTS workers (pid INTEGER UNIQUE, lines INTEGER);
        """)

    def close(self) -> None:
        self.db.close()

    def workers(self) -> dict[int, int]:
        """How many lines each worker process has stored, in the order in which they began."""
        return dict(self.db.execute("SELECT pid, lines FROM workers ORDER BY rowid"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While this lasts, no worker can finish a batch."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            self.db.execute("ROLLBACK")

    def files(self) -> set[str]:
        return {file for (file,) in self.db.execute("SELECT DISTINCT file FROM lines")}

    def read(self, file: str) -> list[bytes]:
        """The lines of a file in the order in which they arrived."""
        query = "SELECT text FROM lines WHERE file = ? ORDER BY rowid"
        return [text for (text,) in self.db.execute(query, (file,))]

    def tamper(self) -> None:
        """Change one byte of a line in the middle."""
        rows = self.db.execute("SELECT rowid, text FROM lines WHERE text != x''").fetchall()
        row, text = rows[len(rows) // 2]
        changed = bytes([text[0] ^ 1]) + text[1:]
        self.db.execute("UPDATE lines SET text = ? WHERE rowid = ?", (changed, row))


def is_whole(lines: list[bytes]) -> bool:
    """Whether the end of a file arrived, and as the last of its lines."""
    return b"" in lines and lines.index(b"") == len(lines) - 1


def compare(source: Source, store: Store) -> str:
    """Rebuild every file and compare it with the original.

    Raises:
        Failed: one differs; says which, and where.
    """
    differing = [
        file
        for file in source.files
        if not is_whole(lines := store.read(file))
        or b"".join(lines) != (source.folder / file).read_bytes()
    ]
    total = len(source.files)
    verdict = f"identical: {total - len(differing):,} of {total:,} files"
    if differing:
        file = differing[0]
        pairs = zip_longest(source.read(file), store.read(file))
        number, sent, stored = next((i, a, b) for i, (a, b) in enumerate(pairs, 1) if a != b)
        raise Failed(
            f"{verdict}\n{file}, line {number}: {shown(sent)} was sent, {shown(stored)} arrived"
        )
    if strange := store.files() - set(source.files):
        raise Failed(f"{verdict}, but nobody sent {min(strange)}")
    return verdict


def shown(text: bytes | None) -> str:
    return "nothing" if text is None else repr(text) if text else "the end of the file"


# The queue between them


class Workers:
    """Worker processes under a supervisor: what `taskyard worker --processes` starts."""

    def __init__(self, number: int, log: Path) -> None:
        command = [sys.executable, str(Path(__file__).with_name("tasks.py")), str(number)]
        self._log = log
        with log.open("wb") as output:
            # In a session of its own, Ctrl-C does not reach it; it is stopped from here, always.
            self._supervisor = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stderr=output, start_new_session=True
            )

    def pids(self) -> list[int]:
        return [child.pid for child in psutil.Process(self._supervisor.pid).children()]

    def check(self) -> None:
        """Complain if they have ended."""
        if self._supervisor.poll() is not None:
            raise Failed(f"the workers have ended:\n{self._log.read_text()}")

    def close(self) -> None:
        self._supervisor.terminate()
        try:
            self._supervisor.wait(10)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            os.killpg(self._supervisor.pid, signal.SIGKILL)
            self._supervisor.wait()


class Demo:
    """A run.

    Arguments:
        source: what is shipped.
        store: where it arrives.
        workers: who brings it there.
    """

    def __init__(self, source: Source, store: Store, workers: Workers) -> None:
        from tasks import store as task
        from tasks import yard

        self.source, self.store, self.workers = source, store, workers
        self.yard, self.task = yard, task
        self.sizes = source.sizes()
        self.messages = self.sizes["lines"] + self.sizes["files"]
        self.earlier = self.counts()
        if self.earlier["open"]:
            raise Failed(f"{yard} still holds {self.earlier['open']:,} lines of another run")

    def counts(self) -> Counter[str]:
        """The queue's numbers, by the names of `Yard.counts`."""
        counts = next((of for of in self.yard.counts() if of.group == self.task.group), None)
        if counts is None:
            return Counter()
        now = Counter(counts.totals)
        now.update(lanes=counts.lanes, running=counts.running, waiting=counts.waiting)
        now.update(open=counts.waiting + counts.delayed + counts.running)
        return now

    def sample(self) -> Sample:
        now = self.counts()
        put = now["put"] - self.earlier["put"]
        return Sample(put, now["waiting"], now["lanes"], self.store.workers())

    def run(self, *, kill: bool) -> float:
        """Ship everything; say how many seconds it took."""
        lines = self.source.lines()
        began = time.monotonic()
        with Progress(console, self.messages, self.sample) as progress:
            self.task.enqueue_many(islice(lines, self.messages // 2))
            if kill:
                self.kill_one(lines, progress)
            self.task.enqueue_many(lines)
            self.wait(lambda: not self.counts()["open"])
        return time.monotonic() - began

    def wait(self, done: Callable[[], bool]) -> None:
        """Wait until something is so, while the workers get on."""
        last, since = self.counts(), time.monotonic()
        while not done():
            self.workers.check()
            time.sleep(0.05)
            if (now := self.counts()) != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                raise Failed(
                    f"nothing happened for {PATIENCE:g} s, with {now['open']:,} lines open"
                )

    def kill_one(self, lines: "Iterator[Line]", progress: Progress) -> None:
        """Kill a worker process that has lines in hand, with others stored and others to come."""
        if self.messages < 20:
            raise Failed(f"{self.messages} lines are too few to kill a worker amid them: --no-kill")
        self.wait(lambda: bool(self.store.workers()))
        with self.store.locked():
            self.task.enqueue_many(islice(lines, self.messages // 20))
            self.wait(lambda: self.counts()["running"] > 0)
            now = self.sample()
            for pid in self.workers.pids():
                os.kill(pid, signal.SIGKILL)
                progress.killed.add(pid)
                if lost := self._lost():
                    break
            else:
                raise Failed("no worker process had lines in hand, so killing them shows nothing")
        progress.say(
            f"[red]kill -9[/] of worker {pid} in the middle: {now.put:,} lines were put, "
            f"{now.stored:,} stored, and it had {lost:,} in hand"
        )

    def _lost(self) -> int:
        """How many lines the supervisor takes back from a dead worker in the next seconds."""
        end = time.monotonic() + 5
        while not (lost := self.counts()["lost"] - self.earlier["lost"]):
            if time.monotonic() > end:
                break
            time.sleep(0.02)
        return lost

    def report(self, seconds: float) -> Table:
        counts = self.counts() - self.earlier
        reasons = {name: counts[f"flush_{name}"] for name in ("size", "bytes", "age", "drain")}
        rows = {
            "lines": f"{self.sizes['lines']:,}",
            "files": f"{self.sizes['files']:,}",
            "bytes": f"{self.sizes['bytes']:,}",
            "batches": f"{sum(reasons.values()):,}",
            **{f"  flushed by {name}": f"{number:,}" for name, number in reasons.items()},
            "seconds": f"{seconds:.1f}",
            "lines per second": f"{self.sizes['lines'] / seconds:,.0f}",
            "lost with their worker": f"{counts['lost']:,}",
            "redelivered lines": f"{counts['redelivered']:,}",
            "dead letters": f"{counts['dead']:,}",
        }
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_column()
        table.add_column(justify="right")
        for name, value in rows.items():
            table.add_row(name, value)
        return table


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="taskyard-demo-"))
        if options.keep:
            stack.callback(console.print, f"kept: {folder}")
        else:
            stack.callback(shutil.rmtree, folder)
        # tasks.py learns from the environment where things are, here as in the worker processes.
        os.environ["DEMO_STORE"] = str(folder / "store.db")
        try:
            os.environ["DEMO_BROKER"] = broker_url(options.broker, folder, stack)
            show(options, folder, stack)
        except Failed as failure:
            console.print(f"[bold red]FAILED[/]  {escape(str(failure))}", soft_wrap=True)
            return 1
        except TaskyardError as error:
            console.print(f"[bold red]FAILED[/]  {escape(str(error))}", soft_wrap=True)
            return 1
        except KeyboardInterrupt:
            console.print("interrupted")
            return 130
    return 0


def broker_url(chosen: str | None, folder: Path, stack: ExitStack) -> str:
    """Where the lines wait; "redis" starts a server for the time of the demonstration."""
    if chosen != "redis":
        return chosen or f"sqlite:///{folder}/queue.db"
    from taskyard.brokers.redis.server import OwnServer

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return stack.enter_context(OwnServer(port=port, datadir=folder / "redis")).url


def show(options: argparse.Namespace, folder: Path, stack: ExitStack) -> None:
    source = Source.of(options.source, options.files)
    store = stack.enter_context(closing(Store(folder / "store.db")))
    log = folder / "workers.log"
    workers = stack.enter_context(closing(Workers(options.processes, log)))
    demo = Demo(source, store, workers)
    stack.enter_context(demo.yard)
    sizes = demo.sizes
    console.print(
        f"{options.source}: {sizes['files']:,} files with {sizes['lines']:,} lines, "
        f"{sizes['bytes']:,} bytes\n"
        f"(site-packages left out; {sizes['empty']} files are empty, {sizes['crlf']} have \\r, "
        f"{sizes['binary']} are not UTF-8)\n",
        soft_wrap=True,
    )
    seconds = demo.run(kill=options.kill)
    if options.tamper:
        store.tamper()
    console.print()
    console.print(demo.report(seconds))
    console.print(f"[bold green]{compare(source, store)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    stdlib = Path(sysconfig.get_path("stdlib"))
    add = parser.add_argument
    add("--source", type=Path, default=stdlib, help="folder of .py files (the standard library's)")
    add("--files", type=int, help="ship only the first so many files")
    add("--processes", type=int, default=2, help="worker processes (2)")
    add(
        "--broker",
        metavar="URL",
        help="where the lines wait (a SQLite file); redis: a server of its own",
    )
    add("--no-kill", dest="kill", action="store_false", help="let all workers live")
    add("--tamper", action="store_true", help="spoil a byte before comparing, to see it noticed")
    add("--keep", action="store_true", help="keep the databases and the workers' log")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
