"""The doorbell of a cluster: one connection, to any node, hears what is published on all."""

from __future__ import annotations

from functools import partial

from tests.servers.cluster import RedisCluster

from taskyard.brokers.redis.connect import connection
from taskyard.brokers.redis.doorbell import Doorbell
from taskyard.brokers.redis.options import Address, parse_url

LONG = 30.0


def test_what_is_published_on_any_node_is_heard(redis_cluster: RedisCluster) -> None:
    first, *others = redis_cluster.masters()
    options = parse_url(first.url)
    bell = Doorbell(
        partial(connection, options, Address(first.host, first.port)), "test", print, str
    )
    listener = bell.listener()
    for node in others:
        # The reply of PUBLISH counts only who is connected to that very node.
        assert node.client().publish(listener.name, "") == 0
        assert listener.wait(LONG)
    bell.close()
