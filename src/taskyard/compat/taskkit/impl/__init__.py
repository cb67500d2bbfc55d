"""Where a kit keeps its tasks: a module for each kind of storage, with a `make_kit`."""

__all__: list[str] = []
