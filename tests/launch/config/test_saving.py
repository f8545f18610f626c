"""From Machines back to a file, and edits that leave the rest of a file alone."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from caddisfly.launch import config
from caddisfly.launch.config import AppConfig, ConfigInvalid, edit, from_machines, locate, running, saving
from caddisfly.launch.config.saving import Present
from caddisfly.model.config import Config
from caddisfly.model.errors import FailedPrecondition, InvalidArgument
from tests.launch.config.test_cases import Case, cases

FILE = """# the app
app = "demo"  # its name
kill_timeout = 120

[build]
  dockerfile = "Dockerfile"  # ours

[processes]
web = "gunicorn 'my app:app'"
worker = "celery worker"

# variables
[env]
PORT = 8080 # the port
DEBUG = true

[http_service]
internal_port = 8080
processes = ["web"]
concurrency = { type = "requests", soft_limit = 150 }

[[compute]]
memory = "512mb"

[deploy]
strategy = "immediate"
"""


def machines(app: AppConfig, **changes: Any) -> list[dict[str, Any]]:
    """As a platform shows them, one of each group."""
    made = []
    for number, group in enumerate(app.groups.names):
        wire = {**config.machine_config(app, group, image="registry/x@sha256:1"), **changes}
        made.append({"id": f"m{number}", "state": "started", "region": "ams", "config": Config.parse(wire).wire})
    return made


def present(text: str, path: Path = Path("fly.toml")) -> Present:
    return Present(path, text, tomllib.loads(text).get("app", ""))


def sane() -> list[Case]:
    """The cases that a platform can run."""
    found = []
    for case in cases():
        try:
            app = config.text(case.text)
            machines(app)
        except ConfigInvalid:
            continue
        if not app.base:
            found.append(case)
    return found


@pytest.mark.parametrize("case", [pytest.param(case, id=case.title) for case in sane()])
def test_what_is_saved_means_what_the_machines_run(case: Case) -> None:
    app = config.text(case.text)
    found = machines(app)
    written = saving.saved(present(""), app.app, found)
    again = config.text(written.text)
    assert all(group.same for group in running.compare(again, found)), written.text


@pytest.mark.parametrize("case", [pytest.param(case, id=case.title) for case in sane()])
def test_a_file_that_says_so_already_is_not_touched(case: Case) -> None:
    app = config.text(case.text)
    assert saving.saved(present(case.text), app.app, machines(app)).text == case.text


def test_there_are_cases_to_save() -> None:
    assert len(sane()) > 20


def test_saving_touches_only_the_section_that_differs() -> None:
    found = machines(config.text(FILE))
    for machine in found:
        machine["config"] = {**machine["config"], "env": {**machine["config"]["env"], "DEBUG": "false", "NEW": "1"}}
    written = saving.saved(present(FILE), "demo", found).text
    assert set(written.splitlines()) - set(FILE.splitlines()) == {'DEBUG = "false"', 'NEW = "1"'}
    assert set(FILE.splitlines()) - set(written.splitlines()) == {"DEBUG = true"}


def test_a_section_that_the_machines_do_not_have_goes() -> None:
    found = machines(config.text(FILE))
    for machine in found:
        machine["config"] = {name: value for name, value in machine["config"].items() if name != "services"}
    written = saving.saved(present(FILE), "demo", found).text
    assert "http_service" not in written
    assert "# variables" in written


def test_what_a_file_cannot_say_is_noted() -> None:
    found = machines(config.text(FILE))
    found[0]["config"] = {**found[0]["config"], "schedule": "daily"}
    found[1]["config"] = {**found[1]["config"], "env": {**found[1]["config"]["env"], "PORT": "9"}}
    notes = saving.saved(present(FILE), "demo", found).notes
    assert any("schedule has no place in a fly.toml" in note for note in notes)
    assert any("env.PORT of group 'worker' is another than saved" in note for note in notes)


def test_the_commonest_config_of_a_group_is_saved() -> None:
    one, two = (machines(config.text(f"app = 'demo'\nenv = {{ A = {n} }}")) for n in (1, 2))
    written = saving.saved(present(""), "demo", [*one, *two, *two])
    assert tomllib.loads(written.text)["env"] == {"A": "2"}


def test_machines_of_others_are_no_file() -> None:
    with pytest.raises(FailedPrecondition, match="has no Machines that"):
        from_machines.of("demo", [{"id": "m", "state": "started", "config": {"image": "x"}}])


def test_a_file_of_another_app_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="is of app other, not of demo"):
        locate.refuse_other("demo", "other", "fly.toml")
    locate.refuse_other("demo", "demo", "fly.toml")
    locate.refuse_other("demo", "", "fly.toml")


def test_only_toml_is_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="is not TOML"):
        Present.read(tmp_path / "fly.json")


def test_writing_replaces_the_file_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "fly.toml"
    path.write_text("app = 'demo'")
    path.chmod(0o600)
    Present.read(path).write("app = 'new'\n")
    assert path.read_text() == "app = 'new'\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["fly.toml"]


def test_an_edit_sets_and_removes_single_values() -> None:
    changes = {
        ("http_service", "internal_port"): 3000,
        ("caddisfly", "groups", "web", "count"): 3,
        ("kill_timeout",): None,
    }
    text = edit.changed(FILE, changes)
    values = tomllib.loads(text)
    assert values["http_service"]["internal_port"] == 3000
    assert values["caddisfly"] == {"groups": {"web": {"count": 3}}}
    assert "kill_timeout" not in values
    before = [line for line in FILE.splitlines() if not line.startswith(("kill_timeout", "internal_port"))]
    assert [line for line in text.splitlines() if line and line in before] == [line for line in before if line]


def test_an_edit_of_nothing_changes_nothing() -> None:
    assert edit.changed(FILE, {}) == FILE
    assert edit.changed(FILE, {("env", "DEBUG"): "true", ("absent", "x"): None}) == FILE


@pytest.mark.parametrize("text", ["vm = { memory = 512 }\n", "[vm]\nmemory = 512\n", "vm = [{ memory = 512 }]\n"])
def test_a_section_may_change_its_form(text: str) -> None:
    assert tomllib.loads(edit.changed(text, {("vm",): [{"memory": 1}, {"memory": 2}]}))["vm"] == [
        {"memory": 1},
        {"memory": 2},
    ]
    assert tomllib.loads(edit.changed(text, {("vm",): {"memory": 1}}))["vm"] == {"memory": 1}


def test_what_goes_into_an_inline_table_is_inline() -> None:
    text = "http_service = { internal_port = 80, checks = [{ path = '/' }] }\n"
    checks = [{"path": "/up", "headers": {"X": "1"}}]
    changed = edit.changed(
        text, {("http_service", "checks"): checks, ("http_service", "concurrency"): {"soft_limit": 1}}
    )
    assert tomllib.loads(changed)["http_service"] == {
        "internal_port": 80,
        "checks": checks,
        "concurrency": {"soft_limit": 1},
    }
    assert changed.count("\n") == 1


def test_a_file_that_is_wrong_elsewhere_is_not_saved_to() -> None:
    found = machines(config.text(FILE))
    with pytest.raises(FailedPrecondition, match="what the file has besides is not valid"):
        saving.saved(present(FILE.replace("immediate", "yolo")), "demo", found)
