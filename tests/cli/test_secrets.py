"""`caddis secrets`, on a platform with simulated hosts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from caddisfly.cli.secrets import parse
from caddisfly.model.errors import InvalidArgument
from caddisfly.pytest_plugin import CaddisApp
from tests.cli.conftest import Outcome

Caddis = Callable[..., Outcome]


def test_they_are_set_given_to_machines_listed_and_removed(caddis_on_dev: Caddis, caddis_app: CaddisApp) -> None:
    app = caddis_app.name
    running, stopped = caddis_app.create(wait="started"), caddis_app.create(wait="started")
    caddis_app.client.machines.stop(app, stopped["id"])
    caddis_app.client.machines.wait(app, stopped["id"], "stopped")
    done = caddis_on_dev("secrets", "set", "A=1", "B=-", "-a", app, stdin="swordfish\n")
    assert done.code == 0, done.err
    assert "swordfish" not in done.out + done.err
    after = {machine["id"]: machine for machine in caddis_app.client.machines.list(app)}
    for before, state in ((running, "started"), (stopped, "stopped")):
        assert after[before["id"]]["instance_id"] != before["instance_id"]
        assert after[before["id"]]["state"] == state
        assert f"{before['id']} has the secrets of version 1" in done.out
    listed = caddis_on_dev("secrets", "list", "-a", app, "--json").json
    assert [secret["name"] for secret in listed] == ["A", "B"]
    table = caddis_on_dev("secrets", "list", "-a", app).out
    assert listed[0]["digest"] in table
    assert caddis_app.client.secrets.list(app, show_values=True)[1]["value"] == "swordfish"
    assert caddis_on_dev("secrets", "unset", "A", "-a", app).code == 0
    assert [secret["name"] for secret in caddis_app.client.secrets.list(app)] == ["B"]


def test_staged_ones_wait_for_a_deploy(caddis_on_dev: Caddis, caddis_app: CaddisApp) -> None:
    app = caddis_app.name
    machine = caddis_app.create(wait="started")
    lines = "# those of the shop\nA=1\n\nexport B='two words'\n"
    assert caddis_on_dev("secrets", "import", "--stage", "-a", app, stdin=lines).code == 0
    assert caddis_app.client.machines.get(app, machine["id"])["instance_id"] == machine["instance_id"]
    assert caddis_on_dev("secrets", "deploy", "-a", app).code == 0
    assert caddis_app.client.machines.get(app, machine["id"])["instance_id"] != machine["instance_id"]


def test_wrong_input_is_refused_without_showing_what_may_be_a_value(
    caddis_on_dev: Caddis, caddis_app: CaddisApp
) -> None:
    app = caddis_app.name
    for words in (("swordfish",), ("A=1", "swordfish")):
        refused = caddis_on_dev("secrets", "set", *words, "-a", app)
        assert (refused.code, "is not NAME=VALUE" in refused.err) == (2, True)
        assert "swordfish" not in refused.err
    refused = caddis_on_dev("secrets", "set", "1A=swordfish", "-a", app)
    assert (refused.code, "invalid name" in refused.err) == (1, True)
    assert "swordfish" not in refused.err
    assert caddis_on_dev("secrets", "import", "-a", app, stdin="").code == 2
    assert caddis_on_dev("secrets", "list", "-a", app, "--json").json == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A=1", {"A": "1"}),
        ("A=a=b", {"A": "a=b"}),
        ("A=", {"A": ""}),
        (" A = 1 ", {"A": "1"}),
        ('A="1"', {"A": "1"}),
        ('A="', {"A": '"'}),
        ("export A=1", {"A": "1"}),
        ("# A=1\n\nB=2", {"B": "2"}),
        ('A="""one"""', {"A": "one"}),
        ('A="""one\n two\nthree"""\nB=2', {"A": "one\n two\nthree", "B": "2"}),
        ("A='''\nx\n'''", {"A": "\nx\n"}),
    ],
)
def test_lines_that_are_imported(text: str, found: dict[str, str]) -> None:
    assert parse(text) == found


@pytest.mark.parametrize(("text", "line"), [("A=1\nB", "line 2"), ('A=1\nB="""x\ny', "line 2")])
def test_a_line_that_is_none_is_named(text: str, line: str) -> None:
    with pytest.raises(InvalidArgument, match=line):
        parse(text)
