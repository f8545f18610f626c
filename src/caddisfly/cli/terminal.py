"""The user's own terminal, or the pipes in its place, joined to a command in a Machine.

Two threads: this one prints, because it is the one that Ctrl-C and other signals reach; another waits for what is typed
and for news of the window. In a terminal everything typed goes to the command, Ctrl-C too. The way out of one that does
not answer any more is ssh's: Enter, then `~.`
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import typer

from caddisfly.cli import show

if TYPE_CHECKING:
    from caddisfly.client.attach import Attachment

Size = tuple[int, int]
_DEFAULT_SIZE = (80, 24)
_RESIZED, _OVER = b"r", b"o"
_CHUNK = 32 * 1024
_STDERR = 2
_LEFT = 255


def is_ours() -> bool:
    """Whether somebody sits at a terminal here."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def kind() -> str:
    """What the terminal here can do, as `TERM`."""
    return os.environ.get("TERM", "")


def run(open: Callable[[Size | None], Attachment], *, terminal: bool) -> int:
    """Be the command's terminal, or only its pipes, until it ends. Returns its exit code. Raises `SessionLost`."""
    with open(_size() if terminal else None) as session, _typed(session, raw=terminal and sys.stdin.isatty()) as typed:
        try:
            for number, data in session:
                _print(2 if number == _STDERR else 1, data)
        except Exception:
            if typed.left:
                return _LEFT
            raise
        return _LEFT if session.exit_code is None else session.exit_code


@contextmanager
def leaving_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP end this process as Ctrl-C does: what is open is closed, what is temporary is removed."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise typer.Exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _size() -> Size:
    for descriptor in (1, 0, 2):
        try:
            size = os.get_terminal_size(descriptor)
        except OSError:
            continue
        if size.columns and size.lines:
            return size.columns, size.lines
    return _DEFAULT_SIZE


def _print(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


@contextmanager
def _typed(session: Attachment, *, raw: bool) -> Iterator[_Typist]:
    """Pass on what is typed while the block runs."""
    news, tell = os.pipe()
    typist = _Typist(session, news, raw=raw)
    thread = threading.Thread(target=typist.run, name="typist", daemon=True)
    saved = termios.tcgetattr(0) if raw else None
    before = signal.signal(signal.SIGWINCH, lambda number, frame: os.write(tell, _RESIZED) and None)
    try:
        if saved is not None:
            tty.setraw(0)
        thread.start()
        yield typist
    finally:
        signal.signal(signal.SIGWINCH, before)
        if saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)
        session.close()  # or the other thread may wait for ever to get rid of what was typed
        os.write(tell, _OVER)
        thread.join()
        for descriptor in (news, tell):
            os.close(descriptor)


class _Typist:
    """Waits for input and for news."""

    def __init__(self, session: Attachment, news: int, *, raw: bool) -> None:
        self._session, self._news = session, news
        self._escape = _Escape() if raw else None
        self.left = False
        """Whether the user asked to leave."""

    def run(self) -> None:
        waited_for = [self._news, 0]
        while True:
            ready, _, _ = select.select(waited_for, [], [])
            if self._news in ready:
                news = os.read(self._news, _CHUNK)
                if _OVER in news:
                    return
                self._session.resize(*_size())
            if 0 in ready and not self._input():
                waited_for.remove(0)

    def _input(self) -> bool:
        """False at its end."""
        try:
            data = os.read(0, _CHUNK)
        except OSError:  # the terminal was closed
            data = b""
        if not data:
            self._session.end_input()
            return False
        if self._escape is not None:
            data, self.left = self._escape.without(data)
        if data:
            self._session.write(data)
        if self.left:
            show.note("\r\nLeft.\r")
            self._session.close()
        return not self.left


class _Escape:
    """Finds `~.` at the beginning of a line. `~~` stands for one `~`; anything else after it is typed as it is."""

    def __init__(self) -> None:
        self._begins, self._pending = True, False

    def without(self, data: bytes) -> tuple[bytes, bool]:
        """What is typed of this, and whether to leave."""
        kept = bytearray()
        for byte in data:
            if self._pending:
                self._pending = False
                if byte == ord("."):
                    return bytes(kept), True
                if byte != ord("~"):
                    kept += b"~"
            elif self._begins and byte == ord("~"):
                self._pending = True
                self._begins = False
                continue
            kept.append(byte)
            self._begins = byte in b"\r\n"
        return bytes(kept), False
