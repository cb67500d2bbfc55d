"""A report as one HTML page that needs nothing else: no network, no other file, no scripts."""

from taskyard.report.page.document import as_html

__all__ = ["as_html"]
