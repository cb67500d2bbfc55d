"""Middleware for what others made: OpenTelemetry and Prometheus. Each needs its extra."""

__all__: list[str] = []
