"""What is done to payloads on their way: limits, compression, encryption, key rotation."""

from __future__ import annotations

import base64
import contextlib
import pickle
import random
import subprocess
import sys
import zlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.msgpack import Ext

from taskyard import Keys, Yard
from taskyard.compression import compress, decompress
from taskyard.encryption import checked_keys, key_name
from taskyard.errors import CannotOpen, MissingExtra, PayloadError, PolicyError
from taskyard.message import Envelope, read_envelope
from taskyard.packing import (
    CODES,
    DECOMPRESSED,
    ENCRYPTED,
    FOREIGN,
    ZLIB,
    ZSTD,
    Packing,
    look,
)
from taskyard.payload import PayloadCodec, Unnamed
from taskyard.policy import LARGEST
from taskyard.scheduling import with_id

pack = msgspec.msgpack.encode
ID = "0123456789abcdef"
OLD = base64.b64encode(b"\xfb\xff" * 16).decode()
NEW = base64.b64encode(b"fifteen and more bytes of a key.").decode()

OLD_ONLY = Keys({"old": OLD})
ROTATED = Keys({"new": NEW, "old": OLD})

PACKINGS: dict[str, Callable[[], Packing]] = {
    "plain": Packing,
    "zlib": lambda: Packing(compression="zlib", compress_above=0),
    "zstd": lambda: Packing(compression="zstd", compress_above=0),
    "encrypted": lambda: Packing(keys=OLD_ONLY),
    "both": lambda: Packing(compression="zlib", compress_above=0, keys=OLD_ONLY),
    "zstd and rotated": lambda: Packing(compression="zstd", compress_above=0, keys=ROTATED),
}


def save(text: str, more: list[int] | None = None, *, flag: bool = False) -> str:
    return text


def codec(packing: Packing | None = None, *, task: str = "save") -> PayloadCodec:
    return PayloadCodec.of(save, task=task, batch=False, packing=packing)


def payload_of(body: bytes) -> Any:
    envelope = read_envelope(body)
    assert envelope is not None
    return envelope.payload


# Round trips


texts = st.text(max_size=50) | st.text("ab", min_size=300, max_size=2_000)


@pytest.mark.parametrize("kind", PACKINGS)
@given(text=texts, more=st.none() | st.lists(st.integers(-9, 9)), flag=st.booleans())
def test_a_call_comes_out_as_it_went_in(
    kind: str, text: str, more: list[int] | None, flag: bool
) -> None:
    writer = codec(PACKINGS[kind]())
    kwargs = {"flag": flag} if flag else {}
    body = writer.encode(ID, (text, more), kwargs, group_task="save")
    envelope = read_envelope(body)
    assert envelope is not None
    assert (envelope.id, envelope.task) == (ID, "save")
    # Whoever has the keys reads it, whatever he does himself.
    for reader in (writer, codec(Packing(keys=ROTATED))):
        assert reader.decode(body) == (ID, (text, more), kwargs)


@pytest.mark.parametrize("kind", PACKINGS)
@given(text=texts | st.none())
def test_a_result_comes_out_as_it_went_in(kind: str, text: str | None) -> None:
    packing = PACKINGS[kind]()
    reader = PayloadCodec.of(_maybe, task="save", batch=False, packing=Packing(keys=ROTATED))
    data = PayloadCodec.of(_maybe, task="save", batch=False, packing=packing).encode_result(
        text, ID
    )
    assert reader.decode_result(data, ID) == text
    assert Unnamed(packing).decode_result(data, ID) == text


def _maybe(text: str) -> str | None:
    return text


def test_many_are_packed_too() -> None:
    def one(text: str) -> None: ...

    packing = Packing(compression="zlib", keys=OLD_ONLY)
    subject = PayloadCodec.of(one, task="one", batch=False, packing=packing)
    bodies = subject.encode_many(["a", "b"], ["x", "y" * 5_000])
    assert [subject.decode_item(body) for body in bodies] == [("a", "x"), ("b", "y" * 5_000)]
    assert all(payload_of(body).code == ENCRYPTED for body in bodies)
    assert len(bodies[1]) < 300


