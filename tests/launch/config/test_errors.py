"""Every error names file, line and key, what is allowed, and what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from caddisfly.launch import config
from caddisfly.launch.config import ConfigInvalid, Finding
from caddisfly.model.errors import FailedPrecondition


def errors(text: str, *, name: str = "fly.toml", strict: bool = True) -> list[Finding]:
    with pytest.raises(ConfigInvalid) as caught:
        config.text(text, name=name, strict=strict)
    return [finding for finding in caught.value.findings if not finding.warning]


def error(text: str, *, name: str = "fly.toml", strict: bool = True) -> Finding:
    (only,) = errors(text, name=name, strict=strict)
    return only


def warnings(text: str, *, strict: bool = True) -> list[str]:
    return [str(finding) for finding in config.text(text, strict=strict).warnings]


def test_all_mistakes_are_found_at_once_in_the_order_of_the_file() -> None:
    found = errors("""app = "demo"
primary_regoin = "ams"

[http_service]
internal_port = "8080"
  [[http_service.checks]]
  grace_perod = "1s"

[deploy]
strategy = "bluegren"
""")
    assert [(finding.place.line if finding.place else 0, finding.key, finding.hint) for finding in found] == [
        (2, "primary_regoin", "primary_region"),
        (5, "http_service.internal_port", "8080"),
        (7, "http_service.checks[0].grace_perod", "grace_period"),
        (10, "deploy.strategy", "bluegreen"),
    ]


def test_an_error_reads_as_a_sentence_with_its_place() -> None:
    found = error('[http_service]\nauto_stop_machines = "stopp"\n')
    assert str(found) == (
        'fly.toml:2: http_service.auto_stop_machines: invalid autostop string value "stopp"; '
        "allowed: off, stop, suspend; did you mean stop?"
    )


def test_what_is_allowed_is_said_when_nothing_is_near() -> None:
    found = error("[metrics]\nzzz = 1\n")
    assert found.allowed == "https, path, port, processes"
    assert not found.hint


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("[a]\nx = 1\n", 1, "a"),
        ('env = { A = "1",\n  B = [1] }'.replace("\n", ""), 1, "env.B"),
        ("[[vm]]\n\n[[vm]]\ncpu = 1\n", 4, "vm[1].cpu"),
        (
            "[[services]]\n[[services.ports]]\nport = 1\n[[services.ports]]\nprt = 2\nport = 3\n",
            5,
            "services[0].ports[1].prt",
        ),
        ("[http_service.concurrency]\nsoft = 1\n", 2, "http_service.concurrency.soft"),
        ("http_service.concurrency.soft = 1\n", 1, "http_service.concurrency.soft"),
        ('[env]\nA = """\nx\ny"""\nB = [\n]\n', 5, "env.B"),
        ('vm = [\n  { memory = "1gb" },\n  { mem = "1gb" },\n]\n', 3, "vm[1].mem"),
        ("[env]\n'A' = 1\n\"B\\u0041\" = [1]\n", 3, "env.BA"),
        ("# x = 1\r\n\r\n[env]\r\nA = []\r\n", 4, "env.A"),
        ("[checks.a]\ntype = 'tcp' # [checks.b]\nport = 1\n[checks.b]\ntype = 'udp'\nport = 1\n", 5, "checks.b.type"),
    ],
)
def test_the_line_is_right(text: str, line: int, key: str) -> None:
    found = error(text)
    assert found.place is not None
    assert (found.place.line, found.key) == (line, key)


def test_json_and_yaml_have_lines_too() -> None:
    in_json = error('{\n\t"app": "demo",\n\t"http_service": {\n\t\t"internal_prot": 1\n\t}\n}', name="fly.json")
    assert str(in_json).startswith("fly.json:4: http_service.internal_prot: unknown key")
    in_yaml = error("app: demo\nvm:\n  - memory: 1gb\n    cpuss: 1\n", name="fly.yaml")
    assert str(in_yaml).startswith("fly.yaml:4: vm[0].cpuss: unknown key")


def test_the_three_formats_mean_the_same() -> None:
    toml = config.text('app = "demo"\n[http_service]\ninternal_port = 80\nauto_stop_machines = "off"\n')
    json = config.text(
        '{"app": "demo", "http_service": {"internal_port": 80, "auto_stop_machines": "off"}, "vm": null}',
        name="fly.json",
    )
    yaml = config.text("app: demo\nhttp_service:\n  internal_port: 80\n  auto_stop_machines: off\n", name="fly.yaml")
    assert (
        config.machine_config(toml, "app") == config.machine_config(json, "app") == config.machine_config(yaml, "app")
    )


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("a = 1\nx = \n", "fly.toml", "fly.toml:2: Invalid value (row 2 column 5)"),
        ("x = [1,\n", "fly.toml", "(row 2 column 1)"),
        ("x = 1\nx = 2\n", "fly.toml", "fly.toml:2: "),
        ('{"a": }', "fly.json", "fly.json:1: Expecting value (row 1 column 7)"),
        ("a: [b\n", "fly.yaml", "fly.yaml:2: expected"),
        ("- a\n", "fly.yaml", "must be a table"),
        ("a = " + 5000 * "[", "fly.toml", "fly.toml:1: "),
        ('{"a": ' + 100_000 * "[", "fly.json", "nested too deeply"),
        ("a: &a [*a]", "fly.yaml", "nested too deeply"),
    ],
)
def test_a_malformed_text_says_row_and_column(text: str, name: str, said: str) -> None:
    assert said in str(error(text, name=name))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[http_service]\ninternal_port = 0", "0 is out of range; allowed: a whole number from 1 to 65535"),
        ("[http_service]\nforce_https = 'true'", 'must be true or false, got the text "true"; did you mean true?'),
        ("[http_service]\nprocesses = 'app'", 'must be a list of texts, got the text "app"; did you mean ["app"]?'),
        ("http_service = 8080", "must be a table, got the number 8080"),
        ("services = 8080", "must be a table or a list of tables, got the number 8080"),
        ("kill_timeout = '10 s'", 'time: invalid duration "10 s"; allowed: a duration such as'),
        ("kill_timeout = '10'", 'time: missing unit in duration "10"'),
        ("kill_timeout = -1", "must not be negative"),
        ("kill_timeout = 301", "5m1s is too long; allowed: at most 5m0s"),
        ("kill_signal = 'sigterm'", "did you mean SIGTERM?"),
        ("deploy = { wait_timeout = '' }", 'time: invalid duration ""'),
        ("deploy = { max_unavailable = 0 }", "allowed: a number above 0"),
        ("vm = { memory = '512 megs' }", "invalid size: '512 megs'"),
        ("vm = { memory = true }", "must be a size, got the boolean true"),
        ("vm = { cpus = 3 }", "shared allows 1, 2, 4, 6, 8, got 3"),
        ("vm = { size = 'shared-cpu-1x', memory = '300mb' }", "must be a multiple of 256 MiB"),
        ("vm = { persist_rootfs = 'sometimes' }", 'invalid persist_rootfs string value "sometimes"'),
        (
            "mounts = { source = 'a', destination = '/a', initial_size = 'big' }",
            "will fail because of: invalid size: 'big'",
        ),
        ("mounts = { source = 'a', destination = 'a' }", "allowed: an absolute path other than /"),
        ("env = ['A=1']", "Do not know how to process 'env' section of type: string"),
        ("env = { 'A=B' = 1 }", "not a usable name"),
        ('console_command = "a \'b"', "Can't shell split console command: 'a 'b'"),
        ("files = [{ guest_path = 'a', literal = 'x' }]", "guest path, a, must be absolute"),
        (
            "files = [{ guest_path = '/a' }]",
            "give exactly one of local_path, secret_name, raw_value, literal, got none",
        ),
        ("files = [{ guest_path = '/a', local_path = 'gone' }]", "gone cannot be read: No such file"),
        ("services = [{ ports = [{ port = 80, start_port = 1 }] }]", "either port, or start_port and end_port"),
        ("services = [{ ports = [{ port = 80, handlers = ['tsl'] }] }]", "did you mean tls?"),
        ("services = [{ ports = [{ port = 80, force_https = true }] }]", "the port has no http handler"),
        ("services = [{ concurrency = '20' }]", "Unknown value '20' for concurrency limits"),
        ("services = [{ machine_checks = [{ image = 'x' }] }]", "missing command for test machine"),
        ("restart = [{ policy = 'on-fail' }]", "did you mean on-failure?"),
        ("app = 'My App'", "'My App' is not such a name; allowed: lowercase letters"),
        ("primary_region = 'Amsterdam, NL'", "is not a region"),
        ("statics = [{ guest_path = '/a', url_prefix = '/x' }, { guest_path = '/b', url_prefix = '/x/y' }]", "overlap"),
        ("machine_config = '{'", "machine_config is not JSON"),
        ("machine_config = 'gone.json'", "gone.json cannot be read"),
    ],
)
def test_a_wrong_value_says_what_is_allowed(text: str, said: str) -> None:
    assert any(said in str(found) for found in errors(text))


def test_http_service_and_a_service_on_the_same_external_port_are_ambiguous() -> None:
    text = "[http_service]\n[[services]]\ninternal_port = 81\n  [[services.ports]]\n  port = 443\n"
    assert "two services of group 'app' have the external port 443/tcp" in str(error(text))
    assert error(text).place.line == 2  # type: ignore[union-attr]
    config.text(text.replace("443", "8443"))
    config.text(text.replace("[[services]]", "[[services]]\nprotocol = 'udp'"))


@pytest.mark.parametrize(
    "section",
    [
        "mounts = [{ source = 'a', destination = '/a', processes = ['wbe'] }]",
        "vm = [{ size = 'shared-cpu-1x', processes = ['wbe'] }]",
        "checks = { a = { type = 'tcp', port = 1, processes = ['wbe'] } }",
        "metrics = { port = 1, processes = ['wbe'] }",
        "files = [{ guest_path = '/a', literal = 'x', processes = ['wbe'] }]",
        "restart = [{ policy = 'always', processes = ['wbe'] }]",
    ],
)
def test_a_group_that_does_not_exist_is_refused_and_ignored_by_the_lenient(section: str) -> None:
    text = f"processes = {{ web = 'w', worker = 'k' }}\n{section}\n"
    found = error(text)
    assert "there is no process group 'wbe'; allowed: web, worker" in str(found).replace("; did you mean web?", "")
    assert found.hint == "web"
    assert "there is no process group 'wbe'" in warnings(text, strict=False)[0]


def test_the_lenient_take_what_fly_ignores() -> None:
    text = "primary_regoin = 'ams'\n[http_service]\nwhatever = 1\n"
    assert len(errors(text)) == 2
    assert [line.split(": ", 2)[2][:11] for line in warnings(text, strict=False)] == ["unknown key", "unknown key"]


def test_the_lenient_refuse_what_fly_refuses() -> None:
    assert "invalid restart policy: no" in str(error("restart = [{ policy = 'no' }]", strict=False))


def test_oddities_are_warnings() -> None:
    assert any("looks like a secret" in line for line in warnings("env = { DB_PASSWORD = 'x' }"))
    assert not warnings("env = { AWS_ACCESS_KEY_ID = 'x' }")
    assert any("begin with FLY_" in line for line in warnings("env = { FLY_X = 'x' }"))
    assert any("without ports" in line for line in warnings("services = [{ internal_port = 80 }]"))
    assert any(
        "1m10s is used as 1m0s" in line for line in warnings("http_service = { checks = [{ interval = '70s' }] }")
    )
    assert any("more than one build" in line for line in warnings("build = { image = 'a', dockerfile = 'b' }"))
    assert any("no longer supported" in line for line in warnings("experimental = { lazy_load_images = true }"))
    assert any('write "300ms"' in line for line in warnings("deploy = { wait_timeout = 300 }"))


def test_what_the_platform_would_refuse_is_refused_here() -> None:
    found = error("[http_service]\n[[http_service.checks]]\npath = 'no slash'\n")
    assert "the platform would refuse it for group 'app'" in str(found)
    assert found.place is not None
    assert found.place.line == 1


def test_a_file_that_cannot_be_read_is_no_bug(tmp_path: Path) -> None:
    (tmp_path / "fly.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FailedPrecondition, match="cannot be read"):
        config.find_and_load(directory=tmp_path, environ={})
