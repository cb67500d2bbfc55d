"""What can go wrong with a Redis, what helps, and how it is told."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple

from taskyard.brokers.redis.calls import Call, ScriptError
from taskyard.brokers.redis.options import Address
from taskyard.brokers.redis.scripts import READING, STORING
from taskyard.errors import BrokerError, BrokerInaccessible, BrokerUnavailable, NotConfirmed

__all__ = [
    "Astray",
    "Broken",
    "Denial",
    "NoAnswer",
    "NotConfirmed",
    "NotRedis",
    "Refusal",
    "Remedy",
    "exhausted",
    "final",
    "is_answer",
    "is_reply",
    "named_by",
    "only_reads",
    "refusal",
    "remedy",
    "stopped_by_acl",
    "told",
    "will_be_over_soon",
]


class Refusal(Exception):
    """An error that a server replied.

    Attributes:
        code: its first word, as in `NOSCRIPT`; `ERR` if it has none.
        text: the rest.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code} {text}".strip())
        self.code = code
        self.text = text


class Denial(Refusal):
    """The ACL forbids what scripts call.

    Attributes:
        lacks: what it forbids of that.
        stopped: what the server replied as it stopped a script in the middle; None: none was run.
    """

    def __init__(self, lacks: Sequence[str], stopped: Refusal | None = None) -> None:
        super().__init__("NOPERM", stopped.text if stopped else "")
        self.lacks = lacks
        self.stopped = stopped


class Astray(Refusal):
    """The nodes of a cluster went on sending a call from one to another.

    Arguments:
        error: the last redirection.
    """

    def __init__(self, error: Refusal) -> None:
        super().__init__(error.code, error.text)


class NotRedis(Exception):
    """Whoever answered does not speak the protocol of Redis.

    Arguments:
        found: what it speaks instead.
    """

    def __init__(self, found: str) -> None:
        super().__init__(f"who answers does not speak as a Redis should: {found}")


class NoAnswer(Exception):
    """Nobody could say which server is responsible.

    Attributes:
        address: who was asked, of several the one whose error tells most.
        error: what came of it.
    """

    def __init__(self, address: Address, error: Exception) -> None:
        super().__init__(f"{address}: {error}")
        self.address = address
        self.error = error


class Broken(NamedTuple):
    """An exchange without an answer; its connection is gone.

    Attributes:
        error: why.
        reused: whether it had answered before, so that the server may have closed it meanwhile.
        sent: whether the server may have done what was asked.
    """

    error: Exception
    reused: bool
    sent: bool


class Remedy(Enum):
    """What helps against an error."""

    REPEAT = "ask again in a while"
    RECONNECT = "look up who answers now, and ask again in a while"
    LOAD = "load the script"
    REDIRECT = "ask the one that it names"
    NONE = "somebody has to mend it"


_REMEDIES = {
    "NOSCRIPT": Remedy.LOAD,
    "MOVED": Remedy.REDIRECT,
    # While a hash slot moves, its keys are on two servers, and a script would see some of them.
    # A container's own key never exists, so the old server says ASK before it runs the script,
    # until the slot has moved; the answer is to wait, not to follow.
    "ASK": Remedy.REPEAT,
    "TRYAGAIN": Remedy.REPEAT,
    "LOADING": Remedy.REPEAT,
    "BUSY": Remedy.REPEAT,
    "UNKILLABLE": Remedy.REPEAT,
    "OOM": Remedy.REPEAT,
    "MISCONF": Remedy.REPEAT,
    "NOREPLICAS": Remedy.REPEAT,
    "CLUSTERDOWN": Remedy.RECONNECT,
    "MASTERDOWN": Remedy.RECONNECT,
    "READONLY": Remedy.RECONNECT,
    "UNBLOCKED": Remedy.RECONNECT,  # it became a replica
}

_CODE = re.compile(r"-?([A-Z][A-Z0-9]+)(?: |$)")
# Redis 6.2 wraps the error of a command that a script calls.
_IN_SCRIPT = re.compile(r"@user_script: ?\d+: -?([A-Z]{2,}) (.*)", re.DOTALL)


