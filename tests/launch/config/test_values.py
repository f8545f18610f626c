"""Units, spellings and what the cases do not say: sizes, files, statics, special Machines, the extension."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from caddisfly.launch import config
from caddisfly.launch.config import AppConfig, ConfigInvalid
from caddisfly.model.duration import Duration
from caddisfly.model.guest import PRESET_NAMES


def read(text: str, *, directory: Path | None = None, strict: bool = True) -> AppConfig:
    return config.text(text, directory=directory, strict=strict)


def machine(text: str, group: str = "app", **more: Any) -> dict[str, Any]:
    return config.machine_config(read(text, **more), group)


@pytest.mark.parametrize(
    ("written", "means"),
    [("120", "2m0s"), ("2.7", "2s"), ("'81s'", "1m21s"), ("'1m'", "1m0s"), ("'0.5s'", "500ms"), ("'1h'", None)],
)
def test_a_bare_kill_timeout_is_seconds(written: str, means: str | None) -> None:
    text = f"kill_timeout = {written}"
    if means is None:
        with pytest.raises(ConfigInvalid, match="at most 5m0s"):
            read(text)
    else:
        assert machine(text)["stop_config"] == {"timeout": means}


def test_an_empty_kill_timeout_is_unset_and_an_older_one_counts_without_a_newer() -> None:
    assert "stop_config" not in machine("kill_timeout = ''")
    assert machine("experimental = { kill_timeout = 7 }")["stop_config"] == {"timeout": "7s"}
    assert machine("kill_timeout = 3\nexperimental = { kill_timeout = 7 }")["stop_config"] == {"timeout": "3s"}


def test_accidental_nanoseconds_are_milliseconds_unless_they_are_meant() -> None:
    assert read("deploy = { wait_timeout = 300000 }").deploy.wait_timeout == Duration.of_seconds(300)
    assert read("deploy = { wait_timeout = 10000000000 }").deploy.wait_timeout == Duration.of_seconds(10)


@pytest.mark.parametrize(
    ("written", "megabytes"),
    [
        ("'1.5gb'", 1536),
        ("'512 MB'", 512),
        ("'512MiB'", 512),
        ("'512'", 512),
        ("512", 512),
        ("'1g'", 1024),
        ("'.5GB'", 512),
    ],
)
def test_memory_is_binary(written: str, megabytes: int) -> None:
    assert machine(f"vm = {{ memory = {written} }}")["guest"]["memory_mb"] == megabytes


@pytest.mark.parametrize(
    ("written", "gigabytes"), [("'1500mb'", 1), ("'1gib'", 1), ("5", 5), ("'20GB'", 20), ("'1tb'", 1000)]
)
def test_disk_is_decimal(written: str, gigabytes: int) -> None:
    app = read(f"mounts = [{{ source = 'a', destination = '/a', initial_size = {written} }}]")
    assert app.mounts[0].initial_size_gb == gigabytes


def test_whole_numbers_are_sizes_everywhere() -> None:
    mount = "source = 'a', destination = '/a', auto_extend_size_threshold = 80, auto_extend_size_increment = 5"
    (wire,) = machine(f"mounts = [{{ {mount}, auto_extend_size_limit = 100 }}]")["mounts"]
    assert (wire["add_size_gb"], wire["size_gb_limit"]) == (5, 100)
    app = read("deploy = { release_command = 'x', release_command_vm = { memory = 512 } }")
    assert config.release_machine(app)["guest"]["memory_mb"] == 512


def test_more_cpus_without_memory_have_the_least_that_the_shape_may_have() -> None:
    assert machine("vm = { cpu_kind = 'performance', cpus = 4 }")["guest"]["memory_mb"] == 8192
    assert machine("vm = { cpus = 2 }")["guest"]["memory_mb"] == 512
    assert machine("vm = { cpus = 2 }", strict=False)["guest"]["memory_mb"] == 256


@pytest.mark.parametrize("size", PRESET_NAMES)
def test_every_size_can_be_named(size: str) -> None:
    assert machine(f"vm = {{ size = '{size}' }}")["guest"]["memory_mb"] >= 256


def test_a_gpu_kind_alone_is_eight_cpus() -> None:
    guest = machine("vm = { gpu_kind = 'l40s' }")["guest"]
    assert guest == {"cpu_kind": "performance", "cpus": 8, "memory_mb": 16384, "gpu_kind": "l40s"}


def test_of_several_general_sizes_the_first_counts() -> None:
    assert machine("vm = [{ memory = 512 }, { memory = 1024 }, { memory = 768 }]")["guest"]["memory_mb"] == 512


def test_single_tables_stand_for_lists() -> None:
    app = read("""
        restart = { policy = "always" }
        files = { guest_path = "/a", literal = "x" }
        statics = { guest_path = "/b", url_prefix = "/" }
        http_service = { checks = { path = "/" } }
    """)
    wire = config.machine_config(app, "app")
    assert wire["restart"] == {"policy": "always"}
    assert wire["services"][0]["checks"] == [{"type": "http", "path": "/"}]
    assert len(wire["files"]) == len(wire["statics"]) == 1


def test_an_empty_service_is_none() -> None:
    assert "services" not in machine("services = [{}]")


def test_compute_computes_and_vm_are_concatenated_in_this_order() -> None:
    text = "vm = [{ memory = 256 }]\ncomputes = [{ memory = 512 }]\ncompute = { memory = 1024 }"
    assert machine(text)["guest"]["memory_mb"] == 1024


def test_files_come_from_the_laptop_from_secrets_and_from_the_text(tmp_path: Path) -> None:
    (tmp_path / "conf").write_bytes(b"\x00here")
    text = """
        processes = { web = "w", worker = "k" }
        [[files]]
        guest_path = "/local"
        local_path = "conf"
        [[files]]
        guest_path = "/secret"
        secret_name = "S"
        [[files]]
        guest_path = "/raw"
        raw_value = "aGVsbG8="
        [[files]]
        guest_path = "/literal"
        literal = "hello"
        processes = ["worker"]
    """
    files = {file["guest_path"]: file for file in machine(text, "worker", directory=tmp_path)["files"]}
    assert base64.b64decode(files["/local"]["raw_value"]) == b"\x00here"
    assert files["/secret"] == {"guest_path": "/secret", "secret_name": "S"}
    assert files["/raw"]["raw_value"] == files["/literal"]["raw_value"] == "aGVsbG8="
    assert "/literal" not in {file["guest_path"] for file in machine(text, "web", directory=tmp_path)["files"]}


def test_a_raw_value_that_is_no_base64_is_text_to_the_lenient() -> None:
    text = "files = [{ guest_path = '/a', raw_value = 'plain text' }]"
    with pytest.raises(ConfigInvalid, match="plain text goes into literal"):
        read(text)
    assert base64.b64decode(machine(text, strict=False)["files"][0]["raw_value"]) == b"plain text"


def test_a_directory_of_the_laptop_is_no_static_of_the_machine() -> None:
    assert "statics" not in machine("statics = [{ guest_path = 'public', url_prefix = '/' }]")


def test_headers_of_responses_are_set_repeated_and_removed() -> None:
    headers = "X-Env = 'prod', Cache = ['a', 'b'], Server = false, N = 1"
    text = f"http_service = {{ http_options = {{ response = {{ headers = {{ {headers} }} }} }} }}"
    options = machine(text)["services"][0]["ports"][0]["http_options"]
    assert options["response"]["headers"] == {"X-Env": "prod", "Cache": ["a", "b"], "Server": False, "N": "1"}


def test_the_console_machine_waits_for_someone() -> None:
    wire = config.console_machine(read("env = { A = 1 }\nswap_size_mb = 64"), image="x")
    assert wire["init"] == {"exec": ["/bin/sleep", "inf"], "swap_size_mb": 64}
    assert wire["env"] == {"A": "1", "FLY_PROCESS_GROUP": "fly_app_console"}
    assert wire["auto_destroy"] is True


def test_a_machine_check_runs_beside_the_machine_it_is_about() -> None:
    app = read("""
        kill_signal = "SIGTERM"
        env = { A = "1", B = "1" }
        machine_checks = [{ command = ["test", "me"] }]
        http_service = { machine_checks = [{ command = ["curl"], image = "curl" }] }
    """)
    own, curl = app.machine_checks_of("app")
    tested = {"image": "app:1", "env": {"B": "2"}, "init": {"entrypoint": ["/tini"]}}
    wire = config.check_machine(app, own, tested=tested, private_ip="fdaa::2")
    assert (wire["image"], wire["init"]) == ("app:1", {"cmd": ["test", "me"], "entrypoint": ["/tini"]})
    assert wire["env"]["FLY_TEST_MACHINE_IP"] == "fdaa::2"
    assert (wire["env"]["A"], wire["env"]["B"]) == ("1", "2")
    assert wire["stop_config"] == {"signal": "SIGTERM"}
    other = config.check_machine(app, curl, tested=tested, private_ip="fdaa::2")
    assert other["image"] == "curl"
    assert "stop_config" not in other


def test_the_release_machine_takes_a_size_from_elsewhere_when_the_file_says_none() -> None:
    app = read("deploy = { release_command = 'x' }")
    assert config.release_machine(app)["guest"]["cpus"] == 2
    assert config.release_machine(app, guest={"cpus": 4})["guest"] == {"cpus": 4}


def test_counts_and_regions_are_said_for_all_groups_and_for_one() -> None:
    app = read("""
        processes = { web = "w", worker = "k" }
        [caddisfly]
        count = 2
        regions = ["ams", "fra"]
        [caddisfly.groups.worker]
        count = 0
        max_per_region = 1
    """)
    web, worker = app.placement("web"), app.placement("worker")
    assert (web.count, web.regions, web.max_per_region) == (2, ("ams", "fra"), None)
    assert (worker.count, worker.regions, worker.max_per_region) == (0, ("ams", "fra"), 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[caddisfly.groups.wbe]\ncount = 1", "there is no process group 'wbe'"),
        ("[caddisfly]\ncuont = 1", "did you mean count?"),
        ("[caddisfly]\ncount = -1", "out of range"),
        ("[caddisfly]\nregions = ['Ams']", "'Ams' is not a region"),
        ("[caddisfly]\nregions = ['ams', 'ams']", "a region is named twice"),
        ("[caddisfly]\ncount = 3\nregions = ['ams', 'fra']\nmax_per_region = 1", "allowed: a count up to 2"),
    ],
)
def test_a_wrong_extension_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        read(text)
    assert said in str(caught.value)


def test_an_attached_volume_and_the_mark_of_a_standby_survive_a_redeploy() -> None:
    app = read("mounts = [{ source = 'data', destination = '/new' }]")
    existing = {
        "image": "x",
        "mounts": [{"name": "data", "path": "/old", "volume": "vol_1", "encrypted": True}],
        "standbys": ["m1"],
        "env": {"FLY_STANDBY_FOR": "m1", "OLD": "x"},
    }
    wire = config.machine_config(app, "app", existing=existing)
    assert wire["mounts"] == [{"name": "data", "path": "/new", "volume": "vol_1", "encrypted": True}]
    assert wire["env"] == {"FLY_PROCESS_GROUP": "app", "FLY_STANDBY_FOR": "m1"}
    assert existing["env"] == {"FLY_STANDBY_FOR": "m1", "OLD": "x"}  # what came in is left alone


def test_the_built_image_goes_to_the_container_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "machine.json").write_text('{"containers": [{"name": "a", "image": "redis"}, {"name": "b"}]}')
    text = "machine_config = 'machine.json'\ncontainer = 'b'"
    wire = config.machine_config(read(text, directory=tmp_path), "app", image="built")
    assert [one["image"] for one in wire["containers"]] == ["redis", "built"]


def test_experimental_machine_config_has_priority() -> None:
    text = 'machine_config = \'{"schedule": "daily"}\'\nexperimental = { machine_config = \'{"schedule": "hourly"}\' }'
    assert machine(text)["schedule"] == "hourly"


def test_compose_services_become_containers(tmp_path: Path) -> None:
    (tmp_path / "init.sql").write_text("select 1;")
    (tmp_path / "compose.yaml").write_text("""
