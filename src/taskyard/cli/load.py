"""From what was typed to Python objects: `print`, `module:attribute`, `path/file.py:attribute`."""

from __future__ import annotations

import builtins
import difflib
import functools
import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from taskyard.errors import WorkerError
from taskyard.yard import Yard

__all__ = ["load_function", "load_object", "load_yard"]


def load_function(name: str) -> Any:
    """Load what is to be called for a queue.

    Arguments:
        name: a builtin's name, `module:attribute.attribute` or `path/file.py:attribute`.

    Raises:
        WorkerError: there is no such thing, it cannot be called, or its module fails.
    """
    found = load_object(name)
    if not callable(found):
        raise WorkerError(f"{name} is {_article(found)}, which cannot be called")
    return found


def load_object(name: str) -> Any:
    """Load anything that has a name.

    Arguments:
        name: a builtin's name, `module:attribute.attribute` or `path/file.py:attribute`.

    Raises:
        WorkerError: there is no such thing, or its module fails.
    """
    if ":" in name:
        return _attribute(*_split(name))
    if not hasattr(builtins, name):
        raise WorkerError(
            f"no builtin function is called {name!r}; write module:function or "
            f"path/file.py:function for another one"
        )
    return getattr(builtins, name)


def load_yard(name: str) -> Yard:
    """Load a yard with its tasks.

    Arguments:
        name: `module:attribute.attribute` or `path/file.py:attribute`.

    Raises:
        WorkerError: there is no such thing, it is no yard, or its module fails.
    """
    module, attributes = _split(name)
    loaded = _module(module)
    yards = [key for key, value in vars(loaded).items() if isinstance(value, Yard)]
    if yards:
        hint = f"{module} has {'this Yard' if len(yards) == 1 else 'these Yards'}: "
        hint += ", ".join(sorted(yards))
    else:
        hint = f'{module} has no Yard; make one there, as in: yard = Yard("sqlite:///yard.db")'
    found = _attribute(module, attributes, hint)
    if not isinstance(found, Yard):
        raise WorkerError(f"{name} is {_article(found)}, not a Yard; {hint}")
    return found


def _split(name: str) -> tuple[str, str]:
    module, _, attributes = name.rpartition(":")
    return module, attributes


def _attribute(module: str, attributes: str, hint: str = "") -> Any:
    found: Any = _module(module)
    path = module
    for name in attributes.split("."):
        if not hasattr(found, name):
            close = difflib.get_close_matches(name, dir(found), n=1)
            if not hint and close:
                hint = f"did you mean {close[0]}?"
            raise WorkerError(f"{path} has no {name!r}" + (f"; {hint}" if hint else ""))
        found = getattr(found, name)
        path = f"{path}:{name}" if path == module else f"{path}.{name}"
    return found


def _article(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    return f"of type {type(value).__qualname__}"


# Modules


def _module(name: str) -> ModuleType:
    _make_importable(Path.cwd())
    if name.endswith(".py") or os.sep in name:
        path = Path(name).absolute()
        if not path.is_file():
            raise WorkerError(f"there is no file {path}")
        _make_importable(path.parent)
        return _run_file(path)
    return _import(name)


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise WorkerError(
                f"there is no module {missing!r}: neither here, in {Path.cwd()}, nor installed "
                f"for {sys.executable}"
            ) from None
        raise _import_failed(name, error) from error
    except (Exception, SystemExit) as error:  # the user's module may raise what it likes
        raise _import_failed(name, error) from error


@functools.cache
def _run_file(path: Path) -> ModuleType:
    name = path.stem
    while name in sys.modules or name in sys.stdlib_module_names:
        name += "_"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise WorkerError(f"{path} is no Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the same
        del sys.modules[name]
        raise _import_failed(str(path), error) from error
    return module


def _import_failed(name: str, error: BaseException) -> WorkerError:
    frames = error.__traceback__
    while frames is not None and _is_machinery(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames)).rstrip()
    return WorkerError(f"{name} cannot be imported:\n{text}")


def _is_machinery(file: str) -> bool:
    return file in (__file__, importlib.__file__) or file.startswith("<frozen importlib")
