"""`python -m bench.local [NAME…]`: local dispatch beside what others have for it.

Beside worker-dispatcher, whose interface it has too, the standard library's pools, joblib and what
one would write by hand. Each figure is of a fresh process; all are measured in turn.
"""

from __future__ import annotations

import sys

from bench.compat.beside import Bench
from bench.compat.command import main

NAMES = ("calls", "work", "pace", "reports", "memory")
"""Modules of this package, each with a function `rows`."""

if __name__ == "__main__":
    sys.exit(main("local", NAMES, Bench, __doc__))
