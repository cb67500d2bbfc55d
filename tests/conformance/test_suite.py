"""The shipped suite, on this project's brokers."""

from tests.conformance import conftest

from taskyard.testing.conformance.suite import *

runner = conftest.runner  # instead of the suite's: some pairs of broker and driver are long
