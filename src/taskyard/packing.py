"""What is done to an encoded payload or result on its way: its limit, compression, encryption.

Both are MessagePack values. What was done to one is an extension value in its place, which holds
the value before: encrypted is the outermost, then compressed, then a user's codec. So ids, task
names and records stay as they are, and a reader sees for each payload what was done to it,
whatever it does itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw
from msgspec.msgpack import Ext

from taskyard.codec import Codec, checked_codecs
from taskyard.compression import Compression, checked_compression, compress, decompress
from taskyard.encryption import Keys, Place, checked_keys, key_name, no_keys
from taskyard.errors import CannotOpen, PayloadError, PolicyError
from taskyard.message import Envelope
from taskyard.policy import checked_limit

__all__ = ["COMPRESS_ABOVE", "LIMIT", "Foreign", "Packing", "look", "packed", "refused_ext"]

LIMIT = 4 << 20
COMPRESS_ABOVE = 1024
DECOMPRESSED = 64 << 20
"""A reader decompresses so much, even if its own limit is lower: the writer's may be higher."""

FOREIGN = 64
ZLIB = 65
ZSTD = 66
ENCRYPTED = 67
CODES = range(FOREIGN, ENCRYPTED + 1)

_FIRST_BYTES = frozenset((*range(0xC7, 0xCA), *range(0xD4, 0xD9)))
_CODE_OF: dict[Compression, int] = {"zlib": ZLIB, "zstd": ZSTD}
_KIND_OF: dict[int, Compression] = {code: kind for kind, code in _CODE_OF.items()}

_decode_ext = msgspec.msgpack.Decoder(Ext).decode
_decode_packed = msgspec.msgpack.Decoder(Envelope[Ext]).decode
_decode_parts = msgspec.msgpack.Decoder(Envelope[Raw]).decode
_decode_any = msgspec.msgpack.Decoder().decode
_encode = msgspec.msgpack.Encoder().encode


class Foreign(NamedTuple):
    """What a user's codec made."""

    codec: str
    data: bytes

    def packed(self) -> Ext:
        """As it is sent."""
        name = self.codec.encode()
        return Ext(FOREIGN, bytes((len(name),)) + name + self.data)