def refusal(reply: str) -> Refusal:
    """Read an error reply.

    Arguments:
        reply: the line behind its minus sign.
    """
    match = _CODE.match(reply)
    code, text = (match[1], reply[match.end() :]) if match else ("ERR", reply)
    if code == "ERR" and (inner := _IN_SCRIPT.search(text)):
        code, text = inner[1], inner[2]
    return Refusal(code, text)


def remedy(error: Exception) -> Remedy:
    """Say what helps."""
    if isinstance(error, Refusal):
        if error.code == "ERR" and "max number of clients" in error.text:
            return Remedy.RECONNECT
        return _REMEDIES.get(error.code, Remedy.NONE)
    if isinstance(error, ssl.SSLError):
        # EOF in the middle of a handshake is a server that goes away.
        passing = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError)
        return Remedy.RECONNECT if passing else Remedy.NONE
    if isinstance(error, PermissionError):
        return Remedy.NONE
    return Remedy.RECONNECT if isinstance(error, OSError | NotConfirmed) else Remedy.NONE


def named_by(error: Refusal, address: Address) -> Address:
    """Read which server a redirection names.

    Arguments:
        error: the redirection.
        address: who gave it; one that names no host means its own.
    """
    host, _, port = error.text.split(" ")[-1].rpartition(":")
    return Address(host or address.host, int(port))


def only_reads(call: Call) -> bool:
    """Whether a call changes nothing, so that it leaves nothing behind wherever it is stopped."""
    return call.script.name in READING or (call.script.name == "places" and not call.args)


def is_answer(reply: Any) -> bool:
    """Whether it is a script's own reply, if only that it refuses: the server let it run."""
    return not isinstance(reply, Refusal) or reply.code == "TASKYARD"


def is_reply(error: Exception) -> bool:
    """Whether the server answered, but did not do what was asked, or not all of it."""
    return isinstance(error, Refusal | NotConfirmed)


def will_be_over_soon(error: Exception) -> bool:
    """Whether it belongs to work on a cluster, and is nothing that anybody should know of."""
    return isinstance(error, Refusal) and error.code in {"ASK", "TRYAGAIN"}


_CAUSES = {
    "WRONGPASS": "the user or password is wrong",
    "NOAUTH": "it wants a password, and the URL has none",
    "NOPERM": "the ACL of this user forbids it",
    "OOM": "its memory is full (maxmemory): make room, or allow it more",
    "LOADING": "it still loads its data",
    "BUSY": "a script has been running for long",
    "UNKILLABLE": "a script has been running for long",
    "READONLY": "it is a replica, and takes no writes",
    "MISCONF": "it cannot save its data to disk, and takes no writes",
    "NOREPLICAS": "too few of its replicas are there (min-replicas-to-write)",
    "MASTERDOWN": "it is a replica that has lost its master",
    "CLUSTERDOWN": "the cluster is down",
    "WRONGTYPE": "a key is another application's: remove it, or give another ?prefix=, or queue",
    "ASK": "the hash slot is being moved",
    "TRYAGAIN": "the hash slot is being moved",
    "EXECABORT": "it dropped a transaction",
    "MOVED": "it is a node of a cluster: write redis+cluster://, or rediss+cluster://",
}


_CAUSES_OF_ERR = {
    "DB index": "it has no database of this number",
    "SELECT is not allowed": "a cluster has database 0 only",
    "without any password configured": "it has no password, and the URL gives one",
    "cluster support disabled": "it is no node of a cluster: write redis://, or rediss://",
    "SENTINEL": "it is no sentinel: of a single server, write redis://, or rediss://",
    "unknown command": "it does not offer a command that is needed",
    "ACL failure in script": "the ACL of this user forbids what a script does",
    "The user executing the script can't": "the ACL of this user forbids what a script does",
}
"""Errors that have no code of their own, all of them to be mended by somebody."""

