"""An index of Python packages on this computer's loopback: builds install from it, and need no network."""

from __future__ import annotations

import html
import re
import subprocess
import sys
import threading
from collections.abc import Iterable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def fetched(directory: Path, requirements: Iterable[Path]) -> None:
    """The wheels that these ask for, by the pip of this computer as it is set up."""
    directory.mkdir(parents=True, exist_ok=True)
    files = [word for path in requirements for word in ("-r", str(path))]
    argv = [sys.executable, "-m", "pip", "download", "-qq", "--only-binary=:all:", "--dest", str(directory), *files]
    subprocess.run(argv, check=True, timeout=300)


class Index:
    """Serves a directory of wheels at `url`, as PEP 503 says."""

    def __init__(self, directory: Path) -> None:
        wheels: dict[str, list[str]] = {}
        for path in directory.glob("*.whl"):
            name = re.sub(r"[-_.]+", "-", path.name.split("-")[0]).lower()
            wheels.setdefault(name, []).append(path.name)

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=str(directory))

            def do_GET(self) -> None:
                if not self.path.startswith("/simple/"):
                    return super().do_GET()
                names = wheels.get(self.path.strip("/").partition("/")[2], [])
                links = "".join(f'<a href="/{html.escape(name)}">{html.escape(name)}</a>\n' for name in names)
                self.send_response(200 if names else 404)
                self.send_header("content-type", "text/html")
                self.send_header("content-length", str(len(links)))
                self.end_headers()
                self.wfile.write(links.encode())

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/simple/"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
