"""One measurement in a process of its own: `python -m bench.child MODULE FUNCTION ARGUMENTS`."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any


def ready() -> None:
    """Say that the measurement may begin, and wait until it does."""
    print("ready", flush=True)
    sys.stdin.readline()


def send(reply: Any) -> None:
    """Hand the figures to the process that started this one."""
    print(json.dumps(reply), flush=True)


def main() -> None:
    module, function, arguments = sys.argv[1:]
    call = getattr(importlib.import_module(f"bench.{module}"), function)
    reply = call(**json.loads(arguments))
    if reply is not None:
        send(reply)


if __name__ == "__main__":
    main()