services:
  web:
    build: .
    environment: [A=1, B]
    depends_on:
      db: { condition: service_healthy }
    ports: ["80:80"]
  db:
    image: postgres
    command: postgres -c x=1
    environment: { C: 2 }
    volumes: ["./init.sql:/init.sql:ro", "data:/data"]
    healthcheck: { test: ["CMD-SHELL", "pg_isready"], interval: 1m30s, retries: 3, start_period: 500ms }
""")
    app = read("build = { compose = {} }", directory=tmp_path)
    web, db = config.machine_config(app, "app", image="built")["containers"]
    assert web == {
        "name": "web",
        "image": "built",
        "env": {"A": "1"},
        "depends_on": [{"name": "db", "condition": "healthy"}],
    }
    assert (db["cmd"], db["env"]) == (["postgres -c x=1"], {"C": "2"})
    assert db["files"] == [{"guest_path": "/init.sql", "raw_value": base64.b64encode(b"select 1;").decode()}]
    assert db["healthchecks"] == [
        {
            "name": "healthcheck",
            "exec": {"command": ["/bin/sh", "-c", "pg_isready"]},
            "interval": 90,
            "grace_period": 1,
            "failure_threshold": 3,
        }
    ]
    said = [str(finding) for finding in app.warnings]
    assert any("compose.yaml:8: services.web.ports: has no effect" in line for line in said)
    assert any("Could not read volume file data" in line for line in said)
    assert any("B has no value" in line for line in said)


@pytest.mark.parametrize(
    ("services", "said"),
    [
        ("{a: {build: .}, b: {build: .}}", "only one service can specify build, found 2 services with build"),
        ("{a: {}}", "service 'a' must specify either 'image' or 'build'"),
    ],
)
def test_a_wrong_compose_file_is_an_error_with_its_own_place(tmp_path: Path, services: str, said: str) -> None:
    (tmp_path / "compose.yml").write_text(f"services: {services}\n")
    with pytest.raises(ConfigInvalid) as caught:
        read("build = { compose = {} }", directory=tmp_path)
    assert said in str(caught.value)
    assert "compose.yml:1" in str(caught.value)


def test_a_missing_compose_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="no Compose file"):
        read("[build.compose]\nfile = 'gone.yml'", directory=tmp_path)


def test_a_file_that_fly_wrote_years_ago_is_fine() -> None:
    app = read("""
        app = "old"
        kill_signal = "SIGINT"
        kill_timeout = 5
        processes = []

        [env]

        [experimental]
          allowed_public_ports = []
          auto_rollback = true

        [[services]]
          http_checks = []
          internal_port = 8080
          processes = ["app"]
          protocol = "tcp"
          script_checks = []
          [services.concurrency]
            hard_limit = 25
            soft_limit = 20
            type = "connections"
          [[services.ports]]
            force_https = true
            handlers = ["http"]
            port = 80
          [[services.ports]]
            handlers = ["tls", "http"]
            port = 443
          [[services.tcp_checks]]
            grace_period = "1s"
            interval = "15s"
            restart_limit = 0
            timeout = "2s"
    """)
    assert not app.warnings
    (service,) = config.machine_config(app, "app")["services"]
    assert service["checks"] == [{"type": "tcp", "grace_period": "1s", "interval": "15s", "timeout": "2s"}]


def test_a_file_that_fly_writes_today_is_fine() -> None:
    app = read("""
        app = 'new'
        primary_region = 'ams'
        [build]
        [http_service]
          internal_port = 8080
          force_https = true
          auto_stop_machines = 'stop'
          auto_start_machines = true
          min_machines_running = 0
          processes = ['app']
        [[vm]]
          memory = '1gb'
          cpu_kind = 'shared'
          cpus = 1
          memory_mb = 1024
    """)
    assert not app.warnings
    assert config.machine_config(app, "app")["guest"] == {"cpu_kind": "shared", "cpus": 1, "memory_mb": 1024}


def test_empty_processes_are_none() -> None:
    assert read("[[processes]]").groups.names == ("app",)
    assert read("[processes]").groups.names == ("app",)


def test_a_tcp_check_has_no_path() -> None:
    app = read("checks = { a = { type = 'tcp', port = 1, path = '/' } }")
    assert config.machine_config(app, "app")["checks"] == {"a": {"type": "tcp", "port": 1}}
    assert "a tcp check only connects" in str(app.warnings[0])
