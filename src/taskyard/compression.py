"""Compressing payloads, and decompressing what may come from anywhere."""

from __future__ import annotations

import functools
import threading
import zlib
from collections.abc import Callable
from typing import Any, Literal

from taskyard.errors import CannotOpen, MissingExtra, PayloadError, PolicyError

__all__ = ["Compression", "checked_compression", "compress", "decompress"]

Compression = Literal["zlib", "zstd"]

_SIZE_BYTES = 4
_ZLIB_LEVEL = 6
_ZSTD_LEVEL = 3
_NO_ZSTD = "zstd needs the package zstandard: pip install 'taskyard[zstd]'"


def checked_compression(value: object) -> Compression | None:
    """Check what was given as `compression`.

    Raises:
        PolicyError: there is no such kind.
        MissingExtra: its package is not installed.
    """
    if value is None or value == "zlib":
        return value
    if value != "zstd":
        raise PolicyError(f"compression must be 'zlib', 'zstd' or None, not {value!r}")
    try:
        import zstandard  # noqa: F401 - whether it is there
    except ModuleNotFoundError as error:
        raise MissingExtra(f"compression={value!r}: {_NO_ZSTD}") from error
    return "zstd"


def compress(kind: Compression, data: bytes) -> bytes:
    """Compress bytes.

    Returns:
        Their length in four bytes, so that a reader knows what it is in for, and a stream.
    """
    return len(data).to_bytes(_SIZE_BYTES, "big") + _COMPRESS[kind](data)


def decompress(kind: Compression, data: bytes, most: int) -> bytes:
    """Decompress what `compress` made; no more memory is taken than `most` allows.

    Arguments:
        kind: how it was compressed.
        data: from anywhere.
        most: how many bytes may come out.

    Raises:
        PayloadError: the bytes are broken, or more would come out.
        CannotOpen: the package for it is not installed.
    """
    size = int.from_bytes(data[:_SIZE_BYTES], "big")
    if size > most:
        raise PayloadError(
            f"it would have {size:,} bytes when decompressed; the limit here is {most:,}"
        )
    try:
        found = _DECOMPRESS[kind](data[_SIZE_BYTES:], size)
    except ModuleNotFoundError as error:
        raise CannotOpen(f"it is compressed: {_NO_ZSTD}") from error
    except Exception as error:  # each library has errors of its own
        raise PayloadError(f"it cannot be decompressed ({kind}): {error}") from error
    if len(found) != size:
        raise PayloadError(
            f"it cannot be decompressed ({kind}): it has another length than it says"
        )
    return found


def _from_zlib(data: bytes, size: int) -> bytes:
    stream = zlib.decompressobj()
    # One byte more than it says, as 0 would mean without limit and the end must be reached.
    found = stream.decompress(data, size + 1)
    if not stream.eof or stream.unused_data:
        raise ValueError("the stream does not end where it should")
    return found


def _to_zstd(data: bytes) -> bytes:
    made: bytes = _zstd().compressor.compress(data)
    return made


def _from_zstd(data: bytes, size: int) -> bytes:
    tools = _zstd()
    # It makes room for what the stream says of itself, whatever limit it is given.
    if tools.content_size(data) != size:
        raise ValueError("the stream says another length")
    found: bytes = tools.decompressor.decompress(data, allow_extra_data=False)
    return found


class _Zstd(threading.local):
    """The library's objects, which are for one thread each."""

    def __init__(self) -> None:
        import zstandard

        self.compressor: Any = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
        self.decompressor: Any = zstandard.ZstdDecompressor()
        self.content_size: Callable[[bytes], int] = zstandard.frame_content_size


@functools.cache
def _zstd() -> _Zstd:
    return _Zstd()


_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "zlib": lambda data: zlib.compress(data, _ZLIB_LEVEL),
    "zstd": _to_zstd,
}
_DECOMPRESS: dict[str, Callable[[bytes, int], bytes]] = {"zlib": _from_zlib, "zstd": _from_zstd}
