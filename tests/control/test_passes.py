"""What a build pushes with: worth one app's repository, for a while."""

from __future__ import annotations

import base64
import json

from caddisfly.control.auth.passes import PREFIX, Passes


def bearer(passes: Passes, *, app: str = "a", org: str = "o", ttl_s: int = 60) -> str:
    return f"Bearer {passes.mint(app_id=app, org_id=org, ttl_s=ttl_s)}"


def test_a_pass_says_what_it_was_made_for() -> None:
    passes = Passes("secret")
    found = passes.read(bearer(passes))
    assert found is not None
    assert (found.app_id, found.org_id) == ("a", "o")


def test_what_is_over_forged_or_of_another_platform_is_no_pass() -> None:
    passes = Passes("secret")
    good = bearer(passes)
    body, _, signature = good.removeprefix(f"Bearer {PREFIX}").partition(".")
    other = base64.urlsafe_b64encode(json.dumps(["b", "o", 1 << 40]).encode()).decode()
    for bad in (
        bearer(passes, ttl_s=-1),
        bearer(Passes("another")),
        f"Bearer {PREFIX}{other}.{signature}",
        f"Bearer {PREFIX}{body}.",
        f"Bearer {PREFIX}.",
        "Bearer fo1_abc",
        "",
    ):
        assert passes.read(bad) is None, bad


def test_without_a_secret_there_are_no_passes() -> None:
    passes = Passes("")
    assert passes.mint(app_id="a", org_id="o", ttl_s=60) == ""
    assert passes.read(bearer(Passes("x"))) is None
