"""Every example, from its folder to its page, on a whole platform."""

from __future__ import annotations

import json

import pytest

from tests.examples.conftest import Examples, can_run
from tests.up.conftest import wait_until

pytestmark = pytest.mark.skipif(not can_run(), reason="a platform that builds needs root, buildah and mmdebstrap")

PAGES = {
    "fastapi": '"hello":"FastAPI"',
    "django": "Hello from Django: visit 1\n",
    "flask-worker": "Hello from Flask, group web\n",
    "node": "Hello from Node.js v",
    "groups": "Hello from group web, which has 256 MiB\n",
    "dockerfile": "<h1>Hello from a Dockerfile</h1>",
}


@pytest.mark.parametrize("name", PAGES)
def test_it_is_launched_and_answers(examples: Examples, name: str) -> None:
    launched = examples.launched[name]
    assert launched.returncode == 0, launched.stdout + launched.stderr
    status, body = examples.page(name)
    assert status == 200, body
    assert PAGES[name] in body


def test_the_release_command_made_the_table(examples: Examples) -> None:
    shown = examples.launched["django"].stderr
    assert shown.index("Applying guestbook.0001_visits...") < shown.index("new app [app] created")
    status, body = examples.page("django")
    assert (status, body.startswith("Hello from Django: visit ")) == (200, True)


def test_workers_work(examples: Examples) -> None:
    for app, said in (("flask-worker", "done by group worker"), ("groups", "it is ")):
        wait_until(lambda app=app, said=said: said in examples.logs(app))


def test_groups_are_of_their_own_size(examples: Examples) -> None:
    machines = json.loads(examples.caddis("machine", "list", "-a", "groups", "--json").stdout)
    sizes = {
        machine["config"]["metadata"]["fly_process_group"]: machine["config"]["guest"]["memory_mb"]
        for machine in machines
    }
    assert sizes == {"web": 256, "api": 512, "clock": 256}


def test_launched_again_it_is_the_same_app(examples: Examples) -> None:
    again = examples.caddis("launch", str(examples.directory / "node"), "--now", "--ha=false")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "App node exists already, and fly.toml names it" in again.stderr
    assert len(json.loads(examples.caddis("machine", "list", "-a", "node", "--json").stdout)) == 1
