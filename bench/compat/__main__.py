"""`python -m bench.compat [NAME…]`: front doors beside the packages whose interfaces they have.

Each figure is of the same program, in fresh processes, on a Redis server of its own that keeps
nothing on the disk; all are measured in turn.
"""

from __future__ import annotations

import sys

from bench.compat.beside import RedisBench
from bench.compat.command import main
from bench.redis_server import find_server

DOORS = ("sharded_queue", "taskkit")
"""Modules of this package, each with a function `rows`."""

if __name__ == "__main__":
    if find_server() is None:
        print("there is no redis-server; `make servers` gets one", file=sys.stderr)
        sys.exit(2)
    sys.exit(main("compat", DOORS, RedisBench, __doc__))