class Packing:
    """What a yard, or a task of it, does to payloads and results.

    Arguments:
        limit: bytes that a message or a result may have before it is compressed.
        compression: how payloads are compressed.
        compress_above: bytes from which on they are.
        keys: what they are encrypted with.
        codecs: the user's: the first one encodes, all of them decode.
        others: codecs that only decode.

    Attributes:
        codec: the one that encodes; None: taskyard does.
        is_secret: whether payloads are encrypted.
        untouched: messages and results up to this size are stored as they are encoded.
    """

    def __init__(
        self,
        *,
        limit: int = LIMIT,
        compression: Compression | None = None,
        compress_above: int = COMPRESS_ABOVE,
        keys: Keys | None = None,
        codecs: Sequence[Codec] = (),
        others: Sequence[Codec] = (),
    ) -> None:
        self._limit = limit
        self._compression = compression
        self._compress_above = compress_above
        self._keys = keys
        self._codecs = tuple(codecs)
        self._readers = {codec.name: codec for codec in (*others, *codecs)}
        self.codec = self._codecs[0] if codecs else None
        self.untouched = limit if compression is None else min(limit, compress_above)
        self.is_secret = keys is not None
        if self.is_secret:
            self.untouched = -1

    @classmethod
    def declared(
        cls,
        limit: object,
        compression: object,
        compress_above: object,
        encryption: object,
        codec: object,
    ) -> Packing:
        """Check what a yard was given; see `Yard`.

        Raises:
            PolicyError: something of it is wrong.
            MissingExtra: a package for it is not installed.
        """
        if type(compress_above) is not int or compress_above < 0:
            raise PolicyError(f"compress_above must be a number of bytes, not {compress_above!r}")
        return cls(
            limit=checked_limit("max_message_bytes", limit),
            compression=checked_compression(compression),
            compress_above=compress_above,
            keys=checked_keys(encryption),
            codecs=checked_codecs(codec),
        )

    def of_task(self, limit: int | None, codecs: Sequence[Codec] | None) -> Packing:
        """The same, with what a task's policy says instead; None: nothing."""
        if limit is None and codecs is None:
            return self
        return Packing(
            limit=self._limit if limit is None else limit,
            compression=self._compression,
            compress_above=self._compress_above,
            keys=self._keys,
            codecs=self._codecs if codecs is None else codecs,
            others=self._codecs,
        )

    def pack_body(self, body: bytes, task: str) -> bytes:
        """Do to an encoded message what is to be done.

        Arguments:
            body: it, longer than `untouched`.
            task: the task's name.

        Raises:
            PayloadError: it is longer than the limit.
        """
        self._check_size(len(body), "the message")
        envelope = _decode_parts(body)
        payload = bytes(envelope.payload)
        found = self._pack(payload, ("message", task, envelope.id))
        if found is payload:
            return body
        return _encode(Envelope(envelope.id, Raw(found), envelope.task))

    def pack_result(self, data: bytes, message_id: str) -> bytes:
        """Do to an encoded result what is to be done; see `pack_body`."""
        self._check_size(len(data), "the result")
        return self._pack(data, ("result", message_id))

    def open_body(self, envelope: Envelope[Ext], task: str) -> bytes | Foreign:
        """Undo what was done to a payload.

        Arguments:
            envelope: what `packed` found.
            task: the task's name.

        Returns:
            The payload as taskyard encoded it, or what a user's codec made.

        Raises:
            PayloadError: it is broken, or would be too large.
            CannotOpen: a key or a package for it is not there.
        """
        return self._open(envelope.payload, ("message", task, envelope.id))

    def open_result(self, data: bytes, message_id: str) -> bytes | Foreign:
        """Undo what was done to a result, if anything was; see `open_body`."""
        form = _form(data)
        return data if form is None else self._open(form, ("result", message_id))

    def reader(self, foreign: Foreign) -> Codec:
        """The codec that made something.

        Raises:
            CannotOpen: it is not known here.
        """
        codec = self._readers.get(foreign.codec)
        if codec is None:
            known = ", ".join(map(repr, self._readers)) or "none"
            raise CannotOpen(
                f"it is encoded by the codec {foreign.codec!r}, which is not known here: give it "
                f"as codec= (known are: {known})"
            )
        return codec

    def _check_size(self, size: int, what: str) -> None:
        if size > self._limit:
            raise PayloadError(
                f"{what} has {size:,} bytes when encoded, and the limit is {self._limit:,}: store "
                f"large data elsewhere and send where it is, or raise max_bytes= of the task or "
                f"max_message_bytes= of the yard"
            )

    def _pack(self, value: bytes, place: Place) -> bytes:
        if self._compression is not None and len(value) > self._compress_above:
            code = _CODE_OF[self._compression]
            smaller = _encode(Ext(code, compress(self._compression, value)))
            if len(smaller) < len(value):
                value = smaller
        if self._keys is not None:
            value = _encode(Ext(ENCRYPTED, self._keys.encrypt(value, place)))
        return value

    def _open(self, form: Ext | None, place: Place) -> bytes | Foreign:
        value = b""
        if form is not None and form.code == ENCRYPTED:
            data = bytes(form.data)
            if self._keys is None:
                raise no_keys(data)
            value = self._keys.decrypt(data, place)
            form = _form(value)
        if form is not None and form.code in _KIND_OF:
            most = max(self._limit, DECOMPRESSED)
            value = decompress(_KIND_OF[form.code], bytes(form.data), most)
            form = _form(value)
        if form is None:
            return value
        if form.code == FOREIGN:
            return _foreign(bytes(form.data))
        raise PayloadError("it is compressed or encrypted twice")


def packed(body: bytes) -> Envelope[Ext] | None:
    """A message to whose payload something was done; None: nothing was, or it is no message."""
    try:
        envelope = _decode_packed(body)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None
    return envelope if envelope.payload.code in CODES else None


def refused_ext(value: object) -> bool:
    """Whether a value of a user would be taken for what is made here."""
    return type(value) is Ext and value.code in CODES


def look(payload: Any) -> tuple[Any, str]:
    """Show a payload to people who have neither keys nor codecs.

    Arguments:
        payload: of an envelope that was read as plain data.

    Returns:
        The payload as plain data, None where it cannot be read; and why it cannot, or "".
    """
    if not refused_ext(payload):
        return payload, ""
    try:
        if payload.code == ENCRYPTED:
            return None, f"encrypted, key {key_name(bytes(payload.data))!r}"
        found = _PLAIN._open(payload, ())
        if isinstance(found, Foreign):
            return None, f"{len(found.data):,} bytes of the codec {found.codec!r}"
        return _decode_any(found), ""
    except (PayloadError, msgspec.MsgspecError, RecursionError, ValueError) as error:
        return None, f"unreadable: {error}"


_PLAIN = Packing()


def _form(value: bytes) -> Ext | None:
    """What was done to a value last; None: nothing, or the value is broken."""
    if not value or value[0] not in _FIRST_BYTES:
        return None
    try:
        found = _decode_ext(value)
    except (msgspec.MsgspecError, ValueError):
        return None
    return found if found.code in CODES else None


def _foreign(data: bytes) -> Foreign:
    end = 1 + (data[0] if data else 0)
    if len(data) < end or end == 1:
        raise PayloadError("it names no codec")
    try:
        return Foreign(data[1:end].decode(), data[end:])
    except UnicodeDecodeError as error:
        raise PayloadError("it names no codec") from error
