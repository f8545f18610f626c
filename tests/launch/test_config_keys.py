"""Keys that a fly.toml may have, and those that it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from caddisfly.launch.config import keys, source

FULL = """
app = "hello"
primary_region = "ams"
kill_signal = "SIGTERM"
kill_timeout = 5
swap_size_mb = 512
console_command = "sh"

[build]
dockerfile = "Dockerfile"
build-target = "prod"
[build.args]
ANYTHING_AT_ALL = "1"
[build.compose]
file = "compose.yaml"

[env]
Whatever = "x"

[processes]
web = "run web"

[deploy]
release_command = "migrate"
release_command_vm = { size = "shared-cpu-1x" }

[experimental.attached.secrets.export]
A = "b"

[http_service]
internal_port = 80
auto_stop_machines = "stop"
http_options.response.headers.X-Anything = "y"
[http_service.concurrency]
type = "requests"
[[http_service.checks]]
path = "/"
[http_service.checks.headers]
X-Any = "z"

[[services]]
protocol = "tcp"
[[services.ports]]
port = 443
handlers = ["tls"]
proxy_proto_options = { version = "v2" }
[[services.tcp_checks]]
interval = "1s"

[services.concurrency]
soft_limit = 1

[checks.alive]
type = "tcp"
port = 1

[[mounts]]
source = "data"
destination = "/data"

[[vm]]
memory = "1gb"
processes = ["web"]

[[files]]
guest_path = "/x"
raw_value = "eA=="

[metrics]
port = 9091
path = "/metrics"
"""


def found(text: str, tmp_path: Path) -> list[str]:
    path = tmp_path / "fly.toml"
    path.write_text(text)
    config = source.read(path)
    return [one.text(config) for one in keys.unknown(config)]


def test_all_that_flyctl_knows_is_known(tmp_path: Path) -> None:
    assert found(FULL, tmp_path) == []


@pytest.mark.parametrize(
    "text",
    [
        '[mount]\nsource = "a"\n',
        '[compute]\nsize = "a"\n',
        "[services]\ninternal_port = 1\n[services.ports]\nport = 1\n[services.http_checks]\npath = 1\n",
        '[[checks]]\nname = "up"\ntype = "tcp"\n',
        '[[processes]]\nname = "web"\ncommand = "x"\n',
        "[[env]]\nA = 1\n[[env]]\nB = 2\n",
        '[services]\nconcurrency = "20,25"\n',
        '[experimental]\ncmd = "x"\nmetrics_port = 1\n',
        'build.build_target = "x"\n',
    ],
)
def test_old_spellings_are_known(text: str, tmp_path: Path) -> None:
    assert found(text, tmp_path) == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('ap = "x"\n', ["fly.toml:1: unknown key ap; did you mean app?"]),
        ("[http_servce]\ninternal_port = 1\n", ["fly.toml:1: unknown key http_servce; did you mean http_service?"]),
        (
            "[http_service]\ninternl_port = 1\nchecks = [\n{ path = 1 },\n\n{ processes = 1 }]\n",
            [
                "fly.toml:2: unknown key http_service.internl_port; did you mean internal_port?",
                "fly.toml:6: unknown key http_service.checks[1].processes",
            ],
        ),
        ("[checks.alive]\nprot = 1\n", ["fly.toml:2: unknown key checks.alive.prot; did you mean port?"]),
        ("[[vm]]\n[[vm]]\nmemroy = 1\n", ["fly.toml:3: unknown key vm[1].memroy; did you mean memory?"]),
        ("zzzzzz = 1\n", ["fly.toml:1: unknown key zzzzzz"]),
    ],
)
def test_what_is_not_known_is_named_with_its_line(text: str, lines: list[str], tmp_path: Path) -> None:
    assert found(text, tmp_path) == lines
