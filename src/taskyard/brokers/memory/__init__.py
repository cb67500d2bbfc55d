"""The memory broker: for tests, and for programs of a single process.

It is a whole broker, held to the same conformance suite as the others, and the model that the
others are compared with. What it holds ends with the process.
"""

from taskyard.brokers.memory.broker import MemoryAsyncDriver, MemoryBroker, MemoryDriver

__all__ = ["MemoryAsyncDriver", "MemoryBroker", "MemoryDriver"]