def test_small_and_random_payloads_are_not_compressed() -> None:
    def raw(data: bytes) -> None: ...

    packing = Packing(compression="zlib", compress_above=100)
    subject = PayloadCodec.of(raw, task="raw", batch=False, packing=packing)
    for data in (bytes(50), random.Random(1).randbytes(500)):
        assert payload_of(subject.encode(ID, (data,), {})) == [data]
    assert payload_of(subject.encode(ID, (bytes(500),), {})).code == ZLIB


# The limit


def test_a_message_above_the_limit_is_refused() -> None:
    subject = codec(Packing(limit=1_000, compression="zlib"))
    length = 1_000 - len(subject.encode(ID, ("",), {}))
    fits = "x" * (length - 2)  # a longer text takes two bytes more to say so
    assert subject.decode(subject.encode(ID, (fits,), {}))[1] == (fits,)
    with pytest.raises(PayloadError) as caught:
        subject.encode(ID, (fits + "x",), {})
    assert str(caught.value) == (
        "task 'save': the message has 1,001 bytes when encoded, and the limit is 1,000: store "
        "large data elsewhere and send where it is, or raise max_bytes= of the task or "
        "max_message_bytes= of the yard"
    )


def test_and_so_is_a_result_without_telling_of_it() -> None:
    subject = codec(Packing(limit=100))
    with pytest.raises(PayloadError, match=r"task 'save': the result has 1,003 bytes") as caught:
        subject.encode_result("secret" * 166 + "last", ID)
    assert "secret" not in str(caught.value)


