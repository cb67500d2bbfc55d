"""A container of keys on a real server, for the tests of the scripts."""

from __future__ import annotations

import pytest
from tests.redis.scripts.container import Container
from tests.servers.server import RedisServer


@pytest.fixture
def box(redis_server: RedisServer) -> Container:
    """An empty container, with a clock that stands still."""
    return Container(redis_server.client())


@pytest.fixture
def there(redis_server: RedisServer) -> Container:
    """Another one, which does not share its keys: what leaves the first goes there."""
    return Container(redis_server.client(db=1))
