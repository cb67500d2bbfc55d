"""The broker for several machines: Redis or Valkey; alone, behind sentinels, or as a cluster."""

from taskyard.brokers.redis.broker import RedisBroker
from taskyard.brokers.redis.clients import from_client
from taskyard.brokers.redis.options import RedisOptions, parse_url

__all__ = ["RedisBroker", "RedisOptions", "from_client", "parse_url"]