def test_the_limit_of_a_task_and_of_its_yard() -> None:
    yard = Yard("memory://", max_message_bytes=500)

    @yard.task(name="small")
    def small(text: str) -> None: ...

    @yard.task(name="large", max_bytes=5_000)
    def large(text: str) -> None: ...

    large.enqueue("x" * 4_000)
    with pytest.raises(PayloadError, match=r"item 1: task 'small': the message has 1,0\d\d bytes"):
        small.enqueue_many(["x", "x" * 1_000, "x"])
    with pytest.raises(PayloadError, match="task 'far': the message has"):
        yard.remote("far").enqueue("x" * 1_000)
    assert [(entry.group.name, entry.waiting) for entry in yard.counts()] == [("large", 1)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_message_bytes": 0}, "max_message_bytes must be from 1 to"),
        ({"max_message_bytes": LARGEST + 1}, "max_message_bytes must be from 1 to"),
        ({"max_message_bytes": "4 MB"}, "max_message_bytes must be a whole number"),
        ({"compression": "gzip"}, "compression must be 'zlib', 'zstd' or None"),
        ({"compress_above": -1}, "compress_above must be a number of bytes"),
        ({"encryption": 5}, "encryption must be Keys"),
        ({"encryption": "env:NO_SUCH_KEYS"}, "variable NO_SUCH_KEYS with the keys is not set"),
        ({"codec": object()}, "is no codec: it has no encode, decode, "),
    ],
)
def test_what_a_yard_refuses(options: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        Yard("memory://", **options)


@pytest.mark.parametrize("limit", [0, LARGEST + 1, True, 1.5, "1"])
def test_what_a_task_refuses(limit: Any) -> None:
    with pytest.raises(PolicyError, match="max_bytes must be"):
        Yard("memory://").task(name="t", max_bytes=limit)(save)


# Encryption


def test_what_is_encrypted_cannot_be_seen() -> None:
    subject = codec(Packing(keys=OLD_ONLY))
    bodies = [subject.encode(ID, ("top secret",), {}) for _ in range(2)]
    assert bodies[0] != bodies[1]
    assert not any(b"secret" in body for body in bodies)
    assert b"secret" not in subject.encode_result("top secret", ID)


def test_keys_are_rotated() -> None:
    old, rotated = codec(Packing(keys=OLD_ONLY)), codec(Packing(keys=ROTATED))
    before, after = old.encode(ID, ("a",), {}), rotated.encode(ID, ("b",), {})
    assert (key_name(payload_of(before).data), key_name(payload_of(after).data)) == ("old", "new")
    assert rotated.decode(before)[1] == ("a",)
    for reader in (old, codec()):
        with pytest.raises(CannotOpen, match="encrypted with the key 'new', which this process"):
            reader.decode(after)
    with pytest.raises(CannotOpen, match="key 'new'"):
        codec().decode_result(rotated.encode_result("x", ID), ID)


def test_a_payload_belongs_to_its_message_and_task() -> None:
    packing = Packing(keys=OLD_ONLY)
    subject = codec(packing)
    body = subject.encode(ID, ("a",), {})
    for moved, reader in (
        (with_id(body, "another"), subject),
        (with_id(body, ""), subject),
        (body, codec(packing, task="other")),
    ):
        with pytest.raises(PayloadError, match="it was changed, or belongs to another message"):
            reader.decode(moved)
    result = subject.encode_result("a", ID)
    with pytest.raises(PayloadError, match="belongs to another"):
        subject.decode_result(result, "another")
    with pytest.raises(PayloadError, match="belongs to another"):
        subject.decode(pack([ID, msgspec.Raw(result)]))


def test_a_payload_without_an_id_belongs_to_any_message_and_is_always_the_same() -> None:
    subject = codec(Packing(keys=OLD_ONLY))
    body = subject.encode("", ("a",), {})
    assert subject.encode("", ("a",), {}) == body
    assert subject.encode("", ("b",), {})[:60] != body[:60]
    assert subject.decode(with_id(body, "s@2030")) == ("s@2030", ("a",), {})
    with pytest.raises(PayloadError, match="belongs to another message or task"):
        codec(Packing(keys=OLD_ONLY), task="other").decode(body)


def test_a_key_of_the_same_name_is_another() -> None:
    body = codec(Packing(keys=OLD_ONLY)).encode(ID, ("a",), {})
    with pytest.raises(PayloadError, match="or another key has this name here") as caught:
        codec(Packing(keys=Keys({"old": NEW}))).decode(body)
    assert not isinstance(caught.value, CannotOpen)


@given(position=st.integers(0, 200), bit=st.integers(0, 7))
def test_a_changed_bit_is_noticed(position: int, bit: int) -> None:
    subject = codec(Packing(keys=OLD_ONLY))
    body = bytearray(subject.encode(ID, ("a",), {}))
    sealed = payload_of(bytes(body)).data
    start = bytes(body).index(sealed)
    body[start + position % len(sealed)] ^= 1 << bit
    with pytest.raises(PayloadError):
        subject.decode(bytes(body))


def test_a_salt_is_used_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskyard.encryption._MESSAGES_PER_SALT", 2)
    keys = Keys({"k": OLD})
    made = [keys.encrypt(b"x", ("message", "t", ID)) for _ in range(5)]
    salts = [data[3:19] for data in made]
    assert len(set(salts)) == 3
    assert salts[0] == salts[1] != salts[2] == salts[3] != salts[4]
    assert {keys.decrypt(data, ("message", "t", ID)) for data in made} == {b"x"}


def test_a_new_key() -> None:
    keys = Keys({"k": Keys.new()})
    assert keys.decrypt(keys.encrypt(b"x", ("a",)), ("a",)) == b"x"
    assert Keys.new() != Keys.new()


def test_keys_from_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEYS", f"new:{NEW},\n old:{OLD.replace('+', '-').replace('/', '_')}")
    found = checked_keys("env:SOME_KEYS")
    assert found is not None
    assert found.names == tuple(found) == ("new", "old")
    assert found.decrypt(ROTATED.encrypt(b"x", ("",)), ("",)) == b"x"


@pytest.mark.parametrize(
    "text", ["", " ", OLD, f"k:{OLD[:-4]}", f"k:{OLD}!", f"a:{OLD} a:{OLD}", f":{OLD}", "k:"]
)
def test_what_is_no_keys_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Keys.parse(text)
    assert OLD[:10] not in str(caught.value)


@pytest.mark.parametrize("keys", [{}, {"k": b"short"}, {OLD: "k"}, {"a b": OLD}, {5: OLD}, None])
def test_wrong_keys(keys: Any) -> None:
    with pytest.raises(PolicyError) as caught:
        Keys(keys)
    assert OLD[:10] not in str(caught.value)


def test_a_key_given_as_it_is_is_not_repeated() -> None:
    with pytest.raises(PolicyError, match="encryption must be") as caught:
        Yard("memory://", encryption=OLD)
    assert OLD[:10] not in str(caught.value)


def test_keys_are_not_shown() -> None:
    assert repr(ROTATED) == "<Keys 'new', 'old'>"
    secrets = (OLD[:10], repr(msgspec.json.decode(f'"{OLD}"', type=bytes))[2:12])
    shown = [repr(item) for item in (ROTATED, Yard("memory://", encryption=ROTATED), vars(ROTATED))]
    assert not any(secret in text for secret in secrets for text in shown)
    with pytest.raises(TypeError, match="keys are not pickled"):
        pickle.dumps(ROTATED)


# Compression


@pytest.mark.parametrize("kind", ["zlib", "zstd"])
@given(data=st.binary(max_size=3_000))
@example(data=b"")
def test_bytes_come_out_as_they_went_in(kind: Any, data: bytes) -> None:
    assert decompress(kind, compress(kind, data), len(data)) == data


def bomb(kind: str, says: int, holds: int) -> bytes:
    made = zlib.compress(bytes(holds)) if kind == "zlib" else zstandard.compress(bytes(holds))
    return says.to_bytes(4, "big") + made


@pytest.mark.parametrize(("kind", "code"), [("zlib", ZLIB), ("zstd", ZSTD)])
@pytest.mark.parametrize("says", [0, 10, 999, 1_001, 1 << 20])
def test_a_stream_of_another_length_than_it_says(kind: str, code: int, says: int) -> None:
    body = pack([ID, Ext(code, bomb(kind, says, 1_000))])
    with pytest.raises(PayloadError, match="it cannot be decompressed"):
        codec().decode(body)


@pytest.mark.parametrize(("kind", "code"), [("zlib", ZLIB), ("zstd", ZSTD)])
def test_a_bomb_takes_no_memory(kind: str, code: int) -> None:
    """In a process of its own, as only its peak tells."""
    says_little = bomb(kind, 100, 300 << 20)
    says_much = bomb(kind, 300 << 20, 300 << 20)
    bodies = [pack([ID, Ext(code, data)]) for data in (says_little, says_much)]
    program = f"""
import resource, sys, zstandard, zlib
from taskyard.errors import PayloadError
from taskyard.packing import look
from taskyard.payload import PayloadCodec
codec = PayloadCodec.of(lambda text: None, task="t", batch=False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for body in {bodies!r}:
    try:
        codec.decode(body)
    except PayloadError as error:
        print(error)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert grown < 50_000_000 / (1 if sys.platform == "darwin" else 1024), grown
"""
    found = subprocess.run(
        [sys.executable, "-"], input=program, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert f"the limit here is {DECOMPRESSED:,}" in found.stdout
    assert found.stdout.count("task 't': it ") == 2


def test_a_larger_limit_reads_more() -> None:
    writer = codec(Packing(limit=LARGEST, compression="zlib"))
    body = writer.encode(ID, ("x" * (DECOMPRESSED + 10),), {})
    with pytest.raises(PayloadError, match="bytes when decompressed; the limit here is"):
        codec().decode(body)
    assert len(codec(Packing(limit=LARGEST)).decode(body)[1][0]) == DECOMPRESSED + 10


# Hostile bytes


@pytest.mark.parametrize("code", CODES)
@given(data=st.binary(max_size=120))
@example(data=b"")
@example(data=b"\x00")
@example(data=b"\xff" * 300)
@example(data=b"\x00\x03old" + bytes(60))
@example(data=b"\x02\x03old" + bytes(60))
@example(data=b"\x01\x02\xff\xfe" + bytes(60))
@example(data=b"\x00\x00\x00\x03" + zlib.compress(b"\xc1\xc1\xc1"))
@example(data=compress("zlib", pack(["x"]) + pack(["more"])))
@example(data=compress("zlib", b""))
@example(data=compress("zlib", pack(Ext(ZLIB, compress("zlib", pack(["x"]))))))
@example(data=compress("zlib", pack(Ext(ENCRYPTED, OLD_ONLY.encrypt(b"\x91\xa1x", ("", ""))))))
@example(data=compress("zlib", b"\x91" * 100_000))
def test_hostile_bytes(code: int, data: bytes) -> None:
    reader = codec(Packing(keys=OLD_ONLY))
    for value in (pack(Ext(code, data)), *_encrypted(Ext(code, data))):
        body = pack([ID, msgspec.Raw(value)])
        with contextlib.suppress(PayloadError):
            reader.decode(body)
        with contextlib.suppress(PayloadError):
            assert not isinstance(reader.decode_result(value, ID), Ext)
        envelope = read_envelope(body)
        assert envelope is not None
        look(envelope.payload)


def _encrypted(form: Ext) -> list[bytes]:
    """What somebody with the key, but an other version, could send."""
    places = (("message", "save", ID), ("result", ID))
    return [pack(Ext(ENCRYPTED, OLD_ONLY.encrypt(pack(form), place))) for place in places]


def test_nothing_is_done_twice() -> None:
    inner = pack(["x"])
    for code, kind in ((ZLIB, "zlib"), (ZSTD, "zstd")):
        twice = pack(Ext(code, compress(kind, pack(Ext(code, compress(kind, inner))))))  # type: ignore[arg-type]
        with pytest.raises(PayloadError, match="it is compressed or encrypted twice"):
            codec().decode(pack([ID, msgspec.Raw(twice)]))


def test_other_extensions_are_what_they_were() -> None:
    def anything(value: Any) -> Any: ...

    subject = PayloadCodec.of(anything, task="t", batch=False)
    _, (found,), _ = subject.decode(subject.encode(ID, (Ext(FOREIGN, b"x"),), {}))
    assert (found.code, found.data) == (FOREIGN, b"x")
    result = subject.decode_result(subject.encode_result(Ext(5, b"y"), ID), ID)
    assert (result.code, result.data) == (5, b"y")
    with pytest.raises(PayloadError, match="extension 66 of MessagePack is taskyard's own"):
        subject.encode_result(Ext(ZSTD, b"y"), ID)


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        (["x"], (["x"], "")),
        (Ext(5, b"x"), None),
        (Ext(ZLIB, compress("zlib", pack(["x"]))), (["x"], "")),
        (Ext(ZSTD, compress("zstd", pack({"a": 1}))), ({"a": 1}, "")),
        (Ext(ZSTD, b"nonsense"), (None, "unreadable: it would have")),
        (Ext(ENCRYPTED, OLD_ONLY.encrypt(b"", ("",))), (None, "encrypted, key 'old'")),
        (Ext(ENCRYPTED, b"x"), (None, "unreadable: it is no encrypted payload")),
        (Ext(FOREIGN, b"\x04mine12345"), (None, "5 bytes of the codec 'mine'")),
        (Ext(FOREIGN, b"\x04mi"), (None, "unreadable: it names no codec")),
    ],
)
def test_what_people_see(form: Any, shown: tuple[Any, str] | None) -> None:
    payload, why = look(form)
    if shown is None:
        assert payload is form
    else:
        assert (payload, why[: len(shown[1])]) == shown


