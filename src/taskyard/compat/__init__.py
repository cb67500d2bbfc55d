"""Front doors: the interfaces of other packages, on taskyard. Each is named like its package.

A door translates; it holds no logic of its own.
"""

__all__: list[str] = []
