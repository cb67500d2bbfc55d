"""What every broker has to do, as tests: for those who write one. Needs the extra `testing`.

A test module that holds a broker to it imports the suite, and says by a fixture what is tested:

    import pytest
    from my_broker import MyBroker
    from taskyard.testing.conformance import Subject
    from taskyard.testing.conformance.suite import *

    @pytest.fixture
    def subject():
        return Subject(MyBroker)

Each test runs twice: by the broker's driver for threads, and by that for event loops.
"""

import pkgutil

from taskyard.errors import MissingExtra

try:
    import pytest
except ModuleNotFoundError as error:
    raise MissingExtra(
        "taskyard.testing.conformance needs the package pytest: pip install 'taskyard[testing]'"
    ) from error

# Before they are imported: pytest shows the values of an assert only of modules that it knows.
pytest.register_assert_rewrite(
    *(f"{__name__}.{found.name}" for found in pkgutil.iter_modules(__path__))
)

from taskyard.testing.conformance.subject import Capability, Subject  # noqa: E402

__all__ = ["Capability", "Subject"]