# Packages that are missing


@pytest.mark.parametrize(
    ("package", "options", "said"),
    [
        ("zstandard", "compression='zstd'", "pip install 'taskyard[zstd]'"),
        ("cryptography", "encryption='env:K'", "pip install 'taskyard[encryption]'"),
    ],
)
def test_a_missing_package_is_named(package: str, options: str, said: str) -> None:
    body = codec(Packing(compression="zstd", compress_above=0)).encode(ID, ("x" * 99,), {})
    program = f"""
import os, sys
sys.modules[{package!r}] = None
os.environ["K"] = "k:{OLD}"
import taskyard
try:
    taskyard.Yard("memory://", {options})
except taskyard.errors.MissingExtra as error:
    print(error)
from taskyard.payload import PayloadCodec
try:
    print(PayloadCodec.of(lambda text: None, task="t", batch=False).decode({body!r}))
except taskyard.errors.CannotOpen as error:
    print(error)
"""
    found = subprocess.run(
        [sys.executable, "-"], input=program, capture_output=True, text=True, check=False
    )
    assert found.stdout.count(said) == (2 if package == "zstandard" else 1), found


def test_a_missing_extra_is_what_it_was() -> None:
    assert issubclass(CannotOpen, PayloadError)
    assert not issubclass(MissingExtra, PayloadError)


def test_an_envelope_is_read_without_opening_it() -> None:
    body = codec(Packing(keys=OLD_ONLY)).encode(ID, ("a",), {}, group_task="t")
    envelope = msgspec.msgpack.decode(body, type=Envelope[Any])
    assert (envelope.id, envelope.task) == (ID, "t")
