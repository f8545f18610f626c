"""What a host makes once and keeps: its id and the token of its bus.

Both live in the data directory, not in the settings file: they are facts of this computer, and a settings file is
copied from one to the next.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from caddisfly.model import ids
from caddisfly.model.errors import FailedPrecondition


def host_id(data_dir: Path) -> str:
    """8 hexadecimal digits, made at the first call. Raises `FailedPrecondition` when they cannot be kept."""
    return _kept(data_dir / "host-id", ids.host_id)


def bus_token(data_dir: Path) -> str:
    """The token of the bus that `caddis up` starts. Its file is readable by root only."""
    return _kept(data_dir / "bus-token", lambda: secrets.token_urlsafe(32))


def registry_secret(bus_token: str) -> str:
    """By which the hosts of a bus show the registry what they are: made of its token, which it does not give away."""
    return hmac.digest(bus_token.encode(), b"registry", "sha256").hex()


def _kept(path: Path, make: Callable[[], str]) -> str:
    """Two processes may come here at once: the link is made by one of them, and both read what it says."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
            fresh.touch(mode=0o600)
            try:
                with fresh.open("w") as file:
                    file.write(make() + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                with suppress(FileExistsError):
                    os.link(fresh, path)
            finally:
                fresh.unlink()
        text = path.read_text().strip()
    except OSError as error:
        raise FailedPrecondition(
            f"{path} cannot be read or made", why=str(error), next="run as root, or set [platform] data_dir"
        ) from error
    if not text:
        raise FailedPrecondition(f"{path} is empty", next="remove it, and a new one is made")
    return text
