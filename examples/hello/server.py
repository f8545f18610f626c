"""A small web app: says which Machine it is, where it runs and what the request looked like.

It listens on every address, and on SIGINT (what a Machine gets first) or SIGTERM it answers what is under way and ends.
"""

import html
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6, IPPROTO_IPV6, IPV6_V6ONLY

STARTED = time.monotonic()


class Hello(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        facts = {
            "app": os.environ.get("FLY_APP_NAME", "?"),
            "machine": os.environ.get("FLY_MACHINE_ID", "?"),
            "region": os.environ.get("FLY_REGION", "?"),
            "address": os.environ.get("FLY_PRIVATE_IP", "?"),
            "memory": f"{os.environ.get('FLY_VM_MEMORY_MB', '?')} MiB",
            "up for": f"{time.monotonic() - STARTED:.1f} s",
        }
        if "text/html" in self.headers.get("accept", ""):
            kind, body = "text/html; charset=utf-8", self.page(facts)
        else:
            kind, body = "text/plain; charset=utf-8", self.text(facts)
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def text(self, facts: dict[str, str]) -> bytes:
        lines = ["Hello from Caddisfly!", ""]
        lines += [f"{name:<8} {value}" for name, value in facts.items()]
        lines += ["", f"{self.command} {self.path}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return ("\n".join(lines) + "\n").encode()

    def page(self, facts: dict[str, str]) -> bytes:
        def table(rows: list[tuple[str, str]]) -> str:
            cells = (f"<tr><th>{html.escape(name)}<td>{html.escape(value)}" for name, value in rows)
            return f"<table>{''.join(cells)}</table>"

        return (
            "<!doctype html><meta charset=utf-8><title>Hello from Caddisfly</title>"
            "<style>body{font:16px/1.5 system-ui;margin:3rem auto;max-width:40rem}th{text-align:left;"
            "padding-right:2rem;font-weight:500;vertical-align:top}td{font-family:monospace;word-break:break-all}</style>"
            f"<h1>Hello from Caddisfly!</h1>{table(list(facts.items()))}"
            f"<h2>Your request</h2>{table([(self.command, self.path), *self.headers.items()])}"
        ).encode()

    def log_message(self, template: str, *values: object) -> None:
        print(f"{self.address_string()} {template % values}", flush=True)


class Server(ThreadingHTTPServer):
    """IPv6 and IPv4 on one socket. Not daemonic: leaving waits for answers that are under way."""

    address_family = AF_INET6
    daemon_threads = False

    def server_bind(self) -> None:
        self.socket.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
        super().server_bind()


def main() -> None:
    Hello.timeout = 5  # an idle connection must not hold up the end
    port = int(os.environ.get("PORT", "8080"))
    server = Server(("::", port), Hello)

    def leave(number: int, _: object) -> None:
        print(f"got {signal.Signals(number).name}, leaving", flush=True)
        threading.Thread(target=server.shutdown).start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    print(f"listening on {port}", flush=True)
    server.serve_forever(poll_interval=0.2)
    server.server_close()


if __name__ == "__main__":
    main()
