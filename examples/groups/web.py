"""Two of the three groups run this: the edge asks `web`; `api` is asked by Machines of the same organization only."""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 9090 if "--api" in sys.argv else 8080


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        group, memory = os.environ.get("FLY_PROCESS_GROUP", "?"), os.environ.get("FLY_VM_MEMORY_MB", "?")
        body = f"Hello from group {group}, which has {memory} MiB\n".encode()
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("", PORT), Page).serve_forever()
