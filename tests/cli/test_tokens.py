"""`caddis tokens`, on a platform with simulated hosts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from caddisfly.pytest_plugin import CaddisApp, CaddisDev
from tests.cli.conftest import Outcome


@pytest.fixture
def caddis(
    caddis: Callable[..., Outcome], caddis_dev: CaddisDev, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    monkeypatch.setenv("CADDIS_API_URL", caddis_dev.url)
    monkeypatch.setenv("CADDIS_API_TOKEN", caddis_dev.token)
    return caddis


def test_one_is_made_used_listed_and_revoked(
    caddis: Callable[..., Outcome], caddis_app: CaddisApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = caddis_app.name
    made = caddis("tokens", "create", "deploy", "-a", app, "-x", "720h", "-n", "for CI")
    assert made.out.startswith("FlyV1 fo1_")
    with monkeypatch.context() as other:
        other.setenv("CADDIS_API_TOKEN", made.out.strip())
        assert caddis("machine", "run", "nginx", "-a", app).code == 0
        assert [found["name"] for found in caddis("apps", "list", "--json").json] == [app]
        refused = caddis("apps", "create", "sneaky")
        assert (refused.code, "reaches one app" in refused.err) == (1, True)
    (listed,) = caddis("tokens", "list", "-a", app, "--json").json
    assert listed["name"] == "for CI"
    assert made.out.strip() not in str(listed)
    row = caddis("tokens", "list", "-a", app).out.splitlines()[1].split("\t")
    assert row[:3] == [listed["id"], "for CI", "admin@localhost"]
    assert row[4] != "never"
    assert caddis("tokens", "revoke", listed["id"], "-a", app).out == f"Revoked token {listed['id']}\n"
    assert caddis("tokens", "list", "-a", app, "--json").json == []
    with monkeypatch.context() as other:
        other.setenv("CADDIS_API_TOKEN", made.out.strip())
        assert caddis("apps", "list").code == 1


def test_wrong_input_is_refused_in_words(caddis: Callable[..., Outcome], caddis_app: CaddisApp) -> None:
    refused = caddis("tokens", "create", "deploy", "-a", caddis_app.name, "-x", "soon")
    assert refused.code == 1
    assert "invalid expiry: 'soon'" in refused.err
    assert "Next:" in refused.err
    absent = caddis("tokens", "revoke", "01NOTHERE", "-a", caddis_app.name)
    assert (absent.code, "token not found" in absent.err) == (1, True)
    assert "which app?" in caddis("tokens", "list").err
