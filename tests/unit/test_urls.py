"""From a URL to a broker, and what is said of a URL that leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from taskyard import Yard
from taskyard.brokers import urls
from taskyard.brokers.base import Broker
from taskyard.brokers.memory import MemoryBroker
from taskyard.brokers.redis import RedisBroker
from taskyard.brokers.sqlite import SQLiteBroker
from taskyard.brokers.urls import open_broker
from taskyard.errors import BrokerError, MissingExtra, UnknownScheme


@pytest.mark.parametrize("url", ["memory://", "memory:", "memory:///"])
def test_memory(url: str) -> None:
    broker = open_broker(url)
    assert isinstance(broker, MemoryBroker)
    assert (broker.durable, broker.shared) == (False, False)


def test_each_memory_broker_is_a_new_one() -> None:
    assert open_broker("memory://") is not open_broker("memory://")


@pytest.mark.parametrize("url", ["memory://name", "memory:///path", "memory:name"])
def test_memory_takes_nothing_behind_it(url: str) -> None:
    with pytest.raises(BrokerError, match="memory:// takes nothing behind it"):
        open_broker(url)


def test_sqlite_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    broker = open_broker("sqlite:///yard.db")
    assert isinstance(broker, SQLiteBroker)
    assert broker.path == tmp_path / "yard.db"
    assert (broker.durable, broker.shared) == (True, True)
    assert list(tmp_path.iterdir()) == []  # nothing is opened yet


def test_sqlite_absolute(tmp_path: Path) -> None:
    broker = open_broker(f"sqlite:///{tmp_path}/yard.db")
    assert isinstance(broker, SQLiteBroker)
    assert broker.path == tmp_path / "yard.db"
    assert broker.url == f"sqlite:///{tmp_path}/yard.db"
    again = open_broker(broker.url)
    assert isinstance(again, SQLiteBroker)
    assert again.path == broker.path


def test_sqlite_quoted(tmp_path: Path) -> None:
    broker = open_broker(f"sqlite:///{tmp_path}/my%20yard%3F.db?synchronous=off")
    assert isinstance(broker, SQLiteBroker)
    assert broker.path == tmp_path / "my yard?.db"


@pytest.mark.parametrize(
    "options", ["synchronous=full", "synchronous=OFF", "synchronous=normal&busy=2.5", "busy=1"]
)
def test_sqlite_options(tmp_path: Path, options: str) -> None:
    assert isinstance(open_broker(f"sqlite:///{tmp_path}/yard.db?{options}"), SQLiteBroker)


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        ("//yard.db", "write three slashes before a relative path (sqlite:///yard.db)"),
        ("//tmp/yard.db", "write three slashes before a relative path (sqlite:///tmp/yard.db)"),
        ("//", "give a file, as in sqlite:///yard.db"),
        ("///", "give a file, as in sqlite:///yard.db"),
        ("", "give a file, as in sqlite:///yard.db"),
        ("///:memory:", "or use memory://"),
        ("///yard.db?sync=off", "unknown option sync; there are synchronous, busy"),
        ("///yard.db?a=1&b=2", "unknown option a, b; there are synchronous, busy"),
        ("///yard.db?synchronous=maybe", "synchronous must be one of full, extra, normal, off"),
        ("///yard.db?synchronous=", "synchronous must be one of"),
        ("///yard.db?busy=soon", "busy must be a number of seconds, not 'soon'"),
        ("///yard.db?busy=0", "busy must be a number of seconds"),
        ("///yard.db?busy=-1", "busy must be a number of seconds"),
        ("///yard.db?busy=nan", "busy must be a number of seconds"),
        ("///yard.db?busy=inf", "busy must be a number of seconds"),
        ("///yard.db?busy=", "busy must be a number of seconds"),
    ],
)
def test_wrong_sqlite_urls(rest: str, text: str) -> None:
    with pytest.raises(BrokerError, match=re.escape(text)):
        open_broker(f"sqlite:{rest}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host", "redis://host:6379/0"),
        ("rediss://me:secret@host:7000/3?verify=ca", "rediss://me:***@host:7000/3?verify=ca"),
        ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2"),
        ("redis+sentinel://a,b:1/shop/2", "redis+sentinel://a:26379,b:1/shop/2"),
        ("rediss+sentinel://a/shop", "rediss+sentinel://a:26379/shop/0"),
        ("redis+cluster://a,b", "redis+cluster://a:6379,b:6379"),
        ("rediss+cluster://a", "rediss+cluster://a:6379"),
    ],
)
def test_redis(url: str, shown: str) -> None:
    broker = open_broker(url)  # nothing listens there: nothing is opened yet
    assert isinstance(broker, RedisBroker)
    assert (broker.url, broker.durable, broker.shared) == (shown, True, True)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://me:secret@host/yard.db",
        "redis://me:secret@host?colour=red",
        "redis://me:secret#@host",
        "redis+sentinel://me:secret@host",
    ],
)
def test_a_password_is_not_repeated(url: str) -> None:
    with pytest.raises(BrokerError) as caught:
        open_broker(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["mongodb://host", "http://host", "kafka:x", "://", ":memory:"])
def test_unknown_scheme(url: str) -> None:
    with pytest.raises(UnknownScheme, match="there are memory://, redis"):
        open_broker(url)


@pytest.mark.parametrize("url", ["", "yard.db", "/tmp/yard.db", "memory"])
def test_no_url_at_all(url: str) -> None:
    with pytest.raises(UnknownScheme, match="is no broker URL; there are memory://, redis"):
        open_broker(url)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_scheme_of_a_later_version(scheme: str) -> None:
    with pytest.raises(UnknownScheme, match=r"is not in this version of taskyard") as caught:
        open_broker(f"{scheme}://user:secret@host/0")
    assert f"{scheme}://" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_scheme_is_the_same_in_capitals() -> None:
    assert isinstance(open_broker("MEMORY://"), MemoryBroker)


def test_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def needs_driver(url: str) -> Broker:
        import a_driver_that_is_not_there  # type: ignore[import-not-found]

        raise AssertionError(a_driver_that_is_not_there)

    monkeypatch.setitem(urls._SCHEMES, "carrier", (needs_driver, "pigeons"))
    with pytest.raises(MissingExtra) as caught:
        open_broker("carrier://loft")
    assert str(caught.value) == (
        "carrier:// needs the package a_driver_that_is_not_there: pip install 'taskyard[pigeons]'"
    )


def test_a_missing_module_of_our_own_is_no_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(url: str) -> Broker:
        raise ModuleNotFoundError("no sqlite3 in this Python", name="_sqlite3")

    monkeypatch.setitem(urls._SCHEMES, "sqlite", (broken, ""))
    with pytest.raises(ModuleNotFoundError, match="no sqlite3"):
        open_broker("sqlite:///yard.db")


@pytest.mark.parametrize("value", ["mongodb://x", "sqlite://yard.db", ""])
def test_a_yard_says_so_when_it_is_made(value: str) -> None:
    with pytest.raises(BrokerError):
        Yard(value)


@pytest.mark.parametrize("value", [None, 5, Path("yard.db")])
def test_a_yard_of_something_else_says_so(value: Any) -> None:
    with pytest.raises(BrokerError, match="a broker is a URL"):
        Yard(value)
