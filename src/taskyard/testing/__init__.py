"""Help for tests of programs that use taskyard: their own yard, without a server.

    from taskyard import testing
    from shop.tasks import welcome, yard

    def test_a_new_customer_is_welcomed():
        with testing.inline(yard):
            welcome.enqueue("ada")

`inline` runs what is enqueued at once. `stored` keeps it, so that a test can look at it, and runs
it when the test says so, by a clock that the test moves. Nothing here needs pytest.
"""

from taskyard.errors import TestingError
from taskyard.testing.clock import Clock
from taskyard.testing.enqueued import Enqueued
from taskyard.testing.inline import InlineYard, inline
from taskyard.testing.report import Attempt, Report
from taskyard.testing.stored import StoredYard, stored

__all__ = [
    "Attempt",
    "Clock",
    "Enqueued",
    "InlineYard",
    "Report",
    "StoredYard",
    "TestingError",
    "inline",
    "stored",
]
