"""What is tried with a doorbell in a process of its own: `python -m tests.redis.programs NAME URL`.

Python warns of forks in a process that has threads; there it is the point.
"""

from __future__ import annotations

import os
import sys
import threading
from functools import partial

import redis
from tests.servers.server import wait_until

from taskyard.brokers.redis import doorbell
from taskyard.brokers.redis.connect import connection
from taskyard.brokers.redis.doorbell import Doorbell
from taskyard.brokers.redis.options import parse_url

__all__ = ["PROGRAMS"]

LONG = 30.0


def make(url: str) -> Doorbell:
    options = parse_url(url)
    doorbell.PATIENCE = LONG  # whoever got a listener knows whether it is subscribed
    return Doorbell(partial(connection, options, options.addresses[0]), "test", lambda _: None, str)


def publish(url: str, name: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.publish(name, ""))


def doorbell_in_a_child(url: str) -> None:
    """A child has a doorbell of its own, and leaves its parent's alone."""
    bell = make(url)
    inherited = bell.listener()
    child = os.fork()
    if child == 0:
        inherited.close()
        own = bell.listener()
        assert publish(url, own.name) == 1
        assert own.wait(LONG)
        bell.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert publish(url, inherited.name) == 1
    assert inherited.wait(LONG)
    bell.close()


def child_that_lives_longer(url: str) -> None:
    """A child does not keep its parent's subscriptions."""
    bell = make(url)
    listener = bell.listener()
    ours, parents = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(parents)
        os.read(ours, 1)
        os._exit(0)
    bell.close()
    wait_until(lambda: publish(url, listener.name) == 0, "the end of the subscription")
    os.close(parents)
    assert os.waitpid(child, 0)[1] == 0


def end_while_listening(url: str) -> None:
    """Nobody closes anything, whether there is a server or not."""
    listener = make(url).listener()
    threading.Thread(target=listener.wait, args=(1e6,), daemon=True).start()


PROGRAMS = {
    program.__name__: program
    for program in (doorbell_in_a_child, child_that_lives_longer, end_while_listening)
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](sys.argv[2])
    sys.stdout.write("done\n")
