"""All tests of the suite and their fixtures, to be imported by `*` beside a fixture `subject`.

The tests of a module `test_rates` are those of a class `TestRates`: `-k TestRates` runs them alone.
"""

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from taskyard.testing import conformance
from taskyard.testing.conformance.fixtures import harness, make, runner
from taskyard.testing.conformance.test_batches import batching
from taskyard.testing.conformance.test_deadlines import eager, leading

__all__ = ["batching", "eager", "harness", "leading", "make", "runner"]


def _gathered(module: ModuleType) -> type:
    """The tests of a module as those of a class, so that no test hides one of another module."""
    name = module.__name__.rpartition(".test_")[2].title().replace("_", "")
    tests = {
        name: staticmethod(value)
        for name, value in vars(module).items()
        if name.startswith("test_")
    }
    marks = getattr(module, "pytestmark", [])
    return type(f"Test{name}", (), {"__doc__": module.__doc__, "pytestmark": marks, **tests})


_CLASSES = [
    _gathered(import_module(found.name))
    for found in iter_modules(conformance.__path__, f"{conformance.__name__}.")
    if ".test_" in found.name
]
globals().update({tests.__name__: tests for tests in _CLASSES})
__all__ += [tests.__name__ for tests in _CLASSES]
