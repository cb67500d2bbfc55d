"""Lets the Python of a test's program print whole lines, even where it is told not to buffer.

Unbuffered, each `print` is several writes, between which other processes and threads write.
"""

from __future__ import annotations

import io
import sys

if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(line_buffering=True, write_through=False)
