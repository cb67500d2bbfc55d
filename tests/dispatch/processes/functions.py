"""What worker processes are made to do."""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

from taskyard.dispatch.calls import Call

__all__: list[str] = []


def double(item: int) -> int:
    return item * 2


def who(item: Any) -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def raises(item: int) -> int:
    if item % 2:
        raise ValueError(f"odd: {item}")
    return item


def die(item: Any) -> Any:
    match item:
        case "exit":
            os._exit(3)
        case "segfault":
            faulthandler.disable()  # pytest would print a page
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
    return item


class NotPicklable:
    def __reduce__(self) -> Any:
        raise TypeError("no way")


class NotUnpicklable:
    def __init__(self) -> None:
        self.pid = os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise ValueError("not in here")


class EndsProgram:
    """Ends what unpickles it, in Python's orderly way; what pickles it, if it is told to."""

    def __init__(self, *, already: bool) -> None:
        self.already = already

    def __reduce__(self) -> Any:
        if self.already:
            raise KeyboardInterrupt
        return sys.exit, (3,)


class Lethal:
    """Kills the process that it is unpickled in."""

    def __setstate__(self, state: Any) -> None:
        os._exit(7)

    def __getstate__(self) -> Any:
        return {"not": "empty"}


class StubbornError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def give(item: str) -> Any:
    match item:
        case "not picklable":
            return NotPicklable()
        case "not unpicklable":
            return NotUnpicklable()
        case "exit when pickled":
            return EndsProgram(already=True)
        case "exit when unpickled":
            return EndsProgram(already=False)
        case "stubborn error":
            raise StubbornError(1, 2)
        case "exit":
            raise SystemExit(4)
    return item


def note(item: int, call: Call) -> tuple[int, int]:
    call.metadata["item"] = item
    if item == 1:
        call.metadata["bad"] = NotPicklable()
    return call.id, call.attempt


def fails_twice(item: int, call: Call) -> int:
    if call.attempt < 3:
        raise ValueError("not yet")
    return call.attempt


def tell(address: str, text: str) -> bytes:
    """Say something to a listening test, and wait for its answer."""
    with socket.socket(socket.AF_UNIX) as talk:
        talk.connect(address)
        talk.sendall(text.encode() + b"\n")
        return talk.recv(100)


def talk(item: tuple[str, str]) -> str:
    """`item`: an address, and what is to be said there; ends when that is answered."""
    address, text = item
    if address:
        return tell(address, text).decode()
    return text


def talk_pid(item: tuple[str, str]) -> str:
    """The same, saying the id of the process."""
    address, text = item
    return tell(address, str(os.getpid())).decode() if address else text


def end_quickly(item: Any) -> Any:
    if item == "kill at once":
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def hold_fast(item: str) -> str:
    """The same, never letting go of the interpreter; others take 30 ms."""
    if not item:
        time.sleep(0.03)
        return item
    with socket.socket(socket.AF_UNIX) as talk:
        talk.connect(item)
        talk.sendall(b"holds\n")
        talk.setblocking(True)
        answer = ctypes.create_string_buffer(1)
        ctypes.PyDLL(None).read(talk.fileno(), answer, 1)
        return answer.value.decode()


def hang(item: Any) -> Any:
    if item == "hang":
        threading.Event().wait()
    if item == "spin":
        while True:
            pass
    if isinstance(item, float):
        time.sleep(item)
    return item


def fork_twofold(item: int) -> int:
    """Returns in the process that it forks, too."""
    os.fork()
    return item


def fork_and_raise(item: int) -> None:
    os.fork()
    raise ValueError(item)


def terminate_child(item: int) -> int | None:
    """The exit code of a process of its own that it forks and ends."""
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    child = context.Process(target=_tell_and_wait, args=(begun,))
    child.start()
    begun.wait()
    child.terminate()
    child.join(30)
    code = child.exitcode
    child.kill()
    return code


def _tell_and_wait(begun: Any) -> None:
    begun.set()
    threading.Event().wait()


def hang_once(item: str, call: Call) -> int:
    if call.attempt == 1:
        threading.Event().wait()
    return call.attempt


def fail_and_hang(item: str, call: Call) -> None:
    if call.attempt == 1:
        raise ValueError("the first attempt")
    threading.Event().wait()


def shout(item: int) -> None:
    # In one piece: unbuffered, the end of a line is written by itself, and others may come between.
    print(f"printed {item}\n", end="")  # noqa: T201 - that is what is tried


def die_at_once(*args: Any) -> None:
    os._exit(9)


class Unloadable:
    def __call__(self, item: Any) -> Any:
        return item

    def __getstate__(self) -> Any:
        return {"not": "empty"}

    def __setstate__(self, state: Any) -> None:
        raise ImportError("not in here")
