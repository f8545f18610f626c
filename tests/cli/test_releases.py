"""`caddis releases`, on a platform with simulated hosts."""

from __future__ import annotations

from collections.abc import Callable

from caddisfly.pytest_plugin import CaddisApp
from tests.cli.conftest import Outcome

Caddis = Callable[..., Outcome]


def test_releases_are_listed_newest_first_with_what_became_of_them(
    caddis_on_dev: Caddis, caddis_app: CaddisApp
) -> None:
    app, releases = caddis_app.name, caddis_app.client.releases
    assert caddis_on_dev("releases", "-a", app, "--json").json == []
    for image, status, error in (("nginx:1", "complete", ""), ("nginx:2", "failed", "it crashed")):
        made = releases.create(app, image=image, description=f"deploy of {image}")
        releases.update(app, made["version"], made["nonce"], status=status, error=error)
    releases.create(app, strategy="canary", ttl_s=1000)
    listed = caddis_on_dev("releases", "-a", app)
    rows = [line.split("\t") for line in listed.out.splitlines()]
    assert [row[:3] for row in rows[1:]] == [
        ["v3", "pending", "canary"],
        ["v2", "failed", "deploy of nginx:2"],
        ["v1", "complete", "deploy of nginx:1"],
    ]
    with_images = caddis_on_dev("apps", "releases", "--image", "--limit", "2", "-a", app)
    assert [line.split("\t")[-1] for line in with_images.out.splitlines()] == ["IMAGE", "", "nginx:2"]
    assert [one["version"] for one in caddis_on_dev("releases", "-a", app, "-j").json] == [3, 2, 1]


def test_what_others_have_said_commands_no_terminal(caddis_on_dev: Caddis, caddis_app: CaddisApp) -> None:
    """A failed deploy has the last words of an app in it, and whoever deployed it chose the description."""
    app, releases = caddis_app.name, caddis_app.client.releases
    made = releases.create(app, image="nginx:1", description="new\x1b]52;c;aGk=\x07 and\nsafe")
    releases.update(app, made["version"], made["nonce"], status="failed", error="it said:\n  \x1b[2Jbye\x9b2J")
    listed = caddis_on_dev("releases", "-a", app)
    assert "new ]52;c;aGk=  and safe" in listed.out
    assert listed.err.endswith("it said:\n   [2Jbye 2J\n")
    for command in (("releases",), ("status",), ("rollback", "1")):
        said = caddis_on_dev(*command, "-a", app)
        assert not {"\x1b", "\x07", "\x9b"} & set(said.out + said.err)
