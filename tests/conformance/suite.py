"""The suite as one module, for somebody else's broker.

In a test module beside a fixture `make` like that of `tests/conformance/conftest.py`, and its
fixture `harness`:

    from tests.conformance.suite import *

`make(**options)` answers a `Harness` of an empty broker that was made with a `Clock` and the
options `dead_limit` and `dead_age`.
"""

from tests.conformance import (
    test_batches,
    test_cancel,
    test_claim,
    test_counts,
    test_dead,
    test_delays,
    test_leases,
    test_listeners,
    test_order,
    test_policies,
    test_priorities,
    test_put,
    test_rates,
    test_records,
    test_settle,
    test_unique,
)
from tests.conformance.test_batches import batching

SUBJECTS = (
    test_put,
    test_claim,
    test_order,
    test_priorities,
    test_settle,
    test_leases,
    test_batches,
    test_delays,
    test_records,
    test_cancel,
    test_dead,
    test_policies,
    test_unique,
    test_listeners,
    test_counts,
    test_rates,
)

tests = [
    (name, test)
    for subject in SUBJECTS
    for name, test in vars(subject).items()
    if name.startswith("test_")
]
globals().update(tests)

__all__ = ["batching"]
__all__ += [name for name, _ in tests]

if len(set(__all__)) < len(__all__):
    raise AssertionError("two tests of the suite have one name, so one would not run")
