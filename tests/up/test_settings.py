"""One file, one environment, and an answer that points at the mistake."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from pydantic import BaseModel

from caddisfly.model.errors import InvalidArgument
from caddisfly.up.catalogue import listing
from caddisfly.up.settings import SECTIONS, Settings, load


def written(directory: Path, text: str) -> Path:
    file = directory / "caddisfly.toml"
    file.write_text(f'[platform]\ndata_dir = "{directory}/data"\nrun_dir = "{directory}/run"\n{text}')
    return file


def refusal(file: Path, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(InvalidArgument) as caught:
        load(file, environment=environment or {})
    return caught.value.why


def test_defaults_are_shared_with_every_section(tmp_path: Path) -> None:
    settings = load(written(tmp_path, 'region = "ams"\n'), environment={})
    assert settings.host.region == settings.control.region == settings.edge.region == "ams"
    assert settings.host.host_id == settings.edge.host_id != "00000001"
    assert settings.edge.agent_socket == settings.host.socket == tmp_path / "run" / "agent.sock"
    token = settings.host.bus_token.get_secret_value()
    assert token == settings.control.bus_token.get_secret_value() == settings.bus_token != ""
    assert settings.control.data_directory == tmp_path / "data" / "control"


def test_an_app_is_opened_at_the_edge_of_this_box_unless_it_is_said_better(tmp_path: Path) -> None:
    settings = load(written(tmp_path, ""), environment={})
    assert settings.control.apps_public_url == "http://<app>.localhost:8080"
    better = 'domain = "example.com"\n[edge]\nhttp_listen = ["0.0.0.0:80"]\n'
    assert load(written(tmp_path, better), environment={}).control.apps_public_url == "http://<app>.example.com"
    behind = '[control]\napps_public_url = "https://<app>.example.com"\n'
    assert load(written(tmp_path, behind), environment={}).control.apps_public_url == "https://<app>.example.com"


def test_clients_push_to_the_registry_of_this_box_unless_it_is_said_better(tmp_path: Path) -> None:
    settings = load(written(tmp_path, "[registry]\nport = 5999\n"), environment={})
    assert settings.control.registry_public_url == "http://127.0.0.1:5999"
    settings = load(written(tmp_path, '[registry]\nurl = "http://10.0.0.9:5080"\n'), environment={})
    assert settings.control.registry_public_url == "http://10.0.0.9:5080"
    settings = load(written(tmp_path, '[control]\nregistry_public_url = "https://r.example.com"\n'), environment={})
    assert settings.control.registry_public_url == "https://r.example.com"


def test_what_is_made_once_stays_and_is_private(tmp_path: Path) -> None:
    first, second = (load(written(tmp_path, ""), environment={}) for _ in range(2))
    assert first.bus_token == second.bus_token
    assert first.host.host_id == second.host.host_id
    assert stat.S_IMODE((tmp_path / "data" / "bus-token").stat().st_mode) == 0o600


def test_a_section_may_say_it_better(tmp_path: Path) -> None:
    settings = load(written(tmp_path, '[host]\nregion = "fra"\n'), environment={})
    assert (settings.host.region, settings.edge.region) == ("fra", "lab")


def test_the_environment_wins(tmp_path: Path) -> None:
    environment = {
        "CADDIS_BUS_PORT": "4999",
        "CADDIS_PLATFORM_LOG_LEVEL": "debug",
        "CADDIS_EDGE_HTTP_LISTEN": "127.0.0.1:9090, [::1]:9090",
        "CADDIS_IMAGES_INSECURE_REGISTRIES": '["registry.lan:5000"]',
        "CADDIS_API_TOKEN": "the command line's, not a setting",
    }
    settings = load(written(tmp_path, "[bus]\nport = 4300\n"), environment=environment)
    assert settings.bus_url == "nats://127.0.0.1:4999"
    assert settings.platform.log_level == "debug"
    assert settings.edge.http_listen == ("127.0.0.1:9090", "[::1]:9090")
    assert settings.images.insecure_registries == {"registry.lan:5000"}


def test_an_unknown_key_is_named_with_its_line_and_the_one_that_was_meant(tmp_path: Path) -> None:
    file = written(tmp_path, "\n# a comment\n[host]\nrun_time = 'crun'\n")
    assert refusal(file) == f"{file}:7: unknown key 'run_time' in [host]; did you mean 'runtime'?"


def test_a_wrong_value_is_named_with_what_is_allowed(tmp_path: Path) -> None:
    file = written(tmp_path, '[host]\nruntime = "podman"\n')
    why = refusal(file)
    assert why.startswith(f"{file}:5: host.runtime: must be ")
    assert "'crun'" in why
    assert why.endswith("got 'podman'")


def test_who_may_have_which_isolation(tmp_path: Path) -> None:
    text = '[isolation]\ndefault = "gvisor"\norganizations = { acme = ["microvm"], own = ["container", "gvisor"] }\n'
    isolation = load(written(tmp_path, text), environment={}).control.isolation
    assert [isolation.allowed(slug) for slug in ("acme", "own", "other")] == [
        ("microvm",),
        ("container", "gvisor"),
        ("gvisor",),
    ]
    assert load(written(tmp_path, ""), environment={}).control.isolation.allowed("acme") == ()


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ('[isolation]\ndefault = "vm"', "5: isolation.default.0: must be 'microvm', 'gvisor' or 'container', got 'vm'"),
        ("[isolation]\ndefault = []", "5: isolation.default: value should have at least 1 item"),
        ('[isolation.organizations]\nacme = ["microvm", "x"]', "4: isolation.organizations.acme.1: must be 'microvm'"),
        ('[isolation]\norganizations = { Acme = "gvisor" }', "5: isolation.organizations.Acme.[key]: must match"),
        ('[isolation]\nacme = "gvisor"', "5: unknown key 'acme' in [isolation]"),
        (
            '[host]\nruntime = "runsc"\nisolation = "container"',
            "6: host.isolation: must not be container where runtime is runsc",
        ),
    ],
)
def test_a_wrong_isolation_is_refused(tmp_path: Path, text: str, mistake: str) -> None:
    file = written(tmp_path, text)
    assert refusal(file).startswith(f"{file}:{mistake}")


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    file = written(tmp_path, 'region = "Amsterdam"\nedge_workers = -1\n')
    lines = refusal(file).splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{file}:4", f"{file}:5"]


def test_an_unknown_section_is_named(tmp_path: Path) -> None:
    file = written(tmp_path, "[hots]\nx = 1\n")
    assert refusal(file) == f"{file}:4: unknown section [hots]; did you mean 'host'?"


def test_a_key_outside_of_sections_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "caddisfly.toml"
    file.write_text("host = 1\n")
    assert refusal(file) == f"{file}:1: host must be a section, [host], got 1"


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    why = refusal(written(tmp_path, ""), {"CADDIS_BUS_PRT": "1"})
    assert why == "environment: unknown variable CADDIS_BUS_PRT; did you mean 'CADDIS_BUS_PORT'?"
    why = refusal(written(tmp_path, ""), {"CADDIS_BUS_PORT": "many"})
    assert why.startswith("environment, CADDIS_BUS_PORT: bus.port: must be a valid integer")


def test_a_broken_file_is_named_with_its_line(tmp_path: Path) -> None:
    assert "line 4" in refusal(written(tmp_path, "region = \n"))


def test_a_missing_file_that_was_asked_for_is_an_error(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nowhere.toml")


def test_a_wrong_secret_is_not_repeated(tmp_path: Path) -> None:
    assert "hunter2" not in refusal(written(tmp_path, '[bus]\ntoken = ["hunter2"]\n'))


@pytest.mark.parametrize(("section", "model"), SECTIONS.items())
def test_every_setting_is_described(section: str, model: type[BaseModel]) -> None:
    for key, field in model.model_fields.items():
        assert field.description, f"[{section}] {key}"


def test_the_listing_has_every_setting_and_no_secret(tmp_path: Path) -> None:
    settings: Settings = load(written(tmp_path, '[bus]\ntoken = "hunter2"\n'), environment={})
    rows = listing(settings)
    assert len(rows) == sum(len(model.model_fields) for model in SECTIONS.values())
    assert "hunter2" not in str(rows)
    assert next(row for row in rows if row["environment"] == "CADDIS_BUS_PORT")["value"] == "4251"
