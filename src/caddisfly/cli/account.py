"""Which platform the commands talk to, and as whom: one small file, readable by its owner only.

The environment wins over the file, under our names and under Fly's, so that scripts written for flyctl find their way.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from caddisfly.model.errors import FailedPrecondition, Unauthenticated

DEFAULT_URL = "http://127.0.0.1:4280"


@dataclass(frozen=True, slots=True)
class Account:
    """`api_url` is the root of the Machines API, without `/v1`. `token` may be empty."""

    api_url: str
    token: str

    def needed(self) -> Account:
        """Itself. Raises `Unauthenticated` when there is no token."""
        if not self.token:
            raise Unauthenticated(
                "you are not logged in",
                why=f"no token in {file()} or CADDIS_API_TOKEN",
                next="caddis auth login; if the token was lost, on the platform's own computer: caddis new-token",
            )
        return self


def file(environment: Mapping[str, str] | None = None) -> Path:
    environment = os.environ if environment is None else environment
    home = environment.get("XDG_CONFIG_HOME") or str(Path(environment.get("HOME") or Path.home()) / ".config")
    return Path(home) / "caddisfly" / "config.toml"


def load(environment: Mapping[str, str] | None = None) -> Account:
    """Raises `FailedPrecondition` when the file is there but not usable."""
    environment = os.environ if environment is None else environment
    kept = _read(file(environment))
    url = environment.get("CADDIS_API_URL") or environment.get("FLY_FLAPS_BASE_URL") or kept.get("api_url", "")
    token = environment.get("CADDIS_API_TOKEN") or environment.get("FLY_API_TOKEN") or kept.get("token", "")
    return Account(url.rstrip("/") or DEFAULT_URL, token)


def save(account: Account, path: Path | None = None) -> Path:
    """Replace the file, mode 0600. Returns where it is."""
    path = path or file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as stream:
        stream.write(f"api_url = {json.dumps(account.api_url)}\ntoken = {json.dumps(account.token)}\n")
    fresh.replace(path)
    return path


def forget() -> bool:
    """Drop the token, keep the address. False when there was none."""
    kept = _read(file())
    if not kept.get("token"):
        return False
    save(Account(kept.get("api_url", DEFAULT_URL), ""))
    return True


def _read(path: Path) -> dict[str, str]:
    try:
        raw = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise FailedPrecondition(
            f"{path} cannot be read", why=str(error), next="remove it and run `caddis auth login`"
        ) from error
    return {key: str(value) for key, value in raw.items()}
