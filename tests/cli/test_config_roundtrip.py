"""A fly.toml, the Machines made from it by the API itself (simulated hosts), and the way back."""

from __future__ import annotations

from pathlib import Path

import pytest

from caddisfly.launch import config
from caddisfly.pytest_plugin import CaddisApp, CaddisDev
from tests.cli.machines import Caddis

FILE = """# ours
app = "{app}"
primary_region = "ams"
kill_signal = "SIGTERM"
kill_timeout = 90

[processes]
web = "serve 'my app'"
worker = ""

[env]
PORT = 8080
LEVEL = "info" # or debug

[http_service]
internal_port = 8080
force_https = true
auto_stop_machines = "suspend"
min_machines_running = 1
processes = ["web"]
concurrency = {{ type = "requests", soft_limit = 10, hard_limit = 20 }}
http_options = {{ response = {{ headers = {{ Server = false, X-A = ["1", "2"] }} }} }}
  [[http_service.checks]]
  path = "/up"
  interval = 15000
  headers = {{ X-A = "b" }}

[[services]]
protocol = "tcp"
internal_port = 5432
processes = ["worker"]
concurrency = "12,23"
ports = [{{ start_port = 6000, end_port = 6010 }}, {{ port = 7000, handlers = ["tls"] }}]
tcp_checks = {{ interval = "1m21s", timeout = 2000 }}

[checks.deep]
type = "http"
path = "/deep"
interval = 5000
processes = ["web"]

[[vm]]
memory = "512mb"

[[restart]]
policy = "never"
processes = ["worker"]

[[files]]
guest_path = "/etc/motd"
literal = "hello"

[[metrics]]
port = 9091
path = "/metrics"
processes = ["web"]
"""


@pytest.fixture
def caddis(caddis: Caddis, caddis_dev: CaddisDev, monkeypatch: pytest.MonkeyPatch) -> Caddis:
    monkeypatch.setenv("CADDIS_API_URL", caddis_dev.url)
    monkeypatch.setenv("CADDIS_API_TOKEN", caddis_dev.token)
    return caddis


@pytest.fixture
def file(caddis: Caddis, caddis_app: CaddisApp) -> Path:
    """The file here, with a Machine of each group."""
    path = Path("fly.toml")
    path.write_text(FILE.format(app=caddis_app.name))
    app = config.find_and_load(environ={})
    for group in app.groups.names:
        wire = config.machine_config(app, group, image="nginx")
        caddis_app.create(**wire)
    return path


def test_what_was_made_from_a_file_is_what_the_file_says(file: Path, caddis: Caddis) -> None:
    outcome = caddis("config", "diff", "--check")
    assert (outcome.code, outcome.out.count(": the same")) == (0, 2), outcome.out
    before = file.read_text()
    assert caddis("config", "save").out == "fly.toml says so already.\n"
    assert file.read_text() == before


def test_a_file_saved_from_machines_says_what_they_run(file: Path, caddis: Caddis, caddis_app: CaddisApp) -> None:
    outcome = caddis("config", "save", "-a", caddis_app.name, "-c", "saved.toml")
    assert (outcome.code, outcome.out) == (0, "Saved saved.toml\n"), outcome.err
    assert caddis("config", "validate", "-c", "saved.toml").code == 0
    assert caddis("config", "diff", "-c", "saved.toml", "--check").code == 0


def test_a_change_of_the_file_is_seen_and_saving_takes_it_back(file: Path, caddis: Caddis) -> None:
    before = file.read_text()
    file.write_text(before.replace('"info"', '"debug"').replace("soft_limit = 10", "soft_limit = 15"))
    outcome = caddis("config", "diff", "--check")
    assert outcome.code == 1
    assert outcome.out.count("~ env.LEVEL: info -> debug") == 2
    assert "~ services[0].concurrency.soft_limit: 10 -> 15" in outcome.out
    assert caddis("config", "save", "--yes").code == 0
    assert '"info" # or debug' in file.read_text()
    assert caddis("config", "diff", "--check").code == 0
