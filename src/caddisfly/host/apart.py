"""Work on a thread of its own, which ends with it: what the thread does to itself touches nobody else.

Namespaces belong to threads. One that has gone into another must not come back to the pool that it was taken from.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def apart(work: Callable[[], T], *, name: str) -> T:
    """What `work` returns. Raises what it raised. Blocks."""
    made: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            made.append(work())
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
            failure.append(error)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return made[0]
