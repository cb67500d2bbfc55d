"""Local dispatch: a source of calls, a pace, an engine that makes them, and a log of them."""

__all__: list[str] = []
