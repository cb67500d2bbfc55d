"""Where a Redis is and how to speak to it: read from a URL, or taken from a client object."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from taskyard.errors import BrokerError

__all__ = ["Address", "Login", "RedisOptions", "Tls", "check_options", "parse_url"]

SENTINEL_PORT = 26379
REDIS_PORT = 6379

_SCHEMES = {
    "redis": "",
    "rediss": "",
    "unix": "",
    "redis+sentinel": "sentinel",
    "rediss+sentinel": "sentinel",
    "redis+cluster": "cluster",
    "rediss+cluster": "cluster",
}
# urlsplit() wants at most one address in brackets.
_URL = re.compile(
    r"(?P<scheme>[^:/?#]+)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)"
    r"(?:\?(?P<query>[^#]*))?(?P<rest>#.*)?",
    re.DOTALL,
)
_HOST = re.compile(r"(?:\[([^\s\[\]]*:[^\s\[\]]*)\]|([^\s:\[\]]+))(?::(\d*))?", re.ASCII)
_PREFIX = re.compile(r"[^\s{}\x00-\x1f\x7f]{1,50}")


class Address(NamedTuple):
    """Where a server listens: a host and port, or the path of a socket with port 0."""

    host: str
    port: int

    def __str__(self) -> str:
        if not self.port:
            return f"unix:{self.host}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Login:
    """A user and password; both may be missing.

    Attributes:
        user: "" for the default user.
        password: never shown.
        provider: redis-py's `CredentialProvider` of a client that was handed in, asked for each
            connection instead.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    provider: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Tls:
    """How to secure connections.

    Attributes:
        ca: file of the certificates that are trusted; "": those of the system.
        cert: file of the client's certificate.
        key: file of its key.
        verify: `full`: the certificate and its host name, `ca`: the certificate, `none`: nothing.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""
    verify: str = "full"


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """What the drivers of the Redis broker need to know. Its repr shows no password.

    Attributes:
        addresses: the server; several for sentinels, or nodes of a cluster to begin with.
        kind: "" for a single server, `sentinel`, or `cluster`.
        master: the name that the sentinels know the master by.
        database: its number.
        login: for the servers.
        sentinel_login: for the sentinels.
        tls: how connections are secured; None: not at all.
        prefix: what all keys begin with.
        timeout: seconds that a single reply may take, and connecting. The default, 5, is above
            the two seconds for which a server waits for its disk, and far below a lease, so that
            a worker can still ask again while it holds its claim.
        retry: seconds for which a call is tried again after a failure that may pass; 0: not at
            all. A call ends within `retry` and twice `timeout`.
        wait_replicas: how many replicas must have what a call wrote before it returns.
        connections: how many calls may be under way at once; more wait for their turn.
    """

    addresses: tuple[Address, ...] = (Address("localhost", REDIS_PORT),)
    kind: str = ""
    master: str = ""
    database: int = 0
    login: Login = Login()
    sentinel_login: Login = Login()
    tls: Tls | None = None
    prefix: str = "taskyard"
    timeout: float = 5.0
    retry: float = 10.0
    wait_replicas: int = 0
    connections: int = 64

    @property
    def shown(self) -> str:
        """The URL, safe to print: with *** for a password, without what is as by default."""
        secure = "rediss" if self.tls is not None else "redis"
        user = quote(self.login.user, safe="")
        login = f"{user}:***@" if self.login.password else f"{user}@" if user else ""
        query = _shown_query(self)
        if not self.addresses[0].port:
            path = quote(self.addresses[0].host)
            return f"unix://{login}{path}{query}"
        scheme = f"{secure}+{self.kind}" if self.kind else secure
        hosts = ",".join(map(str, self.addresses))
        master = f"/{quote(self.master, safe='')}" if self.master else ""
        database = "" if self.kind == "cluster" else f"/{self.database}"
        return f"{scheme}://{login}{hosts}{master}{database}{query}"


_DEFAULT = RedisOptions()
_TUNING = ("prefix", "timeout", "retry", "wait_replicas", "connections")


def _shown_query(options: RedisOptions) -> str:
    shown: dict[str, object] = {}
    if not options.addresses[0].port and options.database:
        shown["db"] = options.database
    if options.sentinel_login.user:
        shown["sentinel_user"] = options.sentinel_login.user
    if options.sentinel_login.password:
        shown |= {"sentinel_password": "***"}
    tls = options.tls or Tls()
    for name in ("ca", "cert", "key", "verify"):
        if getattr(tls, name) != getattr(Tls(), name):
            shown[name] = getattr(tls, name)
    for name in _TUNING:
        if (value := getattr(options, name)) != getattr(_DEFAULT, name):
            shown[name] = f"{value:g}" if isinstance(value, float) else value
    text = "&".join(f"{name}={quote(str(value), safe='/*')}" for name, value in shown.items())
    return f"?{text}" if text else ""


# Reading URLs


def parse_url(url: str) -> RedisOptions:
    """Read a URL: `redis://`, `rediss://`, `unix://`, or either of the first two with `+sentinel`
    or `+cluster` behind the name.

    Arguments:
        url: the URL; `docs/reference/brokers.md` lists its options.

    Returns:
        The options.

    Raises:
        BrokerError: what is wrong with it; no text shows a part that may be a password.
    """  # noqa: D205
    match = _URL.fullmatch(url)
    scheme = match["scheme"].lower() if match else ""
    if match is None or scheme not in _SCHEMES:
        raise BrokerError(
            f"this is no URL of a Redis; there are {_listed(_SCHEMES)}, each with ://"
        )
    userinfo, _, hosts = match["authority"].rpartition("@")
    path, query = match["path"], match["query"] or ""
    # Behind the hosts, these are of a password that was not quoted.
    if match["rest"] or "@" in query or ("@" in path and scheme != "unix"):
        raise _unreadable(scheme)
    given = _query(scheme, query)
    kind = _SCHEMES[scheme]
    options = _located(RedisOptions(kind=kind), scheme, hosts, path, given)
    options = replace(options, login=_login(scheme, userinfo))
    if kind == "sentinel":
        login = Login(given.pop("sentinel_user", ""), given.pop("sentinel_password", ""))
        if login.user and not login.password:
            raise BrokerError(f"{scheme}://: sentinel_user needs a sentinel_password")
        options = replace(options, sentinel_login=login)
    if scheme.startswith("rediss"):
        names = ("ca", "cert", "key", "verify")
        options = replace(options, tls=Tls(**{n: given.pop(n) for n in names if n in given}))
    tuning = {name: _TUNERS[name](given, name) for name in _TUNING if name in given}
    return check_options(replace(options, **tuning))


def _unreadable(scheme: str) -> BrokerError:
    return BrokerError(
        f"{scheme}://… cannot be read: in a user, password or option, write %23 for #, %2F for /, "
        f"%3F for ?, %40 for @"
    )


def _listed(names: Mapping[str, object] | tuple[str, ...]) -> str:
    return ", ".join(sorted(names))


def _known(scheme: str) -> tuple[str, ...]:
    known: tuple[str, ...] = _TUNING
    if scheme.startswith("rediss"):
        known += ("ca", "cert", "key", "verify")
    if scheme.endswith("+sentinel"):
        known += ("sentinel_password", "sentinel_user")
    return known if scheme != "unix" else (*known, "db")


def _query(scheme: str, text: str) -> dict[str, str]:
    given: dict[str, str] = {}
    known = _known(scheme)
    for part in filter(None, text.split("&")):
        name, _, value = part.partition("=")
        if name not in known:
            hint = "; those of TLS need rediss" if name in {"ca", "cert", "key", "verify"} else ""
            raise BrokerError(
                f"{scheme}://: unknown option {name}; there are {_listed(known)}{hint}"
            )
        if name in given:
            raise BrokerError(f"{scheme}://: option {name} is given twice")
        given[name] = unquote(value)
    return given


def _login(scheme: str, text: str) -> Login:
    user, colon, password = text.partition(":")
    if user and not (colon and password):
        raise BrokerError(
            f"{scheme}://: there is a user without a password; write :PASSWORD@ in front of the "
            f"host for the password of the default user, USER:PASSWORD@ for another's"
        )
    return Login(unquote(user), unquote(password))


def _located(
    options: RedisOptions, scheme: str, hosts: str, path: str, given: dict[str, str]
) -> RedisOptions:
    if scheme == "unix":
        if hosts or not unquote(path).strip("/"):
            raise BrokerError("unix:// takes the path of a socket: unix:///run/redis.sock")
        database = _database(scheme, given.pop("db", ""))
        return replace(options, addresses=(Address(unquote(path), 0),), database=database)
    port = SENTINEL_PORT if options.kind == "sentinel" else REDIS_PORT
    names = hosts.split(",") if hosts else ["localhost"]
    if len(names) > 1 and not options.kind:
        raise BrokerError(
            f"{scheme}:// takes one host; several need {scheme}+sentinel:// or {scheme}+cluster://"
        )
    addresses = tuple(_address(scheme, name, port) for name in names)
    rest = path.removeprefix("/")
    master = ""
    if options.kind == "sentinel":
        master, _, rest = rest.partition("/")
        if not master:
            raise BrokerError(f"{scheme}://{hosts}: name the master behind the hosts: /mymaster/0")
    database = _database(scheme, rest)
    if database and options.kind == "cluster":
        raise BrokerError(f"{scheme}://{hosts}: a cluster has database 0 only, not {database}")
    return replace(options, addresses=addresses, master=unquote(master), database=database)


def _address(scheme: str, text: str, default: int) -> Address:
    found = _HOST.fullmatch(text)
    port = int(found[3]) if found and found[3] else default
    if found is None or not 0 < port < 65_536:
        raise BrokerError(
            f"{scheme}://: {text!r} is no host and port; write host:6379, or [::1]:6379 for an "
            f"IPv6 address"
        )
    return Address(unquote(found[1] or found[2]), port)


def _database(scheme: str, text: str) -> int:
    if not text:
        return 0
    # isdecimal() alone allows digits of other scripts.
    if not (text.isascii() and text.isdecimal() and len(text) < 7):
        raise BrokerError(f"{scheme}://: a database is a number from 0, not {unquote(text)!r}")
    return int(text)


def _seconds(given: Mapping[str, str], name: str) -> float:
    try:
        return float(given[name])
    except ValueError:
        raise BrokerError(f"{name} must be a number of seconds, not {given[name]!r}") from None


def _count(given: Mapping[str, str], name: str) -> int:
    try:
        return int(given[name])
    except ValueError:
        raise BrokerError(f"{name} must be a whole number, not {given[name]!r}") from None


def _text(given: Mapping[str, str], name: str) -> str:
    return given[name]


_TUNERS: dict[str, Any] = {
    "prefix": _text,
    "timeout": _seconds,
    "retry": _seconds,
    "wait_replicas": _count,
    "connections": _count,
}


def check_options(options: RedisOptions) -> RedisOptions:
    """Check values that a URL or a caller chose freely.

    Arguments:
        options: to check.

    Returns:
        The same.

    Raises:
        BrokerError: which value is wrong, and what it may be.
    """
    if not _PREFIX.fullmatch(options.prefix):
        raise BrokerError(
            f"prefix must be 1 to 50 characters without spaces and braces, not {options.prefix!r}"
        )
    # The scripts remember a call for 900 s: it must not be repeated after that.
    if not 0 < options.timeout <= 120:
        raise BrokerError(f"timeout must be above 0 and up to 120 s, not {options.timeout:g}")
    if not 0 <= options.retry <= 600:
        raise BrokerError(f"retry must be from 0 to 600 s, not {options.retry:g}")
    if not 0 <= options.wait_replicas <= 100:
        raise BrokerError(f"wait_replicas must be from 0 to 100, not {options.wait_replicas}")
    if not 1 <= options.connections <= 10_000:
        raise BrokerError(f"connections must be from 1 to 10000, not {options.connections}")
    tls = options.tls
    if tls is not None and tls.verify not in {"full", "ca", "none"}:
        raise BrokerError(f"verify must be full, ca or none, not {tls.verify!r}")
    if tls is not None and tls.key and not tls.cert:
        raise BrokerError("key needs cert: the file of the certificate that it belongs to")
    return options
