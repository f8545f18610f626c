"""Which way a folder is built."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from caddisfly.launch.build import recipe
from caddisfly.launch.build.recipe import Recipe, Wishes
from caddisfly.launch.config import text
from caddisfly.launch.config.build import Build
from caddisfly.model.errors import InvalidArgument, NotFound, Unavailable, Unimplemented


def choose(context: Path, section: Wishes | None = None, flags: Wishes | None = None) -> Recipe:
    return recipe.choose(context, section=section or Wishes(), flags=flags or Wishes())


def test_a_dockerfile_in_the_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no Dockerfile in"):
        choose(tmp_path)
    (tmp_path / "dockerfile").write_text("FROM small")
    assert choose(tmp_path).content() == b"FROM small"
    (tmp_path / "Dockerfile").write_text("FROM x")
    assert choose(tmp_path).path == tmp_path / "Dockerfile"


def test_what_is_named_comes_first_and_the_rest_is_told(tmp_path: Path) -> None:
    for name in ("Dockerfile", "web", "flag"):
        (tmp_path / name).touch()
    web, flag = str(tmp_path / "web"), str(tmp_path / "flag")
    chosen = choose(tmp_path, Wishes(dockerfile=web), Wishes(dockerfile=flag))
    assert chosen.dockerfile == web
    assert chosen.ignored == (f"--dockerfile {flag}", "Dockerfile")
    assert choose(tmp_path, flags=Wishes(dockerfile=flag)).dockerfile == flag
    assert choose(tmp_path, Wishes(builder="b"), Wishes(dockerfile=flag)).builder == "b"
    assert choose(tmp_path, Wishes(buildpacks=("p",))).buildpacks == ("p",)
    assert choose(tmp_path, Wishes(image="i", dockerfile=web)).image == "i"
    assert choose(tmp_path, flags=Wishes(dockerfile=str(tmp_path / "Dockerfile"))).ignored == ()


def test_fly_toml_counts_before_flags_but_for_args(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").touch()
    section = Wishes(target="a", ignorefile="/toml", args={"A": "1", "B": "1"})
    chosen = choose(tmp_path, section, Wishes(target="b", ignorefile="/flag", args={"B": "2"}))
    assert (chosen.target, chosen.ignorefile, chosen.args) == ("a", Path("/toml"), {"A": "1", "B": "2"})


def test_what_is_not_there_or_not_supported(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"dockerfile '/no/where' not found"):
        choose(tmp_path, flags=Wishes(dockerfile="/no/where"))
    with pytest.raises(Unimplemented, match="builtin"):
        choose(tmp_path, Wishes(builtin="node"))


def test_the_section_of_a_fly_toml() -> None:
    config = text(
        '[build]\ndockerfile = "docker/web"\nbuild-target = "prod"\nignorefile = "/absolute"\nbuildpacks = ["a"]\n'
        '[build.args]\nN = 1\nON = true\nS = "s"\n[build.settings]\nignored = "here"\n'
    )
    wishes = Wishes.of_section(config.build, Path("/app"))
    assert wishes.dockerfile == "/app/docker/web"
    assert wishes.ignorefile == "/absolute"
    assert wishes.target == "prod"
    assert wishes.buildpacks == ("a",)
    assert wishes.args == {"N": "1", "ON": "true", "S": "s"}
    assert Wishes.of_section(Build(dockerfile="https://x/y"), Path("/app")).dockerfile == "https://x/y"
    assert Wishes.of_section(Build(), Path("/app")) == Wishes()


class Web:
    """Answers paths as it was told."""

    def __init__(self) -> None:
        self.pages: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.over = threading.Event()
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.pages[self.path](self)

            def log_message(self, *_: Any) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None: ...

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def page(self, path: str, status: int, body: bytes = b"", location: str = "") -> str:
        def answer(http: BaseHTTPRequestHandler) -> None:
            http.send_response(status)
            if location:
                http.send_header("location", location)
            http.end_headers()
            http.wfile.write(body)

        self.pages[path] = answer
        return self.url + path

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    yield server
    server.close()


def test_a_dockerfile_from_the_web(web: Web, tmp_path: Path) -> None:
    web.page("/Dockerfile", 200, b"FROM x\n")
    url = web.page("/moved", 302, location="/Dockerfile")
    chosen = choose(tmp_path, flags=Wishes(dockerfile=url))
    assert chosen.content() == b"FROM x\n"
    assert chosen.path is None


def test_what_a_web_server_can_do_wrong(web: Web) -> None:
    with pytest.raises(NotFound, match="not found"):
        recipe.fetch(web.page("/absent", 404))
    with pytest.raises(InvalidArgument, match="redirects more than 10 times"):
        recipe.fetch(web.page("/loop", 302, location="/loop"))
    with pytest.raises(InvalidArgument, match="redirects from http to file"):
        recipe.fetch(web.page("/file", 302, location="file:///etc/passwd"))
    with pytest.raises(InvalidArgument, match="more than 10 MiB"):
        recipe.fetch(web.page("/big", 200, b"x" * (10 << 20) + b"y"))
    with pytest.raises(InvalidArgument, match="empty"):
        recipe.fetch(web.page("/empty", 200))


def test_never_from_https_to_http() -> None:
    with pytest.raises(InvalidArgument, match="redirects from https to http"):
        recipe._next(httpx.URL("https://a/b"), "http://a/b", "https://a/b")


def test_a_web_server_that_trickles(web: Web) -> None:
    def trickle(http: BaseHTTPRequestHandler) -> None:
        http.send_response(200)
        http.end_headers()
        while not web.over.wait(0.02):
            http.wfile.write(b"#")

    web.pages["/slow"] = trickle
    with pytest.raises(Unavailable, match="takes too long"):
        recipe.fetch(web.url + "/slow", timeout_s=0.2)