RIGHTS = "docs/howto/redis.md has the rule that it needs, under Rights"

_STOPPED = re.compile(r"can't run this command|ACL failure in script: .* to run ")
"""Up to Redis 7.0; since 7.2, and in Valkey."""


def stopped_by_acl(error: Refusal) -> bool:
    """Whether a script was stopped by a command that its user may not call."""
    return error.code == "ERR" and _STOPPED.search(error.text) is not None


def _cause_of_err(error: Refusal) -> str:
    if error.code != "ERR":
        return ""
    causes = (cause for words, cause in _CAUSES_OF_ERR.items() if words in error.text)
    return next(causes, "")


def told(error: Exception) -> str:
    """Say in a few words what went wrong."""
    if isinstance(error, Refusal):
        return _told_of_refusal(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}; is ca= right?"
    if isinstance(error, ssl.SSLError):
        return f"no TLS connection is possible ({error.reason or error})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno:
        # asyncio has words of its own, and so have failed look-ups of names.
        named = isinstance(error, socket.gaierror) and error.strerror
        return named or os.strerror(error.errno)
    return str(error) or type(error).__name__


def _told_of_refusal(error: Refusal) -> str:
    if isinstance(error, Denial):
        outcome = "(a script would be stopped there, so none was run)"
        if error.stopped is not None:
            outcome = f"({error.text}): a script was stopped there, and what it had written stays"
        return f"the ACL of this user forbids {', '.join(error.lacks)} {outcome}; {RIGHTS}"
    if isinstance(error, Astray):
        return (
            f"the nodes of the cluster send the call from one to another ({error}): they do not"
            " agree on who serves its hash slot, since slots are being moved, or a move or a"
            " failover was not finished; redis-cli --cluster check says which"
        )
    cause = _CAUSES.get(error.code) or _cause_of_err(error)
    text = f"{cause} ({error})" if cause else str(error)
    return f"{text}; {RIGHTS}" if " ACL " in cause else text


def final(address: Address | None, error: Exception) -> Exception:
    """What to raise for an error against which nothing helps.

    Arguments:
        address: who gave it.
        error: the error.
    """
    text = f"Redis at {address}: {told(error)}"
    if isinstance(error, OSError | NotRedis):
        return BrokerInaccessible(text)
    if not isinstance(error, Refusal):
        return error
    if error.code == "TASKYARD":
        code, _, rest = error.text.partition(" ")
        if code == "FOREIGN":
            return BrokerInaccessible(
                f"Redis at {address}: the key {rest} is another application's, and nothing was"
                f" written to it: remove it, or give another prefix, as in ?prefix=shop"
            )
        return ScriptError(code, rest)
    if error.code in {"WRONGPASS", "NOAUTH", "NOPERM", "MOVED"} or _cause_of_err(error):
        return BrokerInaccessible(text)
    return BrokerError(text)


def exhausted(
    call: Call, address: Address | None, error: Exception, seconds: float, *, doubtful: bool
) -> BrokerError:
    """What to raise when an error that could have passed did not.

    Arguments:
        call: what failed.
        address: who was asked last.
        error: the last error.
        seconds: for how long it was tried.
        doubtful: whether an answer was lost, so that the call may have been carried out.
    """
    tried = f"tried for {seconds:.1f} s" if seconds else "tried once"
    if isinstance(error, NotConfirmed):
        return NotConfirmed(f"{error}; {tried}")
    where = f" at {address}" if address is not None else ""
    text = f"Redis{where}: {told(error)}; {tried}"
    outcome = _outcome(call, doubtful=doubtful)
    return BrokerUnavailable(f"{text}; {outcome}" if outcome else text)


def _outcome(call: Call, *, doubtful: bool) -> str:
    """What became of a call that was given up; "" if it would only have read."""
    if only_reads(call):
        return ""
    if doubtful:
        return "an answer was lost, so it is not known whether the call was carried out"
    return "nothing was stored" if call.script.name in STORING else "nothing was changed"
