"""Being the only one: a lock that the kernel takes back however its holder ends, with the holder's name in the file."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO


class HeldError(Exception):
    """Someone else has it. The text is the number of their process, or empty when they have not written it yet."""


def hold(path: Path) -> IO[str]:
    """Held for as long as the file that is returned stays open. Raises `HeldError` and `OSError`."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise HeldError(holder) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
