"""A real PostgreSQL, thrown away after the tests. Outage is a verb: `crash`, `freeze`, `thaw`, `start`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path

import psycopg

from tests.conftest import free_port

_AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")


def _binaries() -> Path:
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))


class Postgres:
    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="caddisfly-postgres-"))
        self.port = free_port()
        self._numbers = count(1)
        self._process: subprocess.Popen[bytes] | None = None
        shutil.chown(self.directory, "postgres", "postgres")
        subprocess.run(
            [*_AS_POSTGRES, _binaries() / "initdb", "-D", self.directory / "data", "-A", "trust", "-U", "postgres"],
            check=True,
            capture_output=True,
            cwd="/",
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )

    def start(self) -> None:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.directory,
            "fsync": "off",  # it survives its own crash all the same, only not the machine's
            "shared_buffers": "16MB",
            "max_connections": "60",
        }
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *_AS_POSTGRES,
                    _binaries() / "postgres",
                    "-D",
                    self.directory / "data",
                    *(word for name, value in options.items() for word in ("-c", f"{name}={value}")),
                ],
                stdout=log,
                stderr=log,
                cwd="/",
            )
        deadline = time.monotonic() + 20
        while True:
            try:
                psycopg.connect(self._url("postgres", driver=""), connect_timeout=1).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.02)

    def crash(self) -> None:
        """Every connection is cut, nothing is finished: what SIGQUIT means to PostgreSQL."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(10)
            self._process = None

    @property
    def running(self) -> bool:
        return self._process is not None

    def close(self) -> None:
        self.crash()
        shutil.rmtree(self.directory)

    def new_database(self) -> str:
        """The URL of an empty database of its own."""
        name = f"t{next(self._numbers)}"
        with psycopg.connect(self._url("postgres", driver=""), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self._url(name)

    def _url(self, name: str, *, driver: str = "+psycopg") -> str:
        return f"postgresql{driver}://postgres@127.0.0.1:{self.port}/{name}"
